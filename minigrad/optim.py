"""Optimizers, which compute their steps by the ops adamw and sgd; gradient clipping; a learning-rate schedule."""
import math
from itertools import accumulate, groupby
from typing import Any, Iterable

from minigrad.executor import executor_of
from minigrad.modes import mode
from minigrad.ops import adamw as ops
from minigrad.ops.op import Op
from minigrad.tensor import Tensor


class Optimizer:
    """The base class of optimizers: groups of parameters with their hyper-parameters, and a state for each parameter.

    params: Tensors, or for each group a dict {"params": Tensors, name of a hyper-parameter: its value, ...}. The values
    in `groups` may be changed between steps. TypeError for a parameter that is not a leaf Tensor with
    requires_grad=True; ValueError if there is none, if one is given twice, and for a hyper-parameter that is unknown
    or out of range.
    """
    op: type[Op]
    moments: tuple[str, ...]                    # names of the arrays of the state, in the order of the op's inputs

    def __init__(self, params: Iterable[Any], defaults: dict[str, Any]) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        self.groups: list[dict[str, Any]] = []
        seen: set[int] = set()
        for group in groups:
            unknown = group.keys() - defaults.keys() - {"params"}
            if unknown:
                raise ValueError(f"{type(self).__name__}: unknown {', '.join(sorted(unknown))} in a group: "
                                 f"it knows {', '.join(defaults)}")
            members = list(group["params"])
            for p in members:
                if not isinstance(p, Tensor) or not p.requires_grad or p.node is not None:
                    raise TypeError(
                        f"{type(self).__name__} updates leaf Tensors with requires_grad=True, got {p!r:.80}"
                    )
                if id(p) in seen:
                    raise ValueError(f"{type(self).__name__}: {getattr(p, 'name', '') or p.shape} is given twice")
                seen.add(id(p))
            self.groups.append(self.checked({**defaults, **group, "params": members}))
        if not seen:
            raise ValueError(f"{type(self).__name__} was given no parameters")
        self.state: dict[int, dict[str, Any]] = {}      # id of a parameter -> its state: see state_of

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        """Return the group. ValueError for a hyper-parameter out of range."""
        for name in ("lr", "eps", "weight_decay"):
            if group.get(name, 0.0) < 0.0:
                raise ValueError(f"{type(self).__name__}: {name} must not be negative, got {group[name]}")
        return group

    @property
    def params(self) -> list[Tensor]:
        """The parameters of all groups, in order."""
        return [p for group in self.groups for p in group["params"]]

    def zero_grad(self) -> None:
        """Set the `.grad` of every parameter to None."""
        for p in self.params:
            p.zero_grad()

    def step(self) -> None:
        """Update every parameter whose `.grad` is not None, in place. ValueError for a `.grad` of another shape; then
        nothing is changed."""
        for p in self.params:
            if p.grad is not None and p.grad.shape != p.shape:
                raise ValueError(f"{type(self).__name__}: {getattr(p, 'name', '') or 'a parameter'} {p.shape} has a "
                                 f".grad of shape {p.grad.shape}: they must agree")
        for group in self.groups:
            for members in self.runs(group):
                states = [self.state_of(p) for p in members]
                at = slice(states[0]["at"].start, states[-1]["at"].stop)
                hyper, static = self.hyper(group, states[0]["t"])
                executor = executor_of(type(members[0].data), mode().plain)
                executor.update(self.op, [p.data for p in members], [p.grad for p in members],
                                [m[at] for m in states[0]["flat"]], hyper, static)
                for p in members:
                    p.changed()

    def runs(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """Increase t of each parameter of a group that has a gradient, and return these parameters in runs. In a run,
        all have the same t and their moments are adjacent in memory, so one call of the executor updates them all."""
        runs: list[list[Tensor]] = []
        before: dict[str, Any] = {}             # the state of the parameter before p
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state_of(p)
            state["t"] += 1
            if before and before["flat"] is state["flat"] and before["at"].stop == state["at"].start and (
                    before["t"] == state["t"]):
                runs[-1].append(p)
            else:
                runs.append([p])
            before = state
        return runs

    def state_of(self, p: Tensor) -> dict[str, Any]:
        """The state of a parameter: "t", the number of its steps so far; its moments by name, 0 before the first step;
        "flat", for each moment a 1-D array with those of successive parameters of a group, of one dtype and device; and
        "at", the slice of this parameter in "flat". The moments are views of "flat"."""
        if id(p) not in self.state:
            group = next(group["params"] for group in self.groups if any(p is q for q in group["params"]))
            for _, alike in groupby(group, lambda q: (q.device, q.dtype)):
                self.allocate([q for q in alike if id(q) not in self.state])
        return self.state[id(p)]

    def allocate(self, members: list[Tensor]) -> None:
        """Make the states of parameters of one dtype and device."""
        ends = list(accumulate(p.size for p in members))
        flat = [members[0].xp.zeros(ends[-1], members[0].dtype) for _ in self.moments] if members else []
        for p, end in zip(members, ends):
            at = slice(end - p.size, end)
            self.state[id(p)] = {"t": 0, "flat": flat, "at": at,
                                 **{m: a[at].reshape(p.shape) for m, a in zip(self.moments, flat)}}

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The op's inputs after the parameter, its gradient and the moments, and its keyword arguments, for step t."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"t": the t of each parameter, name of a moment: a copy of it on the host for each parameter, ...}."""
        states = [self.state_of(p) for p in self.params]
        return {"t": [s["t"] for s in states], **{m: [Tensor(s[m]).numpy() for s in states] for m in self.moments}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Copy in what state_dict returned for the same parameters in the same order. ValueError for other shapes."""
        shapes = [p.shape for p in self.params]
        for m in self.moments:
            if [x.shape for x in state.get(m, ())] != shapes:
                raise ValueError(
                    f"this state's {m} does not fit the {len(shapes)} parameters of the optimizer: "
                    "save and load with the same parameters in the same order"
                )
        for i, p in enumerate(self.params):
            own = self.state_of(p)
            own["t"] = int(state["t"][i])
            for m in self.moments:
                own[m][...] = Tensor(state[m][i], dtype=p.dtype, device=p.device).data


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
        if len(group["betas"]) != 2 or not all(0.0 <= b < 1.0 for b in group["betas"]):
            raise ValueError(f"AdamW: betas must be two numbers in [0, 1), got {group['betas']}")
        return super().checked(group)

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (group["lr"], *group["betas"], group["eps"], group["weight_decay"]), {"t": t}


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
        if not 0.0 <= group["momentum"] < 1.0:
            raise ValueError(f"SGD: momentum must be in [0, 1), got {group['momentum']}")
        if group["nesterov"] and group["momentum"] == 0.0:
            raise ValueError("SGD: nesterov=True needs a momentum above 0")
        return super().checked(group)

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (group["lr"], group["momentum"], group["weight_decay"]), {"nesterov": group["nesterov"]}


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> Any:
    """Multiply the gradients of all params in place by one factor, so that their joint L2 norm is at most max_norm
    (Pascanu et al. 2013, "On the difficulty of training recurrent neural networks"). Returns the norm before clipping,
    a 0-d array on their device. ValueError if max_norm is not positive or no parameter has a gradient."""
    if max_norm <= 0.0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    params = [p for p in params if p.grad is not None]
    if not params:
        raise ValueError("no parameter has a gradient: clip after backward()")
    return executor_of(type(params[0].data), mode().plain).clip([p.grad for p in params], max_norm)


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, max_lr: float, min_lr: float) -> float:
    """The learning rate of a step, counted from 0. The rate rises linearly from max_lr / (warmup_steps + 1) at step 0
    to max_lr at warmup_steps, falls along half a cosine to min_lr at max_steps (Loshchilov & Hutter 2017, "SGDR"), and
    then stays at min_lr. ValueError unless 0 <= warmup_steps < max_steps and 0 <= min_lr <= max_lr."""
    if not 0 <= warmup_steps < max_steps:
        raise ValueError(
            f"warmup_steps {warmup_steps} must be at least 0 and below max_steps {max_steps}: else the rate never falls"
        )
    if not 0.0 <= min_lr <= max_lr:
        raise ValueError(f"min_lr {min_lr} must be between 0 and max_lr {max_lr}")
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    if step >= max_steps:
        return min_lr
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return max_lr - (max_lr - min_lr) * 0.5 * (1.0 - math.cos(math.pi * progress))
