"""Exercises of docs/optimizers.md.

Grade your answers: python -m minigrad.grade docs/exercises/optimizers.py
"""


def adamw_step(p, g, m, v, t, lr, beta1, beta2, eps, weight_decay):
    """Step t of AdamW: the new p, m and v, a tuple of three new arrays.

    p: parameter, g: its gradient, m, v: its moments, all of one shape; m and v are 0 before the first step, t = 1.
    m averages the gradients with beta1, v their squares with beta2. The moments that are returned are not corrected for
    their start at 0; those in the step are. weight_decay shrinks p itself, by lr * weight_decay of it.
    """
    raise NotImplementedError


def lion_step(p, g, m, lr, beta1, beta2, weight_decay):
    """A step of Lion (Chen et al. 2023): the new p and m, a tuple of two new arrays.

    p: parameter, g: its gradient, m: its memory, all of one shape; m is 0 before the first step. Every weight moves by
    lr against the sign of beta1 m + (1 - beta1) g, where the sign of 0 is 0. After that m averages the gradients with
    beta2. weight_decay is that of AdamW.
    """
    raise NotImplementedError
