"""Exercises of docs/gradcheck.md.

Grade your answers: python -m minigrad.grade docs/exercises/gradcheck.py
"""


def numeric_gradient(f, x):
    """The gradient of f at x by central differences.

    f: a function of an array of x's shape that returns a number. x: an array of float64 of any shape, () included; it
    is read-only. Returns an array of the shape of x.
    """
    raise NotImplementedError


def checker(forward, backward, inputs):
    """Whether a backward is right: True or False.

    inputs: a list of read-only arrays of float64. forward(*inputs) returns an array y. For any dy of the shape of y,
    backward(dy, *inputs) returns the gradient of each input of sum(dy * y), as a tuple of arrays.
    """
    raise NotImplementedError
