"""Exercises of docs/tokens.md.

Grade your answers: python -m minigrad.grade docs/exercises/tokens.py
"""


def batch(tokens, block_size, rows, rng):
    """Windows of a text from random starts, as x and y (rows, block_size); y is the token after each of x.

    tokens: an array (N,) of integers, N > block_size. rng: an np.random.Generator. The start of each row is drawn
    anew, so that windows may repeat, and every window that lies in the text is as likely as any other.
    """
    raise NotImplementedError


def bits_per_byte(losses, text):
    """The loss of a text in bits per byte of its UTF-8.

    losses: an array (n,), the loss of each token of the text in nats. n is the number of tokens, whatever a token is.
    """
    raise NotImplementedError
