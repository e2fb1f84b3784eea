"""The side of PyTorch: the same GPT as an ordinary nn.Module, trained and sampled as PyTorch's users do. Parameters
have minigrad's names, so that weights can be copied; nn.Linear stores its weight transposed."""
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import minigrad as mg

from gpt.bench.presets import ADAMW, CLIP, WEIGHT_DECAY, Preset


class Attention(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.n_head = c.n_head
        self.c_attn = nn.Linear(c.n_embd, 3 * c.n_embd, c.bias)
        self.c_proj = nn.Linear(c.n_embd, c.n_embd, c.bias)

    def forward(self, x: Tensor, past: list[Tensor] | None = None) -> Tensor:
        """past: k and v of the tokens before x; those of x are appended to it."""
        B, T, C = x.shape
        q, k, v = (part.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
                   for part in self.c_attn(x).split(C, dim=2))                          # 3 x (B, nh, T, hs)
        if past is not None:
            past[:] = k, v = [torch.cat(pair, dim=2) for pair in zip(past, (k, v))] if past else [k, v]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=k.shape[2] == T)          # with a past, T is 1
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.c_fc = nn.Linear(c.n_embd, 4 * c.n_embd, c.bias)
        self.c_proj = nn.Linear(4 * c.n_embd, c.n_embd, c.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(c.n_embd, bias=c.bias), Attention(c)
        self.ln_2, self.mlp = nn.LayerNorm(c.n_embd, bias=c.bias), MLP(c)

    def forward(self, x: Tensor, past: list[Tensor] | None = None) -> Tensor:
        x = x + self.attn(self.ln_1(x), past)
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, c: Any) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(c.vocab_size, c.n_embd), nn.Embedding(c.block_size, c.n_embd)
        self.h = nn.ModuleList(Block(c) for _ in range(c.n_layer))
        self.ln_f = nn.LayerNorm(c.n_embd, bias=c.bias)
        self.lm_head = nn.Linear(c.n_embd, c.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, idx: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of targets (B, T)."""
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))     # (B, T, C)
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))                                             # (B, T, V)
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))

    def next_logits(self, idx: Tensor, position: int, cache: list[list[Tensor]]) -> Tensor:
        """The logits (B, V) after one more token for each row, idx (B, 1)."""
        x = self.wte(idx) + self.wpe.weight[position]                                   # (B, 1, C)
        for block, past in zip(self.h, cache):
            x = block(x, past)
        return self.lm_head(self.ln_f(x[:, -1]))


class TorchSide:
    """The methods of gpt.bench.sides.MinigradSide, which describes them."""

    def __init__(self, p: Preset, device: str, compiled: bool = False) -> None:
        torch.set_num_threads(mg.get_num_threads())
        self.device, self.block_size = device, p.shape.block_size
        self.model = GPT(p.shape).to(device)
        self.loss = torch.compile(self.model) if compiled else self.model
        matrices = [w for w in self.model.parameters() if w.dim() >= 2]
        vectors = [w for w in self.model.parameters() if w.dim() < 2]
        self.optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": WEIGHT_DECAY},
                                            {"params": vectors, "weight_decay": 0.0}], fused=True, **ADAMW)

    def learn(self, x: np.ndarray, y: np.ndarray) -> Tensor:
        loss = self.loss(self._tensor(x), self._tensor(y))
        loss.backward()
        return loss.detach()

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device != "cpu":
            torch.cuda.synchronize()

    @torch.inference_mode()
    def generate(self, x: np.ndarray) -> None:
        idx, cache = self._tensor(x[:, :1]), self._empty_cache()
        for position in range(self.block_size - 1):
            logits = self.model.next_logits(idx[:, -1:], position, cache)
            new = torch.multinomial(F.softmax(logits, dim=-1), 1)                       # (B, 1)
            idx = torch.cat([idx, new], dim=1)
        idx.cpu()

    @torch.inference_mode()
    def read(self, x: np.ndarray) -> np.ndarray:
        idx, cache = self._tensor(x), self._empty_cache()
        return [self.model.next_logits(idx[:, t:t + 1], t, cache) for t in range(x.shape[1])][-1].cpu().numpy()

    @torch.no_grad()
    def load(self, weights: dict[str, np.ndarray]) -> None:
        for name, w in self.model.named_parameters():
            w.copy_(torch.from_numpy(self._transposed(name, weights[name])))

    def gradients(self) -> dict[str, np.ndarray]:
        named: dict[str, Any] = dict(self.model.named_parameters())
        return {name: self._transposed(name, w.grad.cpu().numpy()) for name, w in named.items()}

    def device_memory(self) -> int:
        return torch.cuda.max_memory_reserved()

    def _transposed(self, name: str, array: np.ndarray) -> np.ndarray:
        """The weight of an nn.Linear from minigrad's layout to PyTorch's, or back; others as they are."""
        return array.T if array.ndim == 2 and name.startswith("h.") else array

    def _tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x).to(self.device)

    def _empty_cache(self) -> list[list[Tensor]]:
        return [[] for _ in self.model.h]
