"""Exercises of docs/linear.md.

Grade your answers: python -m minigrad.grade docs/exercises/linear.py
"""


def matmul_backward(dy, a, b):
    """The gradients of a and b, for y = a @ b.

    a: (..., n, k). b: (..., k, m). dy: the gradient of y, (..., n, m). Leading axes broadcast: your gradients may keep
    the axes of dy, and the grader sums over the copies. If a has one axis, (k,), it is a row, and y and dy do not have
    the axis n; if b has one axis, (k,), it is a column, and y and dy do not have the axis m.
    Returns da, db.
    """
    raise NotImplementedError


def embedding_backward(dy, idx, shape):
    """The gradient of the table w, for y = w[idx].

    idx: token numbers, integers of any shape (...), also (); a token may come several times. shape: that of w, (V, C).
    dy: the gradient of y, (..., C).
    Returns dw (V, C), which is 0 in the rows of tokens that do not come.
    """
    raise NotImplementedError


def window_sum_backward(dy, x, weight):
    """The gradients of x and weight, for y[t] = sum over j of weight[j] * x[t - j], j = 0 .. W - 1, where x is 0 before
    the first token.

    x: (..., T). weight: (W,), with W <= T. dy: the gradient of y, (..., T).
    Returns dx (..., T), dweight (W,).
    """
    raise NotImplementedError
