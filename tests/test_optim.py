"""Optimizers: closed forms, equality with the ops, gradients through a step, clipping, the learning rate schedule."""
import contextlib
import copy
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, strategies as st

import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.executor import EXECUTORS
from minigrad.modes import switch
from minigrad.optim import SGD, AdamW, clip_grad_norm, warmup_cosine


def parameter(values, dtype="float64"):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


def run(optimizer, p, gradients):
    """The values of p before the first step and after a step with each gradient."""
    values = [p.numpy()]
    for g in gradients:
        p.grad = np.array(g, dtype=p.dtype)
        optimizer.step()
        values.append(p.numpy())
    return np.array(values)


def test_adamw_equals_the_op():
    p, rng = parameter([[1.0, -2.0, 3.0]]), np.random.default_rng(0)
    gradients = rng.normal(size=(4, 1, 3))
    values = run(AdamW([p], lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2), p, gradients)
    q, m, v = np.array([[1.0, -2.0, 3.0]]), np.zeros((1, 3)), np.zeros((1, 3))
    for t, g in enumerate(gradients, 1):
        q, m, v = (x.data for x in F.adamw(q, g, m, v, 0.1, 0.8, 0.95, 1e-3, 0.2, t))
        np.testing.assert_allclose(values[t], q, rtol=1e-14)


def test_groups_have_their_own_hyper_parameters():
    a, b = parameter([1.0]), parameter([1.0])
    optimizer = AdamW([{"params": [a], "weight_decay": 0.5}, {"params": [b], "lr": 0.2, "weight_decay": 0.0}], lr=0.1)
    a.grad, b.grad = np.zeros(1), np.zeros(1)
    optimizer.step()
    assert (a.data, b.data) == ([0.95], [1.0])
    optimizer.groups[0]["lr"] = 0.0
    optimizer.step()
    assert a.data == [0.95]


def test_a_parameter_without_a_gradient_is_not_changed():
    a, b = parameter([1.0]), parameter([1.0])
    optimizer = AdamW([a, b])
    a.grad = np.ones(1)
    optimizer.step()
    assert b.data == [1.0] and optimizer.state_of(b)["t"] == 0


@pytest.mark.parametrize("grad", [
    *[np.ones(shape) for shape in [(), (1,), (6,), (3, 2), (4, 3)]], np.ones((2, 3), "float32"), np.ones((2, 3), int),
    np.ones((2, 3), ">f8"), Tensor(np.ones((2, 3))), [[1.0] * 3] * 2, 1.0,
], ids=lambda g: f"{type(g).__name__} {getattr(g, 'dtype', '')} {np.shape(g)}")
def test_a_gradient_of_another_shape_dtype_or_type_is_an_error_and_changes_nothing(grad):
    p, q = (Tensor(np.zeros((2, 3)), requires_grad=True) for _ in "pq")
    p.grad, q.grad = np.ones((2, 3)), grad
    opt = AdamW([p, q])
    with pytest.raises(ValueError, match=r"a parameter \(2, 3\) has a .grad (of shape|that is a)"):
        opt.step()
    with pytest.raises(ValueError, match=r"a parameter \(2, 3\) has a .grad (of shape|that is a)"):
        clip_grad_norm([p, q], 0.1)
    assert not p.data.any() and opt.state_dict()["t"] == [0, 0] and p.grad.all() == 1.0


def test_a_read_only_gradient_is_not_clipped_in_part():
    p, q = parameter([3.0]), parameter([4.0])
    p.grad, q.grad = np.array([3.0]), np.broadcast_to(4.0, 1)
    with pytest.raises(ValueError, match="read-only"):
        clip_grad_norm([p, q], 1.0)
    assert p.grad == 3.0


def test_a_gradient_that_two_parameters_share_is_not_clipped_twice():
    p, q = parameter([3.0]), parameter([4.0])
    p.grad = q.grad = np.array([3.0])
    with pytest.raises(ValueError, match="also another's"):
        clip_grad_norm([p, q], 1.0)
    assert p.grad == 3.0
    assert clip_grad_norm([p, p], 1.0) == 3.0 and p.grad == pytest.approx(1.0)


@pytest.mark.parametrize("make", [
    lambda a: [a, a], lambda a: [a, a.T], lambda a: [a[:2], a[1:]], lambda a: [a[:, :2], a[:, 1:]],
    lambda a: [a[:2], a[2:], a[3]], lambda a: [np.lib.stride_tricks.as_strided(a, (5, 4), (16, 8))],
    lambda a: [np.lib.stride_tricks.as_strided(a, (3, 4), (0, 8))],
])
def test_parameters_that_overlap_in_memory_are_an_error(make):
    params = [Tensor(a, requires_grad=True) for a in make(np.ones((4, 4)))]
    for optimizer in (lambda: SGD(params, lr=0.1), lambda: AdamW([{"params": [p]} for p in params])):
        with pytest.raises(ValueError, match="memory"):
            optimizer()


@pytest.mark.parametrize("make", [
    lambda a: [a[:2], a[2:]], lambda a: [a[:, :2], a[:, 2:]], lambda a: [a[:, ::2], a[:, 1::2]], lambda a: [a.T[::-1]],
    lambda a: [a[:0], a], lambda a: [a[:1, None]],
])
@pytest.mark.parametrize("optimizer", [lambda params: SGD(params, lr=0.5), lambda params: AdamW(params, lr=0.5)])
def test_parameters_may_be_parts_of_one_array(make, optimizer):
    params = [Tensor(a, requires_grad=True) for a in make(np.ones((4, 4)))]
    copies = [Tensor(p.numpy(), requires_grad=True) for p in params]
    for these in (params, copies):
        opt = optimizer(these)
        for p in these:
            p.grad = np.arange(1.0, p.size + 1.0).reshape(p.shape)
        opt.step()
    for p, copy_ in zip(params, copies):
        np.testing.assert_array_equal(p.data, copy_.data)


@pytest.mark.parametrize("state", [
    dict(t=[1, math.nan]), dict(t=[1, -1]), dict(t=[1, 1.5]), dict(t=[1, "x"]), dict(t=1), dict(t=[1]),
    dict(m=[[1.0], [1j]]), dict(v=[[1.0], np.array([None])]), dict(v=[[1.0], ["a"]]),
    dict(v=[[1.0], np.ma.array([1.0], mask=[True])]),
], ids=repr)
def test_a_state_of_no_numbers_is_an_error_and_changes_nothing(state):
    opt = AdamW([parameter([1.0]), parameter([1.0])])
    with pytest.raises((ValueError, TypeError)):
        opt.load_state_dict(dict(t=[1, 1], m=[[1.0], [1.0]], v=[[1.0], [1.0]]) | state)
    assert opt.state_dict() == {"t": [0, 0], "m": [0.0, 0.0], "v": [0.0, 0.0]}


def test_a_gradient_of_a_0_d_parameter_may_be_a_scalar_of_numpy():
    p = parameter(1.0)
    p.grad = np.array(2.0) * 4.0
    assert clip_grad_norm(p, 2.0) == 8.0
    (3.0 * p).backward()
    assert p.grad == pytest.approx(5.0)


@pytest.mark.parametrize("value", [
    "0.1", None, 0.1j, [0.1], np.array(0.1), np.array([0.1, 0.2]), Tensor(0.1), np.ma.masked,
], ids=repr)
def test_a_hyper_parameter_that_is_not_a_number_is_an_error_and_changes_nothing(value):
    for make in (
        lambda: AdamW([parameter([1.0])], lr=value), lambda: AdamW([parameter([1.0])], eps=value),
        lambda: AdamW([parameter([1.0])], weight_decay=value), lambda: AdamW([parameter([1.0])], betas=(0.9, value)),
        lambda: AdamW([parameter([1.0])], betas=value), lambda: SGD([parameter([1.0])], lr=0.1, momentum=value),
        lambda: SGD([{"params": [parameter([1.0])], "lr": value}], lr=0.1),
    ):
        with pytest.raises(TypeError, match="must be a (number|tuple of two numbers), got"):
            make()
    p = parameter([1.0])
    opt = AdamW([p])
    p.grad, opt.groups[0]["lr"] = np.ones(1), value
    with pytest.raises(TypeError, match="lr must be a number"):
        opt.step()
    assert p.data == 1.0 and opt.state_dict() == {"t": [0], "m": [0.0], "v": [0.0]}
    with pytest.raises(ValueError, match="max_norm must be a positive number"):
        clip_grad_norm(p, value)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_scalar_of_numpy_is_a_hyper_parameter_with_the_value_of_the_python_number(kind):
    lr, beta = kind(0.1), kind(0.99)
    steps = []
    for hyper in (dict(lr=lr, betas=(0.9, beta)), dict(lr=float(lr), betas=(0.9, float(beta)))):
        p = Tensor(np.ones(3, "float32"), requires_grad=True)
        run(AdamW([p], **hyper), p, np.full((5, 3), 0.1, "float32"))
        steps.append(p.numpy())
    np.testing.assert_array_equal(*steps)


def test_names_of_hyper_parameters_are_checked_in_groups_changed_later():
    p = parameter([1.0])
    p.grad = np.ones(1)
    opt = SGD([p], lr=0.1)
    opt.groups[0]["learning_rate"] = 0.2
    with pytest.raises(ValueError, match="unknown learning_rate in a group"):
        opt.step()
    opt.groups[0].pop("learning_rate"), opt.groups[0].pop("lr")
    with pytest.raises(ValueError, match="missing lr in a group"):
        opt.step()
    assert p.data == 1.0


def test_an_optimizer_takes_one_tensor():
    p = parameter([1.0, 2.0])
    for opt in (SGD(p, lr=0.5), SGD([{"params": p}], lr=0.5)):
        assert opt.params == [p]


@pytest.mark.parametrize("make, message", [
    (lambda: SGD(mg.nn.Linear(2, 2), lr=0.1), r"model.parameters\(\), got a Linear"),
    (lambda: SGD(dict(mg.nn.Linear(2, 2).named_parameters()), lr=0.1), "got a dict"),
    (lambda: SGD([{"lr": 0.1}], lr=0.1), "groups are dicts"),
    (lambda: SGD([{"params": parameter([1.0])}, parameter([1.0])], lr=0.1), "groups are dicts"),
    (lambda: clip_grad_norm(mg.nn.Linear(2, 2), 1.0), "got a Linear"),
])
def test_what_is_no_parameter_or_group_is_named(make, message):
    with pytest.raises(TypeError, match=message):
        make()


def test_a_learning_rate_of_nan_set_between_steps_is_an_error_and_changes_nothing():
    p = parameter([1.0])
    optimizer = AdamW([p])
    run(optimizer, p, [[0.5]])
    before, optimizer.groups[0]["lr"] = p.numpy(), math.nan
    p.grad = np.ones(1)
    with pytest.raises(ValueError, match="lr must be a finite number"):
        optimizer.step()
    np.testing.assert_array_equal(p.data, before)
    assert optimizer.state_of(p)["t"] == 1


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_its_recursion(nesterov):
    p, gradients = parameter([1.0]), [[0.5], [-0.2], [0.1]]
    values = run(SGD([p], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=nesterov), p, gradients)
    x, m = 1.0, 0.0
    for value, (g,) in zip(values[1:], gradients):
        d = g + 0.01 * x
        m = 0.9 * m + d
        x -= 0.1 * (d + 0.9 * m if nesterov else m)
        np.testing.assert_allclose(value, [x], rtol=1e-14)


def test_plain_sgd_is_gradient_descent():
    p = parameter([1.0, 2.0])
    np.testing.assert_array_equal(run(SGD([p], lr=0.5), p, [[1.0, -2.0]])[1], [0.5, 3.0])


@pytest.mark.parametrize("make", [lambda p: AdamW([p]), lambda p: SGD([p], lr=0.1, momentum=0.9)])
def test_float32_stays_float32(make):
    p = parameter([1.0, 2.0], "float32")
    optimizer = make(p)
    run(optimizer, p, [[1.0, -2.0]] * 2)
    assert p.dtype == "float32"
    assert all(optimizer.state_of(p)[m].dtype == "float32" for m in optimizer.moments)


@pytest.mark.parametrize("make", [lambda p: AdamW([p], lr=0.1), lambda p: SGD([p], lr=0.1, momentum=0.9)])
def test_an_optimizer_resumes_from_its_state_dict_bit_for_bit(make):
    gradients = np.random.default_rng(0).normal(size=(6, 3))
    p = parameter([1.0, 2.0, 3.0])
    whole = run(make(p), p, gradients)
    p = parameter([1.0, 2.0, 3.0])
    first = make(p)
    run(first, p, gradients[:3])
    state = first.state_dict()
    q = parameter(p.numpy())
    second = make(q)
    second.load_state_dict(state)
    run(first, p, gradients[3:])                # must not change the state of the second
    np.testing.assert_array_equal(run(second, q, gradients[3:])[-1], whole[-1])


def test_a_state_dict_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="does not fit"):
        AdamW([parameter([1.0])]).load_state_dict(AdamW([parameter([1.0, 2.0])]).state_dict())
    adamw, sgd = AdamW([parameter([1.0])]), SGD([parameter([1.0])], lr=0.1, momentum=0.9)
    with pytest.raises(ValueError, match="another kind of optimizer"):
        sgd.load_state_dict(adamw.state_dict())
    with pytest.raises(ValueError, match="another kind of optimizer"):
        adamw.load_state_dict(sgd.state_dict())
    with pytest.raises(ValueError, match="nothing"):
        adamw.load_state_dict({})


@pytest.mark.parametrize("make", [lambda ps: AdamW(ps, lr=0.1), lambda ps: SGD(ps, lr=0.1, momentum=0.9)])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_of_parameters_and_optimizer_goes_on_as_the_original_does(make, copied):
    gradients = np.random.default_rng(0).normal(size=(6, 3))
    params = [parameter([1.0, 2.0, 3.0]), parameter([4.0, 5.0, 6.0], "float32")]
    optimizer = make([{"params": params[:1]}, {"params": params[1:]}])

    def step(params, optimizer, gradients):
        for g in gradients:
            for p in params:
                p.grad = g.astype(p.dtype)
            optimizer.step()

    step(params, optimizer, gradients[:3])
    others, other = copied((params, optimizer))
    step(params, optimizer, gradients[3:])
    step(others, other, gradients[3:])
    for p, q in zip(params, others):
        np.testing.assert_array_equal(p.data, q.data)
    assert other.params[0] is others[0] and other.state_dict()["t"] == [6, 6]


@pytest.mark.parametrize("make", [lambda p: AdamW([p], lr=0.1, weight_decay=0.0), lambda p: SGD([p], lr=0.1)])
def test_steps_of_a_float16_parameter_equal_those_of_float32_up_to_its_rounding(make):
    gradients = [[1.0, 0.0, 1e-5], [0.5, 0.0, 1e-5]]
    p, q = parameter([1.0, 1.0, 1.0], "float16"), parameter([1.0, 1.0, 1.0], "float32")
    values, expected = run(make(p), p, gradients), run(make(q), q, np.array(gradients, "float16"))
    assert values.dtype == "float16"
    np.testing.assert_allclose(values, expected, rtol=2e-3)


def test_adamw_in_float16_refuses_an_eps_that_is_0_there():
    p = Tensor(np.ones(2, "float16"))
    with pytest.raises(ValueError, match="eps 1e-08 is 0 in float16"):
        F.adamw(p, p, p, p, 0.1, 0.9, 0.99, 1e-8, 0.0, 1)


def test_after_an_interrupted_step_t_counts_finished_updates_and_the_new_values_are_noticed(monkeypatch):
    p, q = parameter([1.0]), parameter([2.0])
    optimizer = AdamW([{"params": [p]}, {"params": [q]}])
    loss = (p * q).sum()
    p.grad, q.grad = np.ones(1), np.ones(1)
    update, calls = EXECUTORS[np.ndarray].update, []

    def interrupted(*arguments):
        update(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(EXECUTORS[np.ndarray], "update", interrupted)
    with switch(plain=False), pytest.raises(KeyboardInterrupt):
        optimizer.step()
    assert optimizer.state_dict()["t"] == [1, 0]
    with pytest.raises(ValueError, match="was changed after mul"):
        loss.backward()


def test_other_parameters_in_the_groups_of_an_optimizer_are_an_error():
    p, q = parameter([1.0]), parameter([2.0])
    optimizer = AdamW([p])
    other = {**optimizer.groups[0], "params": [q]}
    for groups in ([other], [*optimizer.groups, other]):
        optimizer.groups, p.grad, q.grad = groups, np.ones(1), np.ones(1)
        with pytest.raises(ValueError, match="were exchanged: make a new optimizer"):
            optimizer.step()
    assert p.data == [1.0] and q.data == [2.0]


def test_a_read_only_parameter_is_an_error():
    array = np.ones(3)
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        AdamW([Tensor(array, requires_grad=True)])


@pytest.mark.parametrize("make, message", [
    (lambda: AdamW([]), "no parameters"),
    (lambda: AdamW([parameter([1.0])], lr=-1.0), "lr must be a finite number of 0 or more, got -1.0"),
    (lambda: AdamW([parameter([1.0])], lr=math.nan), "lr must be a finite number"),
    (lambda: AdamW([parameter([1.0])], eps=math.inf), "eps must be a finite number"),
    (lambda: AdamW([parameter([1.0])], betas=(math.nan, 0.9)), "betas must be two numbers"),
    (lambda: AdamW([{"params": [parameter([1.0])], "weight_decay": math.nan}]), "weight_decay must be a finite number"),
    (lambda: SGD([parameter([1.0])], lr=math.nan), "lr must be a finite number"),
    (lambda: SGD([parameter([1.0])], lr=0.1, momentum=math.nan), "momentum must be in"),
    (lambda: AdamW([parameter([1.0])], betas=(0.9, 1.0)), r"betas must be two numbers in \[0, 1\)"),
    (lambda: AdamW([{"params": [parameter([1.0])], "lrr": 1.0}]), "unknown lrr"),
    (lambda: AdamW([parameter([1.0])] * 2), None),
    (lambda: AdamW([Tensor([1.0])]), "leaf Tensors with requires_grad=True"),
    (lambda: AdamW([parameter([1.0]) * 2.0]), "leaf Tensors"),
    (lambda: SGD([parameter([1.0])], lr=0.1, nesterov=True), "needs a momentum"),
    (lambda: SGD([parameter([1.0])], lr=0.1, momentum=1.0), "momentum must be in"),
    (lambda: F.adamw([1.0], [1.0], [0.0], [0.0], 0.1, 0.9, 0.99, 1e-8, 0.0, 0), "t counts steps from 1"),
])
def test_bad_arguments_are_errors(make, message):
    with pytest.raises((ValueError, TypeError), match=message or "given twice"):
        make()


# ---- gradients through a step ----

HYPER = dict(lr=0.1, beta1=0.8, beta2=0.9, eps=1e-3, weight_decay=0.3)


@pytest.mark.parametrize("name", HYPER)
@pytest.mark.parametrize("mode", ["fused", "composed"])
def test_gradient_of_the_loss_after_a_step_with_respect_to_a_hyper_parameter(name, mode):
    """Against central differences, to 1e-6."""
    rng = np.random.default_rng(0)
    p, g, m, target = rng.normal(size=(4, 3, 5))
    v = rng.uniform(0.3, 1.0, size=(3, 5))

    def loss(**change):
        p_new, _, _ = F.adamw(Tensor(p), g, m, v, *{**HYPER, **change}.values(), t=3)
        return ((p_new - target) ** 2).sum()

    h = Tensor(HYPER[name], requires_grad=True)
    if mode == "fused":
        loss(**{name: h}).backward()
    else:
        with mg.unfused():
            y = loss(**{name: h})
        y.backward()
    step = 1e-5 * HYPER[name]
    want = (loss(**{name: HYPER[name] + step}).item() - loss(**{name: HYPER[name] - step}).item()) / (2.0 * step)
    assert abs(h.grad - want) <= 1e-6 * max(abs(want), 1e-3)


def test_the_gradient_with_respect_to_an_eps_of_1e_8():
    p, g, zero = np.array([1.0, 2.0]), np.array([1e-4, -2e-4]), np.zeros(2)
    loss = lambda eps: F.adamw(Tensor(p), g, zero, zero, 0.1, 0.9, 0.999, eps, 0.0, t=1)[0].sum()
    eps = Tensor(1e-8, requires_grad=True)
    loss(eps).backward()
    want = (loss(1e-8 * 1.01).item() - loss(1e-8 * 0.99).item()) / 2e-10
    np.testing.assert_allclose(eps.grad, want, rtol=1e-4)


@pytest.mark.parametrize("mode", ["fused", "composed"])
def test_gradients_are_finite_where_g_and_v_are_0(mode):
    """There the gradient through the square root of v_new is taken to be 0; the other paths stay right."""
    p, g, m, v = (parameter([1.0, -2.0]), *(parameter([0.0, 0.0]) for _ in range(3)))
    lr = Tensor(0.1, requires_grad=True)
    args = (p, g, m, v, lr, 0.9, 0.99, 1e-2, 0.3, 1)
    if mode == "fused":
        p_new = F.adamw(*args)[0]
    else:
        with mg.unfused():
            p_new = F.adamw(*args)[0]
    p_new.sum().backward()
    np.testing.assert_allclose(p_new.data, p.data * (1.0 - 0.1 * 0.3))
    np.testing.assert_allclose(p.grad, [0.97, 0.97])
    np.testing.assert_allclose(g.grad, [-0.1 / 1e-2] * 2)       # -lr (1 - beta1) / c1 / eps
    np.testing.assert_allclose(lr.grad, -0.3 * (1.0 - 2.0))
    np.testing.assert_array_equal(v.grad, [0.0, 0.0])


def test_a_0_d_hyper_parameter_is_cast_to_the_dtype_of_the_parameter():
    p, g = np.ones(3, "float32"), np.ones(3, "float32")
    lr = Tensor(0.1, requires_grad=True)        # float64
    p_new, m_new, v_new = F.adamw(p, g, 0 * g, 0 * g, lr, 0.9, 0.99, 1e-8, 0.0, 1)
    assert p_new.dtype == m_new.dtype == "float32"
    p_new.sum().backward()
    assert lr.grad.dtype == "float64"
    np.testing.assert_allclose(lr.grad, -3.0, rtol=1e-6)


# ---- clipping ----

@given(st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=4), min_size=1, max_size=3), st.floats(0.1, 20))
def test_clip_scales_all_gradients_by_one_factor(gradients, max_norm):
    params = [parameter(np.zeros(len(g))) for g in gradients]
    for p, g in zip(params, gradients):
        p.grad = np.array(g)
    flat = np.concatenate([p.grad for p in params])
    norm = float(clip_grad_norm(params, max_norm))
    np.testing.assert_allclose(norm, math.hypot(*flat), rtol=1e-12)
    scale = min(1.0, max_norm / (norm + 1e-6))
    np.testing.assert_allclose(np.concatenate([p.grad for p in params]), flat * scale, rtol=1e-12)


def test_clip_keeps_the_dtype_and_skips_parameters_without_gradient():
    p, q = parameter([3.0, 4.0], "float32"), parameter([1.0])
    p.grad = np.array([3.0, 4.0], "float32")
    assert clip_grad_norm([p, q], 1.0) == 5.0
    assert p.grad.dtype == "float32"
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-5)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("dtype, exponent", [
    *[("float16", n) for n in (-7, -3, 0, 4)],
    *[("float32", n) for n in (-43, -23, -7, 4, 20, 30, 37)],
    *[("float64", n) for n in (-320, -160, -7, 20, 160, 300)],
])
def test_the_norm_is_right_where_squares_are_not_representable(plain, dtype, exponent):
    g = (np.array([3.0, 4.0, 0.0]) * 10.0 ** exponent).astype(dtype)
    p, q = parameter(np.zeros(3), dtype), parameter(np.zeros(2), dtype)
    p.grad, q.grad = g.copy(), np.zeros(2, dtype)
    with mg.plain() if plain else contextlib.nullcontext():
        norm = float(clip_grad_norm([p, q], 1.0))
    np.testing.assert_allclose(norm, math.hypot(*g.astype(float)), rtol=1e-3 if dtype == "float16" else 1e-6)
    np.testing.assert_allclose(p.grad.astype(float), g.astype(float) * min(1.0, 1.0 / (norm + 1e-6)),
                               rtol=1e-2 if dtype == "float16" else 1e-6)


def test_clip_takes_one_tensor():
    p = parameter([0.0, 0.0])
    p.grad = np.array([3.0, 4.0])
    assert clip_grad_norm(p, 1.0) == 5.0
    np.testing.assert_allclose(p.grad, [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("params, max_norm, message", [
    ([], 1.0, "no parameter has a gradient"),
    ([parameter([1.0])], 0.0, "positive"),
    ([parameter([1.0])], math.nan, "positive"),
])
def test_clip_with_bad_arguments_is_an_error(params, max_norm, message):
    with pytest.raises(ValueError, match=message):
        clip_grad_norm(params, max_norm)


# ---- the schedule ----

@given(st.integers(0, 50), st.integers(1, 200), st.floats(1e-5, 1.0), st.floats(0.0, 1.0))
def test_warmup_cosine(warmup, decay, max_lr, floor):
    """Positive at step 0; rises to max_lr during the warmup, falls to min_lr at max_steps, and stays there."""
    max_steps, min_lr = warmup + decay, floor * max_lr
    lrs = np.array([warmup_cosine(step, warmup, max_steps, max_lr, min_lr) for step in range(max_steps + 20)])
    assert lrs[0] > 0.0
    assert (np.diff(lrs[:warmup + 1]) > 0.0).all() and (np.diff(lrs[warmup:]) <= 1e-15).all()
    assert lrs[warmup] == max_lr
    assert (lrs[max_steps:] == min_lr).all()
    assert lrs.min() >= min(min_lr, lrs[0]) - 1e-15 and lrs.max() == max_lr


@pytest.mark.parametrize(
    "warmup, max_steps, max_lr, min_lr", [(10, 10, 1.0, 0.1), (11, 10, 1.0, 0.1), (-1, 10, 1.0, 0.1), (0, 10, 0.1, 1.0),
                                           (5, 10, math.inf, 0.1), (5, 10, math.nan, 0.1)]
)
def test_an_impossible_schedule_is_an_error(warmup, max_steps, max_lr, min_lr):
    with pytest.raises(ValueError, match="must be"):
        warmup_cosine(0, warmup, max_steps, max_lr, min_lr)


@pytest.mark.parametrize("step", [-1, math.nan])
def test_a_step_before_the_first_is_an_error(step):
    with pytest.raises(ValueError, match="counted from 0"):
        warmup_cosine(step, 5, 10, 1.0, 0.1)
