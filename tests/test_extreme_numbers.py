"""Extreme numbers: infinities, NaN, huge and tiny ones, signed zeros, empty axes, sums of very many, float16.

A result that its dtype can represent is right, even if intermediate values could overflow or underflow; a result beyond
the range of the dtype is infinite; a result is NaN only if an input is NaN or if it is not defined. Elements that do
not count (an ignored row, a masked pair, a dropped element, the branch not chosen) have no influence, even if they are
NaN. This holds for kernels, for the textbook and for decompositions, without a warning where the result is finite.
"""
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.kernels.vector import settings as kernel_settings
from minigrad.modes import switch
from minigrad.ops.sums import unbroadcast
from minigrad.random import Key

pytestmark = pytest.mark.usefixtures("with_kernels")
inf, nan = math.inf, math.nan
EPS = {"float16": 1e-3, "float32": 1.2e-7, "float64": 2.3e-16}
WAYS = {"kernel": dict(plain=False, unfused=False), "textbook": dict(plain=True, unfused=False),
        "composed": dict(plain=False, unfused=True)}
every_way = pytest.mark.parametrize("way", WAYS)
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def run(way, function, *arrays, dtype="float64", dy=1.0):
    """The output of a function for arrays of this dtype, and the gradient of each for dy, repeated to y's shape."""
    xs = [Tensor(np.array(a, dtype), requires_grad=True) for a in arrays]
    with switch(**WAYS[way]):
        y = function(*xs)
        y.backward(np.broadcast_to(np.asarray(dy, dtype), y.shape).copy())
    assert y.dtype == dtype and all(x.grad.dtype == dtype for x in xs)
    return y.data, [x.grad for x in xs]


def close(got, want, rtol):
    np.testing.assert_allclose(got, want, rtol=rtol, atol=0.0)


class Row(NamedTuple):
    """One call: its value and slopes, that is the gradients for dy = 1."""
    reason: str
    function: Any
    inputs: tuple[Any, ...]
    value: Any
    slopes: tuple[Any, ...]
    dtypes: str = "float32 float64"
    rtol: float = 16.0                          # in units of the dtype's eps


def softmax64(x):
    """In float64, of rows with any number of -inf."""
    e = np.exp(np.asarray(x) - np.max(x))
    return e / e.sum()


P = softmax64([1.0, 2.0])
COUNT_1 = np.array([1, -100])                   # the second target is ignored
LOSS = -math.log(P[1])
NAN_ROW = [[1.0, 2.0, -inf], [nan, inf, -inf]]
FAR_LEFT = 1.0 / (1.0 + np.exp([20.0, 36.0, 80.0]))

ROWS = [
    # ---- elementwise
    Row("relu of NaN is NaN", F.relu, ([nan, -1.0, 0.0, 2.0],), [nan, 0.0, 0.0, 2.0],
        ([1.0, 0.0, 0.0, 1.0],)),
    Row("relu of infinities", F.relu, ([inf, -inf],), [inf, 0.0], ([1.0, 0.0],)),
    Row("gelu of huge numbers: the cube overflows, the value and the slope do not", F.gelu,
        ([1e14, 1e30, inf, -1e14, -1e30, -inf, 11.0, -11.0],), [1e14, 1e30, inf, 0.0, 0.0, 0.0, 11.0, 0.0],
        ([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 0.0],)),
    Row("gelu of NaN is NaN", F.gelu, ([nan, 0.0],), [nan, 0.0], ([nan, 0.5],)),
    Row("gelu of tiny numbers is x / 2", F.gelu, ([1e-30, -1e-30],), [5e-31, -5e-31], ([0.5, 0.5],)),
    Row("sigmoid far left is exp(x), and its slope too", F.sigmoid, ([-20.0, -36.0, -80.0],),
        FAR_LEFT, (FAR_LEFT * (1.0 - FAR_LEFT),)),
    Row("sigmoid(-100) is subnormal in float32", F.sigmoid, ([-100.0],), [math.exp(-100)], ([math.exp(-100)],),
        "float32", 2e5),
    Row("sigmoid(-700)", F.sigmoid, ([-700.0],), [math.exp(-700)], ([math.exp(-700)],), "float64"),
    Row("sigmoid far right: 1 - y is exp(-x)", F.sigmoid, ([20.0, 80.0],), [1.0, 1.0], (np.exp([-20.0, -80.0]),),
        rtol=5e9),
    Row("sigmoid far right: its slope", F.sigmoid, ([80.0],), [1.0], ([math.exp(-80)],)),
    Row("sigmoid of infinities", F.sigmoid, ([inf, -inf, 1e30, -1e30],), [1.0, 0.0, 1.0, 0.0], ([0.0] * 4,)),
    Row("log(sigmoid(x)) far left is x", lambda x: F.log(F.sigmoid(x)), ([-20.0, -80.0],),
        [-20.0 - math.log1p(math.exp(-20)), -80.0], ([1.0 - FAR_LEFT[0], 1.0],)),
    Row("tanh where it is 1 to all digits: the slope is 4 exp(-2x)", F.tanh, ([20.0, -30.0, inf, -inf, 1e30],),
        [1.0, -1.0, 1.0, -1.0, 1.0], ([4 * math.exp(-40), 4 * math.exp(-60), 0.0, 0.0, 0.0],)),
    Row("tanh of tiny numbers is x", F.tanh, ([1e-30],), [1e-30], ([1.0],)),
    Row("exp of -inf", F.exp, ([-inf, -1e30],), [0.0, 0.0], ([0.0, 0.0],)),
    Row("log of inf and of tiny numbers", F.log, ([inf, 1e-30],), [inf, math.log(1e-30)], ([0.0, 1e30],)),
    Row("sqrt of inf and of tiny numbers", F.sqrt, ([inf, 1e-30],), [inf, 1e-15], ([0.0, 0.5e15],)),
    Row("abs: signed zeros, infinities", F.abs, ([-0.0, 0.0, -inf, inf, -1e30],), [0.0, 0.0, inf, inf, 1e30],
        ([0.0, 0.0, -1.0, 1.0, -1.0],)),
    Row("x ** 0 is 1, also of 0, inf and NaN, and does not depend on x", lambda x: x ** 0.0,
        ([0.0, -2.0, inf, nan],), [1.0] * 4, ([0.0] * 4,)),
    Row("integer powers of 0 and of negative numbers", lambda x: F.pow(x, np.array([2.0, 3.0, 1.0, -1.0], x.dtype)),
        ([0.0, -2.0, 0.0, -4.0],), [0.0, -8.0, 0.0, -0.25], ([0.0, 12.0, 1.0, -0.0625],)),
    Row("the slope in the exponent of powers of 0, of negative numbers and of inf is 0",
        lambda p: F.pow(Tensor(np.array([0.0, -2.0, inf], p.dtype)), p), ([2.0, 2.0, -1.0],), [0.0, 4.0, 0.0],
        ([0.0] * 3,)),
    Row("div: 0 by a tiny number", F.div, ([0.0, 1.0], [1e-30, 1e30]), [0.0, 1e-30],
        ([1e30, 1e-30], [0.0, 0.0]), "float32"),
    Row("div by inf", F.div, ([1.0], [inf]), [0.0], ([0.0], [0.0])),
    Row("div of tiny and huge numbers", F.div, ([1e-30, 1e30], [1e-30, 1e30]), [1.0, 1.0],
        ([1e30, 1e-30], [-1e30, -1e-30])),
    Row("maximum: the NaN becomes y and gets the gradient", F.maximum, ([nan, 1.0, nan, inf], [1.0, nan, nan, inf]),
        [nan, nan, nan, inf], ([1.0, 0.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5])),
    Row("minimum: the NaN becomes y and gets the gradient", F.minimum, ([nan, 1.0, nan, -inf], [1.0, nan, nan, 3.0]),
        [nan, nan, nan, -inf], ([1.0, 0.0, 0.5, 1.0], [0.0, 1.0, 0.5, 0.0])),
    Row("clip of NaN is NaN", lambda x: F.clip(x, -1.0, 1.0),
        ([nan, inf, -inf, 1.0, -0.0],), [nan, 1.0, -1.0, 1.0, 0.0], ([1.0, 0.0, 0.0, 1.0, 1.0],)),
    Row("where: the branch that is not chosen may be NaN", lambda a, b: F.where(np.array([True, False]), a, b),
        ([1.0, nan], [nan, 2.0]), [1.0, 2.0], ([1.0, 0.0], [0.0, 1.0])),
    # ---- reductions
    Row("the sum along an empty axis is 0", lambda x: x.sum(axis=1),
        (np.ones((2, 0)),), [0.0, 0.0], (np.ones((2, 0)),)),
    Row("the mean of numbers whose sum overflows", lambda x: x.mean(), ([3e38, 3e38, 3e38],), 3e38, ([1 / 3] * 3,),
        "float32"),
    Row("the variance of equal numbers is 0", lambda x: x.var(), (np.full(7, 0.1),), 0.0, (np.zeros(7),)),
    Row("the variance of tiny numbers", lambda x: x.var(), ([1e-15, -1e-15],), 1e-30, ([1e-15, -1e-15],)),
    Row("max: NaN becomes y and gets the gradient", lambda x: x.max(axis=1), ([[1.0, nan, 3.0], [nan, nan, inf]],),
        [nan, nan], ([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]],)),
    Row("min: NaN becomes y and gets the gradient", lambda x: x.min(axis=1), ([[1.0, nan, -3.0], [nan, nan, -inf]],),
        [nan, nan], ([[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]],)),
    Row("max of infinities, shared equally", lambda x: x.max(axis=1), ([[inf, 1.0, inf], [-inf, -inf, -inf]],),
        [inf, -inf], ([[0.5, 0.0, 0.5], [1 / 3] * 3],)),
    Row("logsumexp: of -inf alone it is -inf, and an x of -inf gets no gradient", lambda x: F.logsumexp(x, axis=1),
        ([[-inf, -inf], [-inf, 2.0]],), [-inf, 2.0], ([[0.0, 0.0], [0.0, 1.0]],)),
    Row("logsumexp with inf: those that are inf share the gradient", lambda x: F.logsumexp(x, axis=1),
        ([[inf, 0.0, -inf], [inf, inf, 1.0]],), [inf, inf], ([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]],)),
    Row("logsumexp of huge and of equal numbers", lambda x: F.logsumexp(x, axis=1),
        ([[1e30, 1e30], [-1e30, -1e30], [1e4, 1e4]],), [1e30, -1e30, 1e4 + math.log(2)], (np.full((3, 2), 0.5),)),
    Row("logsumexp of nothing", lambda x: F.logsumexp(x, axis=1), (np.ones((2, 0)),), [-inf, -inf],
        (np.ones((2, 0)),)),
    # ---- softmax
    Row("softmax of huge logits, equal ones too", lambda x: F.softmax(x)[:, 0], ([[1e30, 1e30], [1e4, -1e4]],),
        [0.5, 1.0], ([[0.25, -0.25], [0.0, 0.0]],)),
    Row("softmax: a logit of -inf has probability 0", lambda x: F.softmax(x)[0], ([1.0, 2.0, -inf],), P[0],
        ([P[0] * P[1], -P[0] * P[1], 0.0],)),
    Row("log_softmax of huge logits, equal ones too", lambda x: F.log_softmax(x)[:, 0], ([[1e30, 1e30], [1e4, -1e4]],),
        [-math.log(2), 0.0], ([[0.5, -0.5], [0.0, 0.0]],)),
    Row("log_softmax far below the maximum", lambda x: F.log_softmax(x)[1], ([1e4, -1e4],), -2e4, ([-1.0, 1.0],)),
    Row("log_softmax beside a logit of -inf", lambda x: F.log_softmax(x)[0], ([1.0, 2.0, -inf],), math.log(P[0]),
        ([P[1], -P[1], 0.0],)),
    Row("softmax along an empty axis", lambda x: F.softmax(x), (np.ones((2, 0)),), np.ones((2, 0)),
        (np.ones((2, 0)),)),
    # ---- losses
    Row("cross_entropy: an ignored row may hold NaN and inf, a logit may be -inf (mean)",
        lambda z: F.cross_entropy(z, COUNT_1), (NAN_ROW,), LOSS, ([[P[0], P[1] - 1, 0.0], [0.0] * 3],)),
    Row("... (sum)", lambda z: F.cross_entropy(z, COUNT_1, reduction="sum"), (NAN_ROW,), LOSS,
        ([[P[0], P[1] - 1, 0.0], [0.0] * 3],)),
    Row("... (none)", lambda z: F.cross_entropy(z, COUNT_1, reduction="none"), (NAN_ROW,), [LOSS, 0.0],
        ([[P[0], P[1] - 1, 0.0], [0.0] * 3],)),
    Row("... (label smoothing)", lambda z: F.cross_entropy(z, COUNT_1, label_smoothing=0.5),
        ([[1.0, 2.0], [nan, -inf]],), LOSS + 0.25, ([[P[0] - 0.25, P[1] - 0.75], [0.0, 0.0]],)),
    Row("cross_entropy: no row counts", lambda z: F.cross_entropy(z, [-100, -100]), ([[nan] * 3, [inf] * 3],), 0.0,
        (np.zeros((2, 3)),)),
    Row("cross_entropy: a target of -inf", lambda z: F.cross_entropy(z, [0]), ([[-inf, 0.0]],), inf, ([[-1.0, 1.0]],)),
    Row("cross_entropy: label smoothing gives each class some probability, also one of -inf",
        lambda z: F.cross_entropy(z, [0], label_smoothing=0.5), ([[0.0, -inf]],), inf, ([[0.25, -0.25]],)),
    Row("cross_entropy of huge logits", lambda z: F.cross_entropy(z, [1, 0], reduction="none"),
        ([[1e30, -1e30], [1e30, -1e30]],), [2e30, 0.0], ([[1.0, -1.0], [0.0, 0.0]],)),
    Row("linear_cross_entropy: an ignored row may hold NaN and inf, and enters no product",
        lambda x, w: F.linear_cross_entropy(x, w, COUNT_1), ([[1.0, 0.0], [nan, inf]], [[1.0, 0.0], [2.0, 0.0]]), LOSS,
        ([[P[0] + 2 * (P[1] - 1), 0.0], [0.0, 0.0]], [[P[0], 0.0], [P[1] - 1, 0.0]])),
    Row("linear_cross_entropy: no row counts", lambda x, w: F.linear_cross_entropy(x, w, [-100], reduction="sum"),
        ([[nan, inf]], [[1.0, 0.0], [2.0, 0.0]]), 0.0, ([[0.0, 0.0]], np.zeros((2, 2)))),
    # ---- layers
    Row("linear without inputs is the bias", F.linear, (np.ones((2, 0)), np.ones((0, 3)), [1.0, 2.0, 3.0]),
        [[1.0, 2.0, 3.0]] * 2, (np.ones((2, 0)), np.ones((0, 3)), [2.0] * 3)),
    Row("linear without rows", F.linear, (np.ones((0, 2)), np.ones((2, 3)), [1.0, 2.0, 3.0]), np.ones((0, 3)),
        (np.ones((0, 2)), np.zeros((2, 3)), [0.0] * 3)),
    Row("matmul over an empty axis is 0", F.matmul, (np.ones((2, 0)), np.ones((0, 3))), np.zeros((2, 3)),
        (np.ones((2, 0)), np.ones((0, 3)))),
    Row("matmul: inf times a positive number", F.matmul, ([[inf, 1.0]], [[2.0], [3.0]]), [[inf]],
        ([[2.0, 3.0]], [[inf], [1.0]])),
    Row("layer_norm of equal numbers is 0", lambda x: F.layer_norm(x, np.ones(7, x.dtype)),
        ([[v] * 7 for v in (0.1, 100.1, 1e3, 1e6 / 3, -1e30)],), np.zeros((5, 7)), (np.zeros((5, 7)),)),
    Row("layer_norm whose variance overflows: the row is 1, -1 all the same",
        lambda x: F.layer_norm(x, np.array([1.0, 3.0], x.dtype)), ([[1e25, -1e25], [3e37, -3e37]],),
        [[1.0, -3.0], [1.0, -3.0]], (np.zeros((2, 2)),)),
    Row("layer_norm whose variance overflows in float64", lambda x: F.layer_norm(x, np.array([1.0, 3.0], x.dtype)),
        ([[1e200, -1e200]],), [[1.0, -3.0]], (np.zeros((1, 2)),), "float64"),
    Row("layer_norm of tiny numbers: eps is far larger than the variance",
        lambda x: F.layer_norm(x, np.array([1.0, 3.0], x.dtype), eps=1e-4), ([[1e-30, -1e-30]],), [[1e-28, -3e-28]],
        ([[-100.0, 100.0]],)),
    Row("layer_norm of tiny numbers without eps", lambda x: F.layer_norm(x, np.ones(2, x.dtype), eps=0.0),
        ([[1e-30, -1e-30]],), [[1.0, -1.0]], (np.zeros((1, 2)),)),
    Row("layer_norm without columns", lambda x: F.layer_norm(x, np.ones(0, x.dtype)), (np.ones((2, 0)),),
        np.ones((2, 0)), (np.ones((2, 0)),)),
    Row("attention of huge scores: the best key, or the mean of equally good ones",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        ([[[1e15], [0.0]]], [[[1e15], [-1e15]]], [[[1.0], [3.0]]]), [[[1.0], [2.0]]],
        ([[[0.0], [-1e15]]], [[[0.0], [0.0]]], [[[1.5], [0.5]]])),
    Row("attention to a masked key with the highest score", lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, mask=np.array([[False, True]])), ([[[1e16]]], [[[1e16], [-1e16]]], [[[1.0], [3.0]]]), [[[3.0]]],
        ([[[0.0]]], [[[0.0], [0.0]]], [[[0.0], [1.0]]])),
    Row("attention of a query without keys is 0", lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, mask=np.array([[False, False], [True, False]])),
        ([[[1.0], [1.0]]], [[[1.0], [2.0]]], [[[1.0], [3.0]]]), [[[0.0], [1.0]]],
        ([[[0.0], [0.0]]], [[[0.0], [0.0]]], [[[1.0], [0.0]]])),
    Row("attention: a key without queries and a query without keys may hold anything",
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, mask=np.array([[True, False], [False, False]])),
        ([[[1.0], [nan]]], [[[1.0], [inf]]], [[[2.0], [nan]]]), [[[2.0], [0.0]]],
        ([[[0.0], [0.0]]], [[[0.0], [0.0]]], [[[1.0], [0.0]]])),
    Row("attention over no keys at all is 0", lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        (np.ones((2, 3, 4)), np.ones((2, 0, 4)), np.ones((2, 0, 5))), np.zeros((2, 3, 5)),
        (np.zeros((2, 3, 4)), np.ones((2, 0, 4)), np.ones((2, 0, 5)))),
    Row("attention of no queries", lambda q, k, v: F.scaled_dot_product_attention(q, k, v),
        (np.ones((2, 0, 4)), np.ones((2, 3, 4)), np.ones((2, 3, 5))), np.ones((2, 0, 5)),
        (np.ones((2, 0, 4)), np.zeros((2, 3, 4)), np.zeros((2, 3, 5)))),
    Row("attention: a mean of huge values whose sum overflows", F.scaled_dot_product_attention,
        (np.zeros((1, 1, 2)), np.ones((1, 4, 2)), np.full((1, 4, 1), 2e38)), [[[2e38]]],
        (np.zeros((1, 1, 2)), np.zeros((1, 4, 2)), np.full((1, 4, 1), 0.25)), "float32"),
    Row("dropout: a dropped element may be NaN", lambda x: F.dropout(x, 0.5, Key(seed=0))[~np.isnan(x.data)],
        (np.where(F.dropout(Tensor(np.ones(50)), 0.5, Key(seed=0)).data > 0, 1.0, nan),), 2.0,
        (np.where(F.dropout(Tensor(np.ones(50)), 0.5, Key(seed=0)).data > 0, 2.0, 0.0),)),
    Row("dropout with p near 1: what is kept is huge, what is dropped is 0",
        lambda x: F.dropout(x, 1 - 1e-10, Key(seed=0)), (np.full(9, inf),), np.zeros(9), (np.zeros(9),)),
    Row("embedding of no token", lambda w: F.embedding(w, np.zeros((0, 2), int)), (np.ones((3, 2)),),
        np.ones((0, 2, 2)), (np.zeros((3, 2)),)),
]


@every_way
@both_dtypes
@pytest.mark.parametrize("row", ROWS, ids=[row.reason for row in ROWS])
def test_value_and_slope_are_right_up_to_rounding(row, dtype, way):
    if dtype in row.dtypes.split():
        y, slopes = run(way, row.function, *row.inputs, dtype=dtype)
        close(y, row.value, row.rtol * EPS[dtype])
        for got, want in zip(slopes, row.slopes, strict=True):
            np.testing.assert_allclose(got, want, rtol=row.rtol * EPS[dtype], atol=1e-45 if dtype == "float32" else 0.0)


# ---- infinite or undefined results: NumPy warns -------------------------------------------------------------------

@every_way
@both_dtypes
@pytest.mark.parametrize("function, x, y, slope", [
    (F.exp, 1e4, inf, inf), (F.log, 0.0, -inf, inf), (F.sqrt, 0.0, 0.0, inf), (lambda x: x ** 0.5, 0.0, 0.0, inf),
    (lambda x: x ** -1.0, 0.0, inf, -inf), (lambda x: 1.0 / x, 0.0, inf, -inf), (F.log, -1.0, nan, -1.0),
    (lambda x: x - x * 1.0, inf, nan, 0.0), (lambda x: F.softmax(F.stack([x, x])).sum(), -inf, nan, nan),
    (lambda x: F.cross_entropy(F.stack([x, x]), 0), inf, nan, nan)])
def test_a_result_is_infinite_at_a_pole_and_nan_where_it_is_undefined(function, x, y, slope, dtype, way):
    with np.errstate(all="ignore"):
        got, (dx,) = run(way, function, x, dtype=dtype)
    assert np.array_equal(got, y, equal_nan=True) and np.array_equal(dx, slope, equal_nan=True)


# ---- gradients that are infinite ------------------------------------------------------------------------------------

@every_way
@pytest.mark.parametrize("function", [
    F.relu, F.abs, lambda x: F.clip(x, -1.0, 1.0), lambda x: F.maximum(x, 3.0), lambda x: F.minimum(-x, -3.0),
    lambda x: F.where(np.array([True, False]), x, 1.0), lambda x: F.stack([x, x + 5.0]).max(axis=0),
    lambda x: F.dropout(x, 0.5, Key(seed=0))])
def test_an_infinite_dy_gives_no_nan_where_an_input_was_not_chosen(function, way):
    """0 * inf would be NaN: the gradient is selected, not multiplied."""
    _, (dx,) = run(way, function, [-2.0, 0.0], dy=inf)
    assert not np.isnan(dx).any()


@every_way
def test_the_dy_of_an_ignored_row_does_not_count(way):
    _, (dz,) = run(way, lambda z: F.cross_entropy(z, COUNT_1, reduction="none"), NAN_ROW, dy=[1.0, nan])
    close(dz, [[P[0], P[1] - 1, 0.0], [0.0] * 3], 1e-15)


@pytest.mark.parametrize("function, third", [(F.tanh, -2.0), (F.sigmoid, -0.125)])
def test_the_third_derivative_of_tanh_and_sigmoid_at_0(function, third):
    """Their formulas have two branches, which meet at 0."""
    x = Tensor(np.zeros(1), requires_grad=True)
    y = function(x)
    for _ in range(2):
        y = mg.grad(y.sum(), x, create_graph=True)
    close(mg.grad(y.sum(), x).data, [third], 1e-12)


# ---- sums of very many numbers --------------------------------------------------------------------------------------

N = 1_000_000
MANY = np.full((N, 2), 0.1, "float32")
TENTH = float(np.float32(0.1))
ROW = np.zeros((N, 1), int)


@pytest.fixture
def large_pieces(monkeypatch):
    """Kernels split arrays into pieces as large as outside of tests."""
    monkeypatch.setattr(kernel_settings.settings, "piece", 1 << 16)
    monkeypatch.setattr(kernel_settings.settings, "vocabulary", 128)


@pytest.mark.parametrize("way", ["kernel", "textbook"])
@pytest.mark.parametrize("function, x, want", [
    (lambda x: x.sum(axis=0), MANY, N * TENTH),
    (lambda x: x.mean(axis=0), MANY, TENTH),
    (lambda x: x.sum(), np.broadcast_to(MANY[:1, :1], (N, 1)), N * TENTH),
    (lambda x: x.T.sum(axis=1), MANY, N * TENTH),
    (lambda x: x.reshape(2, 100, 10_000).sum(axis=1), MANY, 100 * TENTH),
    (lambda x: F.transpose(x.reshape(1000, 2, 1000), (2, 1, 0)).sum(axis=(0, 2)), MANY, N * TENTH),
    (lambda x: F.transpose(x.reshape(1000, 1000, 2), (1, 0, 2)).sum(axis=(0, 1)), MANY, N * TENTH),
    (lambda x: (x * np.array([[1.0], [-1.0]] * (N // 2), "float32")).var(axis=0), MANY, TENTH ** 2),
    (lambda x: F.logsumexp(x, axis=0), MANY, math.log(N) + TENTH),
    (lambda x: F.cross_entropy(x.T, [0, 1]), MANY, math.log(N)),
    (lambda x: F.layer_norm(x.T, np.ones(N, "float32"), eps=TENTH).sum(axis=0) + 1.0, MANY, np.ones(N)),
    (lambda x: F.softmax(x, axis=0).max(axis=0), MANY, 1 / N),
    (lambda x: F.scatter_add(x, ROW[:, 0], (1, 2)), MANY, N * TENTH),
    (lambda x: F.scatter_add(x, ROW[:, 0], (300, 2))[:1], MANY, N * TENTH),
])
def test_float32_sums_of_a_million_numbers_are_exact_to_1e_5(function, x, want, way):
    with mg.no_grad(), switch(**WAYS[way]):
        close(function(Tensor(x)).data, want, 1e-5)


@every_way
@pytest.mark.parametrize("name, function, shape, of", [
    ("bias of add", lambda b: Tensor(MANY) + b, (2,), 1.0),
    ("bias of (N, 1)", lambda b: Tensor(MANY) + b, (1, 1), 2.0),
    ("factor of mul", lambda w: Tensor(np.ones_like(MANY)) * w, (2,), 1.0),
    ("bias of linear", lambda b: F.linear(Tensor(MANY), np.ones((2, 2), "float32"), b), (2,), 1.0),
    ("bias of layer_norm", lambda b: F.layer_norm(Tensor(MANY), np.ones(2, "float32"), b), (2,), 1.0),
    ("gain of layer_norm", lambda w: F.layer_norm(Tensor(MANY * np.float32([-10, 10])), w, eps=0.0), (2,), [-1.0, 1.0]),
    ("small table", lambda w: F.embedding(w, ROW[:, 0]), (1, 2), 1.0),
    ("large table", lambda w: F.embedding(w, ROW[:, 0])[:, :2], (300, 2), np.eye(300)[:, :1]),
    ("index", lambda w: w[ROW[:, 0]], (1, 2), 1.0),
    ("broadcast_to", lambda w: F.broadcast_to(w, (N, 2)), (2,), 1.0),
])
def test_float32_gradients_summed_over_a_million_rows_are_exact_to_1e_5(name, function, shape, of, way, large_pieces):
    with np.errstate(divide="ignore", invalid="ignore"):            # eps = 0
        _, (dx,) = run(way, function, np.ones(shape), dtype="float32", dy=0.1)
    close(dx, np.broadcast_to(N * TENTH * np.asarray(of), shape), 1e-5)


@given(n=st.integers(1, 5000), m=st.integers(1, 40), axis=st.sampled_from([None, 0, 1, (0, 1)]),
       transposed=st.booleans(), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None, database=None)
def test_float32_sums_of_positive_numbers_equal_those_in_float64(n, m, axis, transposed, seed):
    x = np.random.default_rng(seed).uniform(size=(n, m)).astype("float32")
    x = x.T if transposed else x
    want = np.sum(x.astype("float64"), axis=axis)
    close(Tensor(x).sum(axis=axis).data, want, EPS["float32"])
    close(Tensor(x).mean(axis=axis).data, want / (x.size / max(want.size, 1)), EPS["float32"])
    close(unbroadcast(x, (1, x.shape[1])), x.sum(axis=0, keepdims=True, dtype="float64"), EPS["float32"])


@pytest.mark.parametrize("dtype, total", [("int64", "int64"), ("bool", "int64"), ("float16", "float16"),
                                          ("float32", "float32"), ("float64", "float64")])
def test_sums_and_means_have_numpys_dtypes(dtype, total):
    x = Tensor(np.array([[1, 0], [1, 1]], dtype))
    assert x.sum().dtype == total and x.sum().item() == 3
    assert x.mean().dtype == (dtype if "float" in dtype else "float64") and x.mean().item() == 0.75


# ---- layer norm of nearly constant rows -----------------------------------------------------------------------------

def exact_layer_norm(x, dy):
    x, dy = x.astype("float64"), dy.astype("float64")
    c = x - x.mean(axis=-1, keepdims=True)
    rstd = 1.0 / np.sqrt((c * c).mean(axis=-1, keepdims=True) + 1e-5)
    xhat = c * rstd
    means = dy.mean(axis=-1, keepdims=True), (dy * xhat).mean(axis=-1, keepdims=True)
    return xhat, rstd * (dy - means[0] - xhat * means[1])


@every_way
@pytest.mark.parametrize("shift", [0.0, 1.0, 1e2, 1e4, 1e6, -1e4])
@pytest.mark.parametrize("spread", [1e-2, 1.0, 1e3])
@pytest.mark.parametrize("C", [3, 64, 768])
def test_layer_norm_subtracts_the_mean_exactly_however_large_it_is(shift, spread, C, way):
    rng = np.random.default_rng(C)
    x = (shift + spread * rng.normal(size=(4, C))).astype("float32")
    dy = rng.normal(size=(4, C)).astype("float32")
    y, (dx,) = run(way, lambda x: F.layer_norm(x, np.ones(C, "float32")), x, dtype="float32", dy=dy)
    want, slope = exact_layer_norm(x, dy)
    np.testing.assert_allclose(y, want, rtol=0, atol=2e-6 * np.abs(want).max())
    np.testing.assert_allclose(dx, slope, rtol=0, atol=1e-5 * np.abs(slope).max())


# ---- float16 --------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(4, 768))
TARGETS = np.array([0, 5, -100, 767])
LONG = RNG.normal(size=(2, 3, 500))


@pytest.mark.parametrize("name, function, inputs", [
    ("mean", lambda x: x.mean(), (np.ones(100_000),)),
    ("mean of what adds up to more than 65504", lambda x: x.mean(axis=0), (np.full((1000, 2), 300.0),)),
    ("var", lambda x: x.var(axis=1), (12.0 * NORMAL,)),
    ("var of many", lambda x: x.var(), (np.resize(NORMAL, 100_000),)),
    ("layer_norm of spread 12", lambda x: F.layer_norm(x, np.ones(768, x.dtype)), (12.0 * NORMAL,)),
    ("layer_norm of spread 1000", lambda x: F.layer_norm(x, np.ones(768, x.dtype)), (1000.0 * NORMAL,)),
    ("layer_norm beside 1000", lambda x: F.layer_norm(x, np.ones(768, x.dtype)), (1000.0 + 3.0 * NORMAL,)),
    ("logsumexp", lambda x: F.logsumexp(x, axis=1), (np.zeros((1, 100_000)),)),
    ("softmax", lambda x: F.softmax(x, axis=1), (NORMAL,)),
    ("log_softmax", lambda x: F.log_softmax(x, axis=1), (np.zeros((1, 100_000)),)),
    ("cross_entropy", lambda x: F.cross_entropy(x, TARGETS), (NORMAL,)),
    ("cross_entropy of many rows", lambda x: F.cross_entropy(x, np.zeros(70_000, int)), (np.zeros((70_000, 2)),)),
    ("linear_cross_entropy", lambda x, w: F.linear_cross_entropy(x, w, TARGETS),
     (NORMAL, 0.1 * RNG.normal(size=(800, 768)))),
    ("attention", F.scaled_dot_product_attention, (LONG.swapaxes(1, 2),) * 3),
    ("attention of large scores", F.scaled_dot_product_attention,
     (np.full((1, 2, 64), 40.0), np.full((1, 2, 64), 40.0), NORMAL[None, :2])),
    ("linear", F.linear, (NORMAL, RNG.normal(size=(768, 3)), RNG.normal(size=3))),
    ("matmul", F.matmul, (NORMAL, RNG.normal(size=(768, 3)))),
    ("bias", lambda b: b + Tensor(np.ones((5000, 2), b.dtype)), ([1.0, 2.0],)),
    ("embedding", lambda w: F.embedding(w, np.zeros(5000, int)), ([[1.0, 2.0]],)),
    ("gelu", F.gelu, ([-3.0, -1.0, 100.0, 6e4, -6e4],)),
    ("dropout", lambda x: F.dropout(x, 0.999999, Key(seed=0)), (np.ones(100),)),
    ("max of many equal numbers", lambda x: x.max(), (np.ones(100_000),)),
])
@every_way
def test_float16_is_computed_in_float32_and_rounded_once(name, function, inputs, way):
    """The bound is a few roundings of float16, as between the primitives of a composed form."""
    y, dxs = run(way, function, *inputs, dtype="float16")
    rounded = [np.asarray(x, "float16").astype("float64") for x in inputs]
    want, slopes = run(way, function, *rounded)
    for got, exact in zip([y, *dxs], [want, *slopes]):
        np.testing.assert_allclose(got.astype("float64"), exact, rtol=4e-3, atol=2e-3 * np.abs(exact).max() + 1e-5)


def test_a_float16_sum_beyond_65504_is_infinite_and_its_gradient_is_not():
    with np.errstate(over="ignore"):
        y, (dx,) = run("kernel", lambda x: x.sum(), np.ones(100_000), dtype="float16")
    assert y == inf and (dx == 1.0).all()
