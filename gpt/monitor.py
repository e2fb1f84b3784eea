"""What train.py measures and notes beside the training itself."""
import contextlib
import json
import signal
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator

import numpy as np

from minigrad import device, nn

from gpt import checkpoint
from gpt.model import GPTConfig


def say(label: str, text: str) -> None:
    """Print a line of a report under a label, folded to 80 columns."""
    print(textwrap.fill(f"{label:8}{text}", 79, subsequent_indent=" " * 8, break_on_hyphens=False,
                        break_long_words=False))


def matmul_peak(place: str, dtype: str) -> float:
    """Floating-point operations per second of this machine's own matrix product: the best of a few."""
    n = 768
    a = device.put(np.ones((n, n), dtype), place)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        device.host((a @ a)[0])                 # waits for it
        seconds.append(time.perf_counter() - start)
    return 2 * n ** 3 / min(seconds)


def activation_bytes(shape: GPTConfig, batch_size: int, itemsize: int) -> int:
    """About what a micro-batch needs at most, measured: it grows with 27 arrays (B, T, C) in each block, and two and a
    half of attention's (B, nh, T, T)."""
    per_token = shape.n_layer * (27 * shape.n_embd + 2.5 * shape.n_head * shape.block_size) + 7 * shape.n_embd
    return round(batch_size * shape.block_size * per_token * itemsize)


def tensor_stats(step: int, parameters: list[nn.Parameter], before: list[Any]) -> Iterator[dict[str, Any]]:
    """For each parameter the norms of its weights before a step, of its gradient as clipped, and of its update."""
    for p, w in zip(parameters, before):
        weight, gradient, update = (float(p.xp.sqrt((a * a).sum())) for a in (w, p.grad, p.data - w))
        yield {"step": step, "tensor": p.name, "weight_norm": weight, "grad_norm": gradient, "update_norm": update,
               "update_ratio": update / weight if weight else 0.0}


def note_samples(out_dir: Path, title: str, texts: list[str]) -> None:
    """Add samples to samples.md."""
    with open(out_dir / "samples.md", "a", encoding="utf-8") as file:
        file.write(f"## {title}\n\n" + "".join(f"```text\n{text.strip()}\n```\n\n" for text in texts))


def append(path: Path, *rows: dict[str, Any]) -> None:
    """Add rows to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none where there is no file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """The first SIGINT (Ctrl-C) or SIGTERM is put into the list; the second ends the program at once."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def trouble_exits(out_dir: Path, batch_size: int, accumulation: int) -> Iterator[None]:
    """A full disk or memory ends the program with status 2, and one line says what is left and what to do."""
    try:
        yield
    except MemoryError:
        sys.stderr.write(f"train.py: out of memory: halve --batch_size={batch_size} and double "
                         f"--gradient_accumulation_steps={accumulation}: the same run in less memory\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"train.py: cannot write {error.filename or out_dir}: {error.strerror}. "
                         f"{checkpoint.last_good(out_dir)}; --init_from=resume --out_dir={out_dir} goes on from it\n")
        sys.exit(2)
