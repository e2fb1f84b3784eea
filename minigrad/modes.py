"""Modes of the engine. Each is set by a `with` block, for one thread; when the block ends, the old mode is restored."""
import contextlib
import inspect
import os
from contextvars import ContextVar, Token
from typing import Any, NamedTuple


class Mode(NamedTuple):
    """Which modes are on. By default, ops are recorded and kernels run."""
    grad: bool = True                           # record ops
    plain: bool = False                         # run the textbook's ops, not kernels
    unfused: bool = False                       # record fused ops as the primitives they are composed of
    detect_nan: bool = False                    # check the results of every op
    dropout: bool = True                        # False: dropout returns its input


_MODE: ContextVar[Mode] = ContextVar("mode", default=Mode(plain=os.environ.get("MINIGRAD_PLAIN", "0") != "0"))
mode = _MODE.get                                # returns the Mode of the calling thread
module_path: ContextVar[str] = ContextVar("module_path", default="")    # path of the nn.Module whose forward is running


class switch(contextlib.ContextDecorator):
    """Set fields of the Mode inside a `with` block, or, as a decorator, during each call of a function. TypeError for a
    function whose body runs after the call has returned, and for a class."""

    def __init__(self, **changes: bool) -> None:
        self.changes = changes
        self.tokens: list[Token[Mode]] = []     # one for each block that has not ended

    def __enter__(self) -> None:
        self.tokens.append(_MODE.set(mode()._replace(**self.changes)))

    def __exit__(self, *error: Any) -> None:
        _MODE.reset(self.tokens.pop())

    def _recreate_cm(self) -> "switch":         # one for each call of a function, as calls may overlap in threads
        return switch(**self.changes)

    def __call__(self, function: Any) -> Any:
        runs_later = (inspect.isgeneratorfunction, inspect.iscoroutinefunction, inspect.isasyncgenfunction)
        if inspect.isclass(function) or any(is_kind(function) for is_kind in runs_later):
            raise TypeError(f"{function.__name__} is a class, a generator or async, so its code would not run in this "
                            "mode: put a `with` block around the computations in it")
        return super().__call__(function)


def no_grad() -> switch:
    """Do not record ops, for evaluation and sampling: `with no_grad():`, or `@no_grad()` on a function."""
    return switch(grad=False)


def plain() -> switch:
    """Run the textbook's ops instead of kernels. The environment variable MINIGRAD_PLAIN=1 switches this on for a whole
    program."""
    return switch(plain=True)


def unfused() -> switch:
    """Record fused ops as the primitives they are composed of: attention, for example, as nine to fifteen nodes. Their
    gradients can be differentiated again."""
    return switch(unfused=True)


def detect_nan() -> switch:
    """Raise FloatingPointError at the first op, forward or backward, whose result contains NaN, or infinity while its
    inputs do not. On a device, every op waits for its result."""
    return switch(detect_nan=True)
