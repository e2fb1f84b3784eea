"""GPT-2, from minigrad's modules: token and position embeddings, pre-norm blocks, a head tied to the token table."""
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F, nn
from minigrad.random import Key

from gpt.decoding import next_tokens


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. ValueError if no GPT has it."""
    block_size: int                     # longest context, in tokens
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int                         # width of the residual stream
    dropout: float = 0.0
    bias: bool = True                   # in every Linear and LayerNorm

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {size!r}")
        if self.n_embd % self.n_head:
            below = self.n_embd // self.n_head * self.n_head
            nearest = f"{below} or {below + self.n_head}" if below else f"{self.n_head}"
            raise ValueError(f"n_embd {self.n_embd} must be divisible by n_head {self.n_head}; nearest: {nearest}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


class CausalSelfAttention(nn.Module):
    """Each position looks at itself and at those before it, in n_head ways at once."""

    def __init__(self, config: GPTConfig, **init: Any) -> None:
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias, std=0.02, **init)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias, std=residual_std(config), **init)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key: Key | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = F.split(self.c_attn(x), 3, axis=-1)                                   # 3 x (B, T, C)
        q, k, v = (part.reshape(B, T, self.n_head, C // self.n_head) for part in (q, k, v))     # 3 x (B, T, nh, hs)
        q, k, v = (part.swapaxes(1, 2) for part in (q, k, v))                           # 3 x (B, nh, T, hs)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, causal=True, dropout=p, key=key and key.fold(self.path))
        y = y.swapaxes(1, 2).reshape(B, T, C)                                           # (B, nh, T, hs) -> (B, T, C)
        return self.resid_dropout(self.c_proj(y), key)


class MLP(nn.Module):
    """Works on each position by itself."""

    def __init__(self, config: GPTConfig, **init: Any) -> None:
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias, std=0.02, **init)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias, std=residual_std(config), **init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key: Key | None) -> Tensor:
        x = F.gelu(self.c_fc(x))                                                        # (B, T, 4C)
        return self.dropout(self.c_proj(x), key)                                        # (B, T, C)


class Block(nn.Module):
    """Reads the residual stream through LayerNorms and adds to it directly: gradients have a straight way down."""

    def __init__(self, config: GPTConfig, *, rng: np.random.Generator, **place: Any) -> None:
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias, **place)
        self.attn = CausalSelfAttention(config, rng=rng, **place)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias, **place)
        self.mlp = MLP(config, rng=rng, **place)

    def forward(self, x: Tensor, key: Key | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), key)
        x = x + self.mlp(self.ln_2(x), key)
        return x


def residual_std(config: GPTConfig) -> float:
    """2 n_layer projections add to the residual stream: smaller weights keep its variance about the same at any depth
    (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * config.n_layer)


class GPT(nn.Module):
    """The language model. Parameters have GPT-2's names and shapes.

    Initial weights are normal with standard deviation 0.02, all drawn from one generator on the host: a function of
    the seed alone, on any device and in any dtype up to rounding.
    """

    def __init__(self, config: GPTConfig, seed: int = 0, device: str = "cpu", dtype: str = "float32") -> None:
        place: dict[str, Any] = dict(device=device, dtype=dtype)
        rng = np.random.default_rng(seed)
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, std=0.02, rng=rng, **place)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, std=0.02, rng=rng, **place)
        self.drop = nn.Dropout(config.dropout)
        self.h = [Block(config, rng=rng, **place) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias, **place)

    def forward(self, idx: Any, targets: Any = None, key: Key | None = None) -> tuple[Tensor, Tensor | None]:
        """idx (B, T) integers  ->  logits (B, T, V), and the mean cross-entropy in nats over the targets (B, T) that
        are not -100, or None without targets. key: the randomness of dropout, if there is any, while training.
        ValueError for more than block_size tokens, IndexError for one outside the vocabulary."""
        logits = self.head(self.hidden(idx, key))                                       # (B, T, V)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def loss(self, idx: Any, targets: Any, key: Key | None = None) -> Tensor:
        """The loss alone, without ever holding all B T V logits."""
        return F.linear_cross_entropy(self.hidden(idx, key), self.wte.weight, targets)

    def hidden(self, idx: Any, key: Key | None = None) -> Tensor:
        """idx (B, T)  ->  what the head reads (B, T, C)."""
        idx = idx if hasattr(idx, "shape") else np.asarray(idx)
        if idx.ndim != 2 or not 1 <= idx.shape[1] <= self.config.block_size:
            raise ValueError(f"idx must have shape (B, T) with 1 <= T <= block_size {self.config.block_size}, got "
                             f"{idx.shape}: crop a longer one, as in idx[:, -block_size:]")
        x = self.wte(idx) + self.wpe(np.arange(idx.shape[1]))                           # (B, T, C) + (T, C)
        x = self.drop(x, key)
        for block in self.h:
            x = block(x, key)
        return self.ln_f(x)

    def head(self, x: Tensor) -> Tensor:
        """x (..., C)  ->  logits (..., V), with the token table for weights: a token that is written like the stream
        looks is likely."""
        return F.linear(x, self.wte.weight.T)

    def generate(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None, seed: int = 0) -> np.ndarray:
        """idx (B, T) continued by max_new_tokens  ->  (B, T + max_new_tokens), a function of its arguments alone.

        Each token is drawn given the last block_size before it; gpt.decoding has temperature, top_k and top_p.
        """
        idx = np.array(idx)
        training = self.training
        self.eval()
        try:
            with mg.no_grad():
                for i in range(max_new_tokens):
                    x = self.hidden(idx[:, -self.config.block_size:])                   # (B, T, C)
                    logits = self.head(x[:, -1]).numpy()                                # (B, V)
                    new = next_tokens(logits, mg.random.key(seed, step=i), temperature, top_k, top_p)
                    idx = np.concatenate([idx, new[:, None]], axis=1)                   # (B, T + i + 1)
        finally:
            self.train(training)
        return idx
