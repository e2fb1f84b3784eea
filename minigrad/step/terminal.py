"""The stepper in a terminal: walk a Record with commands like those of a debugger.

In an interactive terminal each command redraws the screen; elsewhere each answer is printed below the last one. Heat
maps are coloured Unicode blocks in a terminal that has colour, characters elsewhere.
"""
import cmd
import io
import os
import re
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any, Callable

from minigrad.step.backward_record import Record
from minigrad.step.breakpoints import SYNTAX, names_of, nearest
from minigrad.step.heatmap import LEGENDS
from minigrad.step.page import write
from minigrad.step.terminal_questions import Questions
from minigrad.step.terminal_screen import BOLD, DIM, wanted
from minigrad.step.view import View
from minigrad.step.why import array_names

COMMANDS = ("next", "previous", "line", "show", "break", "continue", "jump", "where", "forward", "why", "nudge",
            "check", "optimizer", "page", "quit", "help")
AROUND = 8                                      # steps that `where` shows on either side
ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"     # the terminal's second screen, which keeps what was on the first


class Terminal(Questions, cmd.Cmd):
    """Commands that walk a Record. color: None for colour if stdout is a terminal that has it and NO_COLOR is unset."""

    def __init__(self, record: Record, start: int = 0, color: bool | None = None, stdin: Any = None,
                 stdout: Any = None) -> None:
        cmd.Cmd.__init__(self, stdin=stdin or sys.stdin or io.StringIO(), stdout=stdout or sys.stdout or io.StringIO())
        self.use_rawinput = self.stdin is sys.stdin and sys.stdin.isatty()
        redraws = self.use_rawinput and self.stdout.isatty() and os.environ.get("TERM") != "dumb"
        color = has_color(self.stdout) if color is None else color
        Questions.__init__(self, record, start, self.stdout, color, redraws)
        self.breakpoints: dict[str, Callable[[View], bool]] = {}

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
    # ---- other commands ----

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


def has_color(stream: Any) -> bool:
    """Whether a stream is a terminal that shows colours and NO_COLOR is unset (no-color.org)."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


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
