"""The sides of fine-tuning: minigrad here, transformers in transformers_side.py, with the same methods. Both load the
same folder of a GPT-2."""
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.device import host

from gpt.bench.presets import ADAMW, ALPHA, DROPOUT, RANK, TARGETS, TRAINED, WEIGHT_DECAY, prompt_and_new
from gpt.bench.sides import MODES, MinigradSide
from gpt.lora import add_adapters
from gpt.model import GPT


class FinetuneSide(MinigradSide):
    """A GPT of minigrad from a folder. kind: one of TRAINED; any other makes the model alone."""

    def __init__(self, folder: Path, kind: str, dropout: float = DROPOUT) -> None:
        self.model, self.mode, self.steps = GPT.from_pretrained(folder, dropout=dropout), MODES["minigrad"], 0
        self.model.recompute = kind.endswith("recompute")
        if kind.startswith("LoRA"):
            add_adapters(self.model, RANK, ALPHA, TARGETS, seed=0)
        if kind in TRAINED:
            self.optimizer = self.model.configure_optimizer(WEIGHT_DECAY, ADAMW["betas"])

    def learn(self, x: np.ndarray, y: np.ndarray) -> Any:
        self.steps += 1
        loss = self.model.loss(x, y, mg.random.key(0, step=self.steps))
        loss.backward()
        return loss.detach()

    def generate(self, x: np.ndarray) -> None:
        """Sample tokens after the first of x (B, T), as many of both as prompt_and_new says."""
        prompt, new = prompt_and_new(x.shape[1])
        self.model.generate(x[:, :prompt], new)

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: host(w.grad) for name, w in self.model.named_parameters() if w.requires_grad}


def make_finetune_side(name: str, folder: Path, kind: str, dropout: float = DROPOUT) -> Any:
    """The side of a name: "minigrad" or "transformers". ValueError for a transformers that does not load."""
    if name == "transformers":
        try:
            from gpt.bench.transformers_side import TransformersSide
        except (ImportError, OSError) as error:
            raise ValueError(f"transformers is installed but does not load ({str(error).splitlines()[0]})") from None
        return TransformersSide(folder, kind, dropout)
    return FinetuneSide(folder, kind, dropout)
