"""The sides of the comparison: minigrad in several modes here, transformers in transformers_side.py, with the same
methods. Arrays have minigrad's names and layout, which are GPT-2's."""
import importlib
import importlib.util
from pathlib import Path
from typing import Any, Callable, ContextManager

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.modes import switch

from gpt.model import GPT
from gpt.parity.hyperparameters import ADAMW, CLIP, WEIGHT_DECAY

MODES: dict[str, Callable[[], ContextManager[None]]] = {        # what a side of minigrad runs in
    "kernels": lambda: switch(plain=False),
    "plain": mg.plain,
    "composed": lambda: switch(plain=True, unfused=True)}


class MinigradSide:
    """The GPT of a folder, in float32 or float64, and its AdamW. name: kernels, which run by default, plain or
    composed."""

    def __init__(self, folder: Path, dtype: str, name: str) -> None:
        self.model = GPT.from_pretrained(folder, dtype=dtype)
        self.optimizer = self.model.configure_optimizer(WEIGHT_DECAY, ADAMW["betas"])
        for group in self.optimizer.groups:
            group |= ADAMW
        self.mode = MODES[name]

    def outputs(self, x: np.ndarray) -> dict[str, np.ndarray]:
        """The embeddings, the output of each block, of the last layer norm (B, T, C), and the logits (B, T, V) of
        tokens x (B, T)."""
        found: dict[str, np.ndarray] = {}
        model = self.model
        parts = {"embeddings": model.drop, **{f"h.{i}": block for i, block in enumerate(model.h)}, "ln_f": model.ln_f,
                 "logits": model.lm_head}

        def record(name: str, module: Any) -> None:
            def forward(*inputs: Any) -> Any:
                y = type(module).forward(module, *inputs)
                found[name] = y.numpy()
                return y
            module.forward = forward

        for name, module in parts.items():
            record(name, module)
        try:
            with self.mode(), mg.no_grad():
                model(x)
        finally:
            for module in parts.values():
                del module.forward
        return found

    def learn(self, x: np.ndarray, y: np.ndarray) -> float:
        """Forward and backward of x, y (B, T): the loss in nats. The gradients are those of this batch alone."""
        self.optimizer.zero_grad()
        with self.mode():
            loss = self.model.loss(x, y)
            loss.backward()
        return float(loss.item())

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradient of each parameter."""
        return {name: p.grad for name, p in self.model.named_parameters()}

    def set_gradients(self, gradients: dict[str, np.ndarray]) -> None:
        """Exchange the gradients for these."""
        for name, p in self.model.named_parameters():
            p.grad = gradients[name]

    def update(self) -> None:
        """A step of AdamW."""
        with self.mode():
            self.optimizer.step()

    def train(self, x: np.ndarray, y: np.ndarray) -> float:
        """A training step, with clipping: the loss before it."""
        loss = self.learn(x, y)
        with self.mode():
            optim.clip_grad_norm(self.optimizer.params, CLIP)
        self.update()
        return loss

    def weights(self) -> dict[str, np.ndarray]:
        """Each parameter."""
        return {name: p.data for name, p in self.model.named_parameters()}


def reference() -> str:
    """What minigrad is compared with: transformers, or composed where it or PyTorch is not installed. ValueError for
    one that is installed and does not load."""
    if not all(importlib.util.find_spec(name) for name in ("torch", "transformers")):
        return "composed"
    try:
        importlib.import_module("gpt.parity.transformers_side")
    except (ImportError, OSError) as error:
        raise ValueError(f"transformers is installed but does not load ({str(error).splitlines()[0]})") from None
    return "transformers"


def make_side(folder: Path, dtype: str, name: str) -> Any:
    """The side of a name: kernels, plain, composed or transformers. ValueError for a folder that it cannot read."""
    if name == "transformers":
        from gpt.parity.transformers_side import TransformersSide
        return TransformersSide(folder, dtype)
    return MinigradSide(folder, dtype, name)
