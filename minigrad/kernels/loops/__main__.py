"""Compile all loops ahead: python -m minigrad.kernels.loops [float32] [float64]"""
import argparse
import sys
import time

import numpy as np

from minigrad import Tensor, functional as F, optim, random
from minigrad.executor import EXECUTORS
from minigrad.kernels.loops import compiling, executor


def train_step(dtype: str, B: int = 8, T: int = 32, C: int = 64, V: int = 64) -> None:
    """A step of a small Transformer in which every loop runs, with arrays that lie in memory as in a GPT."""
    draw = np.random.default_rng(0).normal
    shapes = (V, C), (T, C), (C,), (C,), (C, 3 * C), (3 * C,), (V, C)
    params = [Tensor(draw(size=shape).astype(dtype), requires_grad=True) for shape in shapes]
    wte, wpe, w, b, w_qkv, b_qkv, head = params
    targets = np.arange(B * T).reshape(B, T) % V
    x = F.dropout(F.embedding(wte, targets) + wpe, 0.1, random.key(0))          # (B, T, C)
    q, k, v = F.split_heads(F.linear(F.layer_norm(x, w, b), w_qkv, b_qkv), 4)   # (B, 4, T, C / 4)
    x = x + F.gelu(F.merge_heads(F.scaled_dot_product_attention(q, k, v, causal=True)))
    loss = F.cross_entropy(F.linear(x, head.T), targets) + F.linear_cross_entropy(x, head, targets)
    loss.backward()
    optim.clip_grad_norm(params, 1.0)
    optim.AdamW(params).step()


def main() -> None:
    parser = argparse.ArgumentParser("python -m minigrad.kernels.loops", description="Compile all loops ahead.")
    parser.add_argument("dtypes", nargs="*", metavar="dtype", help="float32 or float64; without one, both")
    dtypes = parser.parse_args().dtypes or ["float32", "float64"]
    for dtype in dtypes:
        if dtype not in ("float32", "float64"):
            parser.error(f"loops are for float32 and float64, got {dtype}")
    try:
        EXECUTORS[np.ndarray] = loops = executor()
    except ImportError as error:
        print(f"minigrad.kernels.loops: {error}", file=sys.stderr)
        sys.exit(2)
    loops.min_size = 1
    compiling.elsewhere = False
    for dtype in dtypes:
        start = time.perf_counter()
        train_step(dtype)
        print(f"loops for {dtype}: {time.perf_counter() - start:.1f} s")
    print(loops.describe())


if __name__ == "__main__":
    main()
