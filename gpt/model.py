"""GPT-2 from minigrad's modules: token and position embeddings, pre-norm blocks, a head that is the token table."""
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator

import numpy as np

import minigrad as mg
from minigrad import Tensor, functional as F, nn, optim
from minigrad.random import Key

from gpt import pretrained
from gpt.decoding import beam_search, next_tokens, penalized


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


class KVCache:
    """The keys and values of the positions read so far, for each attention layer by its path: what lets a model that
    continues a text read only the new tokens."""

    def __init__(self) -> None:
        self.length = 0                                 # positions in it
        self.layers: dict[str, list[Any]] = {}          # path -> arrays k, v, each (B, nh, room, hs)

    def extend(self, path: str, k: Tensor, v: Tensor) -> list[Tensor]:
        """All keys and values of a layer, the new ones k, v (B, nh, T, hs) written after those that it has. ValueError
        if a gradient is wanted: none would reach the positions before."""
        if k.requires_grad:
            raise ValueError("a KVCache has no gradients: use it inside `with mg.no_grad():`")
        B, nh, T, hs = k.shape
        end = self.length + T
        arrays = self.layers.get(path)
        if arrays is None or arrays[0].shape[2] < end:
            grown = [k.xp.empty((B, nh, 2 * end, hs), k.dtype) for _ in "kv"]
            for new, old in zip(grown, arrays or []):
                new[:, :, :self.length] = old[:, :, :self.length]
            arrays = self.layers[path] = grown
        for array, new in zip(arrays, (k, v)):
            array[:, :, self.length:end] = new.data
        return [Tensor(array[:, :, :end]) for array in arrays]      # 2 x (B, nh, length + T, hs)

    def select(self, rows: np.ndarray) -> None:
        """Row i of the batch becomes what rows[i] was."""
        self.layers = {path: [x[rows] for x in kv] for path, kv in self.layers.items()}


class CausalSelfAttention(nn.Module):
    """Each position looks at itself and at those before it, in n_head ways at once."""

    def __init__(self, config: GPTConfig, **init: Any) -> None:
        self.n_head, self.dropout = config.n_head, config.dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, config.bias, std=0.02, **init)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, config.bias, std=residual_std(config), **init)
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key: Key | None, cache: KVCache | None = None) -> Tensor:
        q, k, v = F.split_heads(self.c_attn(x), self.n_head)                            # 3 x (B, nh, T, hs)
        if cache is not None:
            k, v = cache.extend(self.path, k, v)                                        # 2 x (B, nh, length + T, hs)
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, causal=True, dropout=p, key=key and key.fold(self.path))
        return self.resid_dropout(self.c_proj(F.merge_heads(y)), key)                   # (B, T, C)


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

    def forward(self, x: Tensor, key: Key | None, cache: KVCache | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), key, cache)
        x = x + self.mlp(self.ln_2(x), key)
        return x


def residual_std(config: GPTConfig) -> float:
    """2 n_layer projections add to the residual stream: smaller weights keep its variance about the same at any depth
    (Radford et al. 2019, section 2.3)."""
    return 0.02 / math.sqrt(2 * config.n_layer)


class Head(nn.Module):
    """A token is likely when its row of weight (V, C) is like the stream."""

    def __init__(self, weight: nn.Parameter) -> None:
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T)                                               # (..., C) -> (..., V)


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
        self.lm_head = Head(self.wte.weight if config.tied else
                            nn.Parameter(rng.normal(0.0, 0.02, (config.vocab_size, config.n_embd)), **place))

    def forward(self, idx: Any, targets: Any = None, key: Key | None = None, *, want_logits: bool = True
                ) -> tuple[Tensor | None, Tensor | None]:
        """idx (B, T) integers  ->  logits (B, T, V), and the mean cross-entropy in nats over the targets (B, T) that
        are not -100, or None without targets. key: the randomness of dropout, if there is any, while training.
        want_logits=False: None in their place, as they are never all made. ValueError for more than block_size tokens,
        IndexError for one outside the vocabulary."""
        x = self.hidden(idx, key)                                                       # (B, T, C)
        if not want_logits:
            return None, F.linear_cross_entropy(x, self.lm_head.weight, targets)
        logits = self.lm_head(x)                                                        # (B, T, V)
        return logits, None if targets is None else F.cross_entropy(logits, targets)

    def loss(self, idx: Any, targets: Any, key: Key | None = None) -> Tensor:
        """The loss alone, without ever holding all B T V logits."""
        return self(idx, targets, key, want_logits=False)[1]

    def hidden(self, idx: Any, key: Key | None = None, cache: KVCache | None = None) -> Tensor:
        """idx (B, T)  ->  what the head reads (B, T, C). With a cache, idx follows the positions in it and joins
        them."""
        idx = idx if hasattr(idx, "shape") else np.asarray(idx)
        past = 0 if cache is None else cache.length
        if idx.ndim != 2 or not 1 <= idx.shape[1] <= self.config.block_size - past:
            raise ValueError(f"idx must have shape (B, T) with 1 <= T <= block_size {self.config.block_size}, got "
                             f"{idx.shape}{f' after {past} in the cache' if past else ''}: crop a longer one, as in "
                             "idx[:, -block_size:]")
        x = self.wte(idx) + self.wpe(np.arange(past, past + idx.shape[1]))              # (B, T, C) + (T, C)
        x = self.drop(x, key)
        for block in self.h:
            x = block(x, key, cache)
        if cache is not None:
            cache.length += idx.shape[1]
        return self.ln_f(x)

    def configure_optimizer(self, weight_decay: float, betas: tuple[float, float]) -> optim.AdamW:
        """AdamW, with decay on matrices only: biases and gains are few, and have reason to be large."""
        matrices = [p for p in self.parameters() if p.ndim >= 2]
        vectors = [p for p in self.parameters() if p.ndim < 2]
        return optim.AdamW([{"params": matrices, "weight_decay": weight_decay},
                            {"params": vectors, "weight_decay": 0.0}], betas=betas)

    # ---- continuing a text ----

    def next_logits(self, idx: np.ndarray, cache: KVCache | None = None) -> np.ndarray:
        """The logits (B, V) of the token after idx (B, T), given the last block_size tokens, without dropout.

        A cache holds the beginning of idx, and afterwards all of it. Where idx is longer than block_size it is of no
        use: each token has moved to another position, so all are read again. ValueError if a logit is not finite.
        """
        training = self.training and self.config.dropout > 0.0     # else nothing depends on it
        if training:
            self.eval()
        try:
            with mg.no_grad():
                if cache is None or idx.shape[-1] > self.config.block_size:
                    x = self.hidden(idx[..., -self.config.block_size:])                 # (B, T, C)
                else:
                    x = self.hidden(idx[..., cache.length:], cache=cache)               # (B, T - cached, C)
                logits = self.lm_head(x[:, -1]).numpy()                                 # (B, V)
        finally:
            if training:
                self.train()
        if not np.isfinite(logits).all():
            raise ValueError("the logits are not finite: the model's training diverged; try a smaller learning rate")
        return logits

    def stream(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
               top_p: float | None = None, seed: int = 0, repetition_penalty: float = 1.0, use_cache: bool = True
               ) -> Iterator[np.ndarray]:
        """The tokens (B,) that continue idx (B, T), one after the other as they are drawn: see generate."""
        idx = np.array(idx)
        cache = KVCache() if use_cache else None
        for i in range(max_new_tokens):
            logits = penalized(self.next_logits(idx, cache), idx, repetition_penalty)   # (B, V)
            new = next_tokens(logits, mg.random.key(seed, step=i), temperature, top_k, top_p)
            idx = np.concatenate([idx, new[:, None]], axis=1)                           # (B, T + i + 1)
            yield new

    def generate(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
                 top_p: float | None = None, seed: int = 0, repetition_penalty: float = 1.0, use_cache: bool = True,
                 beam: int | None = None) -> np.ndarray:
        """idx (B, T) continued by max_new_tokens  ->  (B, T + max_new_tokens), a function of its arguments alone.

        Each token is drawn given the last block_size before it; gpt.decoding has temperature, top_k, top_p and the
        repetition penalty. beam: nothing is drawn; the most probable continuation that a beam search of this width
        finds, where temperature, top_k, top_p and seed play no part. use_cache=False computes everything again for
        each token: slower, and the same up to rounding.
        """
        idx = np.array(idx)
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
    def from_pretrained(cls, folder: str | Path, device: str = "cpu", dtype: str = "float32") -> "GPT":
        """A GPT-2 from a folder that Hugging Face's transformers wrote: config.json and model.safetensors, or its
        shards. Dropout is 0, whatever config.json says: it belongs to the training that may come.

        ValueError names a file that is missing or damaged, a setting that this model does not have, and all tensors
        that are missing, unexpected or of another shape.
        """
        config = GPTConfig(**pretrained.read_config(Path(folder)))
        tensors = pretrained.read_tensors(Path(folder), config.tied)
        model = cls(config, device=device, dtype=dtype)
        try:
            model.load_state_dict(tensors)
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        return model

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors, as transformers reads them: GPT2LMHeadModel.from_pretrained(folder).

        GPT-2 has biases everywhere: a model without gets zeros for them, which compute the same.
        """
        pretrained.write(Path(folder), self.config, self.state_dict())
