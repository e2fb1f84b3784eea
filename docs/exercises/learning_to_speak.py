"""Exercises of docs/learning_to_speak.md.

Grade your answers: python -m minigrad.grade docs/exercises/learning_to_speak.py
"""


def schedule(step, warmup_steps, max_steps, max_lr, min_lr):
    """The learning rate of a step, counted from 0: up in a line to max_lr at step warmup_steps, then down along half a
    cosine to min_lr at step max_steps, and min_lr after it. The rate of step 0 is above 0."""
    raise NotImplementedError


def accumulation(counts):
    """By what to multiply the mean loss of each micro-batch so that the sum is the mean over all targets.

    counts: a list of the number of counted targets of each micro-batch. Returns as many weights.
    """
    raise NotImplementedError
