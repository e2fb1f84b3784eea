"""How the time of a step is divided among the ops."""
import contextlib
import time
from itertools import islice
from typing import Any, Callable, Iterator, cast

from minigrad.executor import Executor, executor_of
from minigrad.ops.op import Op

from gpt.bench.presets import Preset, random_batches
from gpt.bench.sides import MinigradSide, running, stages

STEPS = 5                                       # steps that the table is a mean of
Spent = dict[str, list[float]]                  # name of an op -> calls, seconds forward, seconds backward


class Stopwatch:
    """In the place of an executor: it does the same, and adds up how long each op takes."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.spent = executor, Spent()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.executor, name)     # all that is not timed

    def forward(self, op_class: type[Op], *args: Any) -> tuple[Op, Any]:
        row = self.spent.setdefault(op_class.name, [0, 0.0, 0.0])
        row[0] += 1
        return self.timed(row, 1, self.executor.forward, op_class, *args)

    def backward(self, op: Op, *args: Any) -> Any:
        return self.timed(self.spent[op.name], 2, self.executor.backward, op, *args)

    def timed(self, row: list[float], column: int, run: Callable[..., Any], *args: Any) -> Any:
        start = time.perf_counter()
        result = run(*args)
        self.executor.synchronize()
        row[column] += time.perf_counter() - start
        return result


@contextlib.contextmanager
def watched(array_type: type) -> Iterator[Spent]:
    """Inside, the ops on arrays of this type are timed."""
    stopwatch = Stopwatch(executor_of(array_type, plain=False))
    with running(cast(Executor, stopwatch), array_type):
        yield stopwatch.spent


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
