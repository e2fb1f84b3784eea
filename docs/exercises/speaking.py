"""Exercises of docs/speaking.md.

Grade your answers: python -m minigrad.grade docs/exercises/speaking.py
"""


def top_p(p, limit):
    """The probabilities to sample from (V,), given those of the model.

    p: an array (V,) that sums to 1. limit: in (0, 1]. Kept is the smallest set of most likely tokens whose
    probabilities sum to limit or more; the others get 0, and the result sums to 1. Of equally likely tokens at the edge
    keep as few as needed, whichever.
    """
    raise NotImplementedError


def min_p(p, limit):
    """The probabilities to sample from (V,), given those of the model.

    p: an array (V,) that sums to 1. limit: in [0, 1]. Kept are the tokens with a probability of at least limit times
    that of the likeliest token; the others get 0, and the result sums to 1.
    """
    raise NotImplementedError
