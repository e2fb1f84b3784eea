"""Learning-rate schedules: all warm up in a line, then come down in a way of their own, or do not."""
from minigrad import optim

SCHEDULES = ("cosine", "linear", "constant", "wsd")
DECAY_SHARE = 0.2                               # of the steps that wsd comes down in (Hägele et al. 2024, section 4)


def learning_rate(schedule: str, step: int, warmup_iters: int, max_iters: int, max_lr: float, min_lr: float) -> float:
    """The rate of a step, counted from 0. All warm up as optim.warmup_cosine does and never exceed max_lr. cosine and
    linear fall from there to min_lr at max_iters; constant stays; wsd (warmup, stable, decay) stays, and falls in a
    line over the last fifth of the run."""
    if schedule == "cosine" or step < warmup_iters:
        return optim.warmup_cosine(step, warmup_iters, max_iters, max_lr, min_lr)
    start = decay_start(schedule, warmup_iters, max_iters)
    if step <= start or schedule == "constant":
        return max_lr
    return max_lr - (max_lr - min_lr) * min((step - start) / (max_iters - start), 1.0)


def decay_start(schedule: str, warmup_iters: int, max_iters: int) -> int:
    """The last step before the rate falls; max_iters where it never does."""
    if schedule == "wsd":
        return max(warmup_iters, int((1.0 - DECAY_SHARE) * max_iters))
    return max_iters if schedule == "constant" else warmup_iters
