"""Where a gradient, a mask or a change of data could be lost silently, it is recorded, noticed or refused."""
import contextlib
import copy
import math
import pickle
import subprocess
import sys
import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, changes, functional as F, nn, optim

RNG = np.random.default_rng(0)


def leaf(*shape):
    return Tensor(RNG.normal(size=shape), requires_grad=True)


# ---- functions of NumPy called on Tensors ---------------------------------------------------------------------------

MASK = np.array([[True, False, True], [False, True, True]])


@pytest.mark.parametrize("call", [
    lambda np, x: np.sum(x),
    lambda np, x: np.sum(x, axis=1, keepdims=True),
    lambda np, x: np.mean(x, axis=0),
    lambda np, x: np.max(x, axis=1),
    lambda np, x: np.min(x),
    lambda np, x: np.var(x, axis=1, ddof=1),
    lambda np, x: np.concatenate([x, 2.0 * x], axis=1),
    lambda np, x: np.stack([x, x, x], axis=1),
    lambda np, x: np.where(MASK, x, 0.0),
    lambda np, x: np.reshape(x, (3, 2)),
    lambda np, x: np.transpose(x),
    lambda np, x: np.swapaxes(x, 0, 1),
    lambda np, x: np.squeeze(np.expand_dims(x, 1), 1),
    lambda np, x: np.broadcast_to(x, (4, 2, 3)),
    lambda np, x: np.split(x, 3, axis=1)[1],
    lambda np, x: np.clip(x, -0.5, 0.5),
])
def test_functions_of_numpy_that_minigrad_has_are_recorded(call):
    x = leaf(2, 3)
    y = call(np, x)
    assert isinstance(y, Tensor) and y.requires_grad
    np.testing.assert_allclose(y.data, call(np, x.data))
    expected = mg.grad((call(F, x) * 1.5).sum(), x)
    np.testing.assert_array_equal(mg.grad((y * 1.5).sum(), x).data, expected.data)


@pytest.mark.parametrize("call", [
    lambda x: np.dot(x, x),
    lambda x: np.inner(x, x),
    lambda x: np.outer(x, x),
    lambda x: np.einsum("ij,ij", x, x),
    lambda x: np.tensordot(x, x),
    lambda x: np.linalg.norm(x),
    lambda x: np.linalg.inv(x),
    lambda x: np.fft.fft(x),
    lambda x: np.vstack([x, x]),
    lambda x: np.append(x, 1.0),
    lambda x: np.pad(x, 1),
    lambda x: np.cumsum(x),
    lambda x: np.prod(x),
    lambda x: np.std(x),
    lambda x: np.sort(x),
    lambda x: np.tile(x, 2),
    lambda x: np.interp(0.5, x[0], x[0]),
    lambda x: np.exp(x),
    lambda x: np.add(np.ones((2, 2)), x),
    lambda x: np.sum(x, dtype="float32"),
])
def test_other_functions_of_numpy_refuse_a_tensor_that_needs_a_gradient(call):
    with pytest.raises(TypeError):
        call(leaf(2, 2))


def test_the_message_for_a_function_of_numpy_names_recorded_functions_and_detach():
    x = leaf(3)
    with pytest.raises(TypeError, match=r"np.linalg.norm of a Tensor would lose its gradient.*F.stack.*t.detach\(\)"):
        np.linalg.norm(x)
    with mg.no_grad():
        assert np.linalg.norm(x) == np.linalg.norm(x.data)
    assert np.linalg.norm(x.detach()) == np.linalg.norm(x.data)


def test_functions_of_numpy_without_a_gradient_take_tensors():
    x = leaf(2, 3)
    assert np.shape(x) == (2, 3) and np.ndim(x) == 2 and np.size(x) == 6
    assert np.argmax(x) == x.data.argmax() and np.allclose(x, x.data) and np.array_equal(x, x)
    np.testing.assert_array_equal(np.zeros_like(x), np.zeros((2, 3)))
    np.testing.assert_allclose(x, x.data)


def test_a_recorded_result_becomes_an_array_only_inside_no_grad():
    y, z = leaf(2) * 2.0, leaf(2) * 3.0
    for call in (lambda: np.asarray(y), lambda: np.array([y, z]), lambda: np.mean([y, z]), lambda: np.from_dlpack(y)):
        with pytest.raises(TypeError, match=r"F.stack joins Tensors; .numpy\(\)"):
            call()
    with mg.no_grad():
        assert np.array([y, z]).shape == (2, 2)


@pytest.mark.parametrize("unfused", [False, True])
@pytest.mark.parametrize("call, message", [
    (lambda: F.scaled_dot_product_attention(leaf(3, 4), leaf(5, 4), leaf(5, 4), mask=np.ones((2, 3, 5), bool)), "mask"),
    (lambda: F.scaled_dot_product_attention(leaf(3, 4), leaf(5, 4), leaf(5, 4), mask=np.ones((1, 3, 5), bool)), "mask"),
    (lambda: F.scaled_dot_product_attention(leaf(3, 4), leaf(5, 4), leaf(5, 4), mask=np.ones((4, 5), bool)), "mask"),
    (lambda: F.clip(leaf(3), np.zeros((2, 1)), 1.0), "a limit of shape"),
    (lambda: F.split(leaf(4), [3, 1]), "do not increase"),
    (lambda: F.split(leaf(4), [-1, 1]), "do not increase"),
    (lambda: F.layer_norm(leaf(2, 3), np.ones(3), eps=-1.0), "eps must be"),
    (lambda: F.layer_norm(leaf(64, 64), np.ones(64), eps=math.nan), "eps must be"),
    (lambda: F.var(leaf(3), ddof=math.nan), "var: 3 numbers with ddof=nan"),
    (lambda: F.linear_cross_entropy(leaf(2, 3), leaf(4, 3), [0, 1], rows=0), "rows must be at least 1"),
    (lambda: F.linear_cross_entropy(leaf(2, 3), leaf(4, 3), [0, 1], rows=-1), "rows must be at least 1"),
    (lambda: F.linear_cross_entropy(leaf(2, 3), leaf(4, 3), [0, 1], reduction="none"), "reduction must be"),
])
def test_arguments_that_would_lose_rows_or_change_the_shape_are_refused_by_the_forward(call, message, unfused):
    with mg.unfused() if unfused else contextlib.nullcontext(), pytest.raises(ValueError, match=message):
        call()


def test_a_negative_token_is_refused_by_the_decomposition_too():
    with mg.unfused(), pytest.raises(IndexError, match="token -1 is out of range"):
        F.embedding(leaf(3, 2), [-1])


@pytest.mark.parametrize("index", [
    np.int64(1), (np.int32(1), np.uint8(2)), (slice(None), np.int64(-1)), (..., np.int64(1)),
])
def test_an_index_may_be_an_integer_of_numpy(index):
    x = leaf(3, 4)
    x[index].sum().backward()
    expected = np.zeros((3, 4))
    expected[index] = 1.0
    np.testing.assert_array_equal(x.grad, expected)
    with pytest.raises(IndexError):
        x[np.int64(3)]


def test_a_key_that_is_not_made_by_mg_random_is_refused():
    with pytest.raises(TypeError, match=r"mg.random.key\(seed, step\), got 0"):
        F.dropout(leaf(3), 0.5, 0)


# ---- what becomes an array ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make", [
    lambda a, b: Tensor([a, b]),
    lambda a, b: Tensor([[1.0, a], [b, 2.0]]),
    lambda a, b: Tensor((0.0, (a, b))),
    lambda a, b: nn.Parameter([a, b]),
    lambda a, b: F.mean([a, b]),
    lambda a, b: F.logsumexp([a, b]),
    lambda a, b: F.add([a, b], 1.0),
    lambda a, b: Tensor([1.0, 1.0]) * [a, b],
    lambda a, b: [a, b] @ Tensor([1.0, 1.0]),
    lambda a, b: setattr(Tensor([1.0, 1.0]), "data", [a, b]),
    lambda a, b: F.linear(Tensor([1.0, 1.0]), [[a], [b]]),
])
def test_a_list_of_tensors_that_need_gradients_is_refused(make):
    a, b = (Tensor(x, requires_grad=True) for x in (1.0, 2.0))
    with pytest.raises(TypeError, match="F.stack"):
        make(a * 2.0, b)
    assert F.stack([a, b]).requires_grad


MASKED = np.ma.array([1.0, 1000.0], mask=[False, True])


@pytest.mark.parametrize("make", [
    lambda: Tensor(MASKED),
    lambda: Tensor([MASKED, MASKED]),
    lambda: Tensor([1.0, 2.0]) * MASKED,
    lambda: MASKED * Tensor([1.0, 2.0]),
    lambda: F.mean(MASKED),
    lambda: setattr(Tensor([1.0, 2.0]), "data", MASKED),
    lambda: Tensor([1.0, 2.0])[np.ma.array([0, 1], mask=[True, False])],
    lambda: F.embedding(np.ones((2, 2)), np.ma.array([0, 1], mask=[True, False])),
    lambda: F.cross_entropy(np.ones((2, 2)), np.ma.array([0, 1], mask=[True, False])),
    lambda: F.where(np.ma.array([True, True], mask=[True, False]), 1.0, Tensor([1.0, 2.0])),
    lambda: F.clip(Tensor([1.0, 2.0]), MASKED),
    lambda: Tensor([1.0, 2.0]).clip(max=MASKED),
    lambda: F.layer_norm(np.ones((2, 2)), np.ones(2), eps=np.ma.masked),
    lambda: F.broadcast_to(np.ones(2), np.ma.array([2, 2], mask=[True, False])),
    lambda: (leaf(2) * 2.0).backward(MASKED),
])
def test_a_masked_array_is_refused(make):
    with pytest.raises(TypeError, match=r"masked array.*filled"):
        make()


@pytest.mark.parametrize("array", [
    np.array([[1.0, -2.0], [0.5, 3.0]], ">f8"),
    np.array([[1.0, -2.0], [0.5, 3.0]], "<f8"),
    np.array([[1.0, -2.0], [0.5, 3.0]], order="F"),
    np.array([[1.0, 0.0, -2.0], [0.5, 0.0, 3.0]])[:, ::2],
    np.array([[0.5, 3.0], [1.0, -2.0]])[::-1],
], ids=["big-endian", "little-endian", "columns first", "strided", "reversed"])
def test_values_and_gradients_do_not_depend_on_the_kind_of_array(array):
    """Large enough for the kernels."""
    array = np.concatenate([array] * 64).astype(array.dtype)
    plain = np.array(array, "float64", order="C")

    def run(x):
        x, w = Tensor(x, requires_grad=True), Tensor(np.linspace(-1, 1, 2 * 8).reshape(2, 8), requires_grad=True)
        y = F.gelu(F.linear(F.layer_norm(x * x, np.ones(2)), w))
        (y * y).sum().backward()
        return y.data, x.grad, w.grad

    for got, expected in zip(run(array), run(plain)):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("array", [
    np.array([1, "a"], object), np.array(["a"]), np.array([1j]), np.array(["2026-01-01"], "datetime64[D]"),
    np.zeros(2, [("x", float)]), np.array([b"a"]), {"a": 1.0}, {1.0}, (x for x in [1.0]), None, "1.0",
], ids=lambda a: str(getattr(a, "dtype", type(a))))
def test_what_holds_no_real_numbers_is_refused(array):
    t = Tensor(np.zeros(1))
    for make in (lambda: Tensor(array), lambda: Tensor(array, dtype="float32"), lambda: setattr(t, "data", array)):
        with pytest.raises(TypeError, match="a Tensor holds numbers"):
            make()
    if array is not None:
        with pytest.raises(TypeError, match="a Tensor holds numbers"):
            (leaf(1) * 2.0).backward(array)


@pytest.mark.parametrize("dtype", ["complex64", "U3", object, "datetime64[s]"])
def test_a_cast_to_no_real_numbers_is_refused(dtype):
    for cast in (lambda: Tensor([1.0]).astype(dtype), lambda: Tensor([1.0], dtype=dtype)):
        with pytest.raises(TypeError, match="a Tensor holds numbers"):
            cast()


@pytest.mark.parametrize("dtype, values", [
    ("int64", [1.5]), ("int64", [math.nan]), ("int64", [math.inf]), ("uint8", [300]), ("uint8", [-1]), (bool, [2]),
])
def test_new_data_that_an_integer_dtype_does_not_hold_is_refused(dtype, values):
    t = Tensor(np.ones(1, dtype))
    with pytest.raises(ValueError, match="does not hold"):
        t.data = values
    assert t.tolist() == [1]
    t.data = [0.0]
    assert t.tolist() == [0]


@pytest.mark.parametrize("make", [
    lambda x, t: x.clip(min=t),
    lambda x, t: F.clip(x, high=t),
    lambda x, t: F.layer_norm(x, np.ones(3), eps=t),
    lambda x, t: F.cross_entropy(x, np.array([0, 1]), label_smoothing=t),
    lambda x, t: F.dropout(x, t, mg.random.key(0)),
])
def test_an_argument_without_a_gradient_refuses_a_tensor_that_needs_one(make):
    with pytest.raises(TypeError, match="has no gradient"):
        make(leaf(2, 3), Tensor(0.1, requires_grad=True))


def test_clip_takes_limits_that_need_no_gradient():
    x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    assert x.clip(min=Tensor([2.0, 1.0, 1.0]), max=np.float64(2.5)).tolist() == [2.0, 2.0, 2.5]


def test_only_a_floating_leaf_can_be_set_to_require_a_gradient():
    x = Tensor([1, 2])
    with pytest.raises(TypeError, match="only floating numbers have gradients"):
        x.requires_grad = True
    y = leaf(2) * 2.0
    with pytest.raises(ValueError, match="can be set on leaves only"):
        y.requires_grad = False


def test_a_comparison_with_a_masked_array_keeps_its_mask():
    for hidden in (Tensor([1.0, 2.0]) < MASKED, MASKED > Tensor([1.0, 2.0])):
        np.testing.assert_array_equal(np.ma.getmaskarray(hidden), MASKED.mask)


@pytest.mark.parametrize("grad", [
    np.ma.array(np.ones(3), mask=[True, False, False]), np.ones(1), np.ones(()), np.ones((1, 3)), np.ones(3, "float32"),
    np.ones(3, int), [1.0, 1.0, 1.0], 1.0, Tensor(np.ones(3)),
], ids=lambda g: f"{type(g).__name__} {getattr(g, 'dtype', '')} {np.shape(g)}")
def test_a_backward_does_not_add_to_a_grad_that_does_not_fit(grad):
    x, y = leaf(3), leaf(3)
    x.grad = grad
    with pytest.raises(ValueError, match="has a .grad"):
        (x * y).sum().backward()
    assert x.grad is grad and y.grad is None


# ---- values that change between forward and backward ----------------------------------------------------------------

@pytest.mark.parametrize("call, buffer, new", [
    (lambda w, i: F.embedding(w, i), np.array([0, 1]), 3),
    (lambda w, i: w[i], np.array([0, 1]), 3),
    (lambda w, i: w[i, np.array([1, 0])], np.array([0, 1]), 3),
    (lambda w, i: w[:, i], np.array([0, 1]), 2),
    (lambda w, i: w[Tensor(i)], np.array([0, 1]), 3),
    (lambda w, i: F.scatter_add(w, i, (6, 3)), np.array([0, 1, 2, 2]), 5),
    (lambda w, m: w[m], np.array([True, False, True, True]), False),
    (lambda w, m: F.where(m[:, None], w, 0.0), np.array([True, True, False, False]), False),
    (lambda w, m: F.scaled_dot_product_attention(w, w, w, mask=m), np.tri(4, 4, 1, bool), True),
    (lambda w, t: F.cross_entropy(w, t), np.array([0, 1, 2, 0]), 2),
    (lambda w, t: F.linear_cross_entropy(w, w, t), np.array([0, 1, 2, 0]), 2),
    (lambda w, low: w.clip(min=low), np.array([-0.1, 0.0, 0.1]), -9.0),
])
@pytest.mark.parametrize("unfused", [False, True])
def test_an_index_mask_or_target_array_may_be_filled_again_before_the_backward(call, buffer, new, unfused):
    w = leaf(4, 3)

    def gradient(refill):
        array = buffer.copy()
        with mg.modes.switch(unfused=unfused):
            y = (call(w, array) * 1.5).sum()
        if refill:
            array[...] = new
        return mg.grad(y, w).data

    np.testing.assert_array_equal(gradient(True), gradient(False))


@pytest.mark.parametrize("through", [
    lambda p: p,
    lambda p: p.detach(),
    lambda p: p.detach().detach(),
    lambda p: Tensor(p),
    lambda p: Tensor(p.data),
    lambda p: Tensor(p.data[1:]),
    lambda p: Tensor(p.data[::-1, ::2]),
    lambda p: mg.from_dlpack(p.detach()),
    *[lambda p, view=view: _without_grad(view, p) for view in (
        lambda p: p.T, lambda p: p[0], lambda p: p.reshape(-1), lambda p: F.split(p, 2)[1], lambda p: F.squeeze(p),
        lambda p: F.broadcast_to(p, (2, 4, 4)), lambda p: p.swapaxes(0, 1)[2])],
])
@pytest.mark.parametrize("change", [
    lambda p: setattr(p, "data", np.zeros((4, 4))),
    lambda p: optim.SGD([p], lr=1.0).step(),
    lambda p: optim.AdamW([p], lr=1.0).step(),
])
def test_new_data_is_noticed_through_every_tensor_that_shares_the_memory(through, change):
    p, w = leaf(4, 4), leaf(1)
    p.grad = np.ones((4, 4))
    y = (through(p) * w).sum()
    change(p)
    with pytest.raises(ValueError, match="was changed after mul"):
        y.backward()


def _without_grad(view, p):
    with mg.no_grad():
        return view(p)


def test_new_data_of_adjacent_memory_is_not_taken_for_a_change():
    flat = np.arange(12.0)
    p, q, w = Tensor(flat[:6], requires_grad=True), Tensor(flat[6:], requires_grad=True), leaf(1)
    y = (p.detach() * w).sum() + (p.detach().numpy() * w).sum()
    q.data = np.zeros(6)
    Tensor(np.ones(6), requires_grad=True).data = np.zeros(6)
    y.backward()
    np.testing.assert_array_equal(w.grad, [2 * 15.0])


def test_a_change_is_noticed_while_other_threads_record_theirs(monkeypatch):
    """One thread waits between taking the time of its change and recording it; another one records a later change."""
    x, other = leaf(3), Tensor(np.zeros(5))
    stopped, go_on = threading.Event(), threading.Event()
    clock = changes.clock

    def slow_clock():
        time = clock()
        if threading.current_thread() is thread:
            stopped.set()
            go_on.wait(0.2)
        return time

    thread = threading.Thread(target=lambda: setattr(other, "data", np.ones(5)))
    monkeypatch.setattr(changes, "clock", slow_clock)
    thread.start()
    stopped.wait()
    y = (x * x).sum()
    x.data = np.zeros(3)
    go_on.set()
    thread.join()
    with pytest.raises(ValueError, match="was changed after"):
        y.backward()


def test_new_data_before_the_forward_is_not_taken_for_a_change():
    p = leaf(3)
    for _ in range(3):
        p.data = p.data + 1.0
        (p * p).sum().backward()


# ---- hooks ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("hook, error, message", [
    (lambda g: g.sum(), TypeError, "gave a float64"),
    (lambda g: g[:1], ValueError, r"gave shape \(1, 4\)"),
    (lambda g: g.T, ValueError, r"gave shape \(4, 3\)"),
    (lambda g: g.astype("float32"), ValueError, "dtype float32"),
    (lambda g: Tensor(g), TypeError, "gave a Tensor"),
    (lambda g: 0.0, TypeError, "gave a float"),
])
@pytest.mark.parametrize("interior", [False, True])
def test_a_hook_returns_none_or_an_array_like_the_gradient(hook, error, message, interior):
    x = leaf(3, 4)
    y = x * 2.0
    (y if interior else x).register_hook(hook)
    with pytest.raises(error, match=message):
        y.sum().backward()
    assert x.grad is None


def test_a_hook_cannot_write_into_a_gradient_that_others_share():
    """In a sum, both terms get the same array."""
    x, w = leaf(3), leaf(3)
    a, b = x * 2.0, w * 3.0
    a.register_hook(lambda g: np.multiply(g, 10.0, out=g))
    with pytest.raises(ValueError, match="read-only"):
        ((a + b) * np.ones(3)).sum().backward()


def test_the_arrays_of_a_step_are_read_only_and_its_gradients_can_be_replaced():
    x, w = leaf(3), leaf(3)
    for step in ((x * 2.0 + w * 3.0) * np.ones(3)).sum().backward_steps():
        if step.op == "add":
            with pytest.raises(ValueError, match="read-only"):
                step.dxs[0] *= 10.0
            with pytest.raises(ValueError, match="read-only"):
                step.dy[0] = 10.0
            step.dxs[0] = step.dxs[0] * 10.0
    np.testing.assert_array_equal(x.grad, [20.0] * 3)
    np.testing.assert_array_equal(w.grad, [3.0] * 3)


@pytest.mark.parametrize("given, error", [
    (np.ones(1), ValueError), (np.ones(3, "float32"), ValueError), (Tensor(np.ones(3)), TypeError), (1.0, TypeError)])
def test_a_replaced_gradient_of_a_step_must_be_an_array_like_it(given, error):
    x = leaf(3)
    steps = (x * 2.0).sum().backward_steps()
    next(steps)
    next(steps).dxs[0] = given
    with pytest.raises(error, match="a step gave"):
        next(steps)
    assert x.grad is None


def test_hooks_of_a_0_d_tensor_may_compute_a_scalar_of_numpy():
    x = Tensor(2.0, requires_grad=True)
    y = x * 3.0
    y.register_hook(lambda g: g * 10.0)
    x.register_hook(lambda g: g + 1.0)
    y.backward()
    assert x.grad == 31.0 and type(x.grad) is np.ndarray


def test_retain_grad_stores_the_gradient_after_all_hooks():
    x = leaf(2)
    y = x * 2.0
    y.retain_grad()
    y.register_hook(lambda g: g * 10.0)
    y.sum().backward()
    np.testing.assert_array_equal(y.grad, [10.0, 10.0])


def test_retain_grad_called_twice_adds_the_gradient_once():
    y = leaf(2) * 2.0
    y.retain_grad()
    y.retain_grad()
    y.sum().backward()
    np.testing.assert_array_equal(y.grad, [1.0, 1.0])


def test_mg_grad_changes_no_grad_of_a_tensor_with_retain_grad():
    x = leaf(2)
    for create_graph in (True, False):
        y = x * 2.0
        y.retain_grad()
        gx, gy = mg.grad((y * y).sum(), [x, y], create_graph=create_graph)
        assert y.grad is None and x.grad is None
        np.testing.assert_array_equal(gy.data, 2.0 * y.data)
        np.testing.assert_array_equal(gx.data, 4.0 * y.data)


def test_a_failed_backward_leaves_the_grad_of_every_tensor_as_before():
    x = leaf(2)
    y = x * 2.0
    y.retain_grad()
    y.grad = np.ones(2)
    x.register_hook(lambda g: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        y.sum().backward()
    np.testing.assert_array_equal(y.grad, np.ones(2))


# ---- copies ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))])
def test_an_output_of_an_op_is_not_copied_and_its_detach_and_leaves_are(copied):
    x = leaf(2)
    y = x * 2.0
    with pytest.raises(TypeError, match=r"output of mul at .*only leaves can be copied.*detach\(\)"):
        copied(y)
    assert copied(y.detach()).tolist() == y.tolist()
    x.grad = np.ones(2)
    z = copied(x)
    assert z.requires_grad and z.node is None and z.grad.tolist() == [1.0, 1.0]


def test_an_unpickled_model_can_be_trained_in_a_new_process(tmp_path):
    layer = nn.Linear(2, 2, dtype="float64")
    for _ in range(100):
        layer.weight.data = layer.weight.data + 0.0
    (tmp_path / "layer").write_bytes(pickle.dumps(layer))
    program = (f"import pickle; layer = pickle.load(open({str(tmp_path / 'layer')!r}, 'rb'))\n"
               "layer([[1.0, 2.0]]).sum().backward(); print(layer.weight.grad.tolist(), layer.weight.name)")
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[[1.0, 1.0], [2.0, 2.0]] weight", run.stderr
