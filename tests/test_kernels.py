"""Kernels compute what their ops do, on any shape; graphs drop activations that no backward needs; memory is reused."""
import inspect
import sys
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, optim
from minigrad.gradcheck import Case, relative_error
from minigrad.executor import EXECUTORS
from minigrad.kernels.vector import buffers, shape
from minigrad.ops.sample import Sample
from minigrad.ops.sums import unbroadcast
from minigrad.random import Key

from tests.small_kernels import NUMPY_EXECUTORS

RNG = np.random.default_rng(0)
OPS = list(dict.fromkeys(op for executor in NUMPY_EXECUTORS.values() for op in executor.kernels))


@pytest.fixture(params=NUMPY_EXECUTORS)
def executor(request, monkeypatch):
    """NumPy arrays have this executor."""
    monkeypatch.setitem(EXECUTORS, np.ndarray, NUMPY_EXECUTORS[request.param])
    return NUMPY_EXECUTORS[request.param]


pytestmark = pytest.mark.usefixtures("executor", "with_kernels")


def compare(op, sample, seed=0, single=1e-5):
    """Compare the kernel of an op with the op, forward and backward, in float64 and float32. single: the bound on the
    relative error in float32."""
    kernel, case = EXECUTORS[np.ndarray].implementation(op), Case(op, sample, seed)
    for dtype, bound in (("float64", 1e-11), ("float32", single)):
        inputs = case.replaced(x.astype(dtype) for x in case.arrays)
        dys = [dy.astype(dtype) for dy in case.dys]
        op_ran, want = case.forward(inputs)
        kernel_ran, got = case.forward(inputs, kernel)
        for a, b in zip(got, want):
            assert a.dtype == dtype and a.shape == b.shape and relative_error(a, b) < bound
        want, got = case.backward(op_ran, dys), case.backward(kernel_ran, dys)
        for x, a, b in zip(inputs, got, want):
            if b is not None:
                a, b = (unbroadcast(np.asarray(dx), np.shape(x)) for dx in (a, b))
                assert a.dtype == dtype and relative_error(a, b) < bound


def kernel_of(name, n_inputs=3):
    """The kernel of an op, whose inputs all need a gradient."""
    op = EXECUTORS[np.ndarray].implementation(mg.OPS[name])()
    op.xp, op.needs = np, (True,) * n_inputs
    return op


every_sample = pytest.mark.parametrize("op, sample", [
    (op, sample) for op in OPS for sample in op.samples],
    ids=lambda x: x.name if isinstance(x, type) else str(x)[:40])


@every_sample
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_kernel_equals_its_op_on_every_sample(op, sample, threads):
    mg.set_num_threads(threads)
    compare(op, sample)


@given(data=st.data())
@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_kernel_equals_its_op_on_any_shape(data):
    size = lambda low=1, high=9: data.draw(st.integers(low, high))
    B, T, C, O, V, H = size(), size(), size(), size(), size(2), size(1, 4)
    ids = lambda n, *shape: np.random.default_rng(size()).integers(0, n, shape)
    mg.set_num_threads(size(1, 4))
    op, sample = data.draw(st.sampled_from([
        ("layer_norm", Sample((B, T, C + 1), (C + 1,), (C + 1,))),
        ("linear", Sample((B, T, C), (C, O), (O,))),
        ("linear", Sample((T, C), (C, O))),
        ("gelu", Sample((B, T, C))),
        ("add", Sample((B, T, C), (B, T, C))),
        ("add", Sample((B, T, C), (T, C))),
        ("attention", Sample((B, H, T, C), (B, H, T, C), (B, H, T, C), causal=True)),
        ("attention", Sample((B, H, T, C), (B, H, T, C), (B, H, T, C), causal=True, dropout=0.3, key=Key(seed=1))),
        ("attention", Sample((B, H, T, C), (B, H, O, C), (B, H, O, V), dropout=0.7, key=Key(seed=size()))),
        ("attention", Sample((B, T, C), (B, O, C), (B, O, V))),
        ("attention", Sample((1, H, 1, C), (1, H, T, C), (1, H, T, C), causal=True)),
        ("dropout", Sample((B, T, C), p=0.3, key=Key(seed=size(), step=size()))),
        ("embedding", Sample((V, C), idx=ids(V, B, T))),
        ("cross_entropy", Sample((B, T, V), targets=ids(V, B, T))),
        ("linear_cross_entropy", Sample((B, T, C), (V, C), targets=ids(V, B, T), ignore_index=0)),
    ]))
    compare(mg.OPS[op], sample, single=1e-3)    # of gradients that cancel, as for a single key, rounding errors remain


TARGETS = np.array([[1, 0, -100, 4, 2], [2, 2, 1, -100, 0]])
OF_ROWS = {                                     # a function of each op that computes rows or elements, and its inputs
    "layer_norm": (F.layer_norm, (2, 5, 7), (7,), (7,)),
    "gelu": (F.gelu, (2, 5, 7)),
    "add": (F.add, (2, 5, 7), (2, 5, 7)),
    "add of a row to each": (F.add, (2, 5, 7), (5, 7)),
    "dropout": (lambda x: F.dropout(x, 0.3, Key(seed=1)), (2, 5, 7)),
    "embedding": (lambda w: F.embedding(w, TARGETS % 9), (9, 7)),
    "cross_entropy": (lambda z: F.cross_entropy(z, TARGETS), (2, 5, 7)),
    "linear_cross_entropy": (lambda x, w: F.linear_cross_entropy(x, w, TARGETS), (2, 5, 3), (7, 3)),
}
of_rows = pytest.mark.parametrize("function, shapes", [(f, shapes) for f, *shapes in OF_ROWS.values()], ids=OF_ROWS)


def drawn(shapes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes]


def results(function, arrays, dy=None):
    """The output of a function of Tensors, and the gradients of its inputs for dy, by default random."""
    xs = [Tensor(a, requires_grad=True) for a in arrays]
    y = function(*xs)
    y.backward(drawn([y.shape], y.dtype, seed=1)[0] if dy is None else dy)
    return [y.data, *(x.grad for x in xs)]


def assert_close(got, want, dtype):
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5 if dtype == "float32" else 1e-11,
                                   atol=1e-6 if dtype == "float32" else 1e-13)


@of_rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_nan_and_infinities_are_where_the_textbook_has_them(function, shapes, dtype, strange):
    arrays = drawn(shapes, dtype)
    for k, a in enumerate(arrays):
        a.reshape(-1)[k::11] = strange
    with np.errstate(all="ignore"):
        got = results(function, arrays)
        with mg.plain():
            want = results(function, arrays)
    assert_close(got, want, dtype)


@of_rows
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arrays_of_any_layout_give_the_same_as_contiguous_ones(function, shapes, dtype):
    arrays = drawn(shapes, dtype)
    want = results(function, arrays)
    dy = drawn([want[0].shape], dtype, seed=1)[0]
    for layout in (lambda a: a.copy(order="F"), lambda a: np.repeat(a, 2, axis=-1)[..., ::2] if a.ndim else a,
                   lambda a: np.broadcast_to(a, a.shape)):          # the last is read-only
        assert_close(results(function, list(map(layout, arrays)), layout(dy)), want, dtype)


NONE, FIRST = np.zeros((0, 5), int), np.zeros((2, 5), int)


@pytest.mark.parametrize("function, shapes", [
    (F.layer_norm, [(0, 5, 7), (7,), (7,)]), (F.layer_norm, [(2, 5, 1), (1,), (1,)]),
    (F.gelu, [(0, 7)]), (F.gelu, [(5, 1)]), (OF_ROWS["dropout"][0], [(0, 7)]), (OF_ROWS["dropout"][0], [(5, 1)]),
    (F.add, [(0, 5, 7), (5, 7)]), (F.add, [(2, 5, 1), (5, 1)]), (F.add, [(2, 5, 1), (0,)]),
    (lambda w: F.embedding(w, NONE), [(9, 7)]), (lambda w: F.embedding(w, FIRST), [(9, 1)]),
    (lambda z: F.cross_entropy(z, NONE), [(0, 5, 7)]), (lambda z: F.cross_entropy(z, FIRST), [(2, 5, 1)]),
    (lambda x, w: F.linear_cross_entropy(x, w, NONE), [(0, 5, 3), (7, 3)]),
    (lambda x, w: F.linear_cross_entropy(x, w, FIRST), [(2, 5, 1), (1, 1)])])
def test_an_empty_batch_and_rows_of_one_element_equal_the_textbook(function, shapes):
    arrays = drawn(shapes, "float64")
    got = results(function, arrays)
    with mg.plain():
        want = results(function, arrays)
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
    assert_close(got, want, "float64")


@of_rows
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_same_number_of_threads_gives_the_same_bits(function, shapes, threads):
    mg.set_num_threads(threads)
    first = results(function, drawn(shapes, "float32"))
    for _ in range(5):
        assert all(map(np.array_equal, results(function, drawn(shapes, "float32")), first))


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("weight_decay, beta2", [(0.0, 0.999), (0.1, 0.999), (0.0, 0.999999), (0.0, 1.0 - 1e-8)])
def test_steps_of_adamw_equal_those_of_its_op(size, dtype, weight_decay, beta2):
    def train():
        params = [Tensor(p, requires_grad=True) for p in drawn([(size, 3), (size,)], dtype)]
        opt = optim.AdamW(params, lr=1.0, weight_decay=weight_decay, betas=(0.9, beta2))
        for step in range(4):
            for p, g in zip(params, drawn([(size, 3), (size,)], dtype, seed=step)):
                p.grad = g
            opt.step()
        return [*(p.data for p in params), *opt.state_dict()["m"], *opt.state_dict()["v"]]

    got = train()
    with mg.plain():
        want = train()
    assert_close(got, want, dtype)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0, 1e4])
def test_attention_equals_its_op_for_scores_of_any_size(scale):
    """For large ones, the kernel has to subtract the maximum of each row before exp."""
    q, k, v = (RNG.normal(size=(2, 3, 7, 4)) * s for s in (scale, scale, 1.0))
    want = mg.OPS["attention"]()
    want.xp = np
    got = kernel_of("attention")
    np.testing.assert_allclose(got.forward(q, k, v, causal=True), want.forward(q, k, v, causal=True), atol=1e-12)
    dy = RNG.normal(size=(2, 3, 7, 4))
    for a, b in zip(got.backward(dy, **got.saved), want.backward(dy, **want.saved)):
        np.testing.assert_allclose(a, b, atol=1e-9 * max(scale, 1.0))


def test_attention_to_a_single_key_has_dq_and_dk_of_exactly_0():
    """P is 1 for any score, so no rounding error may be left in dq and dk."""
    q, k, v = (RNG.normal(size=shape).astype("float32") for shape in ((2, 9, 2), (2, 1, 2), (2, 1, 6)))
    op = kernel_of("attention")
    y = op.forward(q, k, v)
    dq, dk, dv = op.backward(RNG.normal(size=y.shape).astype("float32"), **op.saved)
    assert not dq.any() and not dk.any() and dv.any()


def test_split_heads_returns_a_view_of_gradients_that_are_adjacent_in_one_array():
    op, whole = shape.SplitHeads(), RNG.normal(size=(2, 5, 36))
    op.xp = np
    parts = op.forward(whole, n_head=3)                             # 3 x (2, 3, 5, 4)
    joined = op.backward(*parts, shape=whole.shape)
    assert np.shares_memory(joined, whole)
    np.testing.assert_array_equal(joined, whole)
    made = RNG.normal(size=(2, 5, 3, 3, 4)).transpose(2, 0, 3, 1, 4)        # as attention's kernel returns them
    assert np.shares_memory(op.backward(*made, shape=whole.shape), made)
    for dys in (made, parts[::-1], [parts[0], parts[1], parts[2].copy()], [parts[0], parts[0], parts[2]]):
        np.testing.assert_array_equal(op.backward(*dys, shape=whole.shape),
                                      np.concatenate(dys, axis=1).swapaxes(1, 2).reshape(whole.shape))


# ---- in a model -----------------------------------------------------------------------------------------------------

IDX = RNG.integers(0, 13, (3, 8))


def model(dtype="float32", **shape):
    return GPT(GPTConfig(**dict(block_size=7, vocab_size=13, n_layer=2, n_head=2, n_embd=6) | shape), dtype=dtype)


def test_training_gives_the_same_bits_every_time_and_is_close_to_training_with_the_textbook():
    def train(steps=5):
        gpt = model()
        opt = optim.AdamW(gpt.parameters(), lr=0.01)
        for _ in range(steps):
            gpt.loss(IDX[:, :-1], IDX[:, 1:]).backward()
            optim.clip_grad_norm(gpt.parameters(), 0.5)
            opt.step()
            opt.zero_grad()
        return gpt.state_dict() | {f"{k}{i}": m for k in "mv" for i, m in enumerate(opt.state_dict()[k])}

    first = train()
    for _ in range(5):
        assert all(np.array_equal(a, first[name]) for name, a in train().items())
    with mg.plain():
        plain = train()
    assert all(np.allclose(plain[name], a, rtol=1e-3, atol=1e-4) for name, a in first.items())


def test_clipping_and_adamw_are_right_for_a_parameter_that_is_not_contiguous():
    p = Tensor(np.asfortranarray(RNG.normal(size=(4, 3))), requires_grad=True)
    q = Tensor(np.ascontiguousarray(p.data), requires_grad=True)
    for t in (p, q):
        opt = optim.AdamW([t], lr=0.1)
        (t * t).sum().backward()
        optim.clip_grad_norm([t], 0.1)
        opt.step()
    np.testing.assert_allclose(p.data, q.data, rtol=1e-12)


def test_backward_after_an_adamw_step_raises_an_error():
    p = Tensor(RNG.normal(size=(3,)), requires_grad=True)
    loss = (p * p).sum()
    p.grad = np.ones(3)
    optim.AdamW([p]).step()
    with pytest.raises(ValueError, match="was changed after mul"):
        loss.backward()


def test_plain_runs_no_kernel(executor, monkeypatch):
    for kernel in executor.kernels.values():
        monkeypatch.setattr(kernel, "forward", None)
    for method in ("update", "norm", "clip"):
        monkeypatch.setattr(executor, method, None)
    with mg.plain():
        gpt = model()
        gpt.loss(IDX[:, :-1], IDX[:, 1:]).backward()
        optim.clip_grad_norm(gpt.parameters(), 0.5)
        optim.AdamW(gpt.parameters()).step()
    with pytest.raises(TypeError, match="NoneType"):
        gpt.loss(IDX[:, :-1], IDX[:, 1:])


# ---- dropped activations --------------------------------------------------------------------------------------------

def inputs_of_all_steps(gpt):
    loss = gpt.loss(IDX[:, :-1], IDX[:, 1:])
    return [(step.op, [getattr(x, "data", x) for x in step.inputs]) for step in loss.backward_steps()]


def test_activations_that_no_backward_needs_are_freed_with_their_tensors():
    x, w = Tensor(RNG.normal(size=(9, 4))), Tensor(RNG.normal(size=(4, 6)), requires_grad=True)
    u = F.linear(x, w)
    left, right = F.gelu(u), F.layer_norm(u, np.ones(6))
    y = left + right
    arrays = [weakref.ref(t.data) for t in (u, left, right)]
    assert all(a() is not None for a in arrays), "the Tensors still refer to them"
    del u, left, right
    assert all(a() is None for a in arrays)
    y.sum().backward()
    assert np.isfinite(w.grad).all()


def test_steps_have_the_inputs_of_the_forward_although_the_graph_dropped_them(executor, monkeypatch):
    gpt = model()
    seen = inputs_of_all_steps(gpt)
    for kernel in executor.kernels.values():
        monkeypatch.setattr(kernel, "drops", ())
    kept = inputs_of_all_steps(gpt)
    assert [op for op, _ in seen] == [op for op, _ in kept]
    for (op, got), (_, want) in zip(seen, kept):
        for a, b in zip(got, want):
            np.testing.assert_array_equal(a, b, err_msg=op)


def test_rematerializing_after_a_change_of_the_weights_raises_an_error():
    gpt = model()
    loss = gpt.loss(IDX[:, :-1], IDX[:, 1:])
    gpt.h[0].mlp.c_fc.weight.data = np.zeros((6, 24))
    with pytest.raises(ValueError, match="h.0.mlp.c_fc.weight .* was changed after linear in h.0.mlp.c_fc"):
        list(loss.backward_steps())


def test_second_derivatives_rematerialize_dropped_activations():
    x = Tensor(RNG.normal(size=(5,)), requires_grad=True)
    slope = mg.grad(((x * x + x * 3.0) ** 2).sum(), x, create_graph=True)
    curvature = mg.grad(slope.sum(), x)
    np.testing.assert_allclose(curvature.data, 12.0 * x.data ** 2 + 36.0 * x.data + 18.0)


def test_detect_nan_rematerializes_dropped_activations():
    x = Tensor(RNG.normal(size=(2, 8)), requires_grad=True)
    with mg.detect_nan():
        (F.gelu(x * 2.0) + x * 3.0).sum().backward()
    assert np.isfinite(x.grad).all()


# ---- memory ---------------------------------------------------------------------------------------------------------

def address(a):
    return a.__array_interface__["data"][0]


def test_memory_without_references_is_reused_for_arrays_of_the_same_or_a_slightly_smaller_size():
    kept = buffers.Buffers()
    first = kept.empty((10, 10), "float64")
    view, place = first[2:3].T, address(first)
    other = kept.empty((10, 10), "float64")
    assert address(other) != place
    del first
    third = kept.empty((10, 10), "float64")
    assert address(third) not in (place, address(other)), "a view still refers to it"
    allocated = kept.allocated
    del view, other, third
    again = [kept.empty((10, 10), "float64") for _ in range(3)]
    assert len(set(map(address, again))) == 3 and kept.allocated == allocated, "the memory of all three is reused"

    kept = buffers.Buffers()
    place = address(kept.empty((10, 10), "float64"))
    assert address(kept.empty((100,), "float64")) == place, "another shape of the same size"
    assert address(kept.empty((200,), "float32")) == place, "another dtype"
    assert address(kept.empty((70,), "float64")) == place, "a smaller one"
    assert address(kept.empty((60,), "float64")) != place, "one so much smaller that memory would be wasted"


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=60))
@settings(max_examples=50, deadline=None, database=None)
def test_referenced_arrays_never_overlap(actions):
    kept, held = buffers.Buffers(), []
    for make, i in actions:
        if make:
            a = kept.empty((16 + i % 3,), "float64")
            a[:] = len(held)
            held.append((a, a.copy()))
        elif held:
            held.pop(i % len(held))
        assert all(np.array_equal(a, copy) for a, copy in held)


def test_memory_of_sizes_that_are_no_longer_used_is_freed():
    kept = buffers.Buffers()
    for n in range(100, 200):
        kept.empty((n,), "float64")
    assert sum(size * len(kept.lent[size] + kept.free[size]) for size in kept.sizes) < 20 * 200 * 8


LINES = [(method.__name__, first + k) for method in (buffers.Buffers.empty, buffers.Buffers.size_for,
                                                     buffers.Buffers.reclaim, buffers.Buffers.trim)
         for lines, first in [inspect.getsourcelines(method)] for k in range(1, len(lines))]


def sizes_allocated(kept):
    """Ask for arrays of many sizes, some used again, some for the first time."""
    for n in (20, 50, 30, 120, 70, 300, 600, 20, 50):
        for _ in range(3):
            kept.empty((n,), "float64")[:] = 1.0


@pytest.mark.parametrize("method, line", LINES)
def test_an_interrupt_at_any_line_of_the_allocator_leaves_it_usable(method, line):
    kept, interrupted = buffers.Buffers(), []
    arrays = [kept.empty((n,), "float64") for n in (20, 30, 40, 90)]
    del arrays
    kept.used.clear()

    def trace(frame, event, arg):
        if frame.f_code.co_name == method and frame.f_lineno == line and event == "line" and not interrupted:
            interrupted.append(line)
            raise KeyboardInterrupt
        return trace if frame.f_code.co_filename == buffers.__file__ else None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        sizes_allocated(kept)
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    sizes_allocated(kept)
    assert not kept.lock.locked()


def test_an_array_can_be_allocated_while_the_allocator_is_in_use():
    """As in a signal handler that runs an op while its thread allocates."""
    kept = buffers.Buffers()
    with kept.lock:
        assert kept.empty((100,), "float64").shape == (100,)
