"""An autograd engine on NumPy and CuPy. The backward of every op is written by hand and checked against finite
differences, and you can run it one step at a time."""
import importlib
from typing import Any

from minigrad import functional, kernels, nn, optim, parallel, random, step
from minigrad.autograd import grad, hvp
from minigrad.device import check_indices
from minigrad.modes import detect_nan, no_grad, plain, unfused
from minigrad.ops.op import OPS, Op
from minigrad.recompute import recompute
from minigrad.tape import apply
from minigrad.tensor import Tensor, from_dlpack
from minigrad.threads import get_num_threads, set_num_threads

__version__ = "0.2.0"

__all__ = [
    "LossCurve",
    "OPS",
    "Op",
    "Tensor",
    "apply",
    "check_indices",
    "detect_nan",
    "draw",
    "forward_steps",
    "from_dlpack",
    "functional",
    "get_num_threads",
    "grad",
    "gradcheck",
    "hvp",
    "kernels",
    "nn",
    "no_grad",
    "optim",
    "parallel",
    "plain",
    "random",
    "recompute",
    "set_num_threads",
    "step",
    "unfused",
]


def __getattr__(name: str) -> Any:
    if name == "gradcheck":                     # imported at its first use
        return importlib.import_module("minigrad.gradcheck")
    if name == "LossCurve":
        return importlib.import_module("minigrad.loss_curve").LossCurve
    if name in ("draw", "forward_steps"):
        return getattr(step, name)
    raise AttributeError(f"module 'minigrad' has no attribute {name!r}")
