"""For how long the host is busy with one call: what a launch costs, and so what fewer launches save."""
from typing import Any, Callable

import cupy
import numpy as np

from minigrad import Tensor, functional as F, no_grad

from .cublas import Cublas, OwnCublas
from .events import host_us, random_array
from .found import Found
from .machine import FILL


def host(found: Found) -> None:
    a, b, c = (random_array("float32", 64, 64) for _ in range(3))
    elementwise = cupy.ElementwiseKernel("float32 x, float32 y", "float32 z", "z = x * y + x", "device_check_fma")
    fill = cupy.RawKernel(FILL, "fill")
    arguments = (c, np.float32(1.5), np.int32(c.size))
    theirs, own = Cublas(), OwnCublas(cupy.cuda.get_current_stream())
    batch = [x.reshape(1, 64, 64) for x in (a, b, c)]
    tokens = np.zeros((12, 64), np.int64)
    x, y = Tensor(cupy.asnumpy(a), True, device="cuda"), Tensor(cupy.asnumpy(b), device="cuda")

    groups: dict[str, dict[str, Callable[[], Any]]] = {
        "elementwise": {
            "a + b": lambda: a + b, "into an array": lambda: cupy.add(a, b, c),
            "with a number": lambda: cupy.multiply(a, 1.5, c), "ElementwiseKernel": lambda: elementwise(a, b, c),
            "RawKernel": lambda: fill((16,), (256,), arguments)},
        "sums": {"all": lambda: a.sum(), "the last axis": lambda: a.sum(-1)},
        "products": {
            "a @ b": lambda: a @ b, "into an array": lambda: cupy.matmul(a, b, out=c),
            "gemmEx by CuPy's binding": theirs.prepared(a, b, c), "gemmEx by ctypes": own.prepared(a, b, c),
            "gemmStridedBatchedEx by CuPy's binding": theirs.prepared(*batch),
            "gemmStridedBatchedEx by ctypes": own.prepared(*batch)},
        "memory": {
            "empty": lambda: cupy.empty((64, 64), "float32"), "the pool's alloc": lambda: cupy.cuda.alloc(16384),
            "reshape": lambda: a.reshape(32, 128), "slice": lambda: a[1:],
            "6 kB to the device": lambda: cupy.asarray(tokens), "item, which waits": lambda: c[0, 0].item()},
        "minigrad": {
            "x + y": lambda: F.add(x, y), "x + y, not recorded": no_grad()(lambda: F.add(x, y)),
            "x @ y": lambda: F.matmul(x, y)},
    }
    for group, calls in groups.items():
        medians = [f"{name} {found.spread(f'{group}: {name}', host_us(f), 'us'):.1f}" for name, f in calls.items()]
        found.answer(f"us a call, {group}: {', '.join(medians)}")
