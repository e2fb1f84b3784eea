"""Tensors behave like NumPy arrays: operators, dtypes, exchange, repr. Errors say what to do."""
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, strategies as st
from hypothesis.extra import numpy as hnp

import minigrad as mg
from fake_device import BFLOAT16
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, nn

floats = st.floats(-3, 3).filter(lambda v: abs(v) > 1e-3)


def leaf(values, dtype="float64"):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


# ---- the same results as NumPy ----

@given(st.data())
def test_arithmetic_broadcasts_like_numpy_and_gradients_have_the_shapes_of_the_inputs(data):
    shapes = data.draw(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=3))
    a, b = (data.draw(hnp.arrays("float64", s, elements=floats)) for s in shapes.input_shapes)
    x, y = Tensor(a, requires_grad=True), Tensor(b, requires_grad=True)
    for name in ("__add__", "__sub__", "__mul__", "__truediv__"):
        z = getattr(x, name)(y)
        np.testing.assert_array_equal(z.data, getattr(a, name)(b))
        z.sum().backward()
    assert x.grad.shape == a.shape and y.grad.shape == b.shape


@given(hnp.arrays("float64", hnp.array_shapes(max_dims=3, max_side=4), elements=floats), st.data())
def test_getitem_equals_numpy_and_its_gradient_counts_how_often_each_element_is_read(a, data):
    index = data.draw(st.one_of(hnp.basic_indices(a.shape), hnp.integer_array_indices(a.shape)))
    x = Tensor(a, requires_grad=True)
    y = x[index]
    np.testing.assert_array_equal(y.data, a[index])
    uses = np.zeros_like(a)
    np.add.at(uses, index, 1.0)
    y.backward(np.ones(y.shape))
    np.testing.assert_array_equal(x.grad, uses)


@given(
    hnp.arrays("float64", hnp.array_shapes(min_dims=1, max_dims=3, max_side=4), elements=floats, unique=True), st.data()
)
def test_reductions_equal_numpy(a, data):
    axis = data.draw(st.one_of(st.none(), st.integers(-a.ndim, a.ndim - 1)))
    keepdims = data.draw(st.booleans())
    for name in ("sum", "mean", "max", "min", "var"):
        y = getattr(Tensor(a), name)(axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(y.data, getattr(a, name)(axis=axis, keepdims=keepdims), atol=1e-12)


def test_shape_methods_equal_numpy():
    x = leaf(np.arange(24.0).reshape(2, 3, 4))
    a = x.data
    for y, want in [
        (x.reshape(6, 4), a.reshape(6, 4)),
        (x.reshape((6, -1)), a.reshape(6, 4)),
        (x.reshape(-1), a.reshape(-1)),
        (x.transpose(), a.T),
        (x.T, a.T),
        (x.transpose(1, 0, 2), a.transpose(1, 0, 2)),
        (x.transpose((1, 0, 2)), a.transpose(1, 0, 2)),
        (x.swapaxes(0, -1), a.swapaxes(0, -1)),
        (x[None].squeeze(0), a),
        (F.expand_dims(x, 1), a[:, None]),
        (F.stack([x, x]), np.stack([a, a])),
        (F.concatenate([x, x], axis=1), np.concatenate([a, a], 1)),
        (F.split(x, [1, 3], axis=2)[1], a[:, :, 1:3]),
    ]:
        np.testing.assert_array_equal(y.data, want)


def test_operators_accept_numbers_on_both_sides():
    x = leaf([2.0, 4.0])
    for y, want in [
        (1 - x, [-1, -3]),
        (8 / x, [4, 2]),
        (2**x, [4, 16]),
        (x**2, [4, 16]),
        (-x, [-2, -4]),
        (+x, [2, 4]),
        (abs(-x), [2, 4]),
        (3 * x, [6, 12]),
        (1 + x, [3, 5]),
        (x @ x, 20),
        (np.ones((2, 2)) @ x, [6, 6]),
    ]:
        assert isinstance(y, Tensor)
        np.testing.assert_array_equal(y.data, want)


def test_comparisons_give_plain_boolean_arrays():
    x = leaf([1.0, 2.0])
    for mask, want in [
        (x > 1, [False, True]),
        (x <= 1.0, [True, False]),
        (x == x, [True, True]),
        (x != 2, [True, False]),
        (x < Tensor([3.0, 0.0]), [True, False]),
        (1.5 <= x, [False, True]),
    ]:
        assert type(mask) is np.ndarray and mask.tolist() == want


def test_len_iteration_conversion_and_hash():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [row.data.tolist() for row in x] == [[1.0, 2.0], [3.0, 4.0]]
    assert float(x[0, 0]) == 1.0 and int(x[1, 1]) == 4 and bool(x[0, 0]) and x[1, 0].item() == 3.0
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]] and x.argmax() == 3
    assert {x: "hashable"}[x] == "hashable"
    with pytest.raises(TypeError, match="0-d"):
        len(x.sum())


# ---- ties, kinks and large values ----

def test_equal_maxima_share_the_gradient():
    x = leaf([3.0, 1.0, 3.0])
    x.max().backward()
    np.testing.assert_array_equal(x.grad, [0.5, 0.0, 0.5])
    a, b = leaf([1.0, 2.0]), leaf([1.0, 3.0])
    F.maximum(a, b).sum().backward()
    np.testing.assert_array_equal([a.grad, b.grad], [[0.5, 0.0], [0.5, 1.0]])


def test_derivatives_at_kinks():
    x = leaf([-1.0, 0.0, 1.0])
    for f, derivatives in [
        (F.abs, [-1.0, 0.0, 1.0]),
        (F.relu, [0.0, 0.0, 1.0]),
        (lambda x: F.clip(x, 0.0, 0.5), [0.0, 1.0, 0.0]),
    ]:
        x.zero_grad()
        f(x).sum().backward()
        np.testing.assert_array_equal(x.grad, derivatives)


def test_pow_of_zero_and_negative_bases_has_finite_gradients_and_warns_of_nothing():
    x = leaf([-2.0, 0.0, 3.0])
    for p, derivatives in [(2, [-4.0, 0.0, 6.0]), (3, [12.0, 0.0, 27.0]), (1, [1.0, 1.0, 1.0]), (0, [0.0, 0.0, 0.0])]:
        x.zero_grad()
        (x ** p).sum().backward()
        np.testing.assert_array_equal(x.grad, derivatives)
    base, p = leaf([0.0, 2.0]), leaf([2.0, 3.0])
    (base ** p).sum().backward()
    np.testing.assert_allclose(p.grad, [0.0, 8.0 * np.log(2.0)])


def test_large_values_neither_overflow_nor_warn():
    x = leaf([-1e4, 0.0, 1e4])
    for f in (F.sigmoid, F.tanh, F.softmax, F.log_softmax, F.logsumexp, F.gelu):
        x.zero_grad()
        y = f(x)
        y.backward(np.ones(y.shape))
        assert np.isfinite(y.data).all() and np.isfinite(x.grad).all()


def test_attention_masks_are_exact():
    """Causal: later keys have no influence, bit for bit. A query without an allowed key has output and gradient 0."""
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, 1, 5, 4))
    y = F.scaled_dot_product_attention(q, k, v, causal=True).data
    k2, v2 = k.copy(), v.copy()
    k2[:, 3:], v2[:, 3:] = 7.0, 9.0
    np.testing.assert_array_equal(F.scaled_dot_product_attention(q, k2, v2, causal=True).data[:, :3], y[:, :3])
    last = F.scaled_dot_product_attention(q[:, -2:], k, v, causal=True).data        # the last 2 of 5 queries
    np.testing.assert_allclose(last, y[:, -2:])
    mask = np.ones((5, 5), bool)
    mask[2] = False
    t = Tensor(k, requires_grad=True)
    z = F.scaled_dot_product_attention(q, t, v, mask=mask)
    np.testing.assert_array_equal(z.data[:, 2], 0.0)
    z[:, 2].sum().backward()
    np.testing.assert_array_equal(t.grad, 0.0)


def test_attention_saves_only_the_arrays_that_its_backward_needs():
    x = leaf(np.ones((2, 5, 4)))
    with mg.plain():
        saved = F.scaled_dot_product_attention(x, x, x, causal=True).node.op.saved
    arrays = {name for name, a in saved.items() if isinstance(a, np.ndarray)}
    assert arrays == {"q", "k", "v", "P"}


def test_cross_entropy_is_a_mean_over_the_targets_that_are_not_ignored():
    z, t = np.random.default_rng(0).normal(size=(4, 5)), np.array([1, -100, 4, -100])
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    np.testing.assert_allclose(F.cross_entropy(z, t).data, -(log_p[0, 1] + log_p[2, 4]) / 2)
    np.testing.assert_allclose(F.cross_entropy(z, t, reduction="none").data, [-log_p[0, 1], 0, -log_p[2, 4], 0])
    x = leaf(z)
    loss = F.cross_entropy(x, np.full(4, -100))
    loss.backward()
    assert loss.data == 0.0 and not x.grad.any()


# ---- dtypes ----

@pytest.mark.parametrize("scalar", [2, 2.0, np.float64(2.0), np.float32(2.0), np.int64(2), True])
def test_scalars_do_not_change_the_dtype(scalar):
    x = leaf([1.0, 3.0], "float32")
    for y in (x * scalar, scalar * x, x + scalar, scalar - x, x / scalar, x**scalar, scalar**x, F.maximum(x, scalar)):
        assert isinstance(y, Tensor) and y.dtype == "float32"
        y.sum().backward()
    assert x.grad.dtype == "float32"


def test_integer_arrays_are_cast_to_the_floating_dtype():
    x = leaf([1.0, 3.0], "float32")
    for y in (x * np.array([1, 2]), np.array([True, False]) * x, x + Tensor([1, 2])):
        assert y.dtype == "float32"


def test_two_floating_dtypes_are_an_error():
    with pytest.raises(TypeError, match="mul: inputs have dtypes float32 and float64: cast one with") as error:
        leaf([1.0], "float32") * leaf([1.0], "float64")
    assert "test_tensor.py" in error.value.__notes__[0]


def test_astype_is_differentiable_between_floating_dtypes_and_not_to_integers():
    x = leaf([1.5, 2.5], "float32")
    y = x.astype("float64")
    (y * y).sum().backward()
    assert y.dtype == "float64" and x.grad.dtype == "float32" and x.grad.tolist() == [3.0, 5.0]
    assert not x.astype("int64").requires_grad


named_bfloat16 = type("bfloat16", (), {})       # ml_dtypes.bfloat16 is a class of this name


@pytest.mark.parametrize("make", [
    lambda: Tensor([1.0], dtype="bfloat16"), lambda: Tensor([1.0], dtype=BFLOAT16),
    lambda: Tensor([1.0], dtype=named_bfloat16), lambda: Tensor(np.zeros(2, BFLOAT16)),
    lambda: Tensor([1.0]).astype("bfloat16"), lambda: leaf([1.0]) * np.zeros(1, BFLOAT16),
    lambda: setattr(leaf([1.0]), "data", np.zeros(1, BFLOAT16)), lambda: nn.Linear(2, 3, dtype="bfloat16"),
    lambda: GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=1, n_embd=4), dtype="bfloat16")])
def test_bfloat16_is_refused_with_the_reason(make):
    """Also where ml_dtypes is installed, so that no op is blamed for the dtype of its result."""
    with pytest.raises(TypeError, match="cannot have dtype bfloat16: .* is a float32 array; give float32 or float16"):
        make()


def test_float16_stays_float16():
    x = Tensor([1.0, 3.0], True, dtype="float16")
    y = x * 2.0 + Tensor([1.0, 1.0]).astype("float16")
    y.sum().backward()
    assert y.dtype == x.grad.dtype == "float16" and x.grad.tolist() == [2.0, 2.0]


def test_0_d_results_are_arrays():
    x = leaf([1.0, 2.0])
    for y in (x.sum(), x @ x, x[0], x.sum() * 2.0, F.cross_entropy(leaf([[1.0, 2.0]]), [0])):
        assert type(y.data) is np.ndarray and y.shape == ()
        y.backward()
        assert type(x.grad) is np.ndarray


# ---- exchange ----

def test_numpy_arrays_and_scalars_on_the_left_give_tensors():
    x = leaf([1.0, 2.0], "float32")
    a = np.array([3.0, 4.0], "float32")
    for y in (a * x, a + x, a - x, a / x, np.float32(3.0) * x, a @ x):
        assert isinstance(y, Tensor) and y.requires_grad
    np.testing.assert_array_equal((a - x).data, [2.0, 2.0])


def test_np_asarray_is_a_read_only_view():
    x = leaf([1.0, 2.0])
    a = np.asarray(x)
    assert np.shares_memory(a, x.data)
    with pytest.raises(ValueError, match="read-only"):
        a[0] = 7.0
    b = np.array(x)
    b[0] = 7.0
    assert x.data[0] == 1.0
    assert np.asarray(x, dtype="float32").dtype == "float32"


def test_numpy_and_grad_are_copies():
    x = leaf([1.0, 2.0])
    x.numpy()[0] = 7.0
    mg.grad((x * x).sum(), x).data[0] = 7.0
    assert x.data[0] == 1.0


def test_dlpack_shares_memory_with_numpy():
    x = leaf([1.0, 2.0])
    assert np.shares_memory(np.from_dlpack(x), x.data)
    a = np.array([1.0, 2.0])
    assert np.shares_memory(mg.from_dlpack(a).data, a)


def test_dlpack_exchange_with_pytorch():
    torch = pytest.importorskip("torch")
    x = leaf([1.0, 2.0])
    t = torch.from_dlpack(x)
    t[0] = 5.0
    assert x.data[0] == 5.0
    assert mg.from_dlpack(torch.ones(2, dtype=torch.float64)).data.tolist() == [1.0, 1.0]


def test_repr_shows_values_shape_dtype_device_and_op():
    x = leaf([[1.0, 2.0]], "float32")
    assert repr(x) == "Tensor([[1., 2.]], shape=(1, 2), dtype=float32, device=cpu, requires_grad=True)"
    assert repr(x * 2) == "Tensor([[2., 4.]], shape=(1, 2), dtype=float32, device=cpu, op=mul)"
    assert len(repr(Tensor(np.zeros((100, 100))))) < 1000


def test_importing_minigrad_imports_no_heavy_module():
    heavy = ["cupy", "matplotlib", "minigrad.gradcheck", "unittest"]
    code = f"import sys, minigrad; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# ---- bad input ----

X = Tensor(np.ones((2, 3)))


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: X + np.ones(4), ValueError, r"add: shapes \(2, 3\) and \(4,\) do not broadcast.*reshape"),
        (lambda: F.where(np.ones((2, 3)), X, X), TypeError, "where: mask must be boolean.*compare first"),
        (lambda: X @ np.ones((2, 3)), ValueError, r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit"),
        (lambda: X @ 2.0, ValueError, "matmul"),
        (
            lambda: F.linear(X, np.ones((2, 3))),
            ValueError,
            r"linear: x \(2, 3\), w \(2, 3\).*expected x \(..., I\), w \(I, O\)",
        ),
        (lambda: F.linear(X, np.ones((3, 4)), np.ones(3)), ValueError, r"b \(3,\)"),
        (lambda: F.layer_norm(X, np.ones(2)), ValueError, r"layer_norm: x \(2, 3\), w \(2,\)"),
        (lambda: F.scaled_dot_product_attention(X, X, np.ones((3, 3))), ValueError, "attention.*expected q"),
        (lambda: F.scaled_dot_product_attention(X, X, X, mask=np.ones((2, 2))), TypeError, "mask must be boolean"),
        (lambda: X.sum(axis=2), ValueError, "sum: axis 2 is out of range for 2 axes: use -2 to 1"),
        (lambda: F.softmax(X, axis=5), ValueError, "softmax: axis 5 is out of range"),
        (lambda: X.mean(axis=(0, -2)), ValueError, "names an axis twice"),
        (lambda: X.sum(axis=0.5), TypeError, "axis must be"),
        (lambda: X.var(axis=0, ddof=2), ValueError, "var: 2 numbers with ddof=2"),
        (lambda: X.transpose(0), ValueError, r"transpose: axes \(?0,?\)? must name each of the 2 axes"),
        (lambda: X.reshape(4, 2), ValueError, r"reshape: 6 numbers of shape \(2, 3\) do not fit into shape \(4, 2\)"),
        (lambda: X.squeeze(0), ValueError, r"squeeze: axis 0 of shape \(2, 3\) is not of size 1"),
        (lambda: F.split(X, 2, axis=1), ValueError, "3 along axis 1.*does not divide into 2"),
        (lambda: F.concatenate([X, np.ones((2, 4))]), ValueError, "concatenate: shapes"),
        (lambda: F.stack([X, np.ones((2, 4))]), ValueError, "stack: shapes"),
        (lambda: F.concatenate([]), ValueError, "concatenate: needs at least one array"),
        (lambda: F.adamw(X, 1.0, 0.0, 0.0, 0.1, 0.9, 0.9, 1e-8, 0.0, 1), TypeError, "adamw: got a number where"),
        (lambda: F.broadcast_to(X, (3, 3)), ValueError, "broadcast_to"),
        (lambda: X[5], IndexError, "out of bounds"),
        (lambda: X[[0, 5]], IndexError, "index 5 is out of range: expected -2 <= index < 2"),
        (lambda: X[:, [[-4]]], IndexError, "index -4 is out of range: expected -3 <= index < 3"),
        (lambda: X[np.array([0.0])], TypeError, "must be of integers or booleans"),
        (lambda: F.scatter_add(np.ones(2), np.array([0, 9]), (4,)), IndexError, "index 9"),
        (lambda: F.embedding(X, np.array([0, 2])), IndexError, "token 2 is out of range: expected 0 <= token < 2"),
        (lambda: F.embedding(X, np.array([-1])), IndexError, "token -1"),
        (lambda: F.embedding(X, np.array([0.0])), TypeError, "integer idx"),
        (
            lambda: F.cross_entropy(X, np.array([0, 3])),
            IndexError,
            "target 3 is out of range: expected 0 <= target < 3",
        ),
        (lambda: F.cross_entropy(X, np.array([0, -1])), IndexError, "target -1"),
        (lambda: F.cross_entropy(X, np.array([0.0, 1.0])), TypeError, "targets must be integers"),
        (lambda: F.cross_entropy(X, np.array([0])), ValueError, r"logits \(2, 3\) and targets \(1,\)"),
        (lambda: F.cross_entropy(X, np.array([0, 1]), reduction="max"), ValueError, '"mean", "sum" or "none"'),
        (lambda: F.cross_entropy(X, np.array([0, 1]), label_smoothing=2.0), ValueError, "label_smoothing"),
        (lambda: F.dropout(X, 1.0, mg.random.key(0)), ValueError, r"must be in \[0, 1\)"),
        (lambda: F.dropout(X, 0.5, None), ValueError, "key=mg.random.key"),
        (lambda: Tensor([1, 2], requires_grad=True), TypeError, 'requires_grad=True on dtype int64.*dtype="float32"'),
        (lambda: Tensor([1j]), TypeError, "complex128"),
        (lambda: Tensor(["a"]), TypeError, "holds numbers"),
        (lambda: Tensor([[1.0], [1.0, 2.0]]), ValueError, "inhomogeneous"),
        (lambda: X + "a", TypeError, "holds numbers"),
        (lambda: X + None, TypeError, "holds numbers"),
        (lambda: Tensor([1.0], device="gpu"), ValueError, 'unknown device .gpu.: use "auto", "cpu"'),
    ],
)
def test_bad_input_names_op_shapes_and_fix(make, error, message):
    with pytest.raises(error, match=message):
        make()
