"""Kernels for CuPy's arrays beside the textbook's ops on the same device."""
from typing import Any

import cupy
import numpy as np

import minigrad as mg
from minigrad import Tensor, device, functional as F
from minigrad.executor import executor_of
from minigrad.gradcheck import relative_error
from minigrad.ops.sample import Sample
from minigrad.random import Key

from tests.device_suite import Run

from .events import device_ms
from .found import Found
from .speed import timed
from .training import SHAPES, Training

TOLERANCE = {"float32": 3e-5, "float64": 1e-12}
LARGE = {                               # inputs of GPT-2's sizes, to measure times
    "dropout": Sample((4, 512, 768), p=0.1, key=Key(seed=1)),
    "attention": Sample((4, 12, 512, 64), (4, 12, 512, 64), (4, 12, 512, 64), causal=True, dropout=0.1,
                        key=Key(seed=1)),
}
KEYS = [Key(0), Key(1, 2, 3), Key(2 ** 64 - 1, stream=2 ** 63 + 1), Key(5, stream=2 ** 64 - 1)]


def kernels(found: Found) -> None:
    device.resolve("cuda")              # registers the executor of CuPy's arrays
    table = getattr(executor_of(cupy.ndarray, plain=False), "kernels", {})
    found.answer(f"kernels for: {', '.join(sorted(op.name for op in table)) or 'no op yet'}")
    for op in table:
        for dtype, tolerance in TOLERANCE.items():
            errors = [max(map(error, *both(Run(op, sample, dtype, "cuda")))) for sample in op.samples]
            found.number(f"{op.name}, {dtype}: largest relative error", max(errors))
            found.answer(f"{op.name} equals the textbook on {len(errors)} samples in {dtype} to {max(errors):.1e}",
                         max(errors) < tolerance)
        run = Run(op, LARGE.get(op.name, op.samples[-1]), "float32", "cuda")
        fast = found.spread(f"{op.name}: forward and backward", device_ms(run.first_order), "ms")
        with mg.plain():
            plain = found.spread(f"{op.name}: the textbook's", device_ms(run.first_order), "ms")
        found.answer(f"{op.name}: forward and backward {fast:.3f} ms, the textbook's {plain:.3f} ms")

    different = [key for key in KEYS for shape in ((1,), (7,), (33, 65), (4, 512, 768))
                 if not np.array_equal(*(F.dropout(Tensor(np.ones(shape, "float32"), device=name), 0.3, key).numpy()
                                         for name in ("cpu", "cuda")))]
    found.answer("dropout keeps the same elements on the device as on the host" if not different else
                 f"dropout keeps other elements than on the host for {different}", not different)

    for name, (shape, rows) in SHAPES.items():
        step = Training(shape, rows).step
        for _ in range(3):
            step()
        fast = found.spread(f"a step of {name}", timed(step, 20, wait=True), "ms")
        with mg.plain():
            step()
            plain = found.spread(f"a step of {name} by the textbook", timed(step, 20, wait=True), "ms")
        found.answer(f"a step of {name}: {fast:.1f} ms, by the textbook alone {plain:.1f} ms")


def both(run: Run) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs and gradients by the kernel, and by the textbook."""
    fast = run.first_order()
    with mg.plain():
        return fast, run.first_order()


def error(a: Any, b: Any) -> float:
    return float(relative_error(a.numpy(), b.numpy()))
