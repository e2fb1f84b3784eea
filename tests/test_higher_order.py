"""Gradients of gradients: the backward of primitives, run on Tensors."""
import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F


def leaf(values):
    return Tensor(np.array(values, dtype="float64"), requires_grad=True)


def test_create_graph_inside_no_grad_is_an_error():
    x = Tensor([1.0, 2.0], requires_grad=True)
    y = (x ** 3.0).sum()
    with mg.no_grad(), pytest.raises(ValueError, match="inside no_grad"):
        mg.grad(y, x, create_graph=True)


def test_derivatives_of_a_power_to_fourth_order():
    x = leaf([0.7, -1.3])
    y = (x ** 4).sum()
    for derivative in (4.0 * x.data ** 3, 12.0 * x.data ** 2, 24.0 * x.data, [24.0, 24.0]):
        g = mg.grad(y, x, create_graph=True)
        np.testing.assert_allclose(g.data, derivative)
        y = g.sum()


def test_a_gradient_is_recorded_only_with_create_graph():
    x = leaf([1.0])
    assert not mg.grad((x * x).sum(), x).requires_grad
    assert mg.grad((x * x).sum(), x, create_graph=True).requires_grad


def test_hvp_of_a_quadratic_is_its_matrix():
    A = np.random.default_rng(0).normal(size=(3, 3))
    v = np.array([1.0, -2.0, 0.5])
    f = lambda x: 0.5 * (x * F.matmul(A, x)).sum()
    np.testing.assert_allclose(mg.hvp(f, leaf([1.0, 2.0, 3.0]), Tensor(v)).data, 0.5 * (A + A.T) @ v)


def test_hvp_of_several_inputs_and_of_a_linear_function():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    hx, hw = mg.hvp(lambda x, w: (x * w).sum(), [x, w], [Tensor([1.0, 0.0]), Tensor([0.0, 1.0])])
    np.testing.assert_array_equal(hx.data, [0.0, 1.0])
    np.testing.assert_array_equal(hw.data, [1.0, 0.0])
    np.testing.assert_array_equal(mg.hvp(lambda x: x.sum(), x, Tensor([1.0, 1.0])).data, [0.0, 0.0])
    with pytest.raises(ValueError, match="one v of the same shape"):
        mg.hvp(lambda x: x.sum(), x, Tensor([1.0]))


def test_the_second_derivative_of_a_fused_op_is_an_error_that_names_unfused():
    x = leaf([[1.0, 2.0]])
    with pytest.raises(ValueError, match=r"softmax is a fused op.*mg\.unfused\(\).*test_higher_order.py"):
        mg.grad((F.softmax(x) ** 2).sum(), x, create_graph=True)
    with mg.unfused():
        y = (F.softmax(x) ** 2).sum()
    assert mg.grad(y, x, create_graph=True).requires_grad


@pytest.mark.parametrize("name", [name for name, op in sorted(mg.OPS.items()) if op.fused])
def test_second_derivatives_of_every_decomposition(name):
    """A second derivative along two random directions, against a difference of gradients."""
    op = mg.OPS[name]
    rng = np.random.default_rng(0)
    for sample in op.samples:
        arrays = sample.draw(0)
        us, vs = ([rng.normal(size=a.shape) if isinstance(a, np.ndarray) else 0.0 for a in arrays] for _ in range(2))

        def gradient(arrays, create_graph):
            xs = [Tensor(a, requires_grad=True) if isinstance(a, np.ndarray) else a for a in arrays]
            leaves = [x for x in xs if isinstance(x, Tensor)]
            y = op.composed(F, *xs, **sample.static)
            total = sum((a * a * 0.5 + a).sum() for a in (y if isinstance(y, tuple) else (y,)))
            return leaves, mg.grad(total, leaves, create_graph=create_graph)

        dot = lambda gs, us: sum((g * u).sum() for g, u in zip(gs, [u for u in us if isinstance(u, np.ndarray)]))
        leaves, gs = gradient(arrays, True)
        got = dot([g.data for g in mg.grad(dot(gs, us), leaves)], vs)
        moved = lambda sign: [
            np.asarray(a + sign * 1e-5 * v) if isinstance(a, np.ndarray) else a for a, v in zip(arrays, vs)
        ]
        want = [dot([g.data for g in gradient(moved(sign), False)[1]], us) for sign in (1.0, -1.0)]
        assert abs(got - (want[0] - want[1]) / 2e-5) <= 1e-6 * max(abs(got), 1.0)


def test_gradient_through_five_steps_of_adamw_with_respect_to_the_learning_rate():
    """d (loss after 5 steps) / d lr, through the parameters and gradients of every step, against a difference."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(12, 3)), rng.normal(size=(12, 2))
    W0 = rng.normal(size=(3, 2))
    loss = lambda w: ((F.tanh(F.matmul(X, w)) - Y) ** 2).mean()

    def after_five_steps(lr):
        w, m, v = Tensor(W0, requires_grad=True), Tensor(np.zeros((3, 2))), Tensor(np.zeros((3, 2)))
        for t in range(1, 6):
            g = mg.grad(loss(w), w, create_graph=True)
            with mg.unfused():
                w, m, v = F.adamw(w, g, m, v, lr, 0.9, 0.99, 1e-4, 0.1, t)
        return loss(w)

    lr = Tensor(0.03, requires_grad=True)
    got = mg.grad(after_five_steps(lr), lr).item()
    want = (after_five_steps(0.03 + 1e-6).item() - after_five_steps(0.03 - 1e-6).item()) / 2e-6
    assert abs(got - want) <= 1e-5 * abs(want)
