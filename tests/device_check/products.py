"""Matrix products: the two ceilings of speed, products beyond 2-D, and products inside a captured graph."""
import itertools
from collections import Counter
from functools import partial
from typing import Any, Callable

import cupy
import numpy as np
from cupy_backends.cuda.libs import cublas as binding

from gpt.bench.matmul_floor import linear_layers
from gpt.bench.presets import PRESETS

from .cublas import Cublas, OwnCublas
from .events import device_ms, host_us, random_array
from .found import Found

N = 8192
KINDS = {"float32": ("float32", False), "TF32": ("float32", True), "bfloat16": ("bfloat16", False)}
TOKENS = (256, 8192)                    # rows of GPT-2's products: of the preset gpt2, and of 8 contexts of 1024
BYTES = 1 << 30                         # that are copied
TF32_MATH = 3                           # CUBLAS_TF32_TENSOR_OP_MATH, which CuPy does not name
EXACT = {"float16": 2e-3, "bfloat16": 2e-2, "float32": 1e-5, "float64": 1e-13}         # relative errors


def attempt(found: Found, what: str, measure: Callable[[], str]) -> None:
    """An answer: what `measure` says, or the error that it raises."""
    try:
        found.answer(f"{what}: {measure()}")
    except Exception as error:
        found.answer(f"{what}: raises {type(error).__name__}: {str(error).strip()[:200]}")


# ---- ceilings ----

def ceilings(found: Found) -> None:
    cublas = Cublas()
    for kind, (dtype, tf32) in KINDS.items():
        def square(kind: str = kind, dtype: str = dtype, tf32: bool = tf32) -> str:
            a, b, c = (random_array(dtype, N, N) for _ in range(3))
            ms = found.spread(f"{kind}: {N} x {N}", device_ms(cublas.prepared(a, b, c, tf32=tf32)), "ms")
            return f"{2 * N ** 3 / ms / 1e9:.1f} TFLOP/s ({ms:.2f} ms)"
        attempt(found, f"a product of {N} x {N} in {kind}", square)
        free_memory()

    copies(found)
    free_memory()
    for tokens, (kind, (dtype, tf32)) in itertools.product(TOKENS, KINDS.items()):
        attempt(found, f"GPT-2's linear layers, {tokens} tokens, forward and backward, in {kind}",
                lambda: linear_step(found, cublas, tokens, kind, dtype, tf32))
        free_memory()


def copies(found: Found) -> None:
    source = random_array("float32", BYTES // 4)
    target = cupy.empty_like(source)
    for what, f in (("a copy", lambda: cupy.copyto(target, source)),
                    ("a ufunc that reads and writes as much", lambda: cupy.multiply(source, 1.5, target))):
        ms = found.spread(f"{what}, {BYTES >> 20} MiB", device_ms(f), "ms")
        found.answer(f"{what}: {2 * BYTES / ms / 1e6:.0f} GB/s, read and written")


def linear_step(found: Found, cublas: Cublas, tokens: int, kind: str, dtype: str, tf32: bool) -> str:
    """Time y = x @ w, dx = dy @ w^T and dw = x^T @ dy of each linear layer; the speed of all of them, in words."""
    flops = total_ms = 0.0
    for (n, m), layers in Counter(linear_layers(PRESETS["gpt2"].shape)).items():
        x, w, y = (random_array(dtype, *shape) for shape in ((tokens, n), (n, m), (tokens, m)))
        dx, dw = cupy.empty_like(x), cupy.empty_like(w)
        for what, f in {"y": cublas.prepared(x, w, y, tf32=tf32),
                        "dx": cublas.prepared(y, w, dx, tb=True, tf32=tf32),
                        "dw": cublas.prepared(x, y, dw, ta=True, tf32=tf32)}.items():
            ms = found.spread(f"{kind}: {tokens} tokens, {n} -> {m}, {what}", device_ms(f), "ms")
            flops += layers * 2.0 * tokens * n * m
            total_ms += layers * ms
    return f"{flops / total_ms / 1e9:.1f} TFLOP/s ({total_ms:.2f} ms)"


def free_memory() -> None:
    cupy.get_default_memory_pool().free_all_blocks()


# ---- beyond 2-D ----

def batched(found: Found) -> None:
    cublas = Cublas()

    def matmul(q: Any, k: Any, c: Any) -> Callable[[], Any]:
        return partial(cupy.matmul, q, k.swapaxes(-1, -2), out=c)

    own = partial(cublas.prepared, tb=True)
    for dtype in EXACT:
        scores(found, dtype, "cupy.matmul", matmul)
        scores(found, dtype, "gemmStridedBatchedEx", own)
    scores(found, "bfloat16", "gemmStridedBatchedEx into float32", own, "float32")
    scores(found, "float32", "gemmStridedBatchedEx in TF32", partial(cublas.prepared, tb=True, tf32=True))
    binding.setMathMode(cublas.handle, TF32_MATH)
    scores(found, "float32", "cupy.matmul after setMathMode(TF32)", matmul)
    binding.setMathMode(cublas.handle, binding.CUBLAS_DEFAULT_MATH)

    def shared() -> str:
        x, w = random_array("float32", 8, 256, 768), random_array("float32", 768, 768)
        as_they_are = found.spread("(8, 256, 768) @ (768, 768)", device_ms(lambda: cupy.matmul(x, w)), "ms")
        flat = found.spread("(2048, 768) @ (768, 768)", device_ms(lambda: cupy.matmul(x.reshape(2048, 768), w)), "ms")
        return f"{as_they_are:.3f} ms, reshaped to (2048, 768) {flat:.3f} ms"
    attempt(found, "(8, 256, 768) @ (768, 768) in float32, cupy.matmul", shared)

    for dtype in EXACT:
        try:
            error = max(combination_error(cublas, dtype, *flags) for flags in itertools.product(
                (False, True), (False, True), (0.0, 1.0), (1, 3)))
        except Exception as problem:
            found.answer(f"own products in {dtype}: {type(problem).__name__}: {problem}", False)
            continue
        found.number(f"own products in {dtype}: largest relative error", error)
        found.answer(f"own products in {dtype}, every transposition, added or not, with a batch or not, are exact to "
                     f"{error:.1e}", error < EXACT[dtype])


def scores(found: Found, dtype: str, how: str, product: Callable[[Any, Any, Any], Callable[[], Any]],
           out: str = "") -> None:
    """Time q @ k^T of an attention, and compare it with the host's in float64. product: q, k, c -> a call that
    computes c. out: the dtype of c, if it is another."""
    def measure() -> str:
        q, k, c = (random_array(dtype, 96, 256, 64), random_array(dtype, 96, 256, 64),
                   random_array(out or dtype, 96, 256, 256))
        ms = found.spread(f"{dtype}: {how}", device_ms(product(q, k, c)), "ms")
        error = relative_error(c[:2], host(q[:2]) @ host(k[:2]).swapaxes(-1, -2))
        found.number(f"{dtype}: {how}, relative error", error)
        return f"{2 * 96 * 256 * 256 * 64 / ms / 1e9:.1f} TFLOP/s ({ms:.3f} ms), exact to {error:.1e}"
    attempt(found, f"q @ k^T, (96, 256, 64), in {dtype}, {how}", measure)


def combination_error(cublas: Cublas, dtype: str, ta: bool, tb: bool, beta: float, batch: int) -> float:
    """The relative error of one product c = 0.5 op(a) @ op(b) + beta c."""
    m, k, n = 24, 40, 56
    shapes = (k, m) if ta else (m, k), (n, k) if tb else (k, n), (m, n)
    a, b, c = (random_array(dtype, *((batch, *shape) if batch > 1 else shape)) for shape in shapes)
    op_a, op_b = (host(x).swapaxes(-1, -2) if t else host(x) for x, t in ((a, ta), (b, tb)))
    want = 0.5 * (op_a @ op_b) + beta * host(c)
    cublas.product(a, b, c, ta, tb, alpha=0.5, beta=beta)
    return relative_error(c, want)


def host(array: Any) -> np.ndarray:
    return cupy.asnumpy(array.astype("float64"))


def relative_error(array: Any, want: np.ndarray) -> float:
    return float(np.abs(host(array) - want).max() / np.abs(want).max())


# ---- a captured graph ----

def capture(found: Found) -> None:
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        own = OwnCublas(stream)
        x, w, y = (random_array("float32", *shape) for shape in ((512, 384), (384, 384), (512, 384)))
        q, scored = y.reshape(8, 64, 384), random_array("float32", 8, 64, 64)

        def work() -> None:
            """Four launches: two products, two ufuncs."""
            own.product(x, w, y)
            cupy.multiply(y, 0.05, y)
            own.product(q, q, scored, tb=True)
            cupy.tanh(scored, scored)

        def results() -> bytes:
            stream.synchronize()
            return cupy.asnumpy(y).tobytes() + cupy.asnumpy(scored).tobytes()

        for _ in range(2):                      # cuBLAS and CuPy load and compile their kernels outside the capture
            work()
        expected = results()
        stream.begin_capture()
        work()
        graph = stream.end_capture()
        y[...] = scored[...] = 0.0
        graph.launch(stream)
        found.answer("a graph with two products and two ufuncs gives the same bits as eagerly", results() == expected)
        x *= 2.0
        work()
        expected = results()
        y[...] = scored[...] = 0.0
        graph.launch(stream)
        found.answer("and follows an input that has changed", results() == expected)

        stream.begin_capture()
        for _ in range(25):
            work()
        long = stream.end_capture()
        eager = found.spread("100 launches eagerly: the host's part", host_us(
            lambda: [work() for _ in range(25)], calls=1), "us")
        replayed = found.spread("100 launches as a graph: the host's part", host_us(
            lambda: long.launch(stream), calls=1), "us")
        both = [found.spread(f"100 launches {how}, on the device", device_ms(f), "ms") for how, f in (
            ("eagerly", lambda: [work() for _ in range(25)]), ("as a graph", lambda: long.launch(stream)))]
        found.answer(f"100 launches: eagerly {eager:.0f} us of the host, {both[0]:.2f} ms on the device; as a graph "
                     f"{replayed:.0f} us and {both[1]:.2f} ms")

        stream.begin_capture()
        try:
            x @ w
            refusal = "is captured, too"
        except Exception as error:
            refusal = f"raises {type(error).__name__}: {str(error)[:120]}"
        try:
            stream.end_capture()
        except Exception as error:
            refusal += f", and the end of the capture raises {type(error).__name__}"
        found.answer(f"CuPy's own product inside a capture {refusal}")
