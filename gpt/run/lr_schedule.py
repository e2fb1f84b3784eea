"""Learning-rate schedules: a linear warmup, then cosine, linear, constant or wsd."""
from minigrad import optim

SCHEDULES = ("cosine", "linear", "constant", "wsd")
DECAY_SHARE = 0.2                               # of all steps, for the decay of wsd (Hägele et al. 2024, section 4)


def learning_rate(schedule: str, step: int, warmup_iters: int, max_iters: int, max_lr: float, min_lr: float) -> float:
    """The learning rate of a step, counted from 0. All schedules warm up like optim.warmup_cosine to max_lr. After that
    cosine and linear fall to min_lr at max_iters; constant stays at max_lr; wsd (warmup, stable, decay) stays and falls
    linearly to min_lr over the last fifth of the run."""
    if schedule == "cosine" or step < warmup_iters:
        return optim.warmup_cosine(step, warmup_iters, max_iters, max_lr, min_lr)
    start = decay_start(schedule, warmup_iters, max_iters)
    if step <= start or schedule == "constant":
        return max_lr
    return max_lr - (max_lr - min_lr) * min((step - start) / (max_iters - start), 1.0)


def decay_start(schedule: str, warmup_iters: int, max_iters: int) -> int:
    """The last step before the rate falls; max_iters if it never falls."""
    if schedule == "wsd":
        return max(warmup_iters, int((1.0 - DECAY_SHARE) * max_iters))
    return max_iters if schedule == "constant" else warmup_iters
