"""Steps of an optimizer on the parameters of a record, computed in float64: no parameter changes.

The next step, with the change of the loss that it causes, and how the moments of one weight go on from there.
"""
import math
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import numpy as np

from minigrad.ops.adamw import AdamW
from minigrad.ops.op import input_names
from minigrad.optim import Optimizer
from minigrad.step.formula import Formula, parse
from minigrad.step.line_trace import Listing, trace_lines
from minigrad.step.replay import Replay
from minigrad.step.rerun import new_op, on_host, output_names
from minigrad.step.why import largest_entries
from minigrad.tensor import Tensor

BLOCK = 2 ** 20                                 # elements of a parameter that are updated at once
STEPS = 30                                      # t = 1, 2, ... of OverTime
SHARE = 1e-2                                    # of a step, at which its second-order term is measured
SHOWN = 1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 25, 30             # the t of a table in text


@dataclass(frozen=True)
class ParameterUpdate:
    """An optimizer's update of one parameter, and the change of the loss that it causes. Its float64 arrays are
    computed when they are asked for."""
    leaf: str
    formula: Formula
    norm: float                     # of the change
    picks: list[tuple[int, ...]]    # the elements with the largest gradients
    predicted: float                # sum(gradient * change)
    second_order: float | None      # change^T H change / 2, with the Hessian H; None of a model too large to run for it
    actual: float | None            # change of the loss if only this parameter is updated; None of a very large model
    arrays: list[Any] = field(repr=False)       # p, g and the moments before the step
    t: int
    scale: float                    # that clipping multiplies the gradient by
    steps: "OptimizerSteps" = field(repr=False)

    def lines(self, at: Sequence[tuple[int, ...]] | None = None) -> tuple[dict[str, Any], Listing]:
        """The update of some elements, or of all: the op's inputs by name, p, g, m, v arrays, lr, beta1, ... numbers,
        t; and the lines of its forward with the arrays that they computed."""
        return self.steps.lines(self, at)

    @property
    def given(self) -> dict[str, Any]:
        return self.lines()[0]

    @property
    def listing(self) -> Listing:
        return self.lines()[1]

    @property
    def change(self) -> Any:
        """p_new - p."""
        return self.steps.change(self)


class OptimizerStep(NamedTuple):
    """A whole step of an optimizer."""
    op: str                         # "adamw"
    clip: str                       # what clipping did to the gradients, in words; "" if there was none
    updates: list[ParameterUpdate]
    predicted: float                # sum of the updates' predictions
    second_order: float | None      # of all changes together; None of a very large model
    actual: float | None            # change of the loss if all parameters are updated; None of a very large model

    @property
    def why_not_as_predicted(self) -> str:
        """The difference between the actual and the predicted change, in one sentence; "" if it is not known."""
        if self.actual is None or self.second_order is None:
            return ""
        off = self.actual - self.predicted
        return (f"the tangent predicts {self.predicted:.4g}, the loss changes by {self.actual:.4g}: the difference, "
                f"{off:.4g}, is the curvature along the step, ½ dᵀHd = {self.second_order:.4g}, plus terms of higher "
                f"order, {off - self.second_order:.4g}")


class OverTime(NamedTuple):
    """One weight in steps t = 1, 2, ... of the optimizer, whose moments begin at 0."""
    leaf: str
    at: tuple[int, ...]
    columns: dict[str, list[float]]     # "g", a moment ("m", "v"), "m-hat", "v-hat", "step", ... -> one number per t
    about: str                          # where g comes from, in a sentence

    def __str__(self) -> str:
        """A table in 80 columns, of some t."""
        widths = {name: max(10, len(name) + 2) for name in self.columns}
        head = "".join(f"{name:>{width}}" for name, width in widths.items())
        rows = ["".join(f"{self.columns[name][t - 1]:{width}.3g}" for name, width in widths.items()) for t in SHOWN]
        return "\n".join([f"   t{head}", *(f"{t:4}{row}" for t, row in zip(SHOWN, rows))])


class OptimizerSteps:
    """An optimizer on the parameters of a record.

    leaves: label -> parameter, of those that it updates; values, gradients: label -> array as recorded; max_norm: of
    all gradients together, to which they are clipped, or None. replay: None of a model too large to run it again.
    """

    def __init__(self, optimizer: Optimizer, leaves: Mapping[str, Tensor], values: Mapping[str, Any],
                 gradients: Mapping[str, Any], max_norm: float | None, replay: Replay | None) -> None:
        self.optimizer, self.max_norm, self.replay = optimizer, max_norm, replay
        groups = {id(p): group for group in optimizer.groups for p in group["params"]}
        order = {id(p): k for k, p in enumerate(optimizer.params)}
        labels = sorted((label for label, p in leaves.items() if id(p) in groups), key=lambda x: order[id(leaves[x])])
        self.leaves = {label: leaves[label] for label in labels}
        self.groups = {label: groups[id(p)] for label, p in self.leaves.items()}
        self.values = {label: values[label] for label in labels}
        self.gradients = {label: gradients[label] for label in labels}
        self.is_quick = replay is not None and replay.is_quick

    # ---- the next step ----

    def next(self) -> OptimizerStep:
        """The next step, from the moments that the optimizer has."""
        scale, clip = self._clipped(self.gradients)
        updates, moved = [], {}
        for label, p in self.leaves.items():
            state = self.optimizer.state_of(p)
            arrays = [self.values[label], self.gradients[label],
                      *(np.array(on_host(state[m])) for m in self.optimizer.moments)]
            new = self._new(label, arrays, state["t"] + 1, scale)
            change = new - arrays[0]
            if self.replay:
                moved[id(p)] = new
            updates.append(ParameterUpdate(
                label, parse(self.optimizer.op, self._call(label, arrays, state["t"] + 1)[0]),
                float(np.linalg.norm(change)), largest_entries(arrays[1], 3), float((arrays[1] * change).sum()),
                self._second_order({id(p): new}) if self.is_quick else None,
                self.replay.change({id(p): new}) if self.replay else None, arrays, state["t"] + 1, scale, self))
        return OptimizerStep(self.optimizer.op.name, clip, updates, sum(u.predicted for u in updates),
                             self._second_order(moved), self.replay.change(moved) if self.replay else None)

    def lines(self, u: ParameterUpdate, at: Sequence[tuple[int, ...]] | None) -> tuple[dict[str, Any], Listing]:
        """`ParameterUpdate.lines`."""
        p, g, *moments = [(a if at is None else np.array([a[k] for k in at])).astype(np.float64) for a in u.arrays]
        call, inputs, static = self._call(u.leaf, [p, g * u.scale, *moments], u.t)
        results = output_names(self.optimizer.op, 1 + len(moments))
        return call, trace_lines(self._op().forward, results, *inputs, **static)[1]

    def change(self, u: ParameterUpdate) -> Any:
        """`ParameterUpdate.change`."""
        return self._new(u.leaf, u.arrays, u.t, u.scale) - u.arrays[0]

    def _new(self, label: str, arrays: list[Any], t: int, scale: float) -> Any:
        """A parameter after its next step. arrays: p, g and the moments. In blocks, as the op holds several arrays of
        the size of its inputs."""
        new = np.empty(arrays[0].shape)
        flat, to = [a.reshape(-1) for a in arrays], new.reshape(-1)
        for start in range(0, new.size, BLOCK):
            p, g, *moments = [a[start:start + BLOCK].astype(np.float64) for a in flat]
            _, inputs, static = self._call(label, [p, g * scale, *moments], t)
            to[start:start + BLOCK] = self._op().forward(*inputs, **static)[0]
        return new

    def _call(self, label: str, arrays: list[Any], t: int) -> tuple[dict[str, Any], list[Any], dict[str, Any]]:
        """`_inputs`, and first all of these by name."""
        inputs, static = self._inputs(label, arrays[0], arrays[1], arrays[2:], t)
        return dict(zip(input_names(self.optimizer.op, len(inputs)), inputs)) | static, inputs, static

    def _second_order(self, moved: Mapping[int, Any]) -> float | None:
        """d^T H d / 2 for the step d that leads to `moved`: the second difference of the loss along d. None of a model
        too large to run it again."""
        if self.replay is None:
            return None
        tensors = {id(p): p for p in self.leaves.values()}
        old = {key: on_host(tensors[key]).astype(np.float64) for key in moved}
        above, below = ({key: old[key] + s * (new - old[key]) for key, new in moved.items()} for s in (SHARE, -SHARE))
        return (self.replay.change(above) + self.replay.change(below)) / (2.0 * SHARE ** 2)

    # ---- over time ----

    def over_time(self, picks: Mapping[str, Sequence[tuple[int, ...]]]) -> list[OverTime]:
        """Single weights, label -> indices, in 30 steps from the recorded parameters and from moments of 0.

        The gradients are those of 30 further steps on the recorded batch, with its dropout; of a large model, for which
        these take long, they stay as recorded.
        """
        trained = self.is_quick
        shown = self.leaves if trained else {label: self.leaves[label] for label in picks}
        part: Callable[[str, Any], Any] = (                     # optimizers are elementwise: the shown weights suffice
            lambda label, a: a if trained else np.array([a[at] for at in picks[label]]))
        params = {label: part(label, on_host(p)).astype(np.float64) for label, p in shown.items()}
        moments = {label: [np.zeros_like(p) for _ in self.optimizer.moments] for label, p in params.items()}
        found: dict[tuple[str, tuple[int, ...]], dict[str, list[float]]] = {
            (label, at): {} for label, indices in picks.items() for at in indices}
        gradients, losses, scale = self.gradients, [self.replay.loss] if self.replay else [], 1.0
        for t in range(1, STEPS + 1):                           # `losses` holds that before each step
            scale = self._clipped(gradients)[0] if trained or t == 1 else scale
            for label in shown:
                p, g = params[label], part(label, gradients[label]).astype(np.float64) * scale
                arrays = self._arrays(label, p, g, moments[label], t)
                params[label], moments[label] = p + arrays["step"], [arrays[m] for m in self.optimizer.moments]
                for i, at in enumerate(picks.get(label, ())):
                    for name, a in arrays.items():
                        found[label, at].setdefault(name, []).append(float(a[at if trained else i]))
            if self.replay and trained and t < STEPS:
                loss, by_id = self.replay.gradients({id(self.leaves[label]): p for label, p in params.items()})
                gradients = {label: by_id[id(p)] for label, p in self.leaves.items()}
                losses.append(loss)
        start = "moments of 0" if self.optimizer.moments else "no state"
        about = f"{STEPS} steps of {self.optimizer.op.name}, from these weights and {start}: " + (
            f"g is the gradient of each step on this batch; the loss goes from {losses[0]:.4g} to {losses[-1]:.4g}"
            if trained else "g stays as recorded, as this model is too large to be trained for this picture")
        if issubclass(self.optimizer.op, AdamW):
            beta1, beta2 = self.optimizer.groups[0]["betas"]
            about += (". Uncorrected: the step without m-hat and v-hat, from m and v themselves; at t = 1 it is "
                      f"(1 - beta1) / sqrt(1 - beta2) = {(1.0 - beta1) / math.sqrt(1.0 - beta2):.3g} times the step")
        return [OverTime(label, at, columns, about) for (label, at), columns in found.items()]

    def _arrays(self, label: str, p: Any, g: Any, moments: list[Any], t: int) -> dict[str, Any]:
        """What one step computes: g and the new moments, the step p_new - p; of AdamW also the moments after the
        correction of their bias, and the step without it."""
        inputs, static = self._inputs(label, p, g, moments, t)
        new, *after = self._op().forward(*inputs, **static)
        arrays = {"g": g} | dict(zip(self.optimizer.moments, after))
        if issubclass(self.optimizer.op, AdamW):
            _, beta1, beta2, *_ = inputs[2 + len(moments):]
            uncorrected = self._op().forward(*inputs, t=math.inf)[0]            # beta^t = 0
            arrays |= {"m-hat": arrays["m"] / (1.0 - beta1 ** t), "v-hat": arrays["v"] / (1.0 - beta2 ** t)}
            return arrays | {"step": new - p, "uncorrected": uncorrected - p}
        return arrays | {"step": new - p}

    # ---- both ----

    def _clipped(self, gradients: Mapping[str, Any]) -> tuple[float, str]:
        """What clipping multiplies all gradients by, and a sentence about it; "" without clipping."""
        if not self.max_norm:
            return 1.0, ""
        norm = float(np.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values())))
        scale = min(self.max_norm / (norm + 1e-6), 1.0)
        return scale, f"the gradients' joint norm is {norm:.4g}, the limit {self.max_norm:.4g}: " + (
            f"all are multiplied by {scale:.4g}" if scale < 1.0 else "nothing is clipped")

    def _op(self) -> Any:
        return new_op(self.optimizer.op, ())

    def _inputs(self, label: str, p: Any, g: Any, moments: list[Any], t: int) -> tuple[list[Any], dict[str, Any]]:
        """The inputs and keyword arguments of the optimizer's op in step t."""
        hyper, static = self.optimizer.hyper(self.groups[label], t)
        return [p, g, *moments, *hyper], static
