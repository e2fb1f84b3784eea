"""The stepper in a terminal: walk a Record with commands like those of a debugger.

In an interactive terminal each command redraws the screen; elsewhere each answer is printed below the last one. Heat
maps are coloured Unicode blocks in a terminal that has colour, characters elsewhere.
"""
import cmd
import io
import itertools
import math
import os
import re
import signal
import sys
import textwrap
from functools import partial
from pathlib import Path
from typing import Any, Callable, Iterable, Sequence

import numpy as np

from minigrad.gradcheck import Row
from minigrad.step.backward_record import Record
from minigrad.step.breakpoints import SYNTAX, names_of, nearest
from minigrad.step.elements import index
from minigrad.step.explain import DIFFERENCES
from minigrad.step.formula import SECTIONS
from minigrad.step.heatmap import LEGENDS, TALLEST, clipped, heatmap, number, summary
from minigrad.step.line_trace import Listing
from minigrad.step.page import write
from minigrad.step.screen import ASCII, LOWEST, Draw, arranged, shows_unicode, size
from minigrad.step.view import Input, View
from minigrad.step.why import Cell, Factor, Why, array_names, arrays, cell_of, checked_index, largest_entries

COMMANDS = ("next", "previous", "line", "show", "break", "continue", "jump", "where", "forward", "why", "nudge",
            "check", "optimizer", "page", "quit", "help")
BOLD, DIM, RED, GREEN = "1", "2", "31", "32"
AROUND = 8                                      # steps that `where` shows on either side
SHORT = 4                                       # lines of an answer that stand below the arrays, not in their place
FEW = 3                                         # elements of a factor that `why` numbers
FACTORS = (1000.0, 100.0, 10.0, 1.0, 0.1)       # of the default nudge: the ratio goes to 1 as the nudge shrinks
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"     # the terminal's second screen, which keeps what was on the first
HOME, REST_OF_LINE, REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"


class Terminal(cmd.Cmd):
    """Commands that walk a Record. color: None for colour if stdout is a terminal that has it and NO_COLOR is unset."""

    def __init__(self, record: Record, start: int = 0, color: bool | None = None, stdin: Any = None,
                 stdout: Any = None) -> None:
        super().__init__(stdin=stdin or sys.stdin or io.StringIO(), stdout=stdout or sys.stdout or io.StringIO())
        self.record, self.i = record, start
        self.l = -1                             # the index of the line; -1: the op as a whole
        self.forward = False                    # which direction is shown
        self.breakpoints: dict[str, Callable[[View], bool]] = {}
        self.cells: list[Cell] = []             # elements in the last answer of `why`, numbered from 1 on the screen
        self.use_rawinput = self.stdin is sys.stdin and sys.stdin.isatty()
        self.redraws = self.use_rawinput and self.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self.color = has_color(self.stdout) if color is None else color
        self.unicode = shows_unicode(self.stdout)
        self.answer: list[str] = []             # of the last command, where the screen is redrawn
        self.rest: list[str] = []               # of an answer longer than the screen
        self.screen: list[str] = []             # as drawn last

    @property
    def prompt(self) -> str:                    # type: ignore[override]
        return "(more: Enter) " if self.rest else "(step) "

    # ---- the loop ----

    def cmdloop(self, intro: Any = None) -> None:
        """Read and run commands until the input ends. In an interactive terminal Ctrl-C stops a command, not the
        program."""
        if not self.use_rawinput:
            self.begin()
            return super().cmdloop(intro)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if self.redraws:
                self.stdout.write(ENTER)
            start = self.begin
            while True:
                try:
                    start()
                    return super().cmdloop(intro)
                except KeyboardInterrupt:
                    self.answer, self.rest = [], []
                    start = self.redraw if self.redraws else partial(print, file=self.stdout)
        finally:
            if self.redraws:                    # the last screen stays visible
                self.stdout.write(LEAVE + "".join(f"{line}\n" for line in self.screen))
            signal.signal(signal.SIGINT, before)

    def begin(self) -> None:
        """The first screen."""
        steps = len(self.record.views)
        self.say(f"{self.record.title or 'a backward'}: loss {self.record.loss:.6g}, {steps} steps", BOLD)
        for note in self.record.notes:
            self.say(note)
        self.say("n: next op   l: next line   show, why: arrays, numbers   h: all commands")
        if self.redraws:
            self.redraw()
        else:
            self.say()
            self.draw()

    def precmd(self, line: str) -> str:
        """The line with the name of its command completed: any prefix of a name is a command."""
        if not self.use_rawinput and not self.redraws:          # show the commands in a transcript
            print("" if line == "EOF" else line.rstrip("\n"), file=self.stdout)
        word, _, rest = line.strip().partition(" ")
        return f"{self.full(word)} {rest.strip()}".strip()

    def full(self, word: str) -> str:
        """The name of the command that a word is a prefix of; else the word."""
        return next((command for command in COMMANDS if word and command.startswith(word)), word)

    def onecmd(self, line: str) -> bool:
        self.answer = []
        if line.strip():
            self.rest = []
        try:
            return bool(super().onecmd(line))
        except (ValueError, IndexError, OSError) as error:
            self.say(str(error))
            return False

    def emptyline(self) -> bool:
        """The next page of a long answer, or else the last command again."""
        if not self.rest:
            return bool(super().emptyline())
        self.answer = self.rest
        return False

    def postcmd(self, stop: bool, line: str) -> bool:
        if self.redraws and not stop:
            self.redraw()
        return stop

    def default(self, line: str) -> None:
        word = line.split()[0]
        raise ValueError(f"no command {word!r}{nearest(word, COMMANDS)}; h lists all commands")

    def completenames(self, text: str, *_: Any) -> list[str]:
        """The commands that begin with a text, for the Tab key."""
        return [f"{command} " for command in COMMANDS if command.startswith(text)]

    def completedefault(self, *args: Any) -> list[str]:
        """What may follow the name of a command, for the Tab key: names of arrays, leaves, ops and modules."""
        text, line, *_ = args
        command = self.full(line.split()[0])
        if command in ("break", "continue", "jump"):
            names = {"bad", "nan"}.union(*(names_of(v.op, v.step.node.module, ()) | {x.leaf for x in v.inputs}
                                           for v in self.record.views))
        else:
            names = {"show": set(self.arrays()), "why": set(array_names(self.view)),
                     "nudge": set(self.record.gradients), "optimizer": set(self.record.gradients),
                     "check": {"full"}}.get(command, set())
        return sorted(name for name in names - {""} if name.startswith(text))

    # ---- moving ----

    def do_next(self, _: str) -> None:
        """n             the next op, in the current direction"""
        self.go(self.i + (-1 if self.forward else 1))

    def do_previous(self, _: str) -> None:
        """p             the previous op"""
        self.go(self.i - (-1 if self.forward else 1))

    def do_line(self, _: str) -> None:
        """l             the next line and the values it computes; then the next op"""
        if self.l + 1 < len(self.listing.lines):
            self.l += 1
            self.draw()
        else:
            self.do_next("")

    def do_show(self, text: str) -> None:
        """show P 0 2    an array of this step, here P[0, 2]; show: the names of all"""
        known = self.arrays()
        if not text:
            for name, (value, label) in known.items():
                what = f"{shape(value)}  {summary(value)}" if np.ndim(value) else f"= {number(value)}"
                self.say(f"  {name:12} {what:30} {label}", hang=15)
            return
        name, at, delta = target(text)
        if name not in known or delta is not None:
            raise ValueError(f"{text!r} is no array of this step{nearest(name, known)}")
        value, label = known[name]
        at = () if at is None else at
        if len(at) > np.ndim(value) or any(not -n <= k < n for k, n in zip(at, np.shape(value))):
            raise IndexError(f"{name} has shape {np.shape(value)}: {list(at)} is not in it")
        axes = self.axes(name, value)
        where = [f"{axis} {k}" for axis, k in zip(axes, at) if axis]
        height = self.room - 2 if self.redraws else max(self.room, TALLEST + 1)
        for line in self.block(name + index(at), np.asarray(value)[at], ", ".join([*where, label]), axes[len(at):],
                               self.width - 2, height, indices=True):
            self.put(f"  {line}".rstrip())

    def arrays(self) -> dict[str, tuple[Any, str]]:
        """The arrays and numbers of this step, as they are after the current line, and where each comes from."""
        v = self.view
        found = {name: (y, "output") for name, y in v.outputs.items()}
        found |= {x.name: (x.value, f"input, {x.label}") for x in v.inputs if x.value is not None}
        found |= {x.leaf: (x.value, f"input {x.name}") for x in v.inputs if x.leaf}
        last = len(self.listing.lines)
        found |= {name: (value, f"computed by line {line}" if line else "upstream gradient" if name in v.dys else
                         found[name][1] if self.forward else "saved by the forward")
                  for name, (value, line) in self.known(self.l + 1 if self.l >= 0 else last).items()}
        found |= {f"d{x.name}": (x.gradient, f"gradient of {x.label}") for x in wanted(v)
                  if self.has_gradients or f"d{x.name}" not in found}
        return found

    def do_break(self, text: str) -> None:
        """b [NAME]      break at an op, module, parameter, bad, nan, norm > 3; b clear [NAME]"""
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
        """c [NAME]      continue to the next breakpoint, or NAME; if none, to the end"""
        stops_here = [self.record.breakpoint(text)] if text else list(self.breakpoints.values())
        way = range(self.i - 1, -1, -1) if self.forward else range(self.i + 1, len(self.record.views))
        found = [k for k in way if any(stop(self.record.views[k]) for stop in stops_here)]
        self.go(found[0] if found else way[-1] if way else self.i)
        if not found:
            self.say(f"{text or 'no breakpoint'} stops at {'none' if text else 'any'} of the remaining steps", BOLD)

    def do_jump(self, text: str) -> None:
        """j 3, j NAME   jump to a step by its number, op, module or parameter"""
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
        """f             reverse: show the forward, n goes to the loss; f again: the backward"""
        self.forward = not self.forward
        self.go(self.i)

    def go(self, i: int) -> None:
        if not 0 <= i < len(self.record.views):
            raise ValueError(f"there is no op beyond {'the loss' if i < 0 else 'the first op'}; f switches direction")
        self.i, self.l = i, -1
        self.draw()

    def do_where(self, _: str) -> None:
        """w             where: the steps around this one, and where they send gradients"""
        views = self.record.views
        around = max(min(AROUND, (self.room - 5) // 2), 1) if self.redraws else AROUND
        first, last = max(self.i - around, 0), min(self.i + around + 1, len(views))
        if first:
            self.say(f"  ... {first} more, up to the loss", DIM)
        for v in views[first:last]:
            mark = "→" if v.index == self.i else "✗" if not v.report.ok else "✓" if v.index < self.i else " "
            to = dict.fromkeys(x.leaf.removeprefix(f"{v.name}.") or f"step {x.source}" for x in wanted(v))
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
            share = (abs(term.product) / (why.magnitude or 1.0) if math.isfinite(why.magnitude) else
                     not math.isfinite(term.product))
            bar = "█" * round(10 * share)
            product = f"  = {term.product:.4g}" if len(term.factors) > 1 else ""
            self.say(f"  {'-' * term.negative}{factors}{product}  {bar}", hang=6)
        if why.count > len(why.terms):
            rest = why.total - sum(term.product for term in why.terms)
            self.say(f"  and {why.count - len(why.terms)} smaller terms: {rest:.4g}")
        if why.terms:
            dtype = np.asarray(arrays(v, why.cell.forward, why.cell.line)[why.cell.name]).dtype
            precision = max(1e-6, float(np.finfo(dtype).eps) ** 0.5) if dtype.kind == "f" else 1e-6
            sums = ("its one term is" if why.count == 1 else f"all {why.count} terms sum to" if why.count else
                    "all its terms are")
            equal = mark(abs(why.total - why.value) <= precision * why.magnitude or
                         np.array_equal(why.total, why.value, equal_nan=True))
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
        """nudge w[1,2]  change one number of a leaf: predicted and actual loss, as a curve; by 0.1: nudge w[1,2] 0.1"""
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
        if delta is None:
            self.put(str(self.record.nudge_curve(leaf, at)))

    def do_check(self, text: str) -> None:
        """check [full]  check this op's gradients along a direction; full: every element"""
        if text not in ("", "full"):
            raise ValueError(f"write check or check full, not {text!r}")
        for row in (self.view.step.check(full=True) if text else self.view.report).rows:
            self.say(f"{mark(row.ok)} {row.of:12} {row.check:20} {row.error:8.1e}  {row.detail}")
            if not row.ok and row.numeric is not None:
                self.put("\n".join(f"  {line}" for line in self.comparison(row)))

    def comparison(self, row: Row) -> list[str]:
        """A wrong gradient, what finite differences give, and the error, as heat maps side by side."""
        arrays = ((f"{row.of}, yours", row.analytic, ""), ("finite difference", row.numeric, ""),
                  (f"error, worst {index(row.worst or ())}", row.analytic - row.numeric, ""))
        blocks = [partial(self.block, *each, self.axes(row.of, row.analytic)) for each in arrays]
        return arranged(blocks, self.width - 2, max(self.room // 2, LOWEST) if self.redraws else 10 ** 6)[0]

    def do_optimizer(self, text: str) -> None:
        """o [w[1,2]]    the optimizer's step: the change of the loss by tensor; or of one weight, and 30 steps of it"""
        step = self.record.optimizer_step
        if step is None:
            raise ValueError("no optimizer was recorded: record(loss, optimizer=...)")
        if not text:
            if step.clip:
                self.say(step.clip)
            self.say(f"  {step.op:30} {'|update|':>10} {'predicted':>12} {'loss changes by':>16}", BOLD)
            for u in step.updates:
                self.say(f"  {u.leaf:30} {np.linalg.norm(u.change):10.3g} {u.predicted:12.4g} {u.actual:16.4g}")
            self.say(f"  {'all at once':41} {step.predicted:12.4g} {step.actual:16.4g}")
            return self.say(f"  {step.why_not_as_predicted}", hang=2)
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
        [over_time] = self.record.over_time({u.leaf: [at]})
        self.put(str(over_time))
        self.say(f"{over_time.about}.", hang=0)

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
        for line in write_page(self.record, text).splitlines():
            self.say(line)

    def do_help(self, _: str) -> None:
        """h             help: this list; an empty line repeats the last command"""
        for command in COMMANDS:
            self.say(f"  {getattr(self, f'do_{command}').__doc__ or command}", hang=16)     # -OO leaves out docstrings
        if not self.redraws:
            self.say()
            self.say(f"  {LEGENDS[self.color]}")

    def do_quit(self, _: str) -> bool:
        """q             quit"""
        return True

    def do_EOF(self, _: str) -> bool:
        """The end of the input."""
        if self.use_rawinput and not self.redraws:
            print(file=self.stdout)             # the shell's prompt begins a line
        return True

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


def has_color(stream: Any) -> bool:
    """Whether a stream is a terminal that shows colours and NO_COLOR is unset (no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def target(text: str) -> tuple[str, tuple[int, ...] | None, float | None]:
    """"w[1, 2] 0.1" or "w 1 2 0.1"  ->  ("w", (1, 2), 0.1); None for a part that is missing."""
    found = re.fullmatch(r"((?:earlier |sum )?[^\s\[]*)\s*(?:\[([\d\s,-]*)\]|((?:-?\d+(?:[\s,]+|$))*))\s*(\S*)", text)
    try:
        if found is None:
            raise ValueError
        at = found[2] if found[2] is not None else found[3] or None
        return (found[1], None if at is None else tuple(map(int, at.replace(",", " ").split())),
                float(found[4]) if found[4] else None)
    except ValueError:
        raise ValueError(f"{text!r} cannot be read: write a name and an index, w[0,2] or w 0 2; nudge: also a number"
                         ) from None


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


def write_page(record: Record, path: str) -> str:
    """Write the page of a record; lines that say so and how to open it, with its size and what was left out."""
    omitted = write(record, path)
    return "\n".join([f"wrote {path}, {os.path.getsize(path) / 1e6:.2f} MB: open it in a browser, "
                      f"{Path(path).resolve().as_uri()}", *(f"  {less}" for less in omitted)])


def show(record: Record, out: str = "", start: int = 0, color: bool | None = None) -> None:
    """Write the page of a record to the file `out`; without one, walk the record in the terminal, from step `start`."""
    if out:
        print(write_page(record, out))
        return
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")        # characters that the encoding lacks are shown as "?"
    Terminal(record, start, color).cmdloop()
