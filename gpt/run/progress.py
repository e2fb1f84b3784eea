"""The progress bar of a run, or in a notebook its loss curve: what they show, and the speed of training."""
import contextlib
import math
import time
from typing import Iterator

from tqdm import tqdm

from minigrad.ipython import in_notebook
from minigrad.loss_curve import LossCurve


class Progress:
    """A progress bar on stderr, if that is a terminal; in a notebook a loss curve; and a clock that stops during
    pauses."""

    def __init__(self, first_step: int, max_iters: int, flops_per_token: int, peak: float, best_possible: float
                 ) -> None:
        """peak: floating-point operations per second of the machine's matrix product. best_possible: the lowest
        possible validation loss, NaN if it is unknown."""
        self.max_iters, self.flops_per_token, self.peak = max_iters, flops_per_token, peak
        tqdm.monitor_interval = 0               # otherwise tqdm starts a thread, and warns if it cannot
        self.bar = tqdm(total=max_iters, initial=first_step, disable=None, dynamic_ncols=True, leave=False,
                        bar_format="{desc}{remaining}", desc="started")
        lines = {"best possible": best_possible} if best_possible > 0.0 else {}
        self.curve = LossCurve(lines) if in_notebook() else None
        self.mark = time.perf_counter()         # where the measured time starts, moved forward by pauses

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Exclude the time inside, of validation, samples and checkpoints, from the speed."""
        start = time.perf_counter()
        yield
        self.mark += time.perf_counter() - start

    def speed(self, tokens: int) -> float:
        """Tokens per second, for the number of tokens trained on since the last call."""
        now = time.perf_counter()
        speed, self.mark = tokens / (now - self.mark), now
        return speed

    def validated(self, step: int, loss: float) -> None:
        """Add a validation loss to the curve."""
        if self.curve:
            self.curve.update(step, val=loss)

    def show(self, step: int, loss: float, lr: float, norm: float, speed: float) -> None:
        """Set the text of the bar, which is drawn at its next update, and add the loss to the curve. speed: in tokens
        per second."""
        if self.curve:
            self.curve.update(step, loss)
        self.bar.set_description_str(
            f"{step}/{self.max_iters} loss {loss:.3f} ppl {math.exp(loss):.2f} lr {lr:.1e} |g| {norm:.2f} "
            f"{speed / 1e3:.1f}k tok/s {speed * self.flops_per_token / self.peak:.0%} peak ", refresh=False)
