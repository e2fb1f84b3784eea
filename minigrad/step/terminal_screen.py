"""What the terminal shows of a Record at one line of one step: position, formula, source, arrays and checks."""
import itertools
import re
import textwrap
from functools import partial
from typing import Any, Sequence

import numpy as np

from minigrad.gradcheck import DIFFERENCES
from minigrad.step.backward_record import Record
from minigrad.step.formula import SECTIONS
from minigrad.step.heatmap import LEGENDS, clipped, heatmap, number, summary
from minigrad.step.line_trace import Listing
from minigrad.step.terminal_layout import ASCII, Draw, arranged, shows_unicode, size
from minigrad.step.view import Input, View
from minigrad.step.why import arrays

BOLD, DIM, RED, GREEN = "1", "2", "31", "32"
SHORT = 4                                       # lines of an answer that stand below the arrays, not in their place
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Screen:
    """A position in a Record, and the text that shows it. Where a screen is redrawn, it also holds the answer to the
    last command; elsewhere answers are printed."""

    def __init__(self, record: Record, start: int, stdout: Any, color: bool, redraws: bool) -> None:
        self.record, self.i = record, start
        self.l = -1                             # the index of the line; -1: the op as a whole
        self.forward = False                    # which direction is shown
        self.stdout, self.color, self.redraws = stdout, color, redraws
        self.unicode = shows_unicode(stdout)
        self.answer: list[str] = []             # of the last command, where the screen is redrawn
        self.rest: list[str] = []               # of an answer longer than the screen
        self.screen: list[str] = []             # as drawn last

    @property
    def view(self) -> View:
        return self.record.views[self.i]

    @property
    def listing(self) -> Listing:
        return self.view.forward if self.forward else self.view.backward

    @property
    def width(self) -> int:
        return size()[0]

    @property
    def room(self) -> int:
        """The lines of the screen above the prompt."""
        return size()[1] - 1

    @property
    def has_gradients(self) -> bool:
        """Whether the screen shows the gradients of the inputs: for the op as a whole, and after its last line."""
        return not self.forward and self.l in (-1, len(self.listing.lines) - 1)

    def draw(self) -> None:
        """Print the screen of the op as a whole or of one line; where each command redraws it, this comes later."""
        if not self.redraws:
            for line in [*self.head(), "", *self.body()]:
                print(line.rstrip(), file=self.stdout)

    def redraw(self) -> None:
        """Draw the screen in place of the last one: the position and the source always stand at the top; below them
        the arrays, or the answer to the last command; the legend and the prompt at the bottom."""
        head = self.head(self.room)
        legend = [self.paint(clipped(LEGENDS[self.color], self.width), DIM)] if self.room >= 12 else []
        room = self.room - len(head) - len(legend)
        if self.rest or len(self.answer) > room:
            page = self.room - 1 - len(legend)
            below, shown, self.rest = legend, head[:1] + self.answer[:page], self.answer[page:]
        elif len(self.answer) > min(SHORT, room // 2):
            below, shown = legend, head + self.answer
        else:
            below, shown = [*self.answer, *legend], head + self.body(room - len(self.answer))
        self.screen = shown + [""] * (self.room - len(shown) - len(below)) + below
        text = "".join(f"{clipped(line, self.width)}{REST_OF_LINE}\n" for line in self.screen)
        self.stdout.write(HOME + text + REST_OF_SCREEN)
        self.stdout.flush()

    def head(self, room: int | None = None) -> list[str]:
        """Position, formula and source. room: of the whole screen; the formula gets an eighth of it, the source a
        third. None: all lines of both."""
        v = self.view
        title = f"── step {v.index}/{len(self.record.views) - 1}  {v.op}{f' → {v.name}' if v.name != v.op else ''}"
        title += f"  {v.created_at} {'forward ' if self.forward else ''}"
        title = clipped(title + "─" * self.width, self.width)
        if room is None:
            return [*self.wrapped(title, BOLD), *self.formula(), "", *self.source()]
        return [*self.wrapped(title, BOLD), *self.formula(max(room // 8, 1)), *self.source(max(room // 3, 3))]

    def formula(self, most: int | None = None) -> list[str]:
        """Shapes and equations of this direction. most: only so many lines of equations, up to the one that the current
        line computes, or else up to the last one; ⋮ where there are more above."""
        text = self.view.formula.text if self.unicode else self.view.formula.doc
        shapes, equations = ([row for line in lines for row in self.wrapped(line, hang=10)] for lines in
                             formula_lines(text, "forward" if self.forward else "backward"))
        if most is None or len(shapes) + len(equations) <= most:
            return [*shapes, *equations]
        computed = self.listing.lines[self.l].values if self.l >= 0 else ()
        last = next((i for i, row in enumerate(equations) for name in computed if re.search(rf"\b{name} = ", row)),
                    len(equations) - 1)
        first = max(last + 1 - most, 0)
        shown = equations[first:first + most]
        return [self.signs("⋮") + shown[0][1:], *shown[1:]] if first else shown

    def source(self, most: int | None = None) -> list[str]:
        """The lines of the source; the statements that ran have numbers. most: only so many lines around the current
        one, ⋮ where there are more above or below."""
        lines = self.listing.lines
        now = lines[self.l] if self.l >= 0 else None
        rows: list[tuple[bool, str]] = []       # whether it is the current line, and the text
        for k, code in enumerate(self.listing.source.splitlines()):
            here = now is not None and now.first <= k <= now.last
            runs = [i for i, line in enumerate(lines) if line.first == k]
            run = next((i for i in reversed(runs) if i <= self.l), runs[0] if runs else None)    # of several in a loop
            text = f"{'→' if here else ' '}{'' if run is None else run + 1:>3} {code}"
            if len(text) > self.width:
                text = re.sub(r"\s+#", "  #", text)
            if len(text) > self.width and most is not None:
                text = re.sub(r"\s+#.*", "", text)
            wrapped = self.wrapped(text, hang=len(text) - len(text[4:].lstrip()) + 8)
            if most is not None and not here and len(wrapped) > 1:
                wrapped = [clipped(wrapped[0], self.width - 1) + self.signs("…")]
            rows += [(here, row) for row in wrapped]
        if most is not None and len(rows) > most:
            current = [i for i, (here, _) in enumerate(rows) if here] or [0]
            first = min(max((current[0] + current[-1] - most + 1) // 2, 0), len(rows) - most)
            first = min(first, current[0])
            cut, rows = (first > 0, first + most < len(rows)), rows[first:first + most]
            rows = [(here, self.signs("⋮") + text[1:] if not here and cut[k > 0] and k in (0, most - 1) else text)
                    for k, (here, text) in enumerate(rows)]
        return [self.paint(text, BOLD if here else DIM if now else "") for here, text in rows]

    def body(self, room: int | None = None) -> list[str]:
        """The arrays of the op as a whole or of one line, and the verdicts. room: at most this many lines."""
        v = self.view
        notes = [line for note in (v.kernel_note, self.listing.note, v.bad_origin) if note
                 for line in self.wrapped(f"! {note}")]
        if self.l == -1 and not self.forward and (room is None or room >= 20):
            saved = [f"{name} {shape(a)}" for name, a in v.saved.items() if np.ndim(a)]
            notes = self.wrapped(f"  saved by the forward: {', '.join(saved) or 'no arrays'}", DIM) + notes
        verdicts = self.verdicts()
        if room is None:
            rows, _ = arranged(self.blocks(), self.width - 2, 10 ** 6)
            return [*notes, *[""] * bool(notes), *(f"  {row}".rstrip() for row in rows), "", *verdicts]
        notes = notes[:max(room // 4, 1)]
        if len(verdicts) > max(room // 3, 1):
            verdicts = self.verdicts(shortened=True)
        verdicts = verdicts[:max(room // 2, 1)]
        left = room - len(notes) - len(verdicts)
        blocks = self.blocks()
        rows, shown = arranged(blocks, self.width - 2, left)
        if shown < len(blocks) and left > 6:
            rows, shown = arranged(blocks, self.width - 2, left - 1)
            also = ", ".join(name if np.ndim(value) else f"{name} = {number(value)}"
                             for name, value, *_ in self.shown()[shown - len(blocks):])
            rows.append(self.paint(clipped(f"also: {also}; show NAME", self.width - 2), DIM))
        return [*notes, *(f"  {row}" for row in rows), *verdicts]

    def blocks(self) -> list[Draw]:
        """The arrays of the screen, to be drawn in any size."""
        drawn: list[Draw] = [partial(self.block, *each) for each in self.shown()]
        if self.l >= 0 and not self.listing.lines[self.l].values and not self.has_gradients:
            drawn.insert(0, lambda width, height: [clipped("(this line computes no array)", width)][:height])
        return drawn

    def block(self, name: str, value: Any, label: str, axes: Sequence[str], width: int, height: int,
              indices: bool = False) -> list[str]:
        """The lines of one array: name, shape and largest magnitude; the names of its axes; the heat map."""
        if not np.ndim(value):
            lines = [f"{name} = {number(value)}", *([self.paint(clipped(label, width), DIM)] if label else [])]
        else:
            drawn = heatmap(value, width, self.color, axes, self.record.labels, max(height - 1, 1), label, self.unicode,
                            indices)
            what = summary(value)
            if len(drawn) == 1 and drawn[0].startswith("all "):
                what, drawn = drawn[0], [label] * bool(label)
            caption = f"{name} {shape(value)}  {what}"
            caption = caption if len(caption) <= width else f"{name} {shape(value)}"
            lines = [caption, *(self.paint(clipped(line, width), DIM) for line in drawn[:1]), *drawn[1:]]
        lines[0] = clipped(lines[0], width)
        return [self.signs(line) for line in lines][:height]

    def shown(self) -> list[tuple[str, Any, str, Sequence[str]]]:
        """Name, array, label and axes of what the screen shows: inputs and results of the op; or the values of one
        line, then its operands."""
        v, record = self.view, self.record
        found: list[tuple[str, Any, str]] = []
        if self.l >= 0:
            found = [(name, value, "") for name, value in self.listing.lines[self.l].values.items()]
        elif self.forward:
            found = [(x.name, x.value, x.label) for x in v.inputs]
            found += [(name, y, "output") for name, y in v.outputs.items()]
        else:
            for out, (name, dy) in enumerate(v.dys.items()):
                uses = record.uses[v.step.node.seq, out]
                sources = ", ".join(map(str, sorted({step for step, _ in uses})))
                otherwise = "of an output that nothing used" if v.index else "of the loss itself"
                found.append((name, dy, f"from step {sources}" if sources else otherwise))
        if self.has_gradients:
            computed = {f"d{x.name}": (f"d{x.name}", x.gradient, f"to {x.label}") for x in wanted(v)}
            found = [each for each in found if each[0] not in computed] + list(computed.values())
        if self.l >= 0:
            known = {name for name, *_ in found}
            found += [each for each in self.operands() if each[2] or each[0] not in known]
        return [(name, value, label, self.axes(name, value)) for name, value, label in found]

    def operands(self) -> list[tuple[str, Any, str]]:
        """Name, value and label of the variables that the current line reads."""
        line = self.listing.lines[self.l]
        code = "\n".join(re.sub(r"#.*", "", text)
                         for text in self.listing.source.splitlines()[line.first:line.last + 1])
        names = dict.fromkeys(re.findall(r"(?<![\w.])[A-Za-z_]\w*", code))
        return [(name, line.before[name], "before this line" if name in line.values else "") for name in names
                if isinstance(line.before.get(name), (np.ndarray, np.generic, int, float))]

    def known(self, lines: int) -> dict[str, tuple[Any, int]]:
        """The arrays and numbers of the step by name, as they are after so many of its lines, each with the number of
        the line that computed it, 0 for what the op was given."""
        return {name: (value, line) for line in range(lines + 1)
                for name, value in arrays(self.view, self.forward, line).items() if value is not None}

    def axes(self, name: str, value: Any) -> Sequence[str]:
        """The names of the axes of an array of this step, as far as they are known."""
        found = (self.view.axes.get(key, ()) for key in (name, f"{name}:{np.ndim(value)}"))
        return next((axes for axes in found if len(axes) == np.ndim(value)), ())

    def verdicts(self, shortened: bool = False) -> list[str]:
        """The checks of the gradients and the identity. If shortened, one line for all gradients that passed, and one
        line for each that failed."""
        if not self.has_gradients:
            return []
        v = self.view
        texts = [self.verdict([x]) for x in wanted(v)]
        if shortened:
            passed = [x for x, text in zip(wanted(v), texts) if text.startswith(mark(True))]
            texts = [text for text in texts if not text.startswith(mark(True))]
            texts += [self.verdict(passed)] * bool(passed)
        if v.identity is not None:
            verified = "identity verified" if v.identity.ok else "identity violated"
            texts.append(f"{mark(v.identity.ok)} {verified}, residual {v.identity.residual:.0e}: {v.identity.words}")
        each = [self.wrapped(f"  {text}") for text in texts]
        if not shortened:
            return list(itertools.chain(*each))
        return [clipped(lines[0], self.width - 1) + self.signs("…") * (len(lines) > 1) for lines in each]

    def verdict(self, inputs: list[Input]) -> str:
        """One line about the gradients of some inputs: their checks, and the earlier gradients that they are added
        to."""
        names = {f"d{x.name}" for x in inputs}
        rows = [row for row in self.view.report.rows if row.of in names or not row.of]
        parts = [row.detail for row in rows if row.detail]
        errors = [row.error for row in rows if row.check == DIFFERENCES and not row.detail]
        if errors:
            parts.append(f"gradient check passed, relative error {max(errors):.0e}")
        text = f"{mark(all(row.ok for row in rows))} {', '.join(f'd{x.name}' for x in inputs)}: {', '.join(parts)}"
        added = [x for x in inputs if x.earlier is not None]
        if not added:
            return text
        return f"{text}; added to an earlier gradient, {summary(added[0].earlier)}" if len(inputs) == 1 else (
            f"{text}; {', '.join(f'd{x.name}' for x in added)} added to earlier gradients")

    # ---- text ----

    def say(self, text: str = "", code: str = "", hang: int = 4) -> None:
        """Print text, wrapped to the width; lines after the first one are indented by hang."""
        for line in self.wrapped(text, code, hang):
            self.put(line)

    def put(self, text: str) -> None:
        """Print lines, cut to the width; where the screen is redrawn, they become lines of the answer."""
        lines = [clipped(line.rstrip(), self.width) for line in self.signs(text).split("\n")]
        if self.redraws:
            self.answer += lines
        else:
            print("\n".join(lines), file=self.stdout)

    def wrapped(self, text: str, code: str = "", hang: int = 4) -> list[str]:
        """Text as lines of the width; those after the first one are indented by hang."""
        lines = []
        for line in textwrap.wrap(self.signs(text), self.width, subsequent_indent=" " * min(hang, self.width // 2),
                                  break_on_hyphens=False) or [""]:
            for sign, own in (("✓", GREEN), ("✗", RED)):
                line = line.replace(sign, self.paint(sign, own))
            lines.append(self.paint(line, code))
        return lines

    def signs(self, text: str) -> str:
        """The text in signs that the output has."""
        return text if self.unicode else text.translate(ASCII)

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code else text


def wanted(view: View) -> list[Input]:
    """The inputs that have a gradient."""
    return [x for x in view.inputs if x.gradient is not None]


def shape(array: Any) -> str:
    return "x".join(map(str, np.shape(array)))


def mark(ok: bool) -> str:
    return "✓" if ok else "✗"


def formula_lines(text: str, section: str) -> tuple[list[str], list[str]]:
    """The lines of an op's formula that give its shapes, and those with the equations of one direction."""
    lines: dict[str, list[str]] = {"shapes": [], section: []}
    current = "shapes"
    for line in text.splitlines():
        word = re.match(rf"({'|'.join(SECTIONS)})\b", line)
        current = word[1] if word else current
        if line and current in lines:
            lines[current].append(line)
    return lines["shapes"], lines[section]
