"""Optimizers, which compute their steps by the ops adamw and sgd; gradient clipping; a learning-rate schedule."""
import math
from dataclasses import dataclass
from itertools import accumulate, groupby, takewhile
from numbers import Real
from typing import Any, Iterable, Iterator

import numpy as np

from minigrad import device
from minigrad.errors import gradient_of, name_of
from minigrad.executor import executor_of
from minigrad.modes import mode
from minigrad.ops import adamw as ops
from minigrad.ops.op import Op
from minigrad.parallel import World
from minigrad.tensor import Tensor


@dataclass
class State:
    """What an optimizer stores for a parameter: the number of its steps so far, and its moments, 0 before the first."""
    p: Tensor
    t: int
    flat: list[Any]                             # for each moment, a 1-D array with those of successive parameters
    at: slice                                   # of this parameter in each of them


class Optimizer:
    """The base class of optimizers: groups of parameters with their hyper-parameters, and a state for each parameter.

    params: one Tensor or several, or for each group a dict {"params": Tensors, name of a hyper-parameter: its value,
    ...}. The values in `groups` may be changed between steps. TypeError for a parameter that is not a leaf Tensor with
    requires_grad=True, and for a hyper-parameter that is not a number; ValueError if there is no parameter, if one is
    given twice, is read-only or shares memory with another, and for a hyper-parameter that is unknown, missing or out
    of range.
    """
    op: type[Op]
    moments: tuple[str, ...]                    # names of the arrays of the state, in the order of the op's inputs

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        given = members_of(params)
        groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{"params": given}]
        if not all(isinstance(group, dict) and "params" in group for group in groups):
            raise TypeError(f'{type(self).__name__}: groups are dicts {{"params": Tensors, ...}}, all of them')
        self.groups: list[dict[str, Any]] = []
        self.defaults = defaults
        seen: set[int] = set()
        for group in groups:
            members = tuple(members_of(group["params"]))
            for p in members:
                if not isinstance(p, Tensor) or not p.requires_grad or p.node is not None:
                    raise TypeError(
                        f"{type(self).__name__} updates leaf Tensors with requires_grad=True, got {p!r:.80}"
                    )
                if id(p) in seen:
                    raise ValueError(f"{type(self).__name__}: {name_of(p)} is given twice")
                if not getattr(p.data.flags, "writeable", True):
                    raise ValueError(f"{type(self).__name__}: {name_of(p)} is a read-only array, "
                                     "which cannot be updated: make the parameter from a copy")
                seen.add(id(p))
            self.groups.append(self.checked({**defaults, **group, "params": members}))
        if not seen:
            raise ValueError(f"{type(self).__name__} was given no parameters")
        self.check_overlap()
        self.states = [state for group in self.groups for state in self.allocate(group["params"])]  # one per parameter

    def check_overlap(self) -> None:
        """ValueError if two elements of the parameters are at the same address: it would be updated twice."""
        ordered = sorted(self.params, key=lambda p: device.addresses(p.data))
        for p in ordered:
            start, end = device.addresses(p.data)
            if p.data.nbytes > end - start:
                raise ValueError(f"{type(self).__name__}: {name_of(p)} has several numbers in one place of memory: "
                                 "make the parameter from a copy")
        for i, p in enumerate(ordered):
            for q in takewhile(lambda q: device.addresses(q.data)[0] < device.addresses(p.data)[1], ordered[i + 1:]):
                if p.device == q.device and p.xp.shares_memory(p.data, q.data):
                    raise ValueError(f"{type(self).__name__}: {name_of(p)} and {name_of(q)} share memory, which would "
                                     "be updated twice: use one Parameter in both places, or a copy")

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group. ValueError for a hyper-parameter that is unknown, missing or out of range, TypeError for
        one that is not a number."""
        for problem, names in (("unknown", group.keys() - self.defaults.keys() - {"params"}),
                               ("missing", self.defaults.keys() - group.keys())):
            if names:
                raise ValueError(f"{type(self).__name__}: {problem} {', '.join(sorted(names))} in a group: "
                                 f"the hyper-parameters are {', '.join(self.defaults)}")
        for name in self.defaults:
            for value in group[name] if name == "betas" else (group[name],):
                if not isinstance(value, Real):
                    raise TypeError(f"{type(self).__name__}: {name} must be a number, got {value!r:.80}, a "
                                    f"{type(value).__name__}")
        for name in ("lr", "eps", "weight_decay"):
            if not 0.0 <= group.get(name, 0.0) < math.inf:
                raise ValueError(f"{type(self).__name__}: {name} must be a finite number of 0 or more, got "
                                 f"{group[name]}")
        return group

    @property
    def params(self) -> list[Tensor]:
        """The parameters of all groups, in order."""
        return [p for group in self.groups for p in group["params"]]

    def _repr_html_(self) -> str:
        from minigrad.html_tables import optimizer_table
        return optimizer_table(self)

    def __repr__(self) -> str:
        settings = "; ".join(", ".join(f"{name}={group[name]}" for name in self.defaults) for group in self.groups)
        return f"<{type(self).__name__}: {settings}; {sum(p.size for p in self.params):,} parameters>"

    def zero_grad(self) -> None:
        """Set the `.grad` of every parameter to None."""
        for p in self.params:
            p.zero_grad()

    def step(self) -> None:
        """Update every parameter whose `.grad` is not None, in place. ValueError for a `.grad` of another shape, dtype
        or device, for a hyper-parameter that is unknown, missing or out of range, and if parameters in `groups` were
        exchanged; TypeError for a hyper-parameter that is not a number. Then nothing is changed."""
        for p in self.params:
            gradient_of(p)
        for group in self.groups:
            self.checked(group)
        if list(map(id, self.params)) != [id(state.p) for state in self.states]:
            raise ValueError(f"parameters of this {type(self).__name__} were exchanged: make a new optimizer for them")
        rest = iter(self.states)
        for group in self.groups:
            for run in self.runs([state for _, state in zip(group["params"], rest) if state.p.grad is not None]):
                first, last, members = run[0], run[-1], [state.p for state in run]
                hyper, static = self.hyper(group, first.t + 1)
                executor = executor_of(type(first.p.data), mode().plain)
                try:
                    executor.update(self.op, [p.data for p in members], [p.grad for p in members],
                                    [m[first.at.start:last.at.stop] for m in first.flat], hyper, static)
                finally:
                    for p in members:           # also after an interrupt: some may have new values
                        p.changed()
                for state in run:
                    state.t += 1

    def runs(self, states: list[State]) -> list[list[State]]:
        """The states in runs. In a run, all have the same t and their moments are adjacent in memory, so one call of
        the executor updates all their parameters."""
        runs: list[list[State]] = []
        for state in states:
            before = runs[-1][-1] if runs else None
            if before and before.flat is state.flat and (before.at.stop, before.t) == (state.at.start, state.t):
                runs[-1].append(state)
            else:
                runs.append([state])
        return runs

    def allocate(self, params: Iterable[Tensor]) -> Iterator[State]:
        """The states of parameters before the first step. The moments of float16 parameters are float32: the squares of
        small gradients would be 0 in float16."""
        for (_, dtype), alike in groupby(params, lambda p: (p.device, p.dtype)):
            members = list(alike)
            sizes = [p.size for p in members]
            kind = dtype if dtype.itemsize >= 4 else np.float32
            flat = [members[0].xp.zeros(sum(sizes), kind) for _ in self.moments]
            yield from (State(p, 0, flat, slice(end - p.size, end)) for p, end in zip(members, accumulate(sizes)))

    def state_of(self, p: Tensor) -> dict[str, Any]:
        """The state of a parameter: "t", the number of its steps so far, and its moments by name, views of its shape.
        ValueError for a Tensor that is not among the parameters."""
        for state in self.states:
            if state.p is p:
                return {"t": state.t} | {m: a[state.at].reshape(p.shape) for m, a in zip(self.moments, state.flat)}
        raise ValueError(f"{name_of(p)} is not a parameter of this {type(self).__name__}")

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The op's inputs after the parameter, its gradient and the moments, and its keyword arguments, for step t."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"t": the t of each parameter, name of a moment: a copy of it on the host for each parameter, ...}."""
        states = [self.state_of(p) for p in self.params]
        return {"t": [s["t"] for s in states], **{m: [Tensor(s[m]).numpy() for s in states] for m in self.moments}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in what state_dict returned for the same parameters in the same order. ValueError for the state of
        another kind of optimizer, of parameters of other shapes, or with a t that is not a number of steps; TypeError
        for moments that are not numbers. Then nothing is changed."""
        expected = ["t", *self.moments]
        if sorted(state) != sorted(expected):
            raise ValueError(f"{type(self).__name__} has a state of {', '.join(expected)}; this one has "
                             f"{', '.join(map(str, state)) or 'nothing'}: it is of another kind of optimizer")
        shapes = [p.shape for p in self.params]
        for m in self.moments:
            if [np.shape(x) for x in state[m]] != shapes or np.shape(state["t"]) != (len(shapes),):
                raise ValueError(
                    f"this state's {m} does not fit the {len(shapes)} parameters of the optimizer: "
                    "save and load with the same parameters in the same order"
                )
        t = np.asarray(state["t"])
        if t.dtype.kind not in "iu" or t.min() < 0:
            raise ValueError(f"this state's t must be the numbers of steps so far, got {state['t']!r:.80}")
        copies: list[tuple[Any, Any]] = []      # a part of the moments and its new values: all before a change
        for k, m in enumerate(self.moments):
            for own, values in zip(self.states, state[m]):
                part = own.flat[k][own.at]
                copies.append((part, Tensor(values, dtype=part.dtype, device=own.p.device).data.reshape(-1)))
        for own, steps in zip(self.states, t.tolist()):
            own.t = steps
        for part, new in copies:
            part[...] = new


class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, "Decoupled weight decay regularization"). The
    formulas are in the op AdamW, minigrad/ops/adamw.py."""
    op = ops.AdamW
    moments = ("m", "v")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 3e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        betas = group.get("betas", (0.9, 0.999))
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"AdamW: betas must be a tuple of two numbers, got {betas!r:.80}")
        super().checked(group)
        if not all(0.0 <= beta < 1.0 for beta in betas):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {betas}")
        return group

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        numbers = group["lr"], *group["betas"], group["eps"], group["weight_decay"]
        return tuple(map(float, numbers)), {"t": t}


class SGD(Optimizer):
    """Gradient descent with momentum, in Nesterov's form if nesterov, and L2 weight decay. The formulas are in the op
    SGD, minigrad/ops/adamw.py."""
    op = ops.SGD
    moments = ("m",)

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ) -> None:
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov))

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        super().checked(group)
        if not 0.0 <= group["momentum"] < 1.0:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {group['momentum']}")
        if group["nesterov"] and group["momentum"] == 0.0:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")
        return group

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        numbers = group["lr"], group["momentum"], group["weight_decay"]
        return tuple(map(float, numbers)), {"nesterov": group["nesterov"]}


def members_of(params: Any) -> list[Any]:
    """The parameters or groups that an optimizer or clip_grad_norm was given: one Tensor or several. TypeError for what
    is neither."""
    if isinstance(params, Tensor):
        return [params]
    if isinstance(params, dict) or not isinstance(params, Iterable):
        raise TypeError(f"expected Tensors, such as model.parameters(), got a {type(params).__name__}")
    return list(params)


def clip_grad_norm(params: Tensor | Iterable[Tensor], max_norm: float, world: World | None = None) -> Any:
    """Multiply the gradients of all params, one Tensor or several, in place by one factor, so that their joint L2 norm
    is at most max_norm (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"). Returns the
    norm before clipping, a 0-d array on their device. world: processes with the same gradients; all use the norm that
    rank 0 computes, as other processors may round differently. ValueError if max_norm is not a positive number, if no
    parameter has a gradient, and for a gradient that was set to something that does not fit or cannot be scaled in
    place."""
    if not isinstance(max_norm, Real) or not max_norm > 0.0:
        raise ValueError(f"max_norm must be a positive number, got {max_norm!r:.80}")
    members = {id(p): p for p in members_of(params)}.values()       # one that is given twice is counted once
    grads = [g for g in map(gradient_of, members) if g is not None]
    seen: set[int] = set()
    for p in members:
        if p.grad is not None and (id(p.grad) in seen or not getattr(p.grad.flags, "writeable", True)):
            raise ValueError(f"{name_of(p)} has a .grad that is read-only or also another's: give it a copy")
        seen.add(id(p.grad))
    if not grads:
        raise ValueError("no parameter has a gradient: clip after backward()")
    executor = executor_of(type(grads[0]), mode().plain)
    norm = executor.norm(grads)
    if world:
        norm = world.gather(norm)[0]            # one exchange, where share needs two
    executor.clip(grads, max_norm, norm)
    return norm


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, max_lr: float, min_lr: float) -> float:
    """The learning rate of a step, counted from 0. The rate rises linearly from max_lr / (warmup_steps + 1) at step 0
    to max_lr at warmup_steps, falls along half a cosine to min_lr at max_steps (Loshchilov & Hutter 2017, "SGDR"), and
    then stays at min_lr. ValueError unless 0 <= step, 0 <= warmup_steps < max_steps and 0 <= min_lr <= max_lr <
    infinity."""
    if not step >= 0:
        raise ValueError(f"steps are counted from 0, got step {step}")
    if not 0 <= warmup_steps < max_steps:
        raise ValueError(
            f"warmup_steps {warmup_steps} must be at least 0 and below max_steps {max_steps}: else the rate never falls"
        )
    if not 0.0 <= min_lr <= max_lr < math.inf:
        raise ValueError(f"min_lr {min_lr} must be between 0 and max_lr {max_lr}, which must be finite")
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    if step >= max_steps:
        return min_lr
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return max_lr - (max_lr - min_lr) * 0.5 * (1.0 - math.cos(math.pi * progress))
