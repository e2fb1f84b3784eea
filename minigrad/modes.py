"""Modes of the engine. Each is set by a `with` block, for one thread; when the block ends, the old mode is restored."""
import contextlib
import os
from contextvars import ContextVar
from typing import Iterator, NamedTuple


class Mode(NamedTuple):
    """Which modes are on. By default, ops are recorded and kernels run."""
    grad: bool = True                           # record ops
    plain: bool = False                         # run the textbook's ops, not kernels
    unfused: bool = False                       # record fused ops as the primitives they are composed of
    detect_nan: bool = False                    # check the results of every op


_MODE: ContextVar[Mode] = ContextVar("mode", default=Mode(plain=os.environ.get("MINIGRAD_PLAIN", "0") != "0"))
mode = _MODE.get                                # returns the Mode of the calling thread
module_path: ContextVar[str] = ContextVar("module_path", default="")    # path of the nn.Module whose forward is running


@contextlib.contextmanager
def switch(**changes: bool) -> Iterator[None]:
    """Set fields of the Mode inside a `with` block."""
    token = _MODE.set(mode()._replace(**changes))
    try:
        yield
    finally:
        _MODE.reset(token)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Do not record ops, for evaluation and sampling: `with no_grad():`, or `@no_grad()` on a function."""
    return switch(grad=False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Run the textbook's ops instead of kernels. The environment variable MINIGRAD_PLAIN=1 switches this on for a whole
    program."""
    return switch(plain=True)


def unfused() -> contextlib.AbstractContextManager[None]:
    """Record fused ops as the primitives they are composed of: attention, for example, as nine to twelve nodes. Their
    gradients can be differentiated again."""
    return switch(unfused=True)


def detect_nan() -> contextlib.AbstractContextManager[None]:
    """Raise FloatingPointError at the first op, forward or backward, whose result contains NaN, or infinity while its
    inputs do not. On a device, every op waits for its result."""
    return switch(detect_nan=True)
