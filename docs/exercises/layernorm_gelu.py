"""Exercises of docs/layernorm_gelu.md.

Grade your answers: python -m minigrad.grade docs/exercises/layernorm_gelu.py
"""


def layer_norm_backward(dy, xhat, rstd, w):
    """The gradients of x (..., C), w (C,) and b (C,), for y = xhat * w + b, where xhat = (x - mean) * rstd in each row.

    dy: the gradient of y, (..., C). xhat (..., C): each row has mean 0 and mean square 1. rstd: (..., 1).
    Returns dx (..., C), dw (C,), db (C,).
    """
    raise NotImplementedError


def rms_norm_backward(dy, xhat, r, w):
    """The gradients of x (..., C) and w (C,), for y = xhat * w, where xhat = x * r in each row.

    dy: the gradient of y, (..., C). xhat (..., C): each row has mean square 1, but its mean is not 0.
    r: 1 / sqrt(mean(x^2) + eps) of each row, (..., 1).
    Returns dx (..., C), dw (C,).
    """
    raise NotImplementedError


def swiglu_backward(dy, x, gate, s):
    """The gradients of x and gate, for y = x * gate * s, elementwise, where s = 1 / (1 + exp(-gate)).

    dy, x, gate, s: arrays of one shape. Returns dx, dgate, of this shape.
    """
    raise NotImplementedError
