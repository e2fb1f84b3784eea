"""GPT-2 from minigrad's modules: token and position embeddings, pre-norm blocks, a head tied to the token embedding."""
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Iterator

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F, nn, optim
from minigrad.modes import switch
from minigrad.random import Key

from gpt import pretrained
from gpt.decoding import beam_search, next_tokens, penalized


@dataclass(frozen=True)
class GPTConfig:
    """The shape of a GPT. ValueError for sizes that do not fit together or are out of range."""
    block_size: int                     # longest context, in tokens
    vocab_size: int
    n_layer: int
    n_head: int
    n_embd: int                         # width of the residual stream
    dropout: float = 0.0
    bias: bool = True                   # in every Linear and LayerNorm
    tied: bool = True                   # the head's weights are the token table

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


def cropped(config: GPTConfig, block_size: int | None, folder: str | Path) -> GPTConfig:
    """The shape of a model in a folder with fewer positions, for shorter contexts; None for all. ValueError for more,
    which have no embeddings."""
    if block_size is not None and block_size > config.block_size:
        raise ValueError(f"block_size {block_size} is too large: the model in {folder} has {config.block_size} "
                         "positions")
    return config if block_size is None else replace(config, block_size=block_size)


class KVCache:
    """Keys and values of the positions processed so far, for each attention layer: a model that continues a text then
    processes the new tokens alone."""

    def __init__(self) -> None:
        self.length = 0                                 # number of positions
        self.layers: list[list[Any]] = []               # k, v of each attention layer, each (B, nh, capacity, hs)
        self.layer = 0                                  # index of the layer that `extend` extends next

    def extend(self, k: Tensor, v: Tensor) -> list[Tensor]:
        """Append the keys and values k, v (B, nh, T, hs) of new positions to those of the next layer; returns all of
        them. ValueError if they require gradients, which would not reach the earlier positions, and if they do not
        fit those in the cache, because they are of another batch or another model."""
        if k.requires_grad:
            raise ValueError("a KVCache has no gradients: use it inside `with mg.no_grad():`")
        B, nh, T, hs = k.shape
        end = self.length + T
        arrays = self.layers[self.layer] if self.layer < len(self.layers) else []
        held = arrays[0].shape[:2] if arrays else (B, nh) if self.length == 0 else "no keys"
        if held != (B, nh):
            raise ValueError(f"this KVCache holds {held} for attention layer {self.layer}, which is given {(B, nh)} "
                             "(batch, heads): use a new KVCache for another batch or model")
        if not arrays or arrays[0].shape[2] < end:
            grown = [k.xp.empty((B, nh, 2 * end, hs), k.dtype) for _ in "kv"]
            for new, old in zip(grown, arrays):
                new[:, :, :self.length] = old[:, :, :self.length]
            self.layers[self.layer:self.layer + 1] = [grown]
            arrays = grown
        self.layer += 1
        for array, new in zip(arrays, (k, v)):
            array[:, :, self.length:end] = new.data
        return [Tensor(array[:, :, :end]) for array in arrays]      # 2 x (B, nh, length + T, hs)

    def select(self, rows: np.ndarray) -> None:
        """Row i of the batch becomes the former row rows[i]."""
        self.layers = [[x[rows] for x in kv] for kv in self.layers]


class CausalSelfAttention(nn.Module):
    """Each position attends to itself and to the positions before it, in n_head heads (Vaswani et al. 2017)."""

    def __init__(self, config: GPTConfig, **init: Any) -> None:
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias, std=0.02, **init)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias, std=residual_std(config), **init)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key: Key | None, cache: KVCache | None = None) -> Tensor:
        q, k, v = F.split_heads(self.c_attn(x), self.n_head)                            # 3 x (B, nh, T, hs)
        if cache is not None:
            k, v = cache.extend(k, v)                                                   # 2 x (B, nh, length + T, hs)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, causal=True, dropout=p, key=key and key.next())
        return self.resid_dropout(self.c_proj(F.merge_heads(y)), key)                   # (B, T, C)


class MLP(nn.Module):
    """Two linear layers with a GELU between them, applied to each position separately."""

    def __init__(self, config: GPTConfig, **init: Any) -> None:
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias, std=0.02, **init)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias, std=residual_std(config), **init)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key: Key | None) -> Tensor:
        x = F.gelu(self.c_fc(x))                                                        # (B, T, 4C)
        return self.dropout(self.c_proj(x), key)                                        # (B, T, C)


class Block(nn.Module):
    """A pre-norm block: x + attn(ln_1(x)), then x + mlp(ln_2(x)). Gradients reach earlier blocks through the sums."""

    def __init__(self, config: GPTConfig, *, rng: np.random.Generator, **where: Any) -> None:
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias, **where)
        self.attn = CausalSelfAttention(config, rng=rng, **where)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias, **where)
        self.mlp = MLP(config, rng=rng, **where)

    def forward(self, x: Tensor, key: Key | None, cache: KVCache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), key, cache)
        x = x + self.mlp(self.ln_2(x), key)
        return x


def residual_std(config: GPTConfig) -> float:
    """The standard deviation of the initial weights of the projections that are added to the residual stream. There are
    2 n_layer of them; the factor 1 / sqrt(2 n_layer) keeps the variance of the stream about the same at any depth
    (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * config.n_layer)


class Undefined:
    """In place of a generator: its arrays are memory as it is, so that weights which are loaded are written once."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype

    def normal(self, mean: float, std: float, size: tuple[int, ...]) -> np.ndarray:
        return np.empty(size, self.dtype)


class Head(nn.Module):
    """Logits: the dot products of the residual stream (..., C) with the rows of weight (V, C), one per token."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T)                                               # (..., C) -> (..., V)


class GPT(nn.Module):
    """The language model. Parameters have GPT-2's names and shapes.

    Initial weights are normal with standard deviation 0.02, drawn from one generator on the host: they depend on the
    seed alone, on any device and, up to rounding, in any dtype. seed=None: they are undefined, to be loaded.
    """
    adapters: Any = None                    # the gpt.lora.Adapters that it has
    recompute = False                       # blocks keep no activations, and run again in the backward: mg.recompute

    def __init__(self, config: GPTConfig, seed: int | None = 0, device: str = "cpu", dtype: str = "float32") -> None:
        where: dict[str, Any] = dict(device=device, dtype=dtype)
        rng: Any = Undefined(dtype) if seed is None else np.random.default_rng(seed)
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, std=0.02, rng=rng, **where)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, std=0.02, rng=rng, **where)
        self.drop = nn.Dropout(config.dropout)
        self.h = [Block(config, rng=rng, **where) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias, **where)
        self.lm_head = Head(self.wte.weight if config.tied else
                            nn.Parameter(rng.normal(0.0, 0.02, (config.vocab_size, config.n_embd)), **where))

    def forward(self, idx: Any, targets: Any = None, key: Key | None = None, *, want_logits: bool = True
                ) -> tuple[Tensor | None, Tensor | None]:
        """idx (B, T) integers  ->  logits (B, T, V), and the mean cross-entropy in nats over the targets (B, T) other
        than -100, or None without targets. key: random key of dropout, needed in training mode where dropout > 0.
        want_logits=False: None in place of the logits, which are computed in parts. ValueError for more than block_size
        tokens, IndexError for a token outside the vocabulary."""
        x = self.hidden(idx, key)                                                       # (B, T, C)
        if not want_logits:
            return None, F.linear_cross_entropy(x, self.lm_head.weight, targets)
        logits = self.lm_head(x)                                                        # (B, T, V)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def loss(self, idx: Any, targets: Any, key: Key | None = None) -> Tensor:
        """The loss alone, computed without holding all B x T x V logits in memory."""
        return self(idx, targets, key, want_logits=False)[1]

    def hidden(self, idx: Any, key: Key | None = None, cache: KVCache | None = None) -> Tensor:
        """idx (B, T)  ->  the input of the head (B, T, C). With a cache, idx continues the positions in it and is added
        to it."""
        idx = idx if hasattr(idx, "shape") else np.asarray(idx)
        past = 0 if cache is None else cache.length
        if idx.ndim != 2 or not 1 <= idx.shape[1] <= self.config.block_size - past:
            raise ValueError(f"idx must have shape (B, T) with 1 <= T <= block_size {self.config.block_size}, got "
                             f"{idx.shape}{f' after {past} in the cache' if past else ''}: crop a longer one, as in "
                             "idx[:, -block_size:]")
        x = self.wte(idx) + self.wpe(np.arange(past, past + idx.shape[1]))              # (B, T, C) + (T, C)
        key = key and key.fold("gpt")       # a new Key, whose streams start from the first: an equal key draws the same
        if cache is not None:
            cache.layer = 0
        x = self.drop(x, key)
        for block in self.h:
            x = (mg.recompute(block) if self.recompute and cache is None else block)(x, key, cache)
        if cache is not None:
            if cache.layer < len(cache.layers):
                raise ValueError(f"this KVCache holds {len(cache.layers)} attention layers, and this model has used "
                                 f"{cache.layer}: use a new KVCache for another model")
            cache.length += idx.shape[1]
        return self.ln_f(x)

    def configure_optimizer(self, weight_decay: float, betas: tuple[float, float]) -> optim.AdamW:
        """AdamW for the parameters that are not frozen, with weight decay on matrices alone: biases and gains are few,
        and may need to be large."""
        trained = [p for p in self.parameters() if p.requires_grad]
        matrices = [p for p in trained if p.ndim >= 2]
        vectors = [p for p in trained if p.ndim < 2]
        return optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                            {"params": vectors, "weight_decay": 0.0}], betas=betas)

    # ---- generating text ----

    def next_logits(self, idx: np.ndarray, cache: KVCache | None = None) -> np.ndarray:
        """The logits (B, V) of the token after idx (B, T), given its last block_size tokens, without dropout.

        cache: holds the first tokens of idx, and afterwards all of them. It is not used where idx is longer than
        block_size: the last block_size tokens are then at other positions, and are all processed again. ValueError if
        a logit is not finite.
        """
        with switch(grad=False, dropout=False):
            if cache is None or idx.shape[-1] > self.config.block_size:
                x = self.hidden(idx[..., -self.config.block_size:])                     # (B, T, C)
            else:
                x = self.hidden(idx[..., cache.length:], cache=cache)                   # (B, T - cached, C)
            logits = self.lm_head(x[:, -1]).numpy()                                     # (B, V)
        if not np.isfinite(logits).all():
            raise ValueError("the logits are not finite: the model's training diverged; try a smaller learning rate")
        return logits

    def stream(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
               top_p: float | None = None, seed: int = 0, repetition_penalty: float = 1.0, use_cache: bool = True
               ) -> Iterator[np.ndarray]:
        """Yield the tokens (B,) that continue idx (B, T), each as soon as it is sampled: see generate."""
        idx = Tensor(idx).numpy()
        cache = KVCache() if use_cache else None
        for i in range(max_new_tokens):
            logits = penalized(self.next_logits(idx, cache), idx, repetition_penalty)   # (B, V)
            new = next_tokens(logits, mg.random.key(seed, step=i), temperature, top_k, top_p)
            idx = np.concatenate([idx, new[:, None]], axis=1)                           # (B, T + i + 1)
            yield new

    def generate(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None, seed: int = 0, repetition_penalty: float = 1.0, use_cache: bool = True,
                 beam: int | None = None) -> np.ndarray:
        """idx (B, T)  ->  idx and max_new_tokens more (B, T + max_new_tokens), which depend on the arguments alone.

        Each token is sampled given the last block_size tokens before it; for temperature, top_k, top_p and the
        repetition penalty see gpt.decoding. beam: the result of a beam search of this width instead, which does not use
        temperature, top_k, top_p and seed. use_cache=False processes all tokens again for each new one: slower, and
        equal up to rounding. ValueError for an argument out of range.
        """
        idx = Tensor(idx).numpy()
        if beam is None:
            new = list(self.stream(idx, max_new_tokens, temperature, top_k, top_p, seed, repetition_penalty, use_cache))
            return np.column_stack([idx, *new])

        def search(row: np.ndarray) -> np.ndarray:
            cache = KVCache() if use_cache else None

            def logits(beams: np.ndarray, parents: np.ndarray) -> np.ndarray:
                if cache is not None:
                    cache.select(parents)
                return self.next_logits(beams, cache)

            return beam_search(logits, row, max_new_tokens, beam, repetition_penalty)

        return np.stack([search(row) for row in idx])

    # ---- Hugging Face's files ----

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32",
                        block_size: int | None = None, dropout: float = 0.0) -> "GPT":
        """A GPT-2 from a folder as Hugging Face's transformers writes it: config.json and model.safetensors, or its
        shards, in float16, bfloat16, float32 or float64. block_size: use the first of its positions only. The dropout
        of config.json is not used.

        ValueError names a file that is missing or damaged, a setting that this model does not have, the tensors that
        are missing, unexpected or of another shape or dtype, and a block_size that is too large, all before the model
        is built; and a tensor that holds NaN or infinity, or a folder whose model does not fit into memory.
        """
        try:
            config = GPTConfig(**pretrained.read_config(Path(folder)), dropout=dropout)
            found = pretrained.find_tensors(Path(folder), config)
            config = cropped(config, block_size, folder)
            model = cls(config, None, device, dtype)
            for name, p in model.named_parameters():
                pretrained.read_parameter(p, found[name]._replace(shape=p.shape))   # the first rows of wpe
        except MemoryError as error:
            raise ValueError(f"{folder} does not fit into memory: {error}") from None
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, for transformers' GPT2LMHeadModel.from_pretrained(folder).

        GPT-2 always has biases: for a model without biases they are zeros, which give the same logits. Each file that
        was there before is replaced when its new content is complete. ValueError for a model with other tensors than
        GPT-2's, or with one that holds NaN or infinity; OSError for a folder that cannot be written.
        """
        pretrained.write(Path(folder), self.config, self.state_dict())
