"""The axes of a step's arrays have names: those of the docstrings, passed along the graph; no name rather than a wrong
one."""
import functools
import json
import re

import numpy as np
import pytest

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, nn
from minigrad.ops.op import OPS, Primitive
from minigrad.step import examples, page, record
from minigrad.step.axes import _reshaped, shape_letters, spelled
from minigrad.step.formula import parse
from minigrad.step.view import view_alone
from minigrad.tape import apply

B, T, C, NH, V = 2, 7, 12, 3, 11                # batch, token, feature, head, vocabulary: all lengths differ
NAMES = {"", "batch", "token", "feature", "head", "vocabulary", "query", "key", "position"}


@functools.cache
def gpt(batch=B, dropout=0.0):
    """The record of a training step of a GPT of one layer, its vocabulary a, b, c, ..."""
    model = GPT(GPTConfig(block_size=9, vocab_size=V, n_layer=1, n_head=NH, n_embd=C, dropout=dropout), dtype="float64")
    idx = np.random.default_rng(0).integers(0, V, (batch, T + 1))
    letters = "abcdefghijk"[:V]
    _, loss = model(idx[:, :-1], idx[:, 1:], key=mg.random.key(0))
    return record(loss, tokens=[letters[i] for i in idx[0, :-1]], vocabulary=letters)


def axes_of(r, op, nth=0):
    """The axes of the arrays of the nth step of an op."""
    return [v for v in r.views if v.op == op][nth].axes


def expected(table):
    """`q, dq: batch head query` one a line, - for no name."""
    found = {}
    for line in table.strip().splitlines():
        names, axes = line.split(": ")
        found |= {name.strip(): tuple("" if a == "-" else a for a in axes.split()) for name in names.split(",")}
    return found


@pytest.mark.parametrize("op, table", [
    ("attention", """
        q, dq, y, dy: batch head query feature
        k, dk, v, dv: batch head key feature
        S, P, A, dA, dP, dS: batch head query key
        Z: batch head query -
        allowed: query key
    """),
    ("layer_norm", """
        x, dx, y, dy, xhat, dxhat, c: batch token feature
        w, dw, b, db: feature
        rstd, std, shift, scale: batch token -
    """),
    ("cross_entropy", """
        logits, dlogits: batch token vocabulary
        z, shifted, p: token vocabulary
        m, total: token -
        t, counted, picked, loss, share: token
    """),
    ("embedding", """
        w, dw: position feature
        y, dy: token feature
        idx: token
    """),
    ("linear", """
        x, dx: batch token feature
        w, dw: feature vocabulary
        y, dy: batch token vocabulary
        x2: token feature
        y:2: token vocabulary
        dy:2: token vocabulary
        db: vocabulary
    """),
    ("split_heads", """
        x, dx: batch token feature
        y0, y1, y2, dy0, dy1, dy2: batch head token feature
        heads: batch - token feature
    """),
    ("merge_heads", """
        x, dx: batch head token feature
        y, dy: batch token feature
    """),
    ("transpose", """
        x, dx: vocabulary feature
        y, dy: feature vocabulary
    """),
    ("gelu", "x, dx, y, dy, t, near, du, slope: batch token feature"),
])
def test_the_axes_of_an_op_in_a_gpt(op, table):
    assert axes_of(gpt(), op) == expected(table)


def test_a_table_that_positions_look_up_has_rows_of_positions_and_the_other_rows_of_the_vocabulary():
    assert axes_of(gpt(), "embedding", 0)["w"] == ("position", "feature")
    assert axes_of(gpt(), "embedding", 1)["w"] == ("vocabulary", "feature")
    assert axes_of(gpt(), "embedding", 1)["y"] == ("batch", "token", "feature")


def test_the_axes_of_the_tiny_example():
    r = examples.tiny()
    assert axes_of(r, "embedding") == expected("""
        w, dw: vocabulary feature
        y, dy: token feature
        idx: token
    """)
    assert axes_of(r, "linear") == expected("""
        x, dx, x2: token feature
        w, dw: feature vocabulary
        b, db: vocabulary
        y, dy: token vocabulary
    """)
    assert axes_of(r, "cross_entropy")["p"] == axes_of(r, "cross_entropy")["dlogits"] == ("token", "vocabulary")
    assert r.labels == {"token": list("banan"), "query": list("banan"), "key": list("banan"),
                        "vocabulary": ["a", "b", "n"]}


@pytest.mark.parametrize("make", [examples.tiny, gpt, lambda: gpt(batch=1), lambda: gpt(dropout=0.1)],
                         ids=["tiny", "gpt", "one row", "dropout"])
def test_each_axis_of_each_array_has_the_length_that_its_name_has_in_the_whole_record(make):
    """An axis of the tokens of all rows of the batch has its name from the token axis."""
    r, lengths = make(), {}
    for v in r.views:
        for name, a in arrays_of(v):
            axes = v.axes[name] if len(v.axes[name]) == a.ndim else v.axes[f"{name}:{a.ndim}"]
            assert len(axes) == a.ndim and set(axes) <= NAMES
            for axis, n in zip(axes, a.shape):
                if axis not in ("", "feature"):
                    lengths.setdefault(axis, set()).add(n)
    batch, (token, *all_rows) = max(lengths.pop("batch", {1})), sorted(lengths.pop("token"))
    assert all_rows == ([batch * token] if batch > 1 else [])
    assert all(len(found) == 1 for found in lengths.values())


def arrays_of(v):
    """(name, array) of everything that a step shows."""
    found = [(x.name, x.value) for x in v.inputs] + [(f"d{x.name}", x.gradient) for x in v.inputs]
    found += [*v.outputs.items(), *v.dys.items(), *v.saved.items()]
    found += [pair for listing in (v.forward, v.backward) for line in listing.lines for pair in line.values.items()]
    return [(name, a) for name, a in found if isinstance(a, np.ndarray) and a.ndim]


def test_attention_that_is_written_by_hand_has_heads_and_tokens():
    rng = np.random.default_rng(0)
    qkv = nn.Linear(C, 3 * C, rng=rng)
    x = nn.Embedding(V, C, rng=rng)(rng.integers(0, V, (B, T)))
    q, k, v = (qkv(x)[..., i * C:(i + 1) * C].reshape(B, T, NH, C // NH).swapaxes(1, 2) for i in range(3))
    p = F.softmax(q @ k.swapaxes(-1, -2), axis=-1)                              # (B, NH, T, T)
    r = record((p @ v).sum())
    assert axes_of(r, "softmax") == expected("""
        x, dx, y, dy, p, e: batch - token token
        row: batch - token -
    """)
    assert axes_of(r, "swapaxes", -1) == expected("""
        x, dx: batch token - -
        y, dy: batch - token -
    """)


def test_tokens_of_all_rows_that_are_merged_into_one_axis_are_tokens():
    rng = np.random.default_rng(0)
    idx = rng.integers(0, V, (B, T))
    logits = nn.Linear(C, V, rng=rng)(nn.Embedding(V, C, rng=rng)(idx)).reshape(-1, V)
    r = record(F.cross_entropy(logits, idx.reshape(-1)))
    assert axes_of(r, "cross_entropy")["dlogits"] == axes_of(r, "reshape")["y"] == ("token", "vocabulary")
    assert axes_of(r, "reshape")["x"] == ("batch", "token", "vocabulary")


@pytest.mark.parametrize("old, new, letters", [
    ((2, 3, 4), (2, 3, 4), "a b c"), ((2, 3, 4), (6, 4), "ab c"), ((2, 3, 4), (2, 12), "a bc"),
    ((2, 3, 4), (24,), "abc"), ((2, 3, 4), (2, 3, 2, 2), "a b - -"), ((2, 4, 3), (4, 2, 3), "- - c"),
    ((1, 3, 4), (3, 4), "b c"), ((1, 3, 4), (1, 3, 2, 2), "a b - -"),
    ((3, 4, 1), (1, 3, 4), "- a b"), ((1, 1, 5), (5, 1), "c -"),
    ((1,), (), ""), ((1, 1), (1,), "a"), ((4, 4), (4, 4), "a b"), ((), (1, 1), "- -")])
def test_a_reshape_keeps_merges_or_splits_axes(old, new, letters):
    found = _reshaped(old, ("a", "b", "c")[:len(old)], new)
    assert [letter.replace(" ", "") or "-" for letter in found] == letters.split()


def small(y):
    """The axes of the op that made y, whose input is token x feature."""
    r = record((y * y).sum())
    return r.views[2].axes


def tokens(n=T):
    rng = np.random.default_rng(1)
    return nn.Embedding(V, C, rng=rng)(rng.permutation(V)[:n])


@pytest.mark.parametrize("function, axes", [
    (lambda x: x[:3], "- feature"),
    (lambda x: x[1:], "- feature"),
    (lambda x: x[::-1], "- -"),
    (lambda x: x[np.arange(T)[::-1].copy()], "- -"),
    (lambda x: x[2], "feature"),
    (lambda x: x[None], "- token feature"),
    (lambda x: x.reshape(T, 4, 3), "token - -"),
    (lambda x: x.reshape(C, T), "- -"),
    (lambda x: x.reshape(-1), "-"),
    (lambda x: x.reshape(1, T, C), "- token feature"),
    (lambda x: x.reshape(T, 1, C, 1), "token - feature -"),
    (lambda x: x.T, "feature token"),
    (lambda x: x.sum(axis=0), "feature"),
    (lambda x: x.mean(axis=1, keepdims=True), "token -"),
    (lambda x: F.concatenate([x, x]), "- feature"),
    (lambda x: F.stack([x, x], axis=1), "token - feature"),
    (lambda x: F.expand_dims(x, 0), "- token feature"),
    (lambda x: x.reshape(1, T, C).squeeze(), "token feature"),
])
def test_the_axes_of_an_output_are_those_of_the_input_that_they_come_from(function, axes):
    assert small(function(tokens()))["y"] == tuple("" if a == "-" else a for a in axes.split())


def test_lengths_that_are_equal_by_chance_are_not_the_same_axis():
    square = lambda: tokens(4) @ Tensor(np.ones((C, 4), np.float32), requires_grad=True)
    assert axes_of(record(F.softmax(square(), axis=0).sum()), "softmax")["p"] == ("token", "")
    assert axes_of(record(square().T.sum()), "transpose")["y"] == ("", "token")


def test_an_op_of_the_readers_own_has_the_names_of_its_docstring():
    class Centre(Primitive, register=False):
        """x (..., C)  ->  y (..., C)

        axes      C feature
        """
        name = "centre"

        def forward(self, x):
            mean = x.mean(-1, keepdims=True)
            return x - mean

        def backward(self, dy):
            rows = dy.mean(-1)
            return dy - rows[..., None]

    assert axes_of(record((apply(Centre, tokens()) ** 2).sum()), "centre") == expected("""
        x, dx, y, dy: token feature
        mean: token -
        rows: token
    """)


def test_an_op_that_refuses_other_lengths_has_the_names_of_its_inputs():
    class Exact(Primitive, register=False):
        """x, w  ->  y"""
        name = "exact"

        def forward(self, x, w):
            if x.shape != (T, C):
                raise RuntimeError("only this shape")
            self.save(x=x, w=w)
            return x @ w

        def backward(self, dy, x, w):
            return dy @ w.T, x.T @ dy

    w = Tensor(np.ones((C, 2), np.float32), requires_grad=True)
    axes = axes_of(record(apply(Exact, tokens(), w).sum()), "exact")
    assert axes["x"] == axes["dx"] == ("token", "feature") and axes["w"] == axes["y"] == ("", "")


def test_a_table_in_whose_order_tokens_stand_by_chance_has_no_name_for_its_rows():
    w = nn.Embedding(4, 3, rng=np.random.default_rng(0))
    logits = w(np.array([0, 1, 2]))
    r = record(logits.sum(), vocabulary="abcd")
    assert axes_of(r, "embedding")["w"] == ("", "feature")


def test_the_page_has_the_axes_of_each_step_and_the_labels_of_the_record():
    text = page.html(examples.tiny())
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)[1])
    assert data["labels"] == examples.tiny().labels
    assert data["steps"][0]["axes"]["dlogits"] == ["token", "vocabulary"]
    assert [step["axes"].keys() for step in data["steps"]] == [v.axes.keys() for v in examples.tiny().views]


def test_a_step_alone_has_the_names_of_its_own_docstring():
    step = next(tokens().sum().backward_steps(until="embedding"))
    assert view_alone(step).axes["dw"] == ("vocabulary", "feature")


def test_a_reshape_of_an_array_without_elements_has_no_names():
    x = Tensor(np.ones((0, 3)), requires_grad=True)
    assert axes_of(record(x.reshape(3, 0).sum()), "reshape")["y"] == ("", "")


def test_a_record_without_tokens_has_names_and_no_labels():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    r = record(F.cross_entropy(x, np.array([0, 2])))
    assert r.labels == {} and axes_of(r, "cross_entropy")["logits"] == ("", "vocabulary")


def test_the_letters_in_a_docstring():
    assert shape_letters("q (..., T, D), k (S, D); mask (T, S), causal  ->  y (..., T)") == (
        {"q": ["...", "T", "D"], "k": ["S", "D"], "mask": ["T", "S"]}, [["...", "T"]])
    assert shape_letters('p, g (...), lr (); t  ->  a, b (...), loss ()') == (
        {"p": ["..."], "g": ["..."], "lr": []}, [["..."], ["..."], []])
    assert shape_letters("x (B, 3 n_head hs); n_head  ->  y") == ({"x": ["B", "3 n_head hs"]}, [])
    assert shape_letters("a, b  ->  y") == shape_letters("") == ({}, [])


def test_three_points_stand_for_any_number_of_axes():
    assert spelled(["...", "T", "D"], 4) == ("...2", "...1", "T", "D")
    assert spelled(["...", "T", "D"], 2) == ("T", "D")
    assert spelled(["...", "T", "D"], 1) == ("D",)
    assert spelled(["..."], 2) == ("...2", "...1") and spelled(["..."], 0) == ()


@pytest.mark.parametrize("name", sorted(OPS.keys() - {"adamw", "sgd"}))
def test_the_words_of_a_docstring_are_for_letters_in_its_shapes(name):
    f = parse(OPS[name])
    given, outputs = shape_letters(f.shapes)
    assert f.axes.keys() <= {letter for letters in [*given.values(), *outputs] for letter in letters}
    assert {word for words in f.axes.values() for word in words} <= NAMES
