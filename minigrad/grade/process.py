"""Grades a file in a process of its own, so that whatever the file does, as to end Python, ends with that process."""
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable, Iterator

from minigrad.grade.file import grade_file
from minigrad.grade.verdict import NOT_GRADED, Verdict

POLL = 0.1                                  # seconds between two calls of stop
LIMIT = 60.0                                # seconds that an exercise may take if nobody watches


def in_process(path: Path, unattended: bool, stop: Callable[[], bool]) -> Iterator[Verdict]:
    """The verdicts on a file, until stop() is true. unattended: what the file prints goes to stderr, and an exercise
    that takes LIMIT seconds is not graded. KeyboardInterrupt says in which exercise."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send_verdicts, args=(path, unattended, theirs), daemon=True)
    process.start()
    theirs.close()
    exercise, since = "", time.monotonic()
    try:
        while not stop():
            if unattended and time.monotonic() - since > LIMIT:
                yield unfinished(exercise, f"no verdict after {LIMIT:g} seconds, as in an endless loop")
                break
            if not ours.poll(POLL):
                continue
            result = ours.recv()
            if result is None:
                break
            exercise, since = begun(result), time.monotonic()
            if isinstance(result, Verdict):
                yield result
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGINT:
            raise KeyboardInterrupt(f"in {exercise or path}") from None
        yield unfinished(exercise, f"it ends Python, with exit status {process.exitcode}")
    except KeyboardInterrupt:
        with contextlib.suppress(Exception):
            while ours.poll():
                exercise = begun(ours.recv())
        raise KeyboardInterrupt(f"in {exercise or path}") from None
    finally:
        process.kill()
        process.join()


def begun(result: str | Verdict | None) -> str:
    """The exercise that is graded from now on; "" after a verdict."""
    return result if isinstance(result, str) else ""


def unfinished(exercise: str, why: str) -> Verdict:
    """The verdict on an exercise, or a file if it is "", after which the rest of the file is not graded."""
    return Verdict(exercise, NOT_GRADED, f"  {why}; what follows in the file is not graded")


def send_verdicts(path: Path, unattended: bool, pipe: Connection) -> None:
    """Grade a file in this process, and send what grade_file yields; None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)                # also in a loop that catches KeyboardInterrupt
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv, sys.dont_write_bytecode = [str(path)], True
    if unattended:
        os.dup2(2, 1)
    for result in grade_file(path):
        with contextlib.suppress(Exception):                    # the file may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        pipe.send(result)
    pipe.send(None)


def end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
