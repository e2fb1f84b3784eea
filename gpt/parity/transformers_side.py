"""The side of transformers: its GPT2LMHeadModel, trained by PyTorch's AdamW. A linear layer of its GPT-2 stores its
weight as minigrad does, so names and shapes are equal but for the prefix."""
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional as F

import minigrad as mg

from gpt.parity.hyperparameters import ADAMW, CLIP, WEIGHT_DECAY
from gpt.pretrained import PREFIX

VERSIONS = f"transformers {transformers.__version__}, PyTorch {torch.__version__}"


class TransformersSide:
    """The methods of gpt.parity.sides.MinigradSide, which describes them. Attention is eager: the formula, written out
    in PyTorch's ops."""

    def __init__(self, folder: Path, dtype: str) -> None:
        torch.set_num_threads(mg.get_num_threads())
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            model = transformers.GPT2LMHeadModel.from_pretrained(
                folder, local_files_only=True, dtype=getattr(torch, dtype), attn_implementation="eager")
        except Exception as error:              # of many types: a file's, a shape's, a setting's
            raise ValueError(f"transformers cannot read {folder}: {str(error).strip().splitlines()[0]}") from None
        self.model = model.eval()               # without dropout
        named = list(self.model.parameters())
        self.optimizer = torch.optim.AdamW(
            [{"params": [p for p in named if p.dim() >= 2], "weight_decay": WEIGHT_DECAY},
             {"params": [p for p in named if p.dim() < 2], "weight_decay": 0.0}], **ADAMW)

    @torch.no_grad()
    def outputs(self, x: np.ndarray) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        inner = self.model.transformer
        parts = {"embeddings": inner.drop, **{f"h.{i}": block for i, block in enumerate(inner.h)}, "ln_f": inner.ln_f,
                 "logits": self.model.lm_head}

        def record(name: str) -> Any:
            def hook(module: Any, inputs: Any, y: Any) -> None:
                found[name] = (y[0] if isinstance(y, tuple) else y).numpy().copy()
            return hook

        hooks = [module.register_forward_hook(record(name)) for name, module in parts.items()]
        self.model(torch.from_numpy(x), use_cache=False)
        for hook in hooks:
            hook.remove()
        return found

    def learn(self, x: np.ndarray, y: np.ndarray) -> float:
        self.optimizer.zero_grad()
        logits = self.model(torch.from_numpy(x), use_cache=False).logits                # (B, T, V)
        # transformers' own loss rounds the logits to float32.
        loss = F.cross_entropy(logits.flatten(0, 1), torch.from_numpy(y).flatten())
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: p.grad.numpy() for name, p in self._named()}

    def update(self) -> None:
        self.optimizer.step()

    def train(self, x: np.ndarray, y: np.ndarray) -> float:
        loss = self.learn(x, y)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.update()
        return loss

    def weights(self) -> dict[str, np.ndarray]:
        return {name: p.detach().numpy() for name, p in self._named()}

    def _named(self) -> list[tuple[str, Any]]:
        return [(name.removeprefix(PREFIX), p) for name, p in self.model.named_parameters()]
