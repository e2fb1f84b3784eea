"""What Ctrl-C and SIGTERM do to a run: it stops after its step."""
import contextlib
import signal
from typing import Any, Iterator


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """A list to which the first SIGINT (Ctrl-C) or SIGTERM is appended. The second has its default effect: it ends the
    program at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_signal(number: int, frame: Any) -> None:
        received.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    for number in before:
        signal.signal(number, on_signal)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
