"""Exercises of docs/from_gpt2.md.

Grade your answers: python -m minigrad.grade docs/exercises/from_gpt2.py
"""


def completion_targets(prompt, completion):
    """The inputs and targets x, y (T,) of a prompt and its completion, T = len(prompt) + len(completion) - 1.

    prompt, completion: arrays of token numbers (n,) and (m,), n, m >= 1. y is the token after each of x where that is
    a token of the completion, and -100, which the loss does not count, where it is one of the prompt.
    """
    raise NotImplementedError


def lora_gradients(x, A, B, dy, s):
    """dA (I, R) and dB (R, O), the gradients of A and B in y = x @ W + s * (x @ A) @ B.

    x: (N, I). A: (I, R). B: (R, O). dy: (N, O), the gradient of y. s: a number.
    """
    raise NotImplementedError
