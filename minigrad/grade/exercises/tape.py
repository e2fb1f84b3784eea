"""accumulate: the sum of what each use of a value contributes. topological: the order in which backwards can run."""
from typing import Any, Callable

import numpy as np

from minigrad.grade.answer import array, call, refuse
from minigrad.grade.verdict import Wrong, must
from minigrad.words import plural

LONG = 10_000                       # nodes of a chain: more than Python's limit of recursion


def grade_accumulate(mine: Callable[..., Any]) -> None:
    """mine(contributions): name -> whole gradient."""
    rng = np.random.default_rng(0)
    for uses in ("x", "xwx", "wbwbw", "axax"):
        given = [(name, rng.normal(size={"x": (2, 3), "w": (4,), "b": (), "a": (2, 3)}[name])) for name in uses]
        try:
            grads = call(mine, given)
        except Wrong as wrong:
            must("writes into an array" not in str(wrong),
                 "it adds in place, into an array of contributions. After y = a + x, a and x are given one array: += "
                 "on the gradient of a changes that of x. Make a new array: grads[name] + dx")
            raise
        if not isinstance(grads, dict):
            refuse(grads, "the result", "should be a dict of name -> array")
        must(set(grads) == set(uses), f"uses of {', '.join(uses)}: the dict has the names {sorted(map(str, grads))}")
        for name in sorted(set(uses)):
            _compare(name, grads[name], [dx for n, dx in given if n == name])


def _compare(name: str, got: Any, parts: list[Any]) -> None:
    """Wrong unless got is the sum of the parts."""
    want, uses = sum(parts), f"{name} is used {plural(len(parts), 'time')}"
    got = array(got, np.shape(want), f"the gradient of {name}")
    if not np.allclose(got, want):
        must(not np.allclose(got, parts[-1]), f"{uses}, and its gradient is that of the last use alone: each use must "
                                              "be added, not replace what is there")
        must(not np.allclose(got, parts[0]), f"{uses}, and its gradient is that of the first use alone: add the others")
        must(not np.allclose(got, want / len(parts)), f"{uses}, and its gradient is the mean of the uses: it is their "
                                                      "sum")
        raise Wrong(f"  {uses}: its gradient is not the sum of the contributions")


def grade_topological(mine: Callable[..., Any]) -> None:
    """mine(root, parents): all nodes from the root to the leaves, each after all nodes that were computed from it."""
    graphs: list[tuple[str, dict[Any, list[Any]]]] = [
        ("a leaf", {"x": []}),
        ("a chain, y from b from a from x", {"y": ["b"], "b": ["a"], "a": ["x"], "x": []}),
        ("y = x * x", {"y": ["x", "x"], "x": []}),
        ("y from a and b, both from s", {"y": ["a", "b"], "a": ["s"], "b": ["s"], "s": ["x"], "x": []}),
        ("a diamond with one longer arm", {"y": ["s", "a"], "a": ["b"], "b": ["s"], "s": ["x"], "x": []}),
        ("a diamond with one longer arm, first", {"y": ["a", "s"], "a": ["b"], "b": ["s"], "s": ["x"], "x": []}),
        ("30 diamonds, one after the other", _diamonds(30)),
        (f"a chain of {LONG:,} nodes", {LONG - k: [LONG - k - 1] for k in range(LONG)} | {0: []})]
    for what, graph in graphs:
        _grade_order(mine, what, graph)


def _grade_order(mine: Callable[..., Any], what: str, graph: dict[Any, list[Any]]) -> None:
    asked, enough = 0, 100 * len(graph)

    def parents(node: Any) -> list[Any]:
        nonlocal asked
        asked += 1
        if asked > enough:
            raise RuntimeError("parents was called too often")
        return list(graph[node])

    root = next(iter(graph))
    try:
        order = call(mine, root, parents)
    except Wrong as wrong:
        must(asked <= enough, f"{what}: parents was called {enough:,} times for {len(graph)} nodes. A walk along every "
                              "path takes forever: remember which nodes were visited")
        must("RecursionError" not in str(wrong), f"{what}: RecursionError, as Python ends a recursion at a depth of "
                                                 "about 1,000. Keep the nodes to visit in a list of your own")
        raise Wrong(f"  input   {what}\n{wrong}") from None
    if not isinstance(order, (list, tuple)):
        refuse(order, f"{what}: the result", "should be a list of nodes")
    short = f" {' '.join(map(str, order))}" if len(graph) < 10 else ""
    place: dict[Any, int] = {}
    for i, node in enumerate(order):
        must(isinstance(node, type(root)) and node in graph, f"{what}: the list has {node!r}, which is no node")
        must(node not in place, f"{what}:{short} has the node {node} twice: its backward would run twice")
        place[node] = i
    missing = [node for node in graph if node not in place]
    must(not missing, f"{what}:{short} lacks {len(missing)} of {len(graph)} nodes, {missing[:1]} for example")
    must(order[0] == root or len(order) == 1 or order[-1] != root,
         f"{what}:{short} begins at the leaves: a backward begins at the root; reverse the list")
    for node, ps in graph.items():
        for p in ps:
            must(place[p] > place[node], f"{what}:{short} has {p} before {node}, which uses it: when the backward of "
                                         f"{p} runs, the gradient from {node} has not arrived")


def _diamonds(n: int) -> dict[Any, list[Any]]:
    """n diamonds, each on top of the next: 2^n paths."""
    graph: dict[Any, list[Any]] = {}
    for k in range(n):
        graph |= {f"s{k}": [f"a{k}", f"b{k}"], f"a{k}": [f"s{k + 1}"], f"b{k}": [f"s{k + 1}"]}
    return graph | {f"s{n}": []}


EXERCISES = {"accumulate": grade_accumulate, "topological": grade_topological}
