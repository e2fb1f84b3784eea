"""The side of Hugging Face's transformers: its GPT2LMHeadModel on PyTorch, with PEFT's adapters, fine-tuned and sampled
as its users do."""
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

import minigrad as mg

from gpt.bench.presets import ADAMW, ALPHA, CLIP, RANK, TARGETS, TRAINED, WEIGHT_DECAY, prompt_and_new

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


class TransformersSide:
    """The methods of gpt.bench.finetune_sides.FinetuneSide, which describes them."""

    def __init__(self, folder: Path, kind: str, dropout: float) -> None:
        torch.set_num_threads(mg.get_num_threads())
        self.model: Any = transformers.GPT2LMHeadModel.from_pretrained(
            folder, attn_pdrop=dropout, resid_pdrop=dropout, embd_pdrop=dropout)
        with warnings.catch_warnings(action="ignore", category=FutureWarning):      # of names that have changed
            if kind.startswith("LoRA"):
                import peft
                self.model = peft.get_peft_model(self.model, peft.LoraConfig(
                    r=RANK, lora_alpha=ALPHA, target_modules=list(TARGETS), fan_in_fan_out=True))
            if kind.endswith("recompute"):
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
        if kind in TRAINED:
            self.params = [w for w in self.model.parameters() if w.requires_grad]
            matrices, vectors = ([w for w in self.params if (w.dim() < 2) == short] for short in (False, True))
            self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY},
                                                {"params": vectors, "weight_decay": 0.0}], fused=True, **ADAMW)

    def learn(self, x: np.ndarray, y: np.ndarray) -> Tensor:
        self.model.train()
        logits = self.model(torch.from_numpy(x), use_cache=False).logits                # (B, T, V)
        loss: Any = F.cross_entropy(logits.view(-1, logits.shape[-1]), torch.from_numpy(y).view(-1))
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.params, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def generate(self, x: np.ndarray) -> None:
        prompt, new = prompt_and_new(x.shape[1])
        idx = torch.from_numpy(x[:, :prompt])
        self.model.eval()
        self.model.generate(idx, attention_mask=torch.ones_like(idx), do_sample=True, top_k=0, max_new_tokens=new,
                            pad_token_id=0)

    @torch.no_grad()
    def load(self, weights: dict[str, np.ndarray]) -> None:
        for name, w in self._named().items():
            w.copy_(torch.from_numpy(self._transposed(name, weights[name])))

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: self._transposed(name, w.grad.numpy()) for name, w in self._named().items() if w.requires_grad}

    def _named(self) -> dict[str, Any]:
        """The parameters under minigrad's names: h.0.attn.c_attn.lora_A for
        base_model.model.transformer.h.0.attn.c_attn.lora_A.default.weight."""
        named = {}
        for name, w in self.model.named_parameters():
            name = name.removeprefix("base_model.model.").removeprefix("transformer.").removesuffix(".default.weight")
            named[name.replace(".base_layer", "")] = w
        return named

    def _transposed(self, name: str, array: np.ndarray) -> np.ndarray:
        """An adapter from minigrad's layout to that of PEFT's nn.Linear, or back; others as they are."""
        return array.T if "lora_" in name else array
