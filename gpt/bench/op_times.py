"""How the time of a step is divided among the ops."""
import contextlib
import time
from itertools import islice
from typing import Any, Iterator

import minigrad as mg
from minigrad.ops.op import Op

from gpt.bench.machine import wait_for
from gpt.bench.presets import Preset, random_batches
from gpt.bench.sides import MinigradSide, stages

STEPS = 5                                       # steps that the table is a mean of


@contextlib.contextmanager
def watched(kind: type) -> Iterator[dict[str, list[float]]]:
    """Inside, every op notes its calls and the seconds of its forwards and backwards: each has a kernel, for arrays of
    this kind, that is what would have run, with a watch."""
    spent: dict[str, list[float]] = {}

    def timed(op: type[Op], kernel: type[Op], method: str, column: int) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            if column == 1:
                self.actual = kernel if getattr(args[0], "size", kernel.least) >= kernel.least else op
                self.fresh, self.adds = self.actual.fresh, self.actual.adds
            result = getattr(self.actual, method)(self, *args, **kwargs)
            wait_for(result)
            row = spent.setdefault(op.name, [0, 0.0, 0.0])
            row[0] += column == 1
            row[column] += time.perf_counter() - start
            return result
        return run

    before = {op: op.kernels for op in mg.OPS.values()}
    for op in before:
        kernel = op.kernels.get(kind, op)
        methods = {m: timed(op, kernel, m, column) for column, m in enumerate(("forward", "backward"), 1)}
        op.kernels = {kind: type(kernel.__name__, (kernel,), {**methods, "least": 0}, register=False)}
    try:
        yield spent
    finally:
        for op, kernels in before.items():
            op.kernels = kernels


def time_ops(side: MinigradSide, p: Preset) -> list[dict[str, Any]]:
    """Milliseconds of a mean step: a row for each op, the slowest first, then two rows for the rest of the step. Their
    sum is the time of the step."""
    seconds = [0.0, 0.0]                        # of the two stages
    with watched(type(side.optimizer.params[0].data)) as spent:
        for x, y in islice(random_batches(p), STEPS):
            for i, stage in enumerate(stages(side, p, x, y)):
                start = time.perf_counter()
                stage()
                seconds[i] += time.perf_counter() - start
    table = sorted(spent.items(), key=lambda item: -item[1][1] - item[1][2])
    rest = seconds[0] - sum(forward + backward for _, (_, forward, backward) in table)
    table += [("clipping and AdamW", [STEPS, seconds[1], 0.0]), ("tape and all else", [STEPS, rest, 0.0])]
    return [{"op": name, "calls": calls // STEPS, "forward_ms": 1e3 * forward / STEPS,
             "backward_ms": 1e3 * backward / STEPS, "share": (forward + backward) / sum(seconds)}
            for name, (calls, forward, backward) in table]
