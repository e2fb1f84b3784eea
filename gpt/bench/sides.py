"""The sides of a comparison: minigrad here, PyTorch in torch_side.py, with the same methods."""
import contextlib
from functools import partial
from itertools import islice
from typing import Any, Callable, ContextManager, Iterator

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.device import host, library, synchronize
from minigrad.executor import EXECUTORS, Executor
from minigrad.kernels import vector

from gpt.bench.presets import ADAMW, CLIP, WEIGHT_DECAY, Preset, random_batches
from gpt.model import GPT, KVCache


@contextlib.contextmanager
def running(executor: Executor, array_type: type = np.ndarray) -> Iterator[None]:
    """Inside, this executor runs the ops on arrays of this type."""
    before = EXECUTORS.get(array_type)
    EXECUTORS[array_type] = executor
    try:
        yield
    finally:
        if before is None:
            del EXECUTORS[array_type]
        else:
            EXECUTORS[array_type] = before


VECTOR = vector.VectorExecutor(np, vector.KERNELS, min_size=getattr(EXECUTORS[np.ndarray], "min_size"))
MODES: dict[str, Callable[[], ContextManager[None]]] = {        # what a side of minigrad runs in
    "minigrad": contextlib.nullcontext, "textbook": mg.plain, "vector": partial(running, VECTOR)}


class MinigradSide:
    """A GPT of minigrad and its optimizer. name: minigrad, with what runs by default, or another executor."""

    def __init__(self, p: Preset, device: str, name: str = "minigrad") -> None:
        self.model = GPT(p.shape, device=device)
        self.optimizer = self.model.configure_optimizer(WEIGHT_DECAY, ADAMW["betas"])
        self.mode = MODES[name]

    def learn(self, x: np.ndarray, y: np.ndarray) -> Any:
        """Forward and backward; the loss, on its device: a training step does not wait for it."""
        with self.mode():
            loss = self.model.loss(x, y)
            loss.backward()
        return loss.detach()

    def update(self) -> None:
        """Clip the gradients, step the optimizer, zero the gradients."""
        with self.mode():
            optim.clip_grad_norm(self.optimizer.params, CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
        synchronize()

    def generate(self, x: np.ndarray) -> None:
        """Sample tokens after the first of each row, until block_size is reached."""
        with self.mode():
            self.model.generate(x[:, :1], self.model.config.block_size - 1)

    def read(self, x: np.ndarray) -> np.ndarray:
        """The logits (B, V) after x (B, T), read token by token with a key-value cache."""
        cache = KVCache()
        with self.mode():
            return [self.model.next_logits(x[:, :t + 1], cache) for t in range(x.shape[1])][-1]

    def load(self, weights: dict[str, np.ndarray]) -> None:
        """Take weights, named and laid out as in minigrad's state_dict."""
        self.model.load_state_dict(weights)

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradient of each parameter, named and laid out as in minigrad's state_dict."""
        return {name: host(w.grad) for name, w in self.model.named_parameters()}

    def device_memory(self) -> int | None:
        """Peak memory on the device, in bytes: that of the pool, which keeps what is freed. None on the CPU."""
        memory = library(self.model.wte.weight.device).memory()
        return memory and memory[1]


def make_side(name: str, p: Preset, device: str) -> Any:
    """The side of a name: "minigrad", "textbook", "vector", "PyTorch" or "torch.compile"."""
    if name in ("PyTorch", "torch.compile"):
        from gpt.bench.torch_side import TorchSide
        return TorchSide(p, device, compiled=name == "torch.compile")
    return MinigradSide(p, device, name)


def stages(side: Any, p: Preset, x: np.ndarray, y: np.ndarray) -> list[Callable[[], Any]]:
    """The parts of one timed step, in the order in which they run."""
    return [partial(side.generate, x)] if p.generates else [partial(side.learn, x, y), side.update]


def relative_differences(side: MinigradSide, other: Any, p: Preset) -> dict[str, float]:
    """Relative differences between what two new sides compute from the same weights and batches: of the logits where
    the preset generates, else of the loss, the gradients, and the loss after three steps."""
    def difference(a: Any, b: Any) -> float:
        return float(np.abs(np.subtract(a, b)).max() / np.abs(b).max())

    def losses() -> tuple[float, float]:
        return float(side.learn(x, y)), float(other.learn(x, y))

    other.load(side.model.state_dict())
    batches = random_batches(p)
    x, y = next(batches)
    if p.generates:
        return {"logits": difference(side.read(x), other.read(x))}
    found = {"loss": difference(*losses())}
    expected = other.gradients()
    found["gradients"] = max(difference(g, expected[name]) for name, g in side.gradients().items())
    for x, y in islice(batches, 3):
        side.update()
        other.update()
        found["loss after 3 steps"] = difference(*losses())
    side.update()
    other.update()
    return found
