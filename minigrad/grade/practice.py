"""Ops that the engine does not have, for exercises: only their forward is given, so their backward is to be derived."""
import numpy as np

from minigrad.ops.op import Op
from minigrad.ops.sample import Sample


class RMSNorm(Op, register=False):
    """x (..., C), w (C,); eps  ->  y (..., C)

    forward  r = 1 / sqrt(mean(x^2) + eps)    xhat = x * r    y = xhat * w
    source   Zhang & Sennrich 2019, "Root mean square layer normalization", equation 4
    """
    name = "rms_norm"

    def forward(self, x, w, *, eps=1e-5):
        r = 1.0 / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)               # (..., 1)
        xhat = x * r
        self.save(xhat=xhat, r=r, w=w)
        return xhat * w

    samples = [Sample((2, 3, 5), (5,)), Sample((4, 3), (3,))]


class CrossEntropyZLoss(Op, register=False):
    """logits (N, V); targets (N,), weight  ->  loss ()

    forward  lse = log(sum(exp(logits)))    loss = mean(lse - logits[target] + weight * lse^2), over the N rows
    source   Chowdhery et al. 2022, "PaLM: scaling language modeling with pathways", section 5, with weight 1e-4
    """
    name = "cross_entropy_z_loss"

    def forward(self, logits, *, targets, weight):
        N, t = len(targets), np.asarray(targets)
        m = logits.max(axis=1, keepdims=True)                                       # (N, 1)
        lse = m[:, 0] + np.log(np.exp(logits - m).sum(axis=1))                      # (N,)
        p = np.exp(logits - lse[:, None])                                           # (N, V)
        self.save(p=p, lse=lse, t=t, weight=weight)
        return (lse - logits[np.arange(N), t] + weight * lse ** 2).sum() / N

    samples = [Sample((3, 5), targets=np.array([1, 0, 3]), weight=0.3),
               Sample((4, 7), targets=np.array([6, 2, 2, 0]), weight=0.7)]


class SwiGLU(Op, register=False):
    """x, gate  ->  y, all of one shape

    forward  s = sigmoid(gate)    y = x * gate * s
    source   Shazeer 2020, "GLU variants improve transformer", equation 6, without its matrices
    """
    name = "swiglu"

    def forward(self, x, gate):
        s = 1.0 / (1.0 + np.exp(-gate))
        self.save(x=x, gate=gate, s=s)
        return x * gate * s

    samples = [Sample((3, 5), (3, 5)), Sample((2, 4, 3), (2, 4, 3))]


class SlopedAttention(Op, register=False):
    """q (..., H, T, D), k (..., H, T, D), v (..., H, T, E), slope (H,)  ->  y (..., H, T, E)

    forward  S = q @ k^T / sqrt(D) - slope * distance    S = -inf where the key comes after the query
             P = softmax_key(S)    y = P @ v    with distance[t, s] = t - s
    source   Press, Smith, Lewis 2021, "Train short, test long", where the slope of each of the H heads is fixed
    """
    name = "sloped_attention"

    def forward(self, q, k, v, slope):
        T, scale = q.shape[-2], 1.0 / np.sqrt(q.shape[-1])
        distance = np.subtract.outer(np.arange(T), np.arange(T)).astype(q.dtype)    # (T, T): 1 for the token before
        S = q @ k.swapaxes(-1, -2) * scale - slope[:, None, None] * distance        # (..., H, T, T)
        S = np.where(distance >= 0.0, S, -np.inf)
        P = np.exp(S - S.max(axis=-1, keepdims=True))
        P = P / P.sum(axis=-1, keepdims=True)
        self.save(q=q, k=k, v=v, slope=slope, P=P, distance=distance, scale=scale)
        return P @ v

    samples = [Sample((2, 4, 3), (2, 4, 3), (2, 4, 5), (2,)),
               Sample((2, 3, 4, 2), (2, 3, 4, 2), (2, 3, 4, 5), (3,))]


class WindowSum(Op, register=False):
    """x (..., T), weight (W,)  ->  y (..., T)

    forward  y[t] = sum over j of weight[j] * x[t - j], with j = 0 .. W - 1, and x = 0 before the first token
    source   a causal convolution, as in van den Oord et al. 2016, "WaveNet", section 2.1
    """
    name = "window_sum"

    def forward(self, x, weight):
        T, y = x.shape[-1], np.zeros_like(x)
        for j in range(len(weight)):
            y[..., j:] += weight[j] * x[..., :T - j]
        self.save(x=x, weight=weight)
        return y

    samples = [Sample((7,), (3,)), Sample((2, 3, 5), (4,))]


PRACTICE: dict[str, type[Op]] = {op.name: op for op in (
    RMSNorm, CrossEntropyZLoss, SwiGLU, SlopedAttention, WindowSum)}
