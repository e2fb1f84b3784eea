"""Models and runs with one common mistake each: python train.py --break=no-mask, and the lab of docs/break_it.md.

A broken model has the parameters of a whole one, with the same initial values. It is made from outside: the parts that
the mistake is in become subclasses, whose forward has the mistake. The mistake may be in the model, in its targets, in
the optimizer that it configures, or in the options of the run. How a run is validated is never broken.
"""
import contextlib
import sys
from typing import Any, Callable, Iterator, Mapping

import numpy as np

from minigrad import Tensor, functional as F, nn, optim
from minigrad.random import Key

from gpt.model import GPT, Block, CausalSelfAttention, GPTConfig

FOREVER = 10 ** 9               # a t at which beta ** t is 0: nothing is corrected
MICRO_STEPS = 4                 # of mean-of-means, where a run has one


# ---- in the model ---------------------------------------------------------------------------------------------------

class BrokenAttention(CausalSelfAttention):
    """Attention whose `attend` has a mistake. It has no cache of keys and values."""

    def forward(self, x: Tensor, key: Key | None, cache: Any = None) -> Tensor:
        q, k, v = F.split_heads(self.c_attn(x), self.n_head)                            # 3 x (B, nh, T, hs)
        y = self.attend(q, k, v, dropout=self.dropout if self.training else 0.0, key=key and key.next())
        return self.resid_dropout(self.c_proj(F.merge_heads(y)), key)                   # (B, T, C)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, **dropout: Any) -> Tensor:
        raise NotImplementedError


class Unmasked(BrokenAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, **dropout: Any) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, **dropout)


class MaskAhead(BrokenAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, **dropout: Any) -> Tensor:
        mask = np.tri(q.shape[-2], k=1, dtype=bool)
        return F.scaled_dot_product_attention(q, k, v, mask=mask, **dropout)


class MaskBehind(BrokenAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, **dropout: Any) -> Tensor:
        mask = np.tri(q.shape[-2], k=-1, dtype=bool)
        return F.scaled_dot_product_attention(q, k, v, mask=mask, **dropout)


class Unscaled(BrokenAttention):
    def attend(self, q: Tensor, k: Tensor, v: Tensor, **dropout: Any) -> Tensor:
        return F.scaled_dot_product_attention(q * q.shape[-1] ** 0.5, k, v, causal=True, **dropout)


class NoResidual(Block):
    def forward(self, x: Tensor, key: Key | None, cache: Any = None) -> Tensor:
        return self.mlp(self.ln_2(self.attn(self.ln_1(x), key, cache)), key)


class NoLayerNorm(nn.LayerNorm):
    """Gain and bias alone."""

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight if self.bias is None else x * self.weight + self.bias


# ---- in the targets -------------------------------------------------------------------------------------------------

def same(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return x


def shifted_by_two(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.concatenate([y[:, 1:], np.full_like(y[:, :1], -100)], axis=1)             # (B, T)


def unequal(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Each row counts its first targets alone, as a padded text does; how many depends on its tokens."""
    lengths = 1 + x.sum(axis=1) % x.shape[1]                                            # (B,)
    return np.where(np.arange(x.shape[1]) < lengths[:, None], y, -100)                  # (B, T)


# ---- in the optimizer -----------------------------------------------------------------------------------------------

class NoZeroGrad(optim.AdamW):
    def zero_grad(self) -> None:
        pass


class NoBiasCorrection(optim.AdamW):
    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return super().hyper(group, FOREVER)


# ---- the mistakes ---------------------------------------------------------------------------------------------------

BREAKS = {
    "no-mask": "every position attends to the whole window",
    "mask-ahead": "every position attends to the next one, too",
    "mask-behind": "no position attends to itself",
    "no-scale": "scores of attention without 1 / sqrt(size)",
    "y-is-x": "every token is its own target",
    "shift-two": "y is shifted by two: the token after the next",
    "no-zero-grad": "the gradients of all steps are added up",
    "no-residual": "a layer's output is not added to its input",
    "no-layer-norm": "of layer norms only gain and bias are left",
    "no-warmup": "the first step has the full learning rate",
    "no-bias-correction": "AdamW's averages as they are, though from 0",
    "mean-of-means": "micro-batches of unequal counts weigh the same",
}
PARTS: dict[tuple[str, type], type] = {
    ("no-mask", CausalSelfAttention): Unmasked, ("mask-ahead", CausalSelfAttention): MaskAhead,
    ("mask-behind", CausalSelfAttention): MaskBehind, ("no-scale", CausalSelfAttention): Unscaled,
    ("no-residual", Block): NoResidual, ("no-layer-norm", nn.LayerNorm): NoLayerNorm}
TARGETS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "y-is-x": same, "shift-two": shifted_by_two, "mean-of-means": unequal}
OPTIMIZERS = {"no-zero-grad": NoZeroGrad, "no-bias-correction": NoBiasCorrection}


class BrokenGPT(GPT):
    """A GPT with one of the mistakes BREAKS. Its loss is the one that a program with this mistake computes."""

    def __init__(self, mistake: str, config: GPTConfig, seed: int | None = 0, device: str = "cpu",
                 dtype: str = "float32") -> None:
        super().__init__(config, seed, device, dtype)
        self.mistake = mistake
        parts: list[Any] = [self.ln_f]
        for block in self.h:
            parts += [block, block.attn, block.ln_1, block.ln_2]
        for part in parts:
            part.__class__ = PARTS.get((mistake, type(part)), type(part))

    def forward(self, idx: Any, targets: Any = None, key: Key | None = None, *, want_logits: bool = True
                ) -> tuple[Tensor | None, Tensor | None]:
        if targets is not None and self.mistake in TARGETS:
            targets = TARGETS[self.mistake](np.asarray(idx), np.asarray(targets))
        return super().forward(idx, targets, key, want_logits=want_logits)

    def configure_optimizer(self, weight_decay: float, betas: tuple[float, float]) -> optim.AdamW:
        optimizer = super().configure_optimizer(weight_decay, betas)
        optimizer.__class__ = OPTIMIZERS.get(self.mistake, optim.AdamW)
        return optimizer

    def next_logits(self, idx: np.ndarray, cache: Any = None) -> np.ndarray:
        return super().next_logits(idx)                     # all positions again: a mask that looks ahead changes them


def make(mistake: str, config: GPTConfig, seed: int | None = 0, device: str = "cpu", dtype: str = "float32") -> GPT:
    """A GPT with this mistake; a whole one for "". seed=None: its weights are to be loaded."""
    return BrokenGPT(mistake, config, seed, device, dtype) if mistake else GPT(config, seed, device, dtype)


# ---- a run with a mistake -------------------------------------------------------------------------------------------

def changed_options(mistake: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that its mistake changes, with their new values."""
    if mistake == "no-warmup":
        return {"warmup_iters": 0}
    if mistake == "mean-of-means" and options["gradient_accumulation_steps"] == 1:
        return {"gradient_accumulation_steps": MICRO_STEPS, "batch_size": -(-options["batch_size"] // MICRO_STEPS)}
    return {}


def check_resumable(out_dir: str, was: str, given: str) -> None:
    """ValueError unless a run that was started with the mistake `was`, "" for none, can be resumed with that given on
    the command line."""
    if was == "no-zero-grad":
        raise ValueError(f"{out_dir} is a broken run, --break={was}: it cannot be resumed, as the gradients that it "
                         "adds up are in no checkpoint")
    if was and given != was:
        raise ValueError(f"{out_dir} is a broken run: it is resumed with --break={was} alone, not "
                         f"{f'with --break={given}' if given else 'as a whole one'}")
    if given != was:
        raise ValueError(f"{out_dir} is a whole run, which cannot be resumed with --break={given}: train from scratch "
                         "in another --out_dir")


def option(mistake: str) -> str:
    """The option that a command for a run with this mistake needs, with a space before it; "" for a whole run."""
    return f" --break={mistake}" if mistake else ""


def description(mistake: str) -> str:
    """What a run with this mistake is."""
    return f"a broken run, --break={mistake}: {BREAKS[mistake]}"


class _Labelled:
    """A stream that begins every line with a label."""

    def __init__(self, stream: Any, label: str) -> None:
        self.stream, self.label, self.at_start = stream, label, True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        labelled = ""
        for part in text.splitlines(keepends=True):             # a progress bar begins its line again with \r
            labelled += self.label * (self.at_start and bool(part.strip("\r\n"))) + part
            self.at_start = part.endswith(("\r", "\n"))
        self.stream.write(labelled)
        return len(text)


@contextlib.contextmanager
def lines_say(mistake: str) -> Iterator[None]:
    """Inside, every line that is printed begins with the mistake, and so does the message of a sys.exit; with "" all
    lines are as they are."""
    if not mistake:
        yield
        return
    before, label = (sys.stdout, sys.stderr), f"BROKEN {mistake} | "
    sys.stdout, sys.stderr = (_Labelled(stream, label) for stream in before)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.code, str):           # Python prints it when the program ends
            end.code = label + end.code
        raise
    finally:
        sys.stdout, sys.stderr = before
