"""What a notebook shows of reports, answers, modules and optimizers: HTML in the notebook's own colours."""
import html
import itertools
from typing import TYPE_CHECKING, Any, Iterable, Sequence

import numpy as np

from minigrad.words import index, plural

if TYPE_CHECKING:
    from minigrad.gradcheck import Report, Row
    from minigrad.nn import Module, Parameter
    from minigrad.optim import Optimizer
    from minigrad.step.why import Why

MOST_ROWS = 300                                 # of a report
MOST_OPENED, MOST_LINES = 12, 300               # of an answer: elements that can be opened, lines up to the loss
MOST_CELLS = 16                                 # along each axis of a heat map
SIDE = 12                                       # of a cell, in pixels
PASSED = "color:color-mix(in srgb, #2a9d62 70%, currentColor)"      # legible on white and on black
FAILED = "color:color-mix(in srgb, #e5484d 75%, currentColor);font-weight:600"
POSITIVE, NEGATIVE = "#e8590c", "#2f7bd9"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table. head and rows: the HTML of the cells; a row of one cell spans all columns. numbers: the columns that are
    aligned on the right."""
    right = set(numbers)

    def line(cells: Sequence[str], tag: str) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        if len(cells) < len(head):
            return f'<tr><{tag} colspan="{len(head)}" style="text-align:left;padding:2px 8px">{cells[0]}</{tag}></tr>'
        return "<tr>" + "".join(
            f'<{tag}{scope} style="text-align:{"right" if i in right else "left"};padding:2px 8px">{cell}</{tag}>'
            for i, cell in enumerate(cells)) + "</tr>"

    return f'<table style="margin:4px 0">{line(head, "th")}{"".join(line(row, "td") for row in rows)}</table>'


def folded(summary: str, content: str, opened: bool = False) -> str:
    """Content below a line that opens and closes it."""
    return (f'<details{" open" if opened else ""} style="margin:2px 0 2px 12px"><summary>{summary}</summary>{content}'
            "</details>")


# ---- reports --------------------------------------------------------------------------------------------------------

def report_table(report: "Report") -> str:
    """What failed, each with its diagnosis and, where single entries were compared, the gradient, the finite
    differences and the error as heat maps; all comparisons below, folded."""
    failures = report.failures
    if report.ok:
        verdict = (f'<span style="{PASSED}">passed</span>: {plural(len(report.rows), "comparison")}, largest relative '
                   f"error {_error(report.worst)}")
    else:
        verdict = (f'<span style="{FAILED}">failed</span>: {len(failures)} of '
                   f"{plural(len(report.rows), 'comparison')}")
    head = ["of", "compared with", "", "relative error", ""]
    diagnoses: list[list[str]] = []
    for row in failures[:MOST_ROWS]:
        diagnoses += [_compared(row), [html.escape(row.detail) + heat_maps(row)]]
    rows = [_compared(row) for row in report.rows[:MOST_ROWS]]
    if len(report.rows) > MOST_ROWS:
        rows.append([f"and {len(report.rows) - MOST_ROWS:,} more"])
    return (f"<div>{verdict}</div>" + (table(head, diagnoses, [3]) if diagnoses else "") +
            folded("all comparisons", table(head, rows, [3])))


def _compared(row: "Row") -> list[str]:
    verdict = f'<span style="{PASSED}">passed</span>' if row.ok else f'<span style="{FAILED}">failed</span>'
    return [*map(html.escape, (row.what, row.check, row.of)), _error(row.error), verdict]


def _error(x: float) -> str:
    return f"{x:.1e}" if x else "0"


def heat_maps(row: "Row") -> str:
    """Of a row that compared single entries: the gradient and the finite differences on one scale, and their
    difference, with a frame around the entry where it is largest."""
    worst = row.worst
    if worst is None or np.ndim(row.numeric) == 0:
        return ""
    a, numeric = (np.asarray(x, dtype=np.float64) for x in (row.analytic, row.numeric))
    scale = max(_largest(a), _largest(numeric))
    maps = (("yours", a, scale), ("finite differences", numeric, scale), ("error", a - numeric, _largest(a - numeric)))
    return ('<div style="display:flex;flex-wrap:wrap;gap:20px;margin:6px 0">' +
            "".join(_heat_map(name, x, worst, largest) for name, x, largest in maps) + "</div>")


def _largest(a: Any) -> float:
    return float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0


def _heat_map(name: str, a: Any, marked: tuple[int, ...], largest: float) -> str:
    """A matrix of an array, that of the marked entry, as SVG; of a large one the part around that entry."""
    a, at = np.atleast_2d(a), (0,) * (2 - a.ndim) + marked
    matrix, (r, c) = a[at[:-2]], at[-2:]                                                    # (R, C)
    rows, columns = (range(max(min(k - MOST_CELLS // 2, n - MOST_CELLS), 0), n)[:MOST_CELLS]
                     for k, n in zip((r, c), matrix.shape))
    cells = "".join(_cell(matrix[i, j], i - rows[0], j - columns[0], largest)
                    for i, j in itertools.product(rows, columns))
    width, height = SIDE * len(columns) + 2, SIDE * len(rows) + 2
    part = f", {index(at[:-2] + (':', ':'))}" if a.ndim > 2 else ""
    if (len(rows), len(columns)) != matrix.shape:
        part += f", rows {rows[0]} to {rows[-1]}, columns {columns[0]} to {columns[-1]}"
    frame = (f'<rect x="{SIDE * (c - columns[0]) + 1}" y="{SIDE * (r - rows[0]) + 1}" width="{SIDE}" height="{SIDE}" '
             'fill="none" stroke="currentColor" stroke-width="2"/>')
    return (f'<figure style="margin:0"><figcaption>{name}{part}</figcaption><svg role="img" '
            f'aria-label="{name}, largest magnitude {largest:.3g}" width="{width}" height="{height}">'
            f'{cells}{frame}</svg><div>{index(marked)} is {a[at]:.4g}, largest {largest:.3g}</div></figure>')


def _cell(x: float, i: int, j: int, largest: float) -> str:
    fill = "#ffe600" if not np.isfinite(x) else POSITIVE if x > 0.0 else NEGATIVE
    opacity = 1.0 if not np.isfinite(x) else min(abs(x) / largest, 1.0) ** 0.5
    return (f'<rect x="{SIDE * j + 1}" y="{SIDE * i + 1}" width="{SIDE}" height="{SIDE}" fill="{fill}" '
            f'fill-opacity="{opacity:.2f}" stroke="currentColor" stroke-opacity=".2"><title>{x:.6g}</title></rect>')


# ---- answers --------------------------------------------------------------------------------------------------------

def why_table(why: "Why") -> str:
    """The terms of an answer and their sum. If it is a record's, each element in it can be opened, and the largest
    terms are followed up to the loss, line by line."""
    shown = _answer(why)
    if why.record is None:
        return shown
    cells = dict.fromkeys(cell for term in why.terms for factor in term.factors for cell in factor.cells)
    for cell in list(cells)[:MOST_OPENED]:
        shown += folded(f"why {html.escape(cell.name)}{index(cell.at)}?", _answer(why.record.follow(cell)))
    lines = [_line(answer) for answer in _to_the_loss(why)]
    return shown + (folded(f"its largest terms up to the loss, {plural(len(lines), 'line')}",
                           f"<ol>{''.join(f'<li>{line}</li>' for line in lines)}</ol>") if lines else "")


def _answer(why: "Why") -> str:
    rows = [[html.escape(" * ".join(factor.text for factor in term.factors)),
             " × ".join(f"{factor.value:.6g}" for factor in term.factors), f"{term.product:.6g}"] for term in why.terms]
    left_out = why.count - len(why.terms)
    if left_out > 0:
        rest = why.total - sum(term.product for term in why.terms)
        rows.append([plural(left_out, "smaller term"), "", f"{rest:.6g}"])
    if len(rows) == 0 or len(rows) == len(why.terms[0].factors) == 1:       # the equation says it all
        return f"<div>{_line(why)}</div>"
    rows += [["<b>sum</b>", "", f"<b>{why.total:.6g}</b>"], ["as recorded", "", f"{why.value:.6g}"]]
    return f"<div>{_line(why)}</div>" + table(["term", "", "product"], rows, [1, 2])


def _line(why: "Why") -> str:
    """The equation of an answer, its value, and where it was computed."""
    cell = why.cell
    name = f", {html.escape(why.record.views[cell.step].name)}" if why.record is not None else ""
    line = f", line {cell.line}" if cell.line else ""
    return (f"<b>{html.escape(why.equation)}</b>, {why.value:.6g} (step {cell.step}{name}"
            f"{' of the forward' if cell.forward else ''}{line})")


def _to_the_loss(why: "Why") -> list["Why"]:
    """The answers for a gradient in the largest term of this answer, for one in the largest term of that answer, ..."""
    answers: list["Why"] = []
    while why.terms and len(answers) < MOST_LINES:
        cells = [cell for factor in why.terms[0].factors for cell in factor.cells if not cell.forward]
        gradient = min(cells, key=lambda cell: (not cell.name.startswith("d"), cell.line == 0), default=None)
        if gradient is None:
            break
        why = why.record.follow(gradient)
        answers.append(why)
    return answers


# ---- modules and optimizers -----------------------------------------------------------------------------------------

def module_table(module: "Module") -> str:
    """The parameters of a module with their shapes; those of the modules in it folded."""
    return _module(module, module.path, {}, opened=True)


def _module(module: "Module", path: str, first: dict[int, str], opened: bool) -> str:
    """first: id of each parameter that was shown before -> its name. It and a module inside stand in the order of the
    attributes, the parameters of the module itself above the modules."""
    content, rows = "", []
    for name, child in module._children():
        full = f"{path}.{name}" if path else name
        if not hasattr(child, "named_parameters"):
            rows.append([html.escape(name), str(child.shape), str(child.dtype), _count(child, full, first)])
        else:
            content += _module(child, full, first, opened=False)
    if rows:
        content = table(["parameter", "shape", "dtype", "numbers"], rows, [3]) + content
    parameters = [p for _, p in module.named_parameters()]
    facts = f"{plural(sum(p.size for p in parameters), 'parameter')}, {_bytes(parameters)}" if parameters else (
        "no parameters")
    title = f"{html.escape(path)} " if path else ""
    summary = f"{title}<b>{html.escape(type(module).__name__)}</b>: {facts}"
    return folded(summary, content, opened) if content else f'<div style="margin:2px 0 2px 12px">{summary}</div>'


def _count(p: "Parameter", name: str, first: dict[int, str]) -> str:
    before = first.setdefault(id(p), name)
    return f"{p.size:,}" if before == name else f"the same as {html.escape(before)}"


def _bytes(parameters: "Iterable[Parameter]") -> str:
    size = sum(p.data.nbytes for p in parameters)
    return f"{size:,} bytes" if size < 1e4 else f"{size / 1e3:,.0f} kB" if size < 1e6 else f"{size / 1e6:,.1f} MB"


def optimizer_table(optimizer: "Optimizer") -> str:
    """The groups of an optimizer: their hyper-parameters, how many parameters they have, how many steps were taken."""
    t = {id(state.p): state.t for state in optimizer.states}
    names = list(optimizer.defaults)
    rows = []
    for k, group in enumerate(optimizer.groups):
        steps = [t.get(id(p), 0) for p in group["params"]]
        taken = f"{min(steps, default=0)}" + (f" to {max(steps)}" if len(set(steps)) > 1 else "")
        rows.append([str(k), *(html.escape(str(group.get(name, ""))) for name in names), f"{len(group['params']):,}",
                     f"{sum(p.size for p in group['params']):,}", taken])
    columns = ["group", *map(html.escape, names), "tensors", "numbers", "steps taken"]
    return (f"<div><b>{html.escape(type(optimizer).__name__)}</b>: "
            f"{plural(sum(p.size for p in optimizer.params), 'parameter')}</div>" +
            table(columns, rows, range(len(columns))))
