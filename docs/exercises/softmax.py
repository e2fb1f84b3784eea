"""Exercises of docs/softmax_cross_entropy.md.

Grade your answers: python -m minigrad.grade docs/exercises/softmax.py
"""


def softmax_backward(dy, p, axis):
    """The gradient of x, for p = softmax(x).

    dy: the gradient of p. p: the probabilities, of the same shape, which sum to 1 along axis.
    Returns dx, of the same shape.
    """
    raise NotImplementedError


def log_softmax_backward(dy, y, axis):
    """The gradient of x, for y = log(softmax(x)).

    dy: the gradient of y. y: of the same shape; exp(y) sums to 1 along axis.
    Returns dx, of the same shape. It needs no division.
    """
    raise NotImplementedError


def cross_entropy_z_loss_backward(dy, p, lse, t, weight):
    """The gradient of the logits (N, V), for loss = mean over the N rows of (lse - logits[row, t[row]] + weight lse^2).

    dy: the gradient of the loss, an array of shape (). p: the softmax of each row, (N, V). lse: the logsumexp of each
    row, (N,). t: the targets, integers (N,). weight: a number, the weight of the z-loss.
    Returns dlogits (N, V).
    """
    raise NotImplementedError
