"""The stepper in a terminal: walk a Record with commands like those of a debugger.

Heat maps are coloured Unicode blocks in a terminal that has colour, characters elsewhere.
"""
import cmd
import io
import os
import re
import shutil
import sys
import textwrap
from typing import Any, Callable, Iterable

import numpy as np

from minigrad.gradcheck import Row
from minigrad.step.backward_record import Record
from minigrad.step.breakpoints import SYNTAX, nearest
from minigrad.step.explain import DIFFERENCES
from minigrad.step.elements import index
from minigrad.step.heatmap import LEGENDS, heatmap, number, side_by_side, summary
from minigrad.step.line_trace import Listing
from minigrad.step.page import write
from minigrad.step.view import Input, View
from minigrad.step.why import (Cell, Factor, Why, array_names, arrays, cell_of, checked_index, largest_entries)

COMMANDS = ("next", "previous", "line", "break", "continue", "jump", "where", "forward", "why", "nudge", "check",
            "optimizer", "page", "quit", "help")
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"
AROUND = 8                                      # steps that `where` shows on either side
FEW = 3                                         # elements of a factor that `why` numbers
FACTORS = (1000.0, 100.0, 10.0, 1.0, 0.1)       # of the default nudge: the ratio goes to 1 as the nudge shrinks


class Terminal(cmd.Cmd):
    """Commands that walk a Record. color: None for colour if stdout is a terminal that has it and NO_COLOR is unset."""
    prompt = "(step) "

    def __init__(self, record: Record, start: int = 0, color: bool | None = None, stdin: Any = None,
                 stdout: Any = None) -> None:
        super().__init__(stdin=stdin or sys.stdin or io.StringIO(), stdout=stdout or sys.stdout or io.StringIO())
        self.record, self.i = record, start
        self.l = -1                             # the index of the line; -1: the op as a whole
        self.forward = False                    # which direction is shown
        self.breakpoints: dict[str, Callable[[View], bool]] = {}
        self.cells: list[Cell] = []             # elements in the last answer of `why`, numbered from 1 on the screen
        self.use_rawinput = self.stdin is sys.stdin and sys.stdin.isatty()
        self.color = has_color(self.stdout) if color is None else color

    # ---- the loop ----

    def preloop(self) -> None:
        steps = len(self.record.views)
        self.say(f"{self.record.title or 'a backward'}: loss {self.record.loss:.6g}, {steps} steps", BOLD)
        for note in self.record.notes:
            self.say(note)
        self.say("n: next op   l: next line   why, nudge: explain a number   h: all commands")
        self.say()
        self.show()

    def precmd(self, line: str) -> str:
        """The line with the name of its command completed: any prefix of a name is a command."""
        if not self.use_rawinput:               # show the commands in a transcript
            print("" if line == "EOF" else line.rstrip("\n"), file=self.stdout)
        word, _, rest = line.strip().partition(" ")
        full = next((command for command in COMMANDS if word and command.startswith(word)), word)
        return f"{full} {rest.strip()}".strip()

    def onecmd(self, line: str) -> bool:
        try:
            return bool(super().onecmd(line))
        except (ValueError, IndexError, OSError) as error:
            self.say(str(error))
            return False

    def default(self, line: str) -> None:
        word = line.split()[0]
        raise ValueError(f"no command {word!r}{nearest(word, COMMANDS)}; h lists all commands")

    # ---- moving ----

    def do_next(self, _: str) -> None:
        """n             the next op, in the current direction"""
        self.go(self.i + (-1 if self.forward else 1))

    def do_previous(self, _: str) -> None:
        """p             the previous op"""
        self.go(self.i - (-1 if self.forward else 1))

    def do_line(self, _: str) -> None:
        """l             the next line and the values it computes; after the last line, the next op"""
        if self.l + 1 < len(self.listing.lines):
            self.l += 1
            self.show()
        else:
            self.do_next("")

    def do_break(self, text: str) -> None:
        """b [NAME]      set a breakpoint: an op, module, parameter, bad, nan, norm > 3; b: list; b clear [NAME]"""
        word, _, name = text.partition(" ")
        if word == "clear":
            if name and name not in self.breakpoints:
                raise ValueError(f"no breakpoint {name!r}{nearest(name, self.breakpoints)}")
            for each in [name] if name else list(self.breakpoints):
                del self.breakpoints[each]
        elif text:
            self.breakpoints[text] = self.record.breakpoint(text)
        for name, stop in self.breakpoints.items():
            self.say(f"{name}: step {', '.join(str(v.index) for v in self.record.views if stop(v)) or 'none'}")
        if not self.breakpoints:
            self.say(f"no breakpoints; one is {SYNTAX}")

    def do_continue(self, text: str) -> None:
        """c [NAME]      continue to the next step where a breakpoint (or NAME) stops; if there is none, to the end"""
        stops_here = [self.record.breakpoint(text)] if text else list(self.breakpoints.values())
        way = range(self.i - 1, -1, -1) if self.forward else range(self.i + 1, len(self.record.views))
        found = [k for k in way if any(stop(self.record.views[k]) for stop in stops_here)]
        self.go(found[0] if found else way[-1] if way else self.i)
        if not found:
            self.say(f"{text or 'no breakpoint'} stops at {'none' if text else 'any'} of the remaining steps", BOLD)

    def do_jump(self, text: str) -> None:
        """j 3, j NAME   jump to a step: by number, or to the next one of an op, module or parameter, cyclically"""
        n = len(self.record.views)
        if re.fullmatch(r"-?\d+", text) and not 0 <= int(text) < n:
            raise ValueError(f"there is no step {text}: they are 0 to {n - 1}")
        if text.isdigit():
            return self.go(int(text))
        stop = self.record.breakpoint(text)
        found = [k % n for k in range(self.i + 1, self.i + 1 + n) if stop(self.record.views[k % n])]
        if not found:
            raise ValueError(f"{text} stops at none of the {n} steps")
        self.go(found[0])

    def do_forward(self, _: str) -> None:
        """f             switch direction: this op's forward, then n goes towards the loss; f again: the backward"""
        self.forward = not self.forward
        self.go(self.i)

    def go(self, i: int) -> None:
        if not 0 <= i < len(self.record.views):
            raise ValueError(f"there is no op beyond {'the loss' if i < 0 else 'the first op'}; f switches direction")
        self.i, self.l = i, -1
        self.show()

    def do_where(self, _: str) -> None:
        """w             where: the steps around this one, done or to do, and where each sends gradients"""
        views = self.record.views
        first, last = max(self.i - AROUND, 0), min(self.i + AROUND + 1, len(views))
        if first:
            self.say(f"  ... {first} more, up to the loss", DIM)
        for v in views[first:last]:
            mark = "→" if v.index == self.i else "✗" if not v.report.ok else "✓" if v.index < self.i else " "
            to = [x.leaf.removeprefix(f"{v.name}.") or f"step {x.source}" for x in wanted(v)]
            self.say(f"{mark} {v.index:3}  {v.op:20.20}  {v.name if v.name != v.op else '':24.24}  to {', '.join(to)}",
                     BOLD if v.index == self.i else "")
        if last < len(views):
            self.say(f"  ... {len(views) - last} more, down to the first op", DIM)

    # ---- the screen ----

    @property
    def view(self) -> View:
        return self.record.views[self.i]

    @property
    def listing(self) -> Listing:
        return self.view.forward if self.forward else self.view.backward

    @property
    def width(self) -> int:
        return max(shutil.get_terminal_size((100, 30)).columns, 40)

    def show(self) -> None:
        """One screen, of the op as a whole or of one line: position, formula, source, arrays."""
        v, listing = self.view, self.listing
        line = listing.lines[self.l] if self.l >= 0 else None
        title = f"── step {v.index}/{len(self.record.views) - 1}  {v.op}{f' → {v.name}' if v.name != v.op else ''}"
        title += f"  {v.created_at} {'forward ' if self.forward else ''}"
        self.say(f"{title:─<{self.width}}"[:self.width], BOLD)
        for equations in formula_lines(v.formula.text, "forward" if self.forward else "backward"):
            self.say(equations, hang=10)
        self.say()
        for k, code in enumerate(listing.source.splitlines()):
            here = line is not None and line.first <= k <= line.last
            code = code if len(code) + 2 <= self.width else re.sub(r"\s+#", "  #", code)
            deeper = len(code) - len(code.lstrip()) + 8
            self.say(f"{'→' if here else ' '} {code}", BOLD if here else DIM if line else "", deeper)
        if line is None and not self.forward:
            saved = [f"{name} {shape(a)}" for name, a in v.saved.items() if np.ndim(a)]
            self.say(f"  saved by the forward: {', '.join(saved) or 'no arrays'}", DIM)
        for note in filter(None, (v.kernel_note, listing.note, v.bad_origin)):
            self.say(f"! {note}")
        self.say()

        room = shutil.get_terminal_size((100, 30)).lines - len(listing.source.splitlines()) - 12
        rows = side_by_side(self.blocks(self.record.tokens), self.width - 2)
        if self.color and len(rows) > room:     # without labels a line shows two rows
            rows = side_by_side(self.blocks(None), self.width - 2)
        for row in rows:
            print(f"  {row}".rstrip(), file=self.stdout)
        if self.has_gradients:
            for x in wanted(v):
                self.say(f"  {self.verdict(x)}")
            if v.identity is not None:
                verified = "identity verified" if v.identity.ok else "identity violated"
                self.say(f"  {mark(v.identity.ok)} {verified}, residual {v.identity.residual:.0e}: {v.identity.words}")

    @property
    def has_gradients(self) -> bool:
        """Whether the screen shows the gradients of the inputs: for the op as a whole, and after its last line."""
        return not self.forward and self.l in (-1, len(self.listing.lines) - 1)

    def blocks(self, tokens: list[str] | None) -> list[list[str]]:
        """The arrays of a screen, each as lines of text: inputs and results of the op, or the values of one line."""
        v, record = self.view, self.record
        shown: list[tuple[str, Any, str]] = []
        if self.l >= 0:
            shown = [(name, value, "") for name, value in self.listing.lines[self.l].values.items()]
        elif self.forward:
            shown = [(x.name, x.value, x.label) for x in v.inputs]
            shown += [(name, y, "output") for name, y in v.outputs.items()]
        else:
            for out, (name, dy) in enumerate(v.dys.items()):
                uses = record.uses[v.step.node.seq, out]
                sources = ", ".join(map(str, sorted({step for step, _ in uses})))
                otherwise = "of an output that nothing used" if v.index else "of the loss itself"
                shown.append((name, dy, f"from step {sources}" if sources else otherwise))
        if self.has_gradients:
            shown += [(f"d{x.name}", x.gradient, f"to {x.label}") for x in wanted(v)]
        blocks = []
        for name, value, label in shown:
            caption = f"{name} {shape(value)}  {summary(value)}" if np.ndim(value) else f"{name} = {number(value)}"
            arrays = heatmap(value, self.width - 2, self.color, tokens).splitlines() if np.ndim(value) else []
            blocks.append([caption, *([self.paint(label, DIM)] if label else []), *arrays])
        return blocks or [["(this line computes no array)"]]

    def verdict(self, x: Input) -> str:
        """One line about the gradient of an input: its checks, and the earlier gradient that it is added to."""
        rows = [row for row in self.view.report.rows if row.of in (f"d{x.name}", "")]
        parts = []
        for row in rows:
            if row.detail:
                parts.append(row.detail)
            elif row.check == DIFFERENCES:
                parts.append(f"gradient check passed, relative error {row.error:.0e}")
        text = f"{mark(all(row.ok for row in rows))} d{x.name}: {', '.join(parts)}"
        return text if x.earlier is None else f"{text}; added to an earlier gradient, {summary(x.earlier)}"

    # ---- questions ----

    def do_why(self, text: str) -> None:
        """why dS 0 2    why an element has its value: by the line that computed it; why dS: its largest; then why 2"""
        if text.isdigit():
            if not 1 <= int(text) <= len(self.cells):
                known = f"they are 1 to {len(self.cells)}" if self.cells else "first name an array: why dx"
                raise ValueError(f"there is no element {text}: {known}")
            why = self.record.follow(self.cells[int(text) - 1])
        else:
            name, numbers = re.fullmatch(r"((?:earlier |sum )?[^\s\[]*)(.*)", text).groups()      # type: ignore[union-attr]
            name = {x.leaf: f"d{x.name}" for x in wanted(self.view) if x.leaf}.get(name, name)
            if name not in array_names(self.view):
                first, known = wanted(self.view)[0], nearest(name, array_names(self.view))
                raise ValueError(f"{name!r} is no array of this step{known}; for example, write why "
                                 f"d{first.name} {' '.join('0' * len(first.shape))}")
            if re.sub(r"[\s,\[\]]|-?\d+", "", numbers):
                raise ValueError(f"{numbers.strip()!r} is no index: write why {name} 0 2")
            at = tuple(map(int, re.findall(r"-?\d+", numbers)))
            why = self.record.follow(cell_of(self.view, name, at if numbers.strip() else None))
        self.cells = []
        self.say_why(why)

    def say_why(self, why: Why) -> None:
        """Print an answer, with a number for each element that can be asked next."""
        v = self.record.views[why.cell.step]
        place = f"step {v.index}, {v.op}{f' in {v.name}' if v.name != v.op else ''}"
        place += f", line {why.cell.line}" if why.cell.line else ""
        direction = "forward" if why.cell.forward else "backward"
        self.say(f"{why.name} = {why.value:.6g}  in the {direction} of {place}", BOLD)
        self.say(f"  {why.equation}", hang=6)
        for term in why.terms:
            factors = " × ".join(self.factor(factor) for factor in term.factors[term.negative:])
            bar = "█" * round(10 * abs(term.product) / why.magnitude)
            product = f"  = {term.product:.4g}" if len(term.factors) > 1 else ""
            self.say(f"  {'-' * term.negative}{factors}{product}  {bar}", hang=6)
        if why.count > len(why.terms):
            rest = why.total - sum(term.product for term in why.terms)
            self.say(f"  and {why.count - len(why.terms)} smaller terms: {rest:.4g}")
        if why.terms:
            dtype = np.asarray(arrays(v, why.cell.forward, why.cell.line)[why.cell.name]).dtype
            precision = max(1e-6, float(np.finfo(dtype).eps) ** 0.5) if dtype.kind == "f" else 1e-6
            sums = "its one term is" if why.count == 1 else f"all {why.count} terms sum to"
            equal = mark(abs(why.total - why.value) <= precision * why.magnitude)
            self.say(f"  {equal} {sums} {why.total:.6g}, recorded {why.value:.6g}")
        if self.cells:
            cell = self.cells[0]
            self.say(f"  why 1: where {cell.name}{index(cell.at)} comes from", DIM)

    def factor(self, factor: Factor) -> str:
        """A factor as text: each element in it, unless they are many, with the number by which `why` asks for it."""
        numbers = []
        for cell in factor.cells if len(factor.cells) <= FEW else ():
            if cell not in self.cells:
                self.cells.append(cell)
            numbers.append(str(self.cells.index(cell) + 1))
        return f"{f'({chr(44).join(numbers)}) ' if numbers else ''}{factor.text} {factor.value:.4g}"

    def do_nudge(self, text: str) -> None:
        """nudge w[1,2]  move one number of a leaf: predicted and actual change of the loss; by 0.1: nudge w[1,2] 0.1"""
        name, at, delta = target(text)
        leaf = self.leaf(name, self.record.gradients)
        at = largest(self.record.gradients[leaf]) if at is None else at
        deltas = [f * self.record.nudge(leaf, at).delta for f in FACTORS] if delta is None else [delta]
        nudges = [self.record.nudge(leaf, at, delta) for delta in deltas]
        self.say(f"{leaf}{index(at)}: gradient g = {nudges[0].gradient:.6g}", BOLD)
        self.say(f"  {'delta':>12} {'g · delta':>14} {'loss changes by':>16} {'ratio':>10}")
        for n in nudges:
            ratio = f"{n.actual / n.predicted:.6f}" if n.predicted else "-"
            self.say(f"  {n.delta:12.4g} {n.predicted:14.6g} {n.actual:16.6g} {ratio:>10}")

    def do_check(self, text: str) -> None:
        """check [full]  check this op's gradients by finite differences along a direction; full: every element"""
        if text not in ("", "full"):
            raise ValueError(f"write check or check full, not {text!r}")
        for row in (self.view.step.check(full=True) if text else self.view.report).rows:
            self.say(f"{mark(row.ok)} {row.of:12} {row.check:20} {row.error:8.1e}  {row.detail}")
            if not row.ok and row.numeric is not None:
                for line in self.comparison(row):
                    print(f"  {line}".rstrip(), file=self.stdout)

    def comparison(self, row: Row) -> list[str]:
        """A wrong gradient, what finite differences give, and the error, as heat maps side by side."""
        arrays = {f"{row.of}, yours": row.analytic, "finite difference": row.numeric,
                  f"error, worst at {list(row.worst or ())}": row.analytic - row.numeric}
        width = max((self.width - 8) // 3, 20)
        blocks = [[name, f"{shape(a)}  {summary(a)}", *heatmap(a, width, self.color).splitlines()]
                  for name, a in arrays.items()]
        return side_by_side(blocks, self.width - 2)

    def do_optimizer(self, text: str) -> None:
        """o [w[1,2]]    the optimizer's step: the change of the loss by tensor; or the arithmetic of one weight"""
        step = self.record.optimizer_step
        if step is None:
            raise ValueError("no optimizer was recorded: record(loss, optimizer=...)")
        if not text:
            if step.clip:
                self.say(step.clip)
            self.say(f"  {step.op:30} {'|update|':>10} {'predicted':>12} {'loss changes by':>16}", BOLD)
            for u in step.updates:
                self.say(f"  {u.leaf:30} {np.linalg.norm(u.change):10.3g} {u.predicted:12.4g} {u.actual:16.4g}")
            return self.say(f"  {'all at once':41} {step.predicted:12.4g} {step.actual:16.4g}")
        name, at, _ = target(text)
        updates = {u.leaf: u for u in step.updates}
        u = updates[self.leaf(name, updates)]
        at = (u.picks or [(0,) * u.change.ndim])[0] if at is None else at
        at = checked_index(u.leaf, u.change.shape, at)
        self.say(f"{u.leaf}{index(at)} moves by {element(u.change, at)}", BOLD)
        self.say("  " + "  ".join(f"{key} = {element(value, at)}" for key, value in u.given.items()), hang=2)
        source = u.listing.source.splitlines()
        for line in u.listing.lines:
            code = " ".join(part.strip() for part in source[line.first:line.last + 1])
            values = ", ".join(f"{key} = {element(value, at)}" for key, value in line.values.items())
            if values:
                self.say(f"  {code:58}  {values}")

    def leaf(self, name: str, leaves: Iterable[str]) -> str:
        """The leaf of this name, or the leaf that is this step's input of this name. ValueError, with the nearest
        names, if there is none."""
        own = {x.name: x.leaf for x in wanted(self.view) if x.leaf} | {label: label for label in leaves}
        if name not in own:
            raise ValueError(f"no parameter is called {name!r}{nearest(name, own)}")
        return own[name]

    def do_page(self, text: str) -> None:
        """page FILE     write this record as an HTML page"""
        if not text:
            raise ValueError("page needs a file, for example page step.html")
        self.say(write_page(self.record, text))

    def do_help(self, _: str) -> None:
        """h             help: this list; an empty line repeats the last command"""
        for command in COMMANDS:
            self.say(f"  {getattr(self, f'do_{command}').__doc__ or command}", hang=16)     # -OO leaves out docstrings
        self.say()
        self.say(f"  {LEGENDS[self.color]}")

    def do_quit(self, _: str) -> bool:
        """q             quit"""
        return True

    do_EOF = do_quit

    # ---- text ----

    def say(self, text: str = "", code: str = "", hang: int = 4) -> None:
        """Print text, wrapped to the width; lines after the first one are indented by hang."""
        for line in textwrap.wrap(text, self.width, subsequent_indent=" " * hang, break_on_hyphens=False) or [""]:
            for sign, own in (("✓", GREEN), ("✗", RED)):
                line = line.replace(sign, self.paint(sign, own))
            print(self.paint(line, code), file=self.stdout)

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code else text


def has_color(stream: Any) -> bool:
    """Whether a stream is a terminal that shows colours and NO_COLOR is unset (no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def target(text: str) -> tuple[str, tuple[int, ...] | None, float | None]:
    """"w[1, 2] 0.1"  ->  ("w", (1, 2), 0.1); None for a part that is missing."""
    found = re.fullmatch(r"([^\s\[]*)\s*(?:\[([\d\s,-]*)\])?\s*(\S*)", text)
    try:
        if found is None:
            raise ValueError
        at = None if found[2] is None else tuple(int(k) for k in found[2].split(",") if k.strip())
        return found[1], at, float(found[3]) if found[3] else None
    except ValueError:
        raise ValueError(f"{text!r} cannot be read: write a name and an index, w[0,2]; nudge: also a number") from None


def wanted(view: View) -> list[Input]:
    """The inputs that have a gradient."""
    return [x for x in view.inputs if x.gradient is not None]


def largest(array: Any) -> tuple[int, ...]:
    """The index of the entry of largest magnitude; of the first entry if all are 0."""
    return (largest_entries(array, 1) or [(0,) * array.ndim])[0]


def element(value: Any, at: tuple[int, ...]) -> str:
    """The element of an array that has this index, as text; a number is its own element."""
    return f"{float(value[at] if np.ndim(value) == len(at) else value):.6g}"


def shape(array: Any) -> str:
    return "x".join(map(str, np.shape(array)))


def mark(ok: bool) -> str:
    return "✓" if ok else "✗"


def formula_lines(text: str, section: str) -> list[str]:
    """The lines of an op's formula that give its shapes and the equations of one direction."""
    lines, current = [], "shapes"
    for line in text.splitlines():
        word = re.match(r"(forward|backward|why|identity|source)\b", line)
        current = word[1] if word else current
        if line and current in ("shapes", section):
            lines.append(line)
    return lines


def write_page(record: Record, path: str) -> str:
    """Write the page of a record; a sentence that says so, with its size and what was left out."""
    omitted = write(record, path)
    return "; ".join([f"wrote {path}, {os.path.getsize(path) / 1e6:.2f} MB", *omitted])


def show(record: Record, out: str = "", start: int = 0, color: bool | None = None) -> None:
    """Write the page of a record to the file `out`; without one, walk the record in the terminal, from step `start`."""
    if out:
        print(write_page(record, out))
        return
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")        # characters that the encoding lacks are shown as "?"
    Terminal(record, start, color).cmdloop()
