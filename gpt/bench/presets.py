"""What is timed: sizes of the model, batches, and the optimizer's hyper-parameters."""
from typing import Any, Iterator, NamedTuple

import numpy as np

from gpt.model import GPTConfig

ADAMW: dict[str, Any] = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8)      # lr and eps are minigrad's defaults
WEIGHT_DECAY, CLIP = 0.1, 1.0

# of fine-tuning
TRAINED = "full", "full, recompute", "LoRA", "LoRA, recompute"          # what is trained, and how
RANK, ALPHA, TARGETS, DROPOUT = 8, 16, ("c_attn", "c_proj"), 0.1


class Preset(NamedTuple):
    shape: GPTConfig
    batch_size: int
    generates: bool = False                     # samples tokens instead of training

    @property
    def tokens(self) -> int:
        """The number of tokens that a step trains on, or samples after a first one in each row."""
        return self.batch_size * (self.shape.block_size - self.generates)


PRESETS = {                                     # block_size, vocab_size, n_layer, n_head, n_embd; batch_size
    "cpu": Preset(GPTConfig(64, 65, 4, 4, 128), 12),            # nanoGPT's for a laptop
    "gpu8": Preset(GPTConfig(256, 65, 6, 6, 384), 8),           # nanoGPT's small one for a GPU, with fewer rows
    "wide": Preset(GPTConfig(256, 8192, 6, 8, 512), 4),
    "gpt2": Preset(GPTConfig(256, 50257, 12, 12, 768), 1),
    "gen": Preset(GPTConfig(256, 65, 4, 4, 128), 1, generates=True),
    "micro": Preset(GPTConfig(16, 27, 1, 4, 16), 1),            # microgpt's
    "default": Preset(GPTConfig(64, 31, 2, 4, 64), 12)}         # what train.py trains by default


def random_batches(p: Preset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Inputs and targets (B, T) of random tokens, without end; the same ones in every call."""
    rng = np.random.default_rng(0)
    while True:
        x, y = rng.integers(0, p.shape.vocab_size, (2, p.batch_size, p.shape.block_size))
        yield x, y


def prompt_and_new(block_size: int) -> tuple[int, int]:
    """How many tokens sampling starts with, and how many it samples: 16 and 128 for a block of 256."""
    return max(1, block_size // 16), block_size // 2
