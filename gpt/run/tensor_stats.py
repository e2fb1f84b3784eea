"""Norms of each tensor, its gradient and its update: the rows of stats.jsonl."""
from typing import Any, Iterator

from minigrad import device, nn


def tensor_stats(step: int, parameters: list[nn.Parameter], before: list[Any]) -> Iterator[dict[str, Any]]:
    """For each parameter after an optimizer step: the L2 norms of its weights `before` the step, of its clipped
    gradient, and of the update; and the norm of the update divided by that of the weights."""
    xp = parameters[0].xp
    norms = xp.stack([xp.sqrt((a * a).sum()) for p, w in zip(parameters, before) for a in (w, p.grad, p.data - w)])
    for p, (weight, gradient, update) in zip(parameters, device.host(norms).reshape(-1, 3).tolist()):    # in one copy
        yield {"step": step, "tensor": p.name, "weight_norm": weight, "grad_norm": gradient, "update_norm": update,
               "update_ratio": update / weight if weight else 0.0}
