"""Exercise of docs/break_it.md.

Grade your answer: python -m minigrad.grade docs/exercises/break_it.py
"""


def match_curves():
    """The mistake of each of the six curves of the chapter's first picture: a dict {"A": name, ..., "F": name}.

    The names are no-mask, mask-ahead, y-is-x, no-zero-grad, no-residual and no-layer-norm, each once.
    """
    raise NotImplementedError
