"""The base classes of ops. An op is a small class: a forward, a backward, and samples to check them on::

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
- `save` stores by name what the backward needs; the engine passes it to `backward` as keyword arguments.
- `backward` gets the gradient of each output and returns one for each input. It never writes into its arguments.
- `self.xp` is the array library to compute with: numpy or cupy. An op that only runs on the host may call numpy itself.
  For gradients of gradients the engine runs a Primitive on Tensors instead of arrays, with `self.xp` =
  minigrad.functional.
- Sums and means are those of minigrad/ops/sums.py, which accumulate in a wider dtype and round once. With `wide = True`
  the engine computes float16 in float32.
- Elements that do not count are replaced by `where`, not multiplied by 0: 0 * inf is NaN.
- The engine sums gradients over broadcast axes, accumulates them, checks shapes and dtypes; an op does none of it.
- The docstring is data that the stepper displays: the shapes, then sections named axes (words for the letters in the
  shapes), forward, backward, why, identity (an equation that the gradients satisfy, tested on numbers) and source. The
  notation is that of minigrad/step/formula.py and notation.py.
"""
import inspect
import re
import sys
from typing import Any, Callable, ClassVar, Sequence

from minigrad.ops.sample import Sample
from minigrad.random import Key, keep_mask

OPS: dict[str, type["Op"]] = {}         # name -> op class; defining an op adds it


class Op:
    """The base class of an op of your own: a forward and a backward on arrays. docs/your-own-op.md makes one::

        class Square(mg.Op):
            def forward(self, x):
                self.save(x=x)
                return x * x

            def backward(self, dy, x):
                return dy * 2.0 * x

        y = mg.apply(Square, x)

    An instance is one call of the op, with what its forward saved. Only forward and backward are required. Second
    derivatives need `composed`.

    Defining a subclass registers it in OPS under `name`, by default the class name in snake case. A class of the same
    module and class name replaces the earlier one, so a notebook's cell can run again; ValueError if another module has
    defined an op of that name. With register=False it is not registered, and a subclass of an op keeps the op's name.
    TypeError if forward or backward is no method, or forward has no input.
    """
    name: ClassVar[str] = ""
    samples: ClassVar[list[Sample]] = []
    fused: ClassVar[bool] = True                    # second derivatives only through its decomposition
    composed: ClassVar[Callable[..., Any] | None] = None    # the decomposition: composed(F, *inputs, **static)
    broadcasts: ClassVar[bool] = False              # inputs broadcast, so that the engine sums their gradients back
    wide: ClassVar[bool] = False                    # True: float16 is computed in float32
    analytic: ClassVar[bool] = True                 # forward also holds for complex inputs: checked by a complex step

    xp: Any
    needs: Sequence[bool]                           # which inputs need a gradient; backward may return None for others
    saved: dict[str, Any] = {}

    def __init_subclass__(cls, register: bool = True, name: str | None = None) -> None:
        for method in ("forward", "backward"):
            given = vars(cls).get(method, Op.__dict__[method])
            if not inspect.isfunction(given) or len(inspect.signature(given).parameters) < 2:
                raise TypeError(f"{method} of {cls.__name__} must be a method with an argument, "
                                f"`def {method}(self, {'x' if method == 'forward' else 'dy'})`; forward stores what "
                                "backward needs with self.save(x=x)")
        if not register and cls.name:
            return
        cls.name = name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        if not register:
            return
        other = OPS.get(cls.name, cls)
        if other.__module__ != cls.__module__:
            raise ValueError(f"an op named {cls.name!r} exists already, {other.__module__}.{other.__qualname__}: "
                             f'choose another class name, or write class {cls.__name__}(..., name="my_{cls.name}"); '
                             f"to replace the other op, run del minigrad.OPS[{cls.name!r}] first")
        OPS[cls.name] = cls

    def save(self, *unnamed: Any, **values: Any) -> None:
        """Store by name what backward needs: arrays and other values. A second call replaces what the first one stored.
        TypeError for a value without a name."""
        if unnamed:
            raise TypeError("save needs a name for each value, by which backward takes it: self.save(x=x)")
        self.saved = values

    def keep_mask(self, key: Key, shape: tuple[int, ...], p: float) -> Any:
        """The elements that dropout keeps, an array of booleans on the device: minigrad.random.keep_mask."""
        return self.xp.asarray(keep_mask(key, shape, p))

    def forward(self, *inputs: Any, **static: Any) -> Any:
        """The output for these input arrays and keyword arguments, or a tuple of outputs."""
        raise NotImplementedError(f"{type(self).__name__} needs a method forward(self, x)")

    def backward(self, *dys: Any, **saved: Any) -> Any:
        """The gradient of the input, or a tuple of one for each input, from the gradients of the outputs."""
        raise NotImplementedError(f"{type(self).__name__} needs a method backward(self, dy, ...)")


class Primitive(Op, register=False):
    """An op whose forward and backward use only `self.xp` and write nothing in place, so that its gradient can be
    differentiated again, any number of times."""
    fused = False


class Fused(Op, register=False):
    """An op that could be composed from primitives (`composed` is that decomposition) but has a backward of its own."""

    @staticmethod
    def composed(F: Any, *inputs: Any, **static: Any) -> Any:
        """The decomposition: the same function of Tensors, from primitives in F (minigrad.functional)."""
        raise NotImplementedError("a Fused op needs composed(F, *inputs), the same function of Tensors; an op without "
                                  "one subclasses minigrad.Op")


Primitive.name = Fused.name = ""                    # they are no ops themselves


def decomposition(op_class: type["Op"], where: str = "") -> Callable[..., Any]:
    """The `composed` of an op. ValueError, with the place `where` it was called, if it has none."""
    if op_class.composed is None:
        raise ValueError(
            f"{op_class.name} has no decomposition, which minigrad.unfused() and second derivatives need: define in "
            f"{op_class.__name__} a static method `composed(F, *inputs)`, the same function of Tensors, written with "
            f"functions of F, which is minigrad.functional{where}"
        )
    return op_class.composed


def input_names(op_class: type["Op"], n: int) -> list[str]:
    """Names of an op's n inputs, from the signature of its forward: ["x", "w", "b"]; of inputs `*xs`: ["x0", ...]."""
    names: list[str] = []
    for p in list(inspect.signature(op_class.forward).parameters.values())[1:]:
        if p.kind is p.VAR_POSITIONAL:
            names += [f"{p.name.rstrip('s')}{i}" for i in range(n)]
        elif p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD):
            names.append(p.name)
    return names[:n]


def docstring(op_class: type["Op"]) -> str:
    """The docstring of an op, without the indentation of the class; where python -OO left it out, a sentence that says
    so."""
    return inspect.cleandoc(op_class.__doc__ or "") if sys.flags.optimize < 2 else (
        "no formulas: they are in docstrings, which python -OO leaves out")
