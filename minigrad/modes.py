"""Modes of the engine: they apply to one thread, may be nested, and are restored when their `with` block ends."""
import contextlib
import os
from contextvars import ContextVar
from typing import Iterator, NamedTuple


class Mode(NamedTuple):
    """What is switched on. The defaults are those of a program that sets nothing."""
    grad: bool = True                           # record ops
    plain: bool = False                         # run the textbook ops alone
    unfused: bool = False                       # record fused ops as the primitives they are composed of
    detect_nan: bool = False                    # check the results of every op


_MODE: ContextVar[Mode] = ContextVar("mode", default=Mode(plain=os.environ.get("MINIGRAD_PLAIN", "0") != "0"))
mode = _MODE.get                                # the Mode of the calling thread
module_path: ContextVar[str] = ContextVar("module_path", default="")    # of the nn.Module whose forward is running


@contextlib.contextmanager
def switch(**changes: bool) -> Iterator[None]:
    """Change fields of the Mode inside a `with` block."""
    token = _MODE.set(mode()._replace(**changes))
    try:
        yield
    finally:
        _MODE.reset(token)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Record nothing: `with no_grad():`, for evaluation and sampling."""
    return switch(grad=False)


def plain() -> contextlib.AbstractContextManager[None]:
    """Run the textbook ops in place of kernels. MINIGRAD_PLAIN=1 in the environment does so for a whole program."""
    return switch(plain=True)


def unfused() -> contextlib.AbstractContextManager[None]:
    """Record fused ops as the primitives they are composed of: every step inside attention becomes a node of its own,
    and gradients of gradients are defined."""
    return switch(unfused=True)


def detect_nan() -> contextlib.AbstractContextManager[None]:
    """Raise FloatingPointError at the first op, forward or backward, whose result holds NaN, or an infinity that its
    inputs did not hold. On a device every op waits for its result."""
    return switch(detect_nan=True)
