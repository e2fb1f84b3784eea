"""Exercises of docs/attention.md.

Grade your answers: python -m minigrad.grade docs/exercises/attention.py
"""


def attention_backward(dy, q, k, v, P, keep, dropout, scale):
    """The gradients of q, k and v, for y = A v, where P is the softmax of each row of scale q k^T, and A is P or, with
    dropout, P * keep / (1 - dropout).

    dy: the gradient of y, (..., T, E). q: (..., T, D). k: (..., S, D). v: (..., S, E). P: the weights of the S keys for
    each of the T queries, (..., T, S), which are 0 where a query may not attend. scale: a number, 1 / sqrt(D).
    keep: None, or booleans (..., T, S), which weights dropout keeps. dropout: a number, 0 if keep is None.
    Returns dq, dk, dv, of the shapes of q, k, v. Leading axes such as batch and head stay apart.
    """
    raise NotImplementedError


def sloped_attention_backward(dy, q, k, v, slope, P, distance, scale):
    """The gradients of q, k, v and slope, for y = P v, where P is the softmax of each row of
    S = scale q k^T - slope * distance, with S = -inf where the key comes after the query.

    dy: the gradient of y, (..., H, T, E). q, k: (..., H, T, D). v: (..., H, T, E). slope: a number for each of the H
    heads, (H,). P: (..., H, T, T), 0 where the key comes after the query. distance: (T, T), t - s for query t and
    key s. scale: a number, 1 / sqrt(D).
    Returns dq, dk, dv, dslope, of the shapes of q, k, v, slope. A slope is shared by everything on the leading axes.
    """
    raise NotImplementedError
