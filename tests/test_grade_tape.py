"""The graders of the exercises of docs/tape.md: right answers, and what is said about wrong ones."""
import numpy as np
import pytest

from minigrad.grade import check


def said(exercise, mine):
    verdict = check(exercise, mine)
    assert verdict.verdict == "wrong"
    return verdict.explanation


# ---- accumulate ----

def sums(contributions):
    grads = {}
    for name, dx in contributions:
        grads[name] = grads[name] + dx if name in grads else dx
    return grads


def replaces(contributions):
    return dict(contributions)


def keeps_the_first(contributions):
    grads = {}
    for name, dx in contributions:
        grads.setdefault(name, dx)
    return grads


def averages(contributions):
    return {name: np.mean([dx for n, dx in contributions if n == name], axis=0) for name, _ in contributions}


def adds_in_place(contributions):
    grads = {}
    for name, dx in contributions:
        if name in grads:
            grads[name] += dx
        else:
            grads[name] = dx
    return grads


def sums_each_array(contributions):
    return {name: float(np.sum(dx)) for name, dx in contributions}


def test_the_sum_of_the_contributions_is_right():
    assert check("accumulate", sums)


@pytest.mark.parametrize("mine, words", [
    (replaces, "the last use alone"), (keeps_the_first, "the first use alone"), (averages, "the mean of the uses"),
    (adds_in_place, "changes that of x"),
    (sums_each_array, "the gradient of x is a float, should be an array of shape (2, 3)"),
    (lambda contributions: None, "the result is None: is a `return` missing?"),
    (lambda contributions: [], "the result is a list, should be a dict"),
    (lambda contributions: {}, "the dict has the names []"),
    (lambda contributions: {"x": "no"}, "the gradient of x is a str, should be an array"),
    (lambda contributions: {n: np.full_like(dx, np.nan) for n, dx in contributions}, "6 of 6 entries are NaN"),
    (lambda contributions: {n: dx + 1.0 for n, dx in contributions}, "not the sum"),
    (lambda: {}, "raised TypeError"),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_wrong_accumulate_is_told_its_mistake(mine, words):
    assert words in said("accumulate", mine)


# ---- topological ----

def kahn(root, parents):
    """Counts the uses of each node; a node comes when all its uses have come."""
    uses, stack = {root: 0}, [root]
    while stack:
        for p in parents(stack.pop()):
            if p not in uses:
                stack.append(p)
            uses[p] = uses.get(p, 0) + 1
    order, ready = [], [root]
    while ready:
        order.append(ready.pop())
        for p in parents(order[-1]):
            uses[p] -= 1
            if not uses[p]:
                ready.append(p)
    return order


def preorder(root, parents):
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        if node not in order[-200:] and node not in order:
            order.append(node)
            stack += reversed(parents(node))
    return order


def breadth_first(root, parents):
    order = [root]
    for node in order:
        order += [p for p in dict.fromkeys(parents(node)) if p not in order]
    return order


def recursive(root, parents):
    order, seen = [], set()

    def visit(node):
        if node not in seen:
            seen.add(node)
            for p in parents(node):
                visit(p)
            order.append(node)
    visit(root)
    return order[::-1]


def without_seen(root, parents):
    order = []

    def visit(node):
        for p in parents(node):
            visit(p)
        if node not in order:
            order.append(node)
    visit(root)
    return order[::-1]


def every_path(root, parents):
    return [root, *(node for p in parents(root) for node in every_path(p, parents))]


def test_an_order_by_counted_uses_is_right():
    assert check("topological", kahn)


@pytest.mark.parametrize("mine, words", [
    (preorder, "y a s x b has s before b, which uses it"), (breadth_first, "has s before b, which uses it"),
    (recursive, "a chain of 10,000 nodes: RecursionError"), (without_seen, "remember which nodes were visited"),
    (every_path, "has the node x twice"), (lambda root, parents: kahn(root, parents)[::-1], "reverse the list"),
    (lambda root, parents: [root], "lacks 3 of 4 nodes"), (lambda root, parents: None, "None: is a `return` missing?"),
    (lambda root, parents: "yabsx", "the result is a str, should be a list of nodes"),
    (lambda root, parents: [[root]], "which is no node"),
    (lambda root, parents: [np.nan], "which is no node"), (lambda root: [root], "raised TypeError"),
], ids=lambda x: getattr(x, "__name__", None))
def test_a_wrong_topological_is_told_its_mistake(mine, words):
    assert words in said("topological", mine)
