"""Three small GPTs with one mistake each, to be found with the stepper: python -m minigrad.step --example bug1

They are the exercise of docs/debugging.md. Do not read on before you have found them.
"""
from typing import Any, NamedTuple

import numpy as np

from minigrad import Tensor, functional as F, nn
from minigrad.ops.attention import Attention
from minigrad.ops.norm import LayerNorm
from minigrad.ops.op import Op
from minigrad.ops.sums import mean, total
from minigrad.step.backward_record import Record, record
from minigrad.tape import apply

TEXT = "a rose is a rose"


class Bug1(LayerNorm, register=False):
    __doc__ = LayerNorm.__doc__

    def backward(self, dy, xhat, rstd, w):
        rows = tuple(range(dy.ndim - 1))
        dw = total(dy * xhat, rows)
        db = total(dy, rows)
        dxhat = dy * w
        shift = mean(dy, -1, keepdims=True)                         # (..., 1)
        scale = mean(dxhat * xhat, -1, keepdims=True)               # (..., 1)
        dx = rstd * (dxhat - shift - xhat * scale)
        return (dx, dw, db)[:len(self.needs)]


class Bug2(Attention, register=False):
    __doc__ = Attention.__doc__

    def backward(self, dy, q, k, v, P, keep, dropout, scale):
        dv = P.swapaxes(-1, -2) @ dy
        dP = dy @ v.swapaxes(-1, -2)                                # (..., T, S)
        dS = P * (dP - total(dP * P, -1, keepdims=True)) * scale
        dq = dS @ k
        dk = dS @ q
        return dq, dk, dv


class Bug3(Attention, register=False):
    __doc__ = Attention.__doc__

    def forward(self, q, k, v, *, causal=False, mask=None, dropout=0.0, key=None):
        xp, scale = self.xp, 1.0 / np.sqrt(q.shape[-1])
        S = q @ k.swapaxes(-1, -2) * scale                          # (..., T, S)
        allowed = xp.tri(*S.shape[-2:], 1, dtype=bool) if causal else True
        S = xp.where(allowed, S, -1e4)
        P = xp.exp(S - S.max(axis=-1, keepdims=True))
        P = P / total(P, -1, keepdims=True)
        self.save(q=q, k=k, v=v, P=P, keep=None, dropout=0.0, scale=scale)
        return P @ v


class Puzzle(NamedTuple):
    """A mistake that is planted in one module."""
    module: str
    op_class: type[Op]
    arrays: tuple[str, ...]                     # the first array that is wrong, by each name that it has


PUZZLES = {"bug1": Puzzle("h.1.ln_2", Bug1, ("shift",)),
           "bug2": Puzzle("h.0.attn", Bug2, ("dk",)),
           "bug3": Puzzle("h.1.attn", Bug3, ("S", "P", "A"))}


class Norm(nn.Module):
    """Layer norm with a weight that is not 1: x (..., C)  ->  (..., C)."""

    def __init__(self, width: int, rng: np.random.Generator, op_class: type[Op]) -> None:
        self.weight = nn.Parameter(rng.uniform(0.5, 1.5, width))
        self.bias = nn.Parameter(rng.normal(size=width))
        self.op_class = op_class

    def forward(self, x: Tensor) -> Any:
        return apply(self.op_class, x, self.weight, self.bias)


class SelfAttention(nn.Module):
    """Causal attention with two heads: x (B, T, C)  ->  (B, T, C)."""

    def __init__(self, width: int, rng: np.random.Generator, op_class: type[Op]) -> None:
        self.c_attn = nn.Linear(width, 3 * width, rng=rng, dtype="float64")
        self.c_proj = nn.Linear(width, width, rng=rng, dtype="float64")
        self.op_class = op_class

    def forward(self, x: Tensor) -> Any:
        q, k, v = F.split_heads(self.c_attn(x), 2)                  # 3 x (B, 2, T, C / 2)
        return self.c_proj(F.merge_heads(apply(self.op_class, q, k, v, causal=True)))


class MLP(nn.Module):
    """Two linear layers with a GELU between them: x (B, T, C)  ->  (B, T, C)."""

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        self.c_fc = nn.Linear(width, 2 * width, rng=rng, dtype="float64")
        self.c_proj = nn.Linear(2 * width, width, rng=rng, dtype="float64")

    def forward(self, x: Tensor) -> Any:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """x + attn(ln_1(x)), then x + mlp(ln_2(x))."""

    def __init__(self, width: int, rng: np.random.Generator, op_of: dict[str, type[Op]]) -> None:
        self.ln_1 = Norm(width, rng, op_of.get("ln_1", LayerNorm))
        self.attn = SelfAttention(width, rng, op_of.get("attn", Attention))
        self.ln_2 = Norm(width, rng, op_of.get("ln_2", LayerNorm))
        self.mlp = MLP(width, rng)

    def forward(self, x: Tensor) -> Any:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class SmallGPT(nn.Module):
    """A GPT of two blocks with random weights in float64: the mean cross-entropy of targets (B, T) after idx (B, T).

    planted: path of a layer norm or an attention, "h.1.ln_2" -> the op that it uses in place of the right one.
    """

    def __init__(self, vocab_size: int, block_size: int, width: int = 8, seed: int = 0,
                 planted: dict[str, type[Op]] | None = None) -> None:
        rng = np.random.default_rng(seed)
        self.wte = nn.Embedding(vocab_size, width, rng=rng, dtype="float64")
        self.wpe = nn.Embedding(block_size, width, rng=rng, dtype="float64")
        self.h = [Block(width, rng, {path.removeprefix(f"h.{i}."): op_class
                                     for path, op_class in (planted or {}).items() if path.startswith(f"h.{i}.")})
                  for i in range(2)]
        self.ln_f = Norm(width, rng, LayerNorm)
        self.lm_head = nn.Linear(width, vocab_size, rng=rng, dtype="float64")

    def forward(self, idx: Any, targets: Any) -> Any:
        x = self.wte(idx) + self.wpe(np.arange(idx.shape[-1]))      # (B, T, C)
        for block in self.h:
            x = block(x)
        return F.cross_entropy(self.lm_head(self.ln_f(x)), targets)


def small_gpt(planted: dict[str, type[Op]] | None = None) -> tuple[SmallGPT, Any, Any, list[str]]:
    """A SmallGPT, one row of tokens and their targets, each (1, T), and the character of each token id."""
    letters = sorted(set(TEXT))
    tokens = np.array([[letters.index(letter) for letter in TEXT[:9]]])
    return SmallGPT(len(letters), 8, planted=planted), tokens[:, :-1], tokens[:, 1:], letters


def puzzle(name: str) -> Record:
    """The record of a backward of the model in which PUZZLES[name] is planted."""
    planted = PUZZLES[name]
    model, x, y, letters = small_gpt({planted.module: planted.op_class})
    return record(model(x, y), tokens=TEXT[:8], vocabulary=letters, title=f"{name}: a GPT with one mistake")
