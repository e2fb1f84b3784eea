"""Standard streams that are closed, or that cannot be written to any more because of a full disk, a closed pipe or a
closed terminal. What is printed is then lost, and the training goes on."""
import contextlib
import os
import sys
from typing import Any, Callable, Iterator

from gpt.run.command_line import train_name


class _Stream:
    """sys.stdout or sys.stderr. After the first write that fails, nothing is written any more."""

    def __init__(self, name: str, stream: Any) -> None:
        self.name, self.stream, self.lost = name, stream, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self._try(self.stream.write, text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        self._try(getattr(self.stream, "flush", str))       # the object may have no flush

    def _try(self, call: Callable[..., Any], *arguments: str) -> None:
        if self.lost:
            return
        try:
            call(*arguments)
        except (OSError, ValueError) as error:          # ValueError: the stream was closed
            self.lost = True
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())     # the rest of its buffer is written at exit
            reason = getattr(error, "strerror", None) or error
            print(f"{train_name()}: cannot write to {self.name} ({reason}): the training goes on "
                  "without it; metrics.jsonl has the losses", file=sys.stderr)


@contextlib.contextmanager
def streams_may_fail() -> Iterator[None]:
    """Inside, printing never fails; closed streams are replaced by os.devnull."""
    before = sys.stdout, sys.stderr
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:      # else a file of the run becomes stdout or stderr
        pass
    os.close(descriptor)
    with contextlib.ExitStack() as opened:
        for name in ("stdout", "stderr"):
            stream: Any = getattr(sys, name) or opened.enter_context(open(os.devnull, "w"))
            setattr(sys, name, _Stream(name, stream))
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stdout, sys.stderr = before
