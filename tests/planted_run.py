"""Trainings in which a fault is planted, for processes that mpirun starts.

    python planted_run.py FAULT ARGUMENT ...    train.py with these arguments, after the Python code FAULT
    python planted_run.py CASES                 a file of [[fault, arguments], ...]: one training after the other, each
                                                of which must end on all ranks; [status, stdout, stderr] of each go to
                                                CASES with the suffix .0 from rank 0, .1 from rank 1
"""
import contextlib
import errno                    # noqa: F401    the faults use it
import io
import itertools
import json
import os
import pkgutil
import runpy
import signal                   # noqa: F401
import sys
import time
from pathlib import Path
from unittest import mock

TRAIN = Path(__file__).parent.parent / "train.py"
rank = int(os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK", 0)))


def at(where, call, act):
    """Call act, with the same arguments, before a call of a function: its first one, its second one, ..."""
    original, calls = pkgutil.resolve_name(where), itertools.count(1)

    def planted(*args, **kwargs):
        if next(calls) == call:
            act(*args, **kwargs)
        return original(*args, **kwargs)
    mock.patch(where.replace(":", "."), planted).start()


def fail(error):
    """A function that raises this exception."""
    def act(*args, **kwargs):
        raise error
    return act


def send(number):
    """A function that sends a signal to this process."""
    return lambda *args, **kwargs: os.kill(os.getpid(), number)


def pause(*args, **kwargs):
    """Make the file `paused`, and sleep."""
    Path("paused").touch()
    time.sleep(60.0)


def outcome(fault, arguments):
    """The exit status of a training, and what it printed."""
    import train
    exec(fault, globals())
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            train.main(arguments)
            status = 0
        except SystemExit as end:
            status = end.code
    mock.patch.stopall()
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    _, fault, *arguments = sys.argv
    if arguments:
        exec(fault)
        sys.argv = [str(TRAIN), *arguments]
        runpy.run_path(str(TRAIN), run_name="__main__")
    else:
        cases = Path(fault)
        outcomes = [outcome(*case) for case in json.loads(cases.read_text("utf-8"))]
        cases.with_suffix(f".{rank}").write_text(json.dumps(outcomes), "utf-8")
