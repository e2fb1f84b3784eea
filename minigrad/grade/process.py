"""Grades a file in a process of its own, so that whatever the file does, as to end Python, ends with that process."""
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Callable, Iterator

from minigrad.grade.file import grade_file
from minigrad.grade.verdict import NOT_GRADED, Verdict

POLL = 0.1                                  # seconds between two calls of stop


def in_process(path: Path, to_stderr: bool, stop: Callable[[], bool]) -> Iterator[Verdict]:
    """The verdicts on a file, until stop() is true. to_stderr: what the file prints goes to stderr. KeyboardInterrupt
    has a note that says what ran."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=send_verdicts, args=(path, to_stderr, theirs), daemon=True)
    process.start()
    theirs.close()
    running = f"while {path} ran"
    try:
        while not stop():
            if not ours.poll(POLL):
                continue
            result = ours.recv()
            if result is None:
                break
            if isinstance(result, Verdict):
                yield result
            else:
                running = f"while {result} was graded"
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGINT:
            raise KeyboardInterrupt from None
        yield Verdict("", NOT_GRADED, f"  Python ended {running}, with exit status {process.exitcode}")
    except KeyboardInterrupt as interrupt:
        interrupt.add_note(running)
        raise
    finally:
        process.kill()
        process.join()


def send_verdicts(path: Path, to_stderr: bool, pipe: Connection) -> None:
    """Grade a file in this process, and send what grade_file yields; None at the end."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)                # also in a loop that catches KeyboardInterrupt
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.argv, sys.dont_write_bytecode = [str(path)], True
    if to_stderr:
        os.dup2(2, 1)
    for result in grade_file(path):
        with contextlib.suppress(Exception):                    # the file may have closed them
            sys.stdout.flush()
            sys.stderr.flush()
        pipe.send(result)
    pipe.send(None)


def end_with_parent() -> None:
    """End this process when the one that started it has ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
