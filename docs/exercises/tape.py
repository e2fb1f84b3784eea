"""Exercises of docs/tape.md.

Grade your answers: python -m minigrad.grade docs/exercises/tape.py
"""


def accumulate(contributions):
    """The whole gradient of each name.

    contributions: a list of pairs (name, array), in the order in which a backward computes them. A name stands in it
    once for each use of its value, always with arrays of one shape. One array may stand in several pairs, as the
    backward of an addition passes the array that it was given on to both terms; no array may be changed.
    Returns a dict, name -> array.
    """
    raise NotImplementedError


def topological(root, parents):
    """root and all nodes that it was computed from, each once, in an order in which their backwards can run: each node
    after all nodes that were computed from it, so root comes first.

    parents: a function; parents(node) is the list of the nodes that a node was computed from, empty for a leaf. A node
    that was used twice, as in x * x, stands in the list twice. Nodes can be kept in a set and be the keys of a dict.
    Returns a list.
    """
    raise NotImplementedError
