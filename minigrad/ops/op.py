"""What every op is: a forward and a backward on plain arrays, known by name, with the samples that check it.

An op is a small class::

    class Mul(Primitive):
        \"\"\"a, b  ->  y

        forward   y = a * b
        backward  da = dy * b    db = dy * a
        identity  y is linear in each factor: sum(da * a) = sum(dy * y); sum(db * b) = sum(dy * y)
        \"\"\"
        def forward(self, a, b):
            self.save(a=a, b=b)
            return a * b

        def backward(self, dy, a, b):
            return dy * b, dy * a

- Positional arguments of `forward` are the inputs that have a gradient; keyword arguments are everything else.
- `save` keeps by name what the backward needs; the engine hands it back as keyword arguments.
- `backward` gets one gradient for each output and returns one for each input. It never writes into what it is given.
- `self.xp` is the namespace to compute with. For a primitive it may be minigrad's own functions on Tensors: that is all
  there is to gradients of gradients.
- The engine un-broadcasts, accumulates, checks shapes and dtypes; an op does none of it.
"""
import inspect
import re
from typing import Any, Callable, ClassVar, Sequence

from minigrad.ops.sample import Sample

OPS: dict[str, type["Op"]] = {}         # name -> op, every op that was ever defined


class Op:
    """One call of an op: forward, what it saved, backward. Subclass Primitive or Fused."""
    name: ClassVar[str]
    samples: ClassVar[list[Sample]] = []
    fused: ClassVar[bool]                           # True: no second derivative but through the composed twin
    broadcasts: ClassVar[bool] = False              # inputs broadcast, so that the engine sums their gradients back
    analytic: ClassVar[bool] = True                 # forward also holds for complex inputs: checked by a complex step
    composed: ClassVar[Callable[..., Any]]          # of a fused op: the same from primitives

    xp: Any
    needs: Sequence[bool]                           # which inputs want a gradient; the others' may be None
    saved: dict[str, Any] = {}

    def __init_subclass__(cls, register: bool = True, name: str | None = None) -> None:
        if not register:
            return
        cls.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if cls.name in OPS:
            raise ValueError(f"an op named {cls.name!r} exists already ({OPS[cls.name]}): choose another class name")
        OPS[cls.name] = cls

    def save(self, **values: Any) -> None:
        """Keep by name what backward needs."""
        self.saved = values

    def forward(self, *inputs: Any, **static: Any) -> Any:
        raise NotImplementedError

    def backward(self, *dys: Any, **saved: Any) -> Any:
        raise NotImplementedError


class Primitive(Op, register=False):
    """An op whose two directions are written in `self.xp` alone and write nothing in place: it can be differentiated
    again and again."""
    fused = False


class Fused(Op, register=False):
    """An op with a backward of its own for what could be composed from primitives. `composed` is that composition."""
    fused = True

    @staticmethod
    def composed(F: Any, *inputs: Any, **static: Any) -> Any:
        """The same function of Tensors, from primitives in the namespace F (minigrad.functional)."""
        raise NotImplementedError


def input_names(op_class: type["Op"], n: int) -> list[str]:
    """Names of an op's inputs, from its forward: ["x", "w", "b"]; of a variable number n, ["x0", "x1", ...]."""
    names = []
    for p in list(inspect.signature(op_class.forward).parameters.values())[1:]:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name.rstrip('s')}{i}" for i in range(n)]
        elif p.kind is not p.KEYWORD_ONLY:
            names.append(p.name)
    return names
