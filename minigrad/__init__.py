"""minigrad: an autograd engine on NumPy and CuPy in which every backward pass is written out, checked and steppable."""
import importlib
from typing import Any

from minigrad import functional, nn, optim, random
from minigrad.device import check_indices
from minigrad.ops.op import OPS
from minigrad.kernels import cpu as _cpu  # noqa: F401  (registers its kernels)
from minigrad.tape import detect_nan, grad, hvp, no_grad, plain, unfused
from minigrad.tensor import Tensor, from_dlpack
from minigrad.threads import get_num_threads, set_num_threads

__all__ = [
    "OPS",
    "Tensor",
    "check_indices",
    "detect_nan",
    "forward_steps",
    "from_dlpack",
    "functional",
    "get_num_threads",
    "grad",
    "gradcheck",
    "hvp",
    "nn",
    "no_grad",
    "optim",
    "plain",
    "random",
    "set_num_threads",
    "step",
    "unfused",
]


def __getattr__(name: str) -> Any:
    if name in ("gradcheck", "step"):           # imported when they are first asked for
        return importlib.import_module(f"minigrad.{name}")
    if name == "forward_steps":
        return importlib.import_module("minigrad.step").forward_steps
    raise AttributeError(f"module 'minigrad' has no attribute {name!r}")
