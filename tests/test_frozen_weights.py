"""Frozen weights, which need no gradient, cost nothing in a backward: none is computed, and nothing is kept for it."""
import numpy as np
import pytest

from minigrad import Tensor, functional as F
from minigrad.executor import EXECUTORS, Dropped
from minigrad.kernels import cuda
from minigrad.kernels.executor import KernelExecutor
from minigrad.modes import switch

from tests.small_kernels import NUMPY_EXECUTORS

pytestmark = pytest.mark.usefixtures("with_kernels")
RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 11, (2, 9))
X = (2, 9, 7)                                   # the shape of x
CASES = {                                       # an op of x and weights, and the shapes of the weights
    "linear": (F.linear, [(7, 6), (6,)]),
    "linear without b": (F.linear, [(7, 6)]),
    "layer_norm": (F.layer_norm, [(7,), (7,)]),
    "layer_norm without b": (F.layer_norm, [(7,)]),
    "linear_cross_entropy": (lambda x, w: F.linear_cross_entropy(x, w, TARGETS), [(11, 7)]),
}


@pytest.fixture(params=["textbook", *NUMPY_EXECUTORS, "cuda"])
def executor(request, monkeypatch):
    """NumPy arrays have this executor; "cuda": its kernel of the linear layer, on NumPy's arrays."""
    executors = NUMPY_EXECUTORS | {"cuda": KernelExecutor(np, [cuda.Linear])}
    if request.param in executors:
        monkeypatch.setitem(EXECUTORS, np.ndarray, executors[request.param])
        monkeypatch.setattr(executors[request.param], "min_size", 1)
    with switch(plain=request.param == "textbook"):
        yield request.param


def run(case, frozen):
    """The output of a case, its x and its weights. frozen: the numbers of those that need no gradient, or True."""
    f, shapes = CASES[case]
    rng = np.random.default_rng(1)
    x, *weights = (Tensor(rng.normal(size=shape), requires_grad=True) for shape in (X, *shapes))
    for i in range(len(weights)) if frozen is True else frozen:
        weights[i].requires_grad = False
    return f(x * 1.0, *weights), x, weights


@pytest.mark.parametrize("case", CASES)
def test_no_gradient_of_a_frozen_weight_is_computed(executor, case):
    y, _, weights = run(case, frozen=True)
    dx, *dws = y.node.op.backward(np.ones(y.shape), **y.node.op.saved)
    assert dx.shape == X and dws == [None] * len(weights)


@pytest.mark.parametrize("case", CASES)
def test_the_other_gradients_have_the_same_bits_whichever_weights_are_frozen(executor, case):
    def gradients(*frozen):
        y, x, weights = run(case, frozen)
        (y * 2.0).sum().backward()
        return [x.grad, *(w.grad for w in weights)]

    want = gradients()
    for i in range(len(want) - 1):
        got = gradients(i)
        assert got.pop(i + 1) is None
        for a, b in zip(got, want[:i + 1] + want[i + 2:], strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("case", ["linear", "linear without b"])
def test_the_input_of_a_linear_layer_with_a_frozen_weight_is_freed(executor, case):
    """Although b still has a gradient."""
    y, x, weights = run(case, frozen=[0])
    assert not any(np.shape(a) in (X, (18, 7)) for a in y.node.op.saved.values())
    dropped = type(y.node.inputs[0].data) is Dropped
    assert dropped == (executor != "textbook")
    (y * y).sum().backward()
    np.testing.assert_allclose(x.grad, 2.0 * y.data @ weights[0].data.T, rtol=1e-12)


def test_a_step_shows_the_freed_input_again(executor):
    y, x, _ = run("linear", frozen=[0])
    step, = y.sum().backward_steps(until="linear")
    np.testing.assert_array_equal(step.inputs[0].data, x.data)
    assert step.check().ok and step.dxs[1] is None


def test_the_loss_of_a_frozen_head_saves_no_gradient_of_its_table(executor):
    y, _, (w,) = run("linear_cross_entropy", frozen=[0])
    assert [name for name, a in y.node.op.saved.items() if np.shape(a) == w.shape and a is not w.data] == []
