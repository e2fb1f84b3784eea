"""The stepper in a terminal: a Record walked with commands like a debugger's.

It only shows what a Record holds; colours and Unicode blocks where there is a terminal for them, characters elsewhere.
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

from minigrad.step.breakpoints import SYNTAX, nearest
from minigrad.step.explain import RAN, Term, Why, inside, top
from minigrad.step.heat import LEGENDS, beside, heat, number, size
from minigrad.step.listing import Listing
from minigrad.step.record import Input, Record, View

COMMANDS = ("next", "previous", "line", "break", "continue", "jump", "where", "forward", "why", "nudge", "check",
            "optimizer", "page", "quit", "help")
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"
AROUND = 8                                      # steps that `where` shows on either side
FACTORS = (1000.0, 100.0, 10.0, 1.0, 0.1)       # of a small nudge: how far the straight line holds


class Terminal(cmd.Cmd):
    """Commands over a Record. color: by default where stdout is a terminal that has it and NO_COLOR is not set."""
    prompt = "(step) "

    def __init__(self, record: Record, start: int = 0, color: bool | None = None, stdin: Any = None,
                 stdout: Any = None) -> None:
        super().__init__(stdin=stdin, stdout=stdout)
        self.record, self.i = record, start
        self.l = -1                             # the line; -1: the op as a whole
        self.forward = False                    # which direction is shown
        self.breakpoints: dict[str, Callable[[View], bool]] = {}
        self.terms: list[Term] = []             # of the last why
        self.use_rawinput = self.stdin is sys.stdin and sys.stdin.isatty()
        self.color = has_color(self.stdout) if color is None else color

    # ---- the loop ----

    def preloop(self) -> None:
        steps = len(self.record.views)
        self.say(f"{self.record.title or 'a backward'}: loss {self.record.loss:.6g}, {steps} steps back", BOLD)
        for note in self.record.notes:
            self.say(note)
        self.say("n: next op   l: next line   why, nudge: ask   h: all commands")
        self.say()
        self.show()

    def precmd(self, line: str) -> str:
        """The line with its command in full: any beginning of one will do."""
        if not self.use_rawinput:               # a transcript shows the commands too
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
        raise ValueError(f"no command {word!r}{nearest(word, COMMANDS)}; h lists them all")

    # ---- moving ----

    def do_next(self, _: str) -> None:
        """n             the next op, in the direction that is shown"""
        self.go(self.i + (-1 if self.forward else 1))

    def do_previous(self, _: str) -> None:
        """p             the op before"""
        self.go(self.i - (-1 if self.forward else 1))

    def do_line(self, _: str) -> None:
        """l             the next line, with the values that it makes; after the last one, the next op"""
        if self.l + 1 < len(self.listing.lines):
            self.l += 1
            self.show()
        else:
            self.do_next("")

    def do_break(self, text: str) -> None:
        """b [NAME]      stop at an op, module, parameter, bad, nan, norm > 3; alone: list; b clear [NAME]"""
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
        """c [NAME]      on to the next step that a breakpoint, or this one, stops at; else to the end"""
        stops_here = [self.record.breakpoint(text)] if text else list(self.breakpoints.values())
        way = range(self.i - 1, -1, -1) if self.forward else range(self.i + 1, len(self.record.views))
        found = [k for k in way if any(stop(self.record.views[k]) for stop in stops_here)]
        self.go(found[0] if found else way[-1] if way else self.i)
        if not found:
            self.say(f"{text or 'no breakpoint'} stops at {'none' if text else 'any'} of the steps on the way", BOLD)

    def do_jump(self, text: str) -> None:
        """j 3, j NAME   a step by its number, or the next one, round the end, of an op, module or parameter"""
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
        """f             turn round: how this op's values came to be, and on towards the loss; f again: back"""
        self.forward = not self.forward
        self.go(self.i)

    def go(self, i: int) -> None:
        if not 0 <= i < len(self.record.views):
            raise ValueError(f"nothing is beyond {'the loss' if i < 0 else 'the first op'}: f turns round")
        self.i, self.l = i, -1
        self.show()

    def do_where(self, _: str) -> None:
        """w             the steps around this one: done, here, to do, and where each sends gradients"""
        views = self.record.views
        first, last = max(self.i - AROUND, 0), min(self.i + AROUND + 1, len(views))
        if first:
            self.say(f"  ... {first} more, from the loss on", DIM)
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
        """One screen: where we are, the formula, the source, and the arrays: of the op as a whole or of one line."""
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
        if v.kernel:
            self.say(f"! {v.kernel} ran in place of these lines; its gradients differ by {v.difference:.1e}")
        for note in filter(None, (listing.note, v.trouble)):
            self.say(f"! {note}")
        self.say()

        room = shutil.get_terminal_size((100, 30)).lines - len(listing.source.splitlines()) - 12
        rows = beside(self.blocks(self.record.tokens), self.width - 2)
        if self.color and len(rows) > room:     # without labels two rows go on a line
            rows = beside(self.blocks(None), self.width - 2)
        for row in rows:
            print(f"  {row}".rstrip(), file=self.stdout)
        if self.ending:
            for x in wanted(v):
                self.say(f"  {self.verdict(x)}")
            if v.held is not None:
                self.say(f"  {mark(v.held.ok)} {v.held.words} ({v.held.residual:.0e})")

    @property
    def ending(self) -> bool:
        """Whether the gradients are there."""
        return not self.forward and self.l in (-1, len(self.listing.lines) - 1)

    def blocks(self, tokens: list[str] | None) -> list[list[str]]:
        """What a screen shows: all that goes in and comes out of the op, or what one line made."""
        v, record = self.view, self.record
        shown: list[tuple[str, Any, str]] = []
        if self.l >= 0:
            shown = [(name, value, "") for name, value in self.listing.lines[self.l].values.items()]
        elif self.forward:
            shown = [(x.name, x.value, x.label) for x in v.inputs]
            shown += [(name, y, "made here") for name, y in v.outputs.items()]
        else:
            for out, (name, dy) in enumerate(v.dys.items()):
                sent = ", ".join(str(step) for step in sorted({step for step, _ in record.users(v.step, out)}))
                origin = "of an output that nothing used" if v.index else "of the loss itself"
                shown.append((name, dy, f"from step {sent}" if sent else origin))
        if self.ending:
            shown += [(f"d{x.name}", x.gradient, f"to {x.label}") for x in wanted(v)]
        blocks = []
        for name, value, label in shown:
            caption = f"{name} {shape(value)}  {size(value)}" if np.ndim(value) else f"{name} = {number(value)}"
            arrays = heat(value, self.width - 2, self.color, tokens).splitlines() if np.ndim(value) else []
            blocks.append([caption, *([self.paint(label, DIM)] if label else []), *arrays])
        return blocks or [["(this line makes no array)"]]

    def verdict(self, x: Input) -> str:
        """On one input's gradient; and what it is added to."""
        rows = [row for row in self.view.report.rows if row.of in (f"d{x.name}", "")]
        told = [row for row in rows if row.check != RAN or self.view.kernel or not row.ok]
        text = f"{mark(all(row.ok for row in rows))} d{x.name}: " + ", ".join(
            row.detail or f"{row.error:.0e} from {row.check}" for row in told)
        return text if x.earlier is None else f"{text}; += onto what came before, {size(x.earlier)}"

    # ---- asking ----

    def do_why(self, text: str) -> None:
        """why dw[1,2]   one number as a sum of terms, alone the largest; then why 2: whence the dy of term 2"""
        if text.isdigit():
            if not 1 <= int(text) <= len(self.terms):
                raise ValueError(f"there is no term {text}: " + (f"they are 1 to {len(self.terms)}" if self.terms else
                                                                 f"ask first: why d{wanted(self.view)[0].name}"))
            term = self.terms[int(text) - 1]
            whys = self.record.follow(term)
            if not whys:
                return self.say(f"dy = {term.dy:.6g} is where the backward began: this is the loss itself")
            if len(whys) > 1:
                self.say(f"{term.dy:.6g} is the sum of what {len(whys)} uses sent back:")
        else:
            name, at, delta = target(text)
            found = {key: x for x in wanted(self.view) for key in (x.leaf, x.name, f"d{x.name}") if key}
            if name not in found or delta is not None:
                first = wanted(self.view)[0]
                raise ValueError(f"{text!r} is no gradient that this step makes{nearest(name, found)}; as in why "
                                 f"d{first.name}{index((0,) * len(first.shape))}")
            x = found[name]
            whys = [self.record.why(self.i, x.name, largest(x.gradient) if at is None else at)]
        self.terms = []
        for why in whys:
            self.tell(why)
        if self.terms and not text.isdigit():
            self.say(f"  why 1 asks on: where the {self.terms[0].dy:.4g} of term 1 comes from", DIM)

    def tell(self, why: Why) -> None:
        """One answer; its terms are numbered on from those before."""
        v = self.record.views[why.step]
        place = f"step {why.step}, {v.op}{f' in {v.name}' if v.name != v.op else ''}"
        self.say(f"{why.name}{index(why.at)} = {why.value:.6g}  in {place}, for {v.inputs[why.input].label}", BOLD)
        for term in why.terms:
            self.terms.append(term)
            y = f"{list(v.outputs)[term.out]}{index(term.at)}"
            bar = "█" * round(10 * abs(term.product) / why.magnitude)
            self.say(f"{len(self.terms):4}  {f'∂{y}/∂{why.name[1:]}':18} {term.slope:11.4g}  ×  {f'd{y}':13} "
                     f"{term.dy:11.4g}  = {term.product:11.4g}  {bar}")
        if why.count > len(why.terms):
            rest = why.total - sum(term.product for term in why.terms)
            self.say(f"      and {why.count - len(why.terms)} smaller terms: {rest:.4g}")
        precision = max(1e-6, float(np.finfo(v.inputs[why.input].gradient.dtype).eps) ** 0.5)
        sums = "its one term is" if why.count == 1 else f"all {why.count} terms sum to"
        self.say(f"  {mark(abs(why.total - why.value) <= precision * why.magnitude)} {sums} {why.total:.6g}, recorded "
                 f"{why.value:.6g}")

    def do_nudge(self, text: str) -> None:
        """nudge w[1,2]  the loss if this number of a leaf moves, predicted and actual; by 0.1: nudge w[1,2] 0.1"""
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
        """check [full]  this op's gradients against finite differences: along a direction, or every element"""
        if text not in ("", "full"):
            raise ValueError(f"check alone, or check full; not {text!r}")
        for row in (self.view.step.check(full=True) if text else self.view.report).rows:
            self.say(f"{mark(row.ok)} {row.of:12} {row.check:20} {row.error:8.1e}  {row.detail}")

    def do_optimizer(self, text: str) -> None:
        """o [w[1,2]]    the optimizer's step: loss change by tensor; or the whole arithmetic of one weight"""
        walk = self.record.walk
        if walk is None:
            raise ValueError("no optimizer was recorded: record(loss, optimizer=...)")
        if not text:
            if walk.clip:
                self.say(walk.clip)
            self.say(f"  {walk.op:30} {'|update|':>10} {'predicted':>12} {'loss changes by':>16}", BOLD)
            for u in walk.updates:
                self.say(f"  {u.leaf:30} {np.linalg.norm(u.change):10.3g} {u.predicted:12.4g} {u.actual:16.4g}")
            return self.say(f"  {'all at once':41} {walk.predicted:12.4g} {walk.actual:16.4g}")
        name, at, _ = target(text)
        updates = {u.leaf: u for u in walk.updates}
        u = updates[self.leaf(name, updates)]
        at = (u.picks or [(0,) * u.change.ndim])[0] if at is None else at
        at = inside(u.leaf, u.change.shape, at)
        self.say(f"{u.leaf}{index(at)} moves by {element(u.change, at)}", BOLD)
        self.say("  " + "  ".join(f"{key} = {element(value, at)}" for key, value in u.given.items()), hang=2)
        source = u.listing.source.splitlines()
        for line in u.listing.lines:
            code = " ".join(part.strip() for part in source[line.first:line.last + 1])
            made = ", ".join(f"{key} = {element(value, at)}" for key, value in line.values.items())
            if made:
                self.say(f"  {code:58}  {made}")

    def leaf(self, name: str, leaves: Iterable[str]) -> str:
        """The leaf of this name, also by what this step's op calls it. ValueError, with the nearest names, for none."""
        own = {x.name: x.leaf for x in wanted(self.view) if x.leaf} | {label: label for label in leaves}
        if name not in own:
            raise ValueError(f"no parameter is called {name!r}{nearest(name, own)}")
        return own[name]

    def do_page(self, text: str) -> None:
        """page FILE     write the same record as a page for a browser"""
        if not text:
            raise ValueError("page where? As in page step.html")
        self.say(write_page(self.record, text))

    def do_help(self, _: str) -> None:
        """h             this list; an empty line repeats the last command"""
        for command in COMMANDS:
            self.say(f"  {getattr(self, f'do_{command}').__doc__}", hang=16)
        self.say()
        self.say(f"  {LEGENDS[self.color]}")

    def do_quit(self, _: str) -> bool:
        """q             the end"""
        return True

    do_EOF = do_quit

    # ---- text ----

    def say(self, text: str = "", code: str = "", hang: int = 4) -> None:
        """Print text, folded to the width, with lines after the first one indented."""
        for line in textwrap.wrap(text, self.width, subsequent_indent=" " * hang, break_on_hyphens=False) or [""]:
            for sign, own in (("✓", GREEN), ("✗", RED)):
                line = line.replace(sign, self.paint(sign, own))
            print(self.paint(line, code), file=self.stdout)

    def paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and code else text


def has_color(stream: Any) -> bool:
    """Whether a stream is a terminal that shows colours, and nobody objects (no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def target(text: str) -> tuple[str, tuple[int, ...] | None, float | None]:
    """"w[1, 2] 0.1"  ->  ("w", (1, 2), 0.1); None for what is missing."""
    found = re.fullmatch(r"([^\s\[]*)\s*(?:\[([\d\s,-]*)\])?\s*(\S*)", text)
    try:
        assert found is not None
        at = None if found[2] is None else tuple(int(k) for k in found[2].split(",") if k.strip())
        return found[1], at, float(found[3]) if found[3] else None
    except (AssertionError, ValueError):
        raise ValueError(f"{text!r} cannot be read: write a name and an index, w[0,2]; to nudge, a number") from None


def wanted(view: View) -> list[Input]:
    """The inputs that have a gradient."""
    return [x for x in view.inputs if x.gradient is not None]


def largest(array: Any) -> tuple[int, ...]:
    """Where the entry of largest magnitude is; the first one if all are 0."""
    return (top(array, 1) or [(0,) * array.ndim])[0]


def index(at: tuple[int, ...]) -> str:
    """As it is typed: [0,2]; nothing for that of a number."""
    return f"[{','.join(map(str, at))}]" if at else ""


def element(value: Any, at: tuple[int, ...]) -> str:
    """The element of an array that has this index; a number as it is."""
    return f"{float(value[at] if np.ndim(value) == len(at) else value):.6g}"


def shape(array: Any) -> str:
    return "x".join(map(str, np.shape(array)))


def mark(ok: bool) -> str:
    return "✓" if ok else "✗"


def formula_lines(text: str, section: str) -> list[str]:
    """Of an op's formula: its shapes, and the equations of one direction."""
    lines, current = [], "shapes"
    for line in text.splitlines():
        word = re.match(r"(forward|backward|why|identity|source)\b", line)
        current = word[1] if word else current
        if line and current in ("shapes", section):
            lines.append(line)
    return lines


def write_page(record: Record, path: str) -> str:
    """Write the page; what became of it, in words."""
    from minigrad.step.page import write
    left_out = write(record, path)
    return "; ".join([f"wrote {path}, {os.path.getsize(path) / 1e6:.2f} MB", *left_out])


def show(record: Record, out: str = "", start: int = 0, color: bool | None = None) -> None:
    """What the command lines do with a record: write a page, or walk it here."""
    if out:
        print(write_page(record, out))
        return
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")        # a terminal without such letters shows "?"
    Terminal(record, start, color).cmdloop()
