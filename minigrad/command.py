"""The end of a command: one line on stderr instead of a traceback."""
import os
import signal
import sys
from typing import Callable, NoReturn


def run_command(name: str, main: Callable[[], int]) -> NoReturn:
    """Run a command to its end and exit with the status that it returns; with 2 and one line on stderr where its output
    cannot be written."""
    end_on_signals()
    try:
        try:
            status = main()
        finally:
            if sys.stdout is not None:          # it is None where the caller closed it
                sys.stdout.flush()
    except OSError as error:
        if sys.stderr is not None:              # otherwise print would write to stdout
            print(f"{name}: {error}", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)            # otherwise Python tries to write the rest at its exit
        status = 2
    sys.exit(status)


def end_on_signals() -> None:
    """From now on Ctrl-C, and a reader that closes the pipe (`| head`), end the program without a traceback."""
    for name in ("SIGINT", "SIGPIPE"):
        if hasattr(signal, name):               # Windows has no SIGPIPE
            signal.signal(getattr(signal, name), signal.SIG_DFL)
