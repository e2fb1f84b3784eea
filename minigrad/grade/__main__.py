"""python -m minigrad.grade: grade files of answers."""
import argparse
import contextlib
import difflib
import io
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

from minigrad.command import run_command
from minigrad.grade.process import in_process
from minigrad.grade.verdict import NOT_GRADED, Verdict

POLL = 0.1                                  # seconds between two looks at the files and at the process


def main(argv: list[str] | None = None) -> int:
    """Print a verdict for each exercise. Returns 0 if all answers are right, 1 if one is not, 2 if something could not
    be graded, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m minigrad.grade",
        usage=argparse.SUPPRESS,                # so that an error message is one line
        description="Grade the functions in Python files that are named after exercises: softmax_backward answers "
                    "softmax.backward.",
        epilog="Exit status: 0 all answers are right, 1 one is not, 2 something could not be graded.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="FILE", help="a file of answers, or a folder of them")
    parser.add_argument("--watch", action="store_true", help="grade a file again whenever it is saved; Ctrl-C ends")
    parser.add_argument("--json", action="store_true",
                        help="print one line of JSON for each file and exercise; what the files print goes to stderr")
    args = parser.parse_args(argv)
    for path in args.paths:
        if problem := not_gradable(path):
            parser.error(problem)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")                # "?" for what a terminal cannot show
    signal.signal(signal.SIGINT, signal.default_int_handler)
    files = files_in(args.paths)
    headings = map(str, files) if len(files) > 1 else [""]
    try:
        if args.watch:
            print(f"{parser.prog}: a file is graded again whenever it is saved; Ctrl-C ends", file=sys.stderr)
            watch(args.paths, args.json)
        verdicts = [verdict for path, heading in zip(files, headings) for verdict in grade(path, args.json, heading)]
    except KeyboardInterrupt as interrupt:
        print(" ".join([f"{parser.prog}: interrupted", *interrupt.args]), file=sys.stderr)
        return 130
    if any(verdict.verdict == NOT_GRADED for verdict in verdicts):
        return 2
    return 0 if all(verdicts) else 1


# ---- the files ------------------------------------------------------------------------------------------------------

def files_in(paths: list[Path]) -> list[Path]:
    """These files, and the Python files in these folders and the folders in them."""
    def within(folder: Path) -> list[Path]:
        return sorted(file for file in folder.rglob("*.py")
                      if not file.is_dir() and not any(part.startswith(".") for part in file.relative_to(folder).parts))

    return [file for path in paths for file in (within(path) if path.is_dir() else [path])]


def not_gradable(path: Path) -> str:
    """Why there is nothing to grade at this path; "" if there is."""
    if path.is_dir():
        return "" if files_in([path]) else f"there is no Python file in the folder {path}"
    if not path.exists():
        beside = [*path.parent.glob("*.py"), *Path("docs/exercises").glob("*.py")]
        near = difflib.get_close_matches(path.stem, [file.stem for file in beside], 1)
        known = [file for file in beside if [file.stem] == near][:1]
        return f"there is no file {path}" + (f"; did you mean {known[0]}?" if known else "")
    if path.suffix != ".py":
        return f"{path} is no .py file" + (": in a notebook, use minigrad.grade.check" * (path.suffix == ".ipynb"))
    return ""


def state(paths: list[Path]) -> dict[Path, Any]:
    """What changes for each file when it is saved, also by an editor that replaces the file."""
    states = {}
    for path in files_in(paths):
        with contextlib.suppress(OSError):
            info = path.stat()
            states[path] = info.st_mtime_ns, info.st_size, info.st_ino
    return states


def watch(paths: list[Path], as_json: bool) -> None:
    """Grade the files, and each again whenever it is saved, until KeyboardInterrupt."""
    graded: dict[Path, Any] = {}
    while True:
        now = state(paths)
        time.sleep(POLL)
        if state(paths) != now:             # it is being written
            continue
        for path in [path for path in now if now[path] != graded.get(path)]:
            graded[path] = now[path]
            grade(path, as_json, f"{path}   {time.strftime('%H:%M:%S')}", stop=lambda: state(paths) != now)
            if state(paths) != now:
                break


# ---- grading one ----------------------------------------------------------------------------------------------------

def grade(path: Path, as_json: bool, heading: str, stop: Callable[[], bool] = lambda: False) -> list[Verdict]:
    """The verdicts on a file, printed one by one below the heading, if it is not "". They end when stop() is true."""
    if heading and not as_json:
        print(f"\n{heading}", flush=True)
    verdicts = []
    for verdict in in_process(path, as_json, stop):
        if as_json:
            fields = {"file": str(path), "exercise": verdict.exercise or None, "verdict": verdict.verdict,
                      "explanation": verdict.explanation, "why": verdict.why}
            print(json.dumps(fields), flush=True)
        else:
            print(Verdict(verdict.exercise or path.name, verdict.verdict, verdict.explanation), flush=True)
        verdicts.append(verdict)
    return verdicts


if __name__ == "__main__":
    run_command("python -m minigrad.grade", main)
