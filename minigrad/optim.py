"""Optimizers, whose steps are the forwards of the ops adamw and sgd; gradient clipping; a learning-rate schedule."""
import math
from itertools import accumulate, groupby
from typing import Any, Iterable

from minigrad.executor import executor_of
from minigrad.modes import mode
from minigrad.ops import adamw as ops
from minigrad.ops.op import Op
from minigrad.tensor import Tensor


class Optimizer:
    """Groups of parameters, each with its own hyper-parameters, and a state for every parameter.

    params: Tensors, or a dict {"params": Tensors, hyper-parameter: value, ...} for each group. The values in `groups`
    may be changed between steps. TypeError for what is no leaf Tensor with requires_grad, ValueError for a parameter
    given twice, an unknown hyper-parameter or one out of range.
    """
    op: type[Op]
    moments: tuple[str, ...]                    # names of the state arrays, in the order of the op's inputs

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
        self.state: dict[int, dict[str, Any]] = {}      # id of a parameter -> t and its moments

    def checked(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group. ValueError for a hyper-parameter out of range."""
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
        """Update every parameter that has a gradient."""
        for group in self.groups:
            for members in self.runs(group):
                states = [self.state_of(p) for p in members]
                at = slice(states[0]["at"].start, states[-1]["at"].stop)
                hyper, static = self.hyper(group, states[0]["t"])
                run = executor_of(type(members[0].data), mode().plain)
                run.update(self.op, [p.data for p in members], [p.grad for p in members],
                           [m[at] for m in states[0]["flat"]], hyper, static)
                for p in members:
                    p.changed()

    def runs(self, group: dict[str, Any]) -> list[list[Tensor]]:
        """The parameters of a group that have a gradient, their t increased by 1, in runs of equal t whose moments lie one
        after the other in memory: each run is one update."""
        runs: list[list[Tensor]] = []
        before: dict[str, Any] = {}
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
        """The state of a parameter: t, the number of its steps so far, and its moments, zeros before the first. The
        moments are views: those of all parameters of a group lie one after the other in the arrays `flat`, its own at
        the slice `at`."""
        if id(p) not in self.state:
            group = next(group["params"] for group in self.groups if any(p is q for q in group["params"]))
            for _, alike in groupby(group, lambda q: (q.device, q.dtype)):
                self.allocate([q for q in alike if id(q) not in self.state])
        return self.state[id(p)]

    def allocate(self, members: list[Tensor]) -> None:
        """Make the state of parameters of one dtype on one device, before their first step."""
        ends = list(accumulate(p.size for p in members))
        flat = [members[0].xp.zeros(ends[-1], members[0].dtype) for _ in self.moments] if members else []
        for p, end in zip(members, ends):
            at = slice(end - p.size, end)
            self.state[id(p)] = {"t": 0, "flat": flat, "at": at,
                                 **{m: a[at].reshape(p.shape) for m, a in zip(self.moments, flat)}}

    def hyper(self, group: dict[str, Any], t: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the op takes after the parameter, its gradient and the moments: further inputs, and keyword arguments."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Copies on the host: under "t" and under the name of each moment a list with an entry for each parameter."""
        states = [self.state_of(p) for p in self.params]
        return {"t": [s["t"] for s in states], **{m: [Tensor(s[m]).numpy() for s in states] for m in self.moments}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what state_dict returned, for the same parameters in the same order. ValueError if it does not fit."""
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
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019); see the op of that name for the formulas."""
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
    """Gradient descent with momentum, Nesterov's form on request, and L2 weight decay."""
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
    """Scale all gradients in place by one factor, so that their joint L2 norm is at most max_norm (Pascanu et al. 2013).
    Returns the norm before clipping, a 0-d array that stays on the device. ValueError for a max_norm that is not
    positive, or if no parameter has a gradient."""
    if max_norm <= 0.0:
        raise ValueError(f"max_norm must be positive, got {max_norm}")
    params = [p for p in params if p.grad is not None]
    if not params:
        raise ValueError("no parameter has a gradient: clip after backward()")
    return executor_of(type(params[0].data), mode().plain).clip([p.grad for p in params], max_norm)


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, max_lr: float, min_lr: float) -> float:
    """The learning rate of a step, counted from 0. It rises linearly, from above 0, to max_lr at warmup_steps, falls along
    half a cosine to min_lr at max_steps (Loshchilov & Hutter 2017, "SGDR"), and stays there. ValueError unless
    0 <= warmup_steps < max_steps and 0 <= min_lr <= max_lr."""
    if not 0 <= warmup_steps < max_steps:
        raise ValueError(
            f"warmup_steps {warmup_steps} must be at least 0 and below max_steps {max_steps}: else the rate would "
            "never come down"
        )
    if not 0.0 <= min_lr <= max_lr:
        raise ValueError(f"min_lr {min_lr} must be between 0 and max_lr {max_lr}")
    if step < warmup_steps:
        return max_lr * (step + 1) / (warmup_steps + 1)
    if step >= max_steps:
        return min_lr
    progress = (step - warmup_steps) / (max_steps - warmup_steps)
    return max_lr - (max_lr - min_lr) * 0.5 * (1.0 - math.cos(math.pi * progress))
