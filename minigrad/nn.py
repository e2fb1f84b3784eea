"""Modules, which name their parameters, and the layers of a GPT."""
import math
from collections import ChainMap, UserDict, UserList, deque
from collections.abc import ItemsView, KeysView, ValuesView
from types import MappingProxyType, MemberDescriptorType
from typing import Any, Iterator, Mapping

import numpy as np

from minigrad import functional as F
from minigrad.modes import mode, module_path
from minigrad.random import Key
from minigrad.tensor import Tensor


class Parameter(Tensor):
    """A leaf Tensor that requires a gradient. name: its path in the outermost Module, "h.0.attn.c_attn.weight"."""
    __slots__ = ("name",)

    def __init__(self, data: Any, *, dtype: Any = None, device: str | None = None) -> None:
        super().__init__(data, requires_grad=True, dtype=dtype, device=device)
        self.name = ""


class Module:
    """A layer, or a model of layers. A subclass defines `forward`; calling the Module calls `forward`.

    Attributes that are Parameters, Modules, or lists, tuples and dicts of these, also nested, belong to the Module and
    are named after the attribute: "h.0.attn". A list is stored as a tuple, because its members are named when it is
    assigned. TypeError for another collection of them, such as a set, which has no order to name them by, and for a
    Parameter or Module in an attribute of the class or in a slot; ValueError for a Module that contains itself, and for
    two parameters of one name.
    """
    training = True
    path = ""                                   # its path in the outermost Module: "h.0.attn"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, value in vars(cls).items():
            if any(_parts(name, value)):
                raise TypeError(f"{cls.__name__}.{name} belongs to the class, so it would not be trained: assign it to "
                                f"self.{name} in __init__")

    def __setattr__(self, name: str, value: Any) -> None:
        parts = [] if type(value) in _PLAIN else list(_parts(name, value))
        if parts and isinstance(getattr(type(self), name, None), MemberDescriptorType):
            raise TypeError(f"{name} is a slot, where it would not be trained: leave it out of __slots__")
        for _, part in parts:                   # ValueError if one contains self
            if isinstance(part, Module):
                list(part._named(above=(self,)))
        if len(dict(parts)) < len(parts):
            raise ValueError(f"two entries of {name} have one name among {', '.join(path for path, _ in parts)}: give "
                             "the dict other keys")
        object.__setattr__(self, name, tuple(value) if parts and isinstance(value, list) else value)
        if parts:
            self._name_parts()

    def _name_parts(self) -> None:
        """Set the path of each Module and the name of each Parameter in it; both begin with this Module's path."""
        named: set[int] = set()
        for path, found in self._named(self.path):
            if id(found) not in named:          # one that is shared gets its first name
                named.add(id(found))
                object.__setattr__(found, "path" if isinstance(found, Module) else "name", path)

    def _children(self) -> Iterator[tuple[str, Any]]:
        for name, value in vars(self).items():
            if isinstance(value, (Module, Parameter)):
                yield name, value
            elif type(value) not in _PLAIN:
                yield from _parts(name, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        token = module_path.set(self.path)
        try:
            return self.forward(*args, **kwargs)
        finally:
            module_path.reset(token)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} needs a forward method")

    def _repr_html_(self) -> str:
        from minigrad.html_tables import module_table
        return module_table(self)

    def __repr__(self) -> str:
        parameters = [p for _, p in self.named_parameters()]
        return (f"<{type(self).__name__}{f' {self.path}' if self.path else ''}: "
                f"{sum(p.size for p in parameters):,} parameters in {len(parameters)} tensors>")

    def _named(self, path: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any]]:
        """(path, Module or Parameter): this module and everything in it, in the order of the attributes. above: the
        Modules that contain this one. ValueError if it is one of them."""
        if any(self is module for module in above):
            raise ValueError(f"this {type(self).__name__} would contain itself: a Module that needs the one it belongs "
                             "to gets it as an argument of forward, or stores a weakref.ref to it")
        yield path, self
        for name, child in self._children():
            full = f"{path}.{name}" if path else name
            if isinstance(child, Module):
                yield from child._named(full, (*above, self))
            else:
                yield full, child

    def named_modules(self) -> Iterator[tuple[str, "Module"]]:
        """(path, Module) for this Module, whose path is "", and for all Modules in it."""
        return ((path, found) for path, found in self._named() if isinstance(found, Module))

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, Parameter) for every Parameter in it; a shared one once, under its first name. ValueError if two have
        one name."""
        seen: set[int] = set()
        names: set[str] = set()
        for name, found in self._named():
            if isinstance(found, Parameter) and id(found) not in seen:
                if name in names:
                    raise ValueError(f"two parameters have the name {name}: give their dicts other keys")
                seen.add(id(found))
                names.add(name)
                yield name, found

    def parameters(self) -> list[Parameter]:
        """All Parameters in it; a shared one once."""
        self._name_parts()                      # names those added to a list or dict since it was assigned
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Set the `.grad` of every parameter to None."""
        for p in self.parameters():
            p.zero_grad()

    def train(self, mode: bool = True) -> "Module":
        """Switch dropout on, or with mode=False off. Returns itself."""
        for _, module in self.named_modules():
            module.training = mode
        return self

    def eval(self) -> "Module":
        """Switch dropout off. Returns itself."""
        return self.train(False)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Name -> a copy on the host, for every parameter."""
        return {name: p.numpy() for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy values into the parameters, by name. If names or shapes do not fit, change nothing and raise ValueError,
        which lists them all."""
        own = dict(self.named_parameters())
        shapes = {name: Tensor(value).shape for name, value in state.items()}
        problems = [f"missing: {', '.join(names)}" for names in [sorted(own.keys() - state.keys())] if names]
        problems += [f"unexpected: {', '.join(names)}" for names in [sorted(state.keys() - own.keys())] if names]
        problems += [f"{name} has shape {shapes[name]}, expected {p.shape}"
                     for name, p in own.items() if name in state and shapes[name] != p.shape]
        if problems:
            raise ValueError(f"this state does not fit {type(self).__name__}: " + "; ".join(problems))
        for name, p in own.items():
            p.data = state[name]


# collections whose entries have no order to name them by, or cannot be exchanged by their names
_REFUSED = (set, frozenset, deque, UserList, UserDict, ChainMap, MappingProxyType, KeysView, ValuesView, ItemsView,
            np.ndarray)
_PLAIN = frozenset((int, float, bool, str))    # types of values that contain no Module


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """(path, Module or Parameter) for an attribute: itself, or those in a list, tuple or dict. TypeError if another
    collection holds some."""
    if isinstance(value, (Module, Parameter)):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            if type(entry) not in _PLAIN:
                yield from _parts(f"{name}.{key}", entry)
    elif isinstance(value, _REFUSED) and getattr(value, "dtype", object) == object:
        entries = value.values() if isinstance(value, Mapping) else value.flat if hasattr(value, "flat") else value
        if any(any(_parts(name, entry)) for entry in entries):
            raise TypeError(f"{name} is a {type(value).__name__} of Modules or Parameters, which would not be trained: "
                            "assign a list or a dict of them")


def _normal(rng: np.random.Generator | None, std: float, shape: tuple[int, ...], dtype: Any, device: str) -> Parameter:
    """A Parameter of this shape with values from a normal distribution of mean 0. They are drawn on the host in
    float64, so they are the same for every device and dtype, up to the cast."""
    rng = np.random.default_rng() if rng is None else rng
    return Parameter(rng.normal(0.0, std, size=shape), dtype=dtype, device=device)


class Linear(Module):
    """x (..., n_in)  ->  x @ weight + bias (..., n_out), with weight (n_in, n_out) and bias (n_out,).

    The initial weight is drawn from a normal distribution of mean 0 and standard deviation std, by default
    1 / sqrt(n_in); the initial bias is 0. rng: the generator of the weight; without one it differs from run to run.
    """

    def __init__(self, n_in: int, n_out: int, bias: bool = True, *, std: float | None = None,
                 rng: np.random.Generator | None = None, dtype: Any = "float32", device: str = "cpu") -> None:
        self.weight = _normal(rng, 1.0 / math.sqrt(n_in) if std is None else std, (n_in, n_out), dtype, device)
        self.bias = Parameter(np.zeros(n_out), dtype=dtype, device=device) if bias else None

    def forward(self, x: Any) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LayerNorm(Module):
    """Layer norm over the last axis: x (..., n)  ->  (..., n). The initial weight (n,) is 1, the initial bias (n,) is 0
    (Ba, Kiros & Hinton 2016, "Layer normalization")."""

    def __init__(
        self, n: int, bias: bool = True, *, eps: float = 1e-5, dtype: Any = "float32", device: str = "cpu"
    ) -> None:
        self.weight = Parameter(np.ones(n), dtype=dtype, device=device)
        self.bias = Parameter(np.zeros(n), dtype=dtype, device=device) if bias else None
        self.eps = eps

    def forward(self, x: Any) -> Tensor:
        return F.layer_norm(x, self.weight, self.bias, self.eps)


class Embedding(Module):
    """Integers (...)  ->  rows of weight (n, dim): (..., dim). The initial weight is drawn from a normal distribution
    of mean 0 and standard deviation std. rng: its generator; without one it differs from run to run."""

    def __init__(self, n: int, dim: int, *, std: float = 1.0, rng: np.random.Generator | None = None,
                 dtype: Any = "float32", device: str = "cpu") -> None:
        self.weight = _normal(rng, std, (n, dim), dtype, device)

    def forward(self, idx: Any) -> Tensor:
        return F.embedding(self.weight, idx)


class Dropout(Module):
    """In training mode, sets each element to 0 with probability p and divides the others by 1 - p; in eval mode,
    and in the engine's mode dropout=False, returns x (Srivastava et al. 2014, "Dropout"). Each call draws from a stream
    of its own, key.next(). ValueError unless 0 <= p < 1, and in training mode with p > 0 if key is None."""

    def __init__(self, p: float) -> None:
        if not 0.0 <= p < 1.0:
            raise ValueError(f"dropout probability must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor, key: Key | None = None) -> Tensor:
        if not self.training or self.p == 0.0 or not mode().dropout:
            return x
        if key is None:
            raise ValueError(
                f"{self.path or 'Dropout'} in training mode needs key=mg.random.key(seed, step), or .eval()"
            )
        return F.dropout(x, self.p, key.next())
