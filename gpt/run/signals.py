"""Signals to a run: Ctrl-C, SIGTERM and SIGHUP let it stop after its step."""
import contextlib
import signal
import sys
import threading
from typing import Any, Iterator


def exit_on_sigterm() -> None:
    """Let SIGTERM raise SystemExit: where one of several processes is killed, mpirun exits with another status."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list to which the first SIGINT (Ctrl-C), SIGTERM or SIGHUP (the terminal was closed) is appended. The second
    has its default effect: it ends the program at once. Only the main thread gets signals: in another one, none is
    appended."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {getattr(signal, name): signal.getsignal(getattr(signal, name))
              for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)}     # Windows has no SIGHUP
    if before.get(getattr(signal, "SIGHUP", None)) == signal.SIG_IGN:
        del before[signal.SIGHUP]               # set by nohup: the run goes on without its terminal

    def on_signal(number: int, frame: Any) -> None:
        if received:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        received.append(number)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)    # None: a handler that is not Python's
