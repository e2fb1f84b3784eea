"""Exercises of docs/debugging.md.

Grade your answers: python -m minigrad.grade docs/exercises/debugging.py
"""


def bugs():
    """Where the mistake of each puzzle is. Walk through one with python -m minigrad.step --example bug1

    Returns a dict, "bug1" -> (module, array), and so for bug2 and bug3: the name of the module, as the first line of
    the screen gives it, and the name of the first array in it that is computed wrongly, as the lines call it. A bug
    that you have not found yet is left out.
    """
    raise NotImplementedError
