"""mg.recompute: the same bits as without it, for the memory of the inputs alone."""
import weakref

import numpy as np
import pytest

import fake_device  # noqa: F401  (makes the device "fake" known)
import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, gradcheck, nn, optim
from minigrad.executor import EXECUTORS
from minigrad.modes import mode, switch
from minigrad.parallel import GradientSum, World
from minigrad.step import record

from tests.small_kernels import NUMPY_EXECUTORS

pytestmark = pytest.mark.usefixtures("with_kernels")
RNG = np.random.default_rng(0)
IDX = RNG.integers(0, 13, (3, 8))


@pytest.fixture(params=["textbook", *NUMPY_EXECUTORS, "fake"])
def device(request, monkeypatch):
    """Ops run on the executor of the parameter. The name of the device to use."""
    if request.param in NUMPY_EXECUTORS:
        monkeypatch.setitem(EXECUTORS, np.ndarray, NUMPY_EXECUTORS[request.param])
        monkeypatch.setattr(NUMPY_EXECUTORS[request.param], "min_size", 1)
    with switch(plain=request.param == "textbook"):
        yield "fake" if request.param == "fake" else "cpu"


def model(recompute, device="cpu", dtype="float32", **config):
    shape = dict(block_size=7, vocab_size=13, n_layer=2, n_head=2, n_embd=6, dropout=0.2)
    gpt = GPT(GPTConfig(**shape | config), dtype=dtype, device=device)
    gpt.recompute = recompute
    return gpt


def loss_of(gpt, micro=0):
    return gpt.loss(IDX[:, :-1], IDX[:, 1:], mg.random.key(1, micro=micro))


def bits(params):
    return {name: p.data.copy() if p.grad is None else Tensor(p.grad).numpy() for name, p in params}


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def leaves(*shapes, dtype="float64"):
    return [Tensor(RNG.normal(size=shape).astype(dtype), requires_grad=True) for shape in shapes]


def layers(x, w):
    return F.gelu(x @ w) + F.tanh(x)


# ---- the same bits --------------------------------------------------------------------------------------------------

def test_a_training_step_with_dropout_has_the_same_bits(device):
    """Of two micro-batches, summed by GradientSum, clipped, and AdamW's step."""
    def trained(recompute):
        gpt = model(recompute, device)
        params = gpt.parameters()
        opt, sums, losses = optim.AdamW(params, lr=0.01), GradientSum(params, 2, World()), []
        for _ in range(2):
            for micro in range(2):
                sums.backward(micro, loss_of(gpt, micro))
            losses.append(Tensor(sums.total()[0]).numpy())
            optim.clip_grad_norm(params, 0.5)
            opt.step()
            opt.zero_grad()
        return gpt.state_dict() | {"losses": np.array(losses)}

    assert same(trained(True), trained(False))


@pytest.mark.parametrize("run", [
    lambda loss: list(loss.backward_steps()), lambda loss: loss.backward(retain_graph=True)],
    ids=["stepped", "retain_graph"])
def test_a_backward_that_is_stepped_or_keeps_the_graph_has_the_same_bits(device, run):
    found = []
    for recompute in (False, True):
        gpt = model(recompute, device)
        (Tensor.backward if not recompute else lambda loss: run(loss))(loss_of(gpt))
        found.append(bits(gpt.named_parameters()))
    assert same(*found)


def test_a_second_backward_of_the_same_graph_adds_the_same_bits_again(device):
    gpt = model(True, device)
    loss = loss_of(gpt)
    loss.backward(retain_graph=True)
    once = bits(gpt.named_parameters())
    loss.backward()
    assert same(bits(gpt.named_parameters()), {name: g + g for name, g in once.items()})


def test_the_gradients_of_a_recomputed_gpt_equal_finite_differences():
    gpt = model(True, dtype="float64", n_layer=1, n_embd=8)
    report = gradcheck.check_model(lambda: loss_of(gpt), gpt.named_parameters(), coordinates=1)
    assert report.ok, report.failures


def test_a_nested_call_has_the_same_bits():
    x, w = leaves((3, 4), (4, 4))
    inner = mg.recompute(layers)

    def outer(x):
        return inner(inner(x, w) * 2.0, w)

    wanted = mg.grad(layers(layers(x, w) * 2.0, w).sum(), [x, w])
    for f in (outer, mg.recompute(outer)):
        for a, b in zip(mg.grad(f(x).sum(), [x, w]), wanted):
            np.testing.assert_array_equal(a.data, b.data)


# ---- what is kept ---------------------------------------------------------------------------------------------------

def test_the_activations_inside_are_freed_until_the_backward():
    x, w = leaves((30, 40), (40, 40))
    inside = []

    def f(x):
        h = F.tanh(x @ w)
        inside.append(weakref.ref(h.data))
        return F.exp(h)

    y = mg.recompute(f)(x)
    assert inside[0]() is None
    y.sum().backward()
    assert len(inside) == 2 and inside[1]() is None


def test_a_constant_that_is_made_inside_is_not_kept_and_a_tensor_of_outside_is_an_input():
    x, w = leaves((4, 4), (4, 4))
    scale = Tensor(np.ones(4))
    y = mg.recompute(lambda x: (x @ w) * scale + Tensor(np.ones(4)))(x)
    assert [t is known for t, known in zip(y.node.inputs, (x, w, scale), strict=True)] == [True] * 3


def test_without_recording_and_if_nothing_needs_a_gradient_it_is_the_function_itself():
    x, w = leaves((3, 4), (4, 4))
    with mg.no_grad():
        assert mg.recompute(layers)(x, w).node is None
    assert mg.recompute(layers)(x.detach(), w.detach()).node is None
    assert mg.recompute(lambda x: x)(x) is x and mg.recompute(lambda x: w)(x) is w


# ---- inputs ---------------------------------------------------------------------------------------------------------

def test_tensors_may_be_keyword_arguments_the_same_one_several_times_or_not_be_used():
    x, w, unused = leaves((3, 4), (4, 4), (2,))
    f = lambda a, b, *, w, unused: F.tanh(a @ w) * b + a
    mg.recompute(f)(x, x, w=w, unused=unused).sum().backward()
    for got, want in zip((x, w), mg.grad(f(x, x, w=w, unused=unused).sum(), [x, w])):
        np.testing.assert_array_equal(got.grad, want.data)
    assert unused.grad is None


def test_integers_are_constants_even_if_the_caller_changes_them_before_the_backward():
    w, = leaves((5, 3))
    for idx in (np.array([0, 3, 3]), Tensor([0, 3, 3])):
        w.grad, array = None, getattr(idx, "data", idx) if isinstance(idx, Tensor) else idx
        y = mg.recompute(lambda w, idx: F.embedding(w, idx) ** 2.0)(w, idx)
        array[...] = 1
        y.sum().backward()
        assert np.flatnonzero(w.grad.any(axis=1)).tolist() == [0, 3]


def test_a_key_is_as_far_after_the_call_as_without_recompute():
    x, = leaves((5, 5))
    drop = nn.Dropout(0.5)
    f = lambda x, key: drop(drop(x, key), key)
    plain, key = mg.random.key(3), mg.random.key(3)
    for _ in range(2):
        want, got = f(x, plain), mg.recompute(f)(x, key)
        np.testing.assert_array_equal(got.data, want.data)
        np.testing.assert_array_equal(mg.grad(got.sum(), x).data, mg.grad(want.sum(), x).data)
        assert plain.given == key.given


def test_a_hook_of_a_captured_parameter_gets_its_whole_gradient_once():
    x, w = leaves((3, 4), (4, 4))
    want, seen = mg.grad(layers(layers(x, w), w).sum(), w).data, []
    w.register_hook(lambda g: seen.append(g.copy()))
    mg.recompute(lambda x: layers(layers(x, w), w))(x).sum().backward()
    np.testing.assert_array_equal(seen, [want])


# ---- modes ----------------------------------------------------------------------------------------------------------

def test_the_second_run_is_in_the_modes_of_the_forward():
    x, w = leaves((3, 4), (4, 4))
    seen = []

    def f(x):
        seen.append(mode())
        return layers(x, w)

    with switch(plain=True, dropout=False):
        loss = mg.recompute(f)(x).sum()
    with mg.no_grad(), mg.unfused():
        loss.backward(retain_graph=True)
    assert seen[0] == seen[1]
    with mg.detect_nan():
        loss.backward()
    assert seen[2] == seen[0]._replace(detect_nan=True)


def test_detect_nan_names_the_op_inside():
    x = Tensor([-1.0, 4.0], requires_grad=True)
    with np.errstate(invalid="ignore"):
        loss = mg.recompute(lambda x: F.sqrt(x) * 2.0)(x).sum()
        with mg.detect_nan(), pytest.raises(FloatingPointError, match="forward of sqrt at tests/test_recompute.py"):
            loss.backward()


def test_inside_unfused_it_can_be_differentiated_twice():
    x, w = leaves((3, 4), (4, 4))
    with mg.unfused():
        got, want = (mg.hvp(lambda x: f(x, w).sum(), x, Tensor(np.ones((3, 4))))
                     for f in (mg.recompute(layers), layers))
    np.testing.assert_array_equal(got.data, want.data)
    with pytest.raises(ValueError, match="recompute is a fused op"):
        mg.grad(mg.recompute(layers)(x, w).sum(), x, create_graph=True)


# ---- mistakes -------------------------------------------------------------------------------------------------------

def test_a_function_that_returns_no_tensor_is_refused():
    x, = leaves((2,))
    with pytest.raises(TypeError, match="pair returns a tuple: .* a function that returns a Tensor"):
        def pair(x):
            return x, x
        mg.recompute(pair)(x)


def test_an_output_of_an_op_must_be_an_argument():
    x, w = leaves((3, 4), (4, 4))
    h = x * 2.0
    with pytest.raises(ValueError, match="uses an output of mul at tests/test_recompute.py.* give it as an argument"):
        mg.recompute(lambda x: x * h)(x)


def test_a_second_run_that_records_other_ops_is_an_error():
    gpt = model(True)
    loss = loss_of(gpt)
    gpt.eval()
    with pytest.raises(ValueError, match=r"h.1 records \d+ ops in the forward and \d+ in .* model.eval\(\)"):
        loss.backward()
    assert all(p.grad is None for p in gpt.parameters())


@pytest.mark.parametrize("f", [lambda x: x * RNG.normal(size=(40,)),
                               lambda x, key=mg.random.key(0): nn.Dropout(0.5)(x, key)], ids=["NumPy's", "a Key's"])
def test_random_numbers_of_outside_are_an_error(f):
    x, = leaves((40,))
    with pytest.raises(ValueError, match="from a Key among its arguments"):
        mg.recompute(f)(x).sum().backward()


@pytest.mark.parametrize("frozen", [False, True])
def test_a_captured_parameter_that_was_changed_before_the_backward_is_an_error(frozen):
    x, = leaves((3, 4))
    layer = nn.Linear(4, 4, dtype="float64")
    layer.weight.requires_grad = not frozen
    y = mg.recompute(layer)(x)
    layer.weight.data = np.zeros((4, 4))
    with pytest.raises(ValueError, match=r"weight \(4, 4\) was changed after recompute at"):
        y.sum().backward()


# ---- in the stepper -------------------------------------------------------------------------------------------------

def test_a_step_has_the_name_of_the_module_and_is_checked_in_float64():
    """Also where a weight is frozen: it is cast as the others."""
    gpt = model(True)
    gpt.h[0].mlp.c_fc.weight.requires_grad = False
    steps = {step.name: step.check(full=False).ok for step in loss_of(gpt).backward_steps(until="recompute")}
    assert steps == {"h.1": True, "h.0": True}
    assert gpt.h[0].mlp.c_fc.weight.dtype == "float32" and gpt.h[0].mlp.c_fc.weight.grad is None


def test_a_frozen_layer_of_a_constant_is_an_input_although_its_op_is_not_recorded():
    """As the first layer of a model of which only later layers are trained."""
    norm, layer = nn.LayerNorm(4), nn.Linear(4, 3)
    norm.weight.requires_grad = norm.bias.requires_grad = False
    x = Tensor(RNG.normal(size=(5, 4)).astype("float32"))

    def f(x):
        return layer(norm(x))

    f(x).sum().backward()
    want, layer.weight.grad = layer.weight.grad, None
    step, = mg.recompute(f)(x).sum().backward_steps(until="recompute")
    assert step.check().ok and [x is norm.weight for x in step.inputs].count(True) == 1
    assert step.dxs[0] is None
    layer.zero_grad()
    mg.recompute(f)(x).sum().backward()
    np.testing.assert_array_equal(layer.weight.grad, want)
    loss = mg.recompute(f)(x).sum()
    norm.weight.data = np.zeros(4)
    with pytest.raises(ValueError, match="was changed after recompute"):
        loss.backward()
    layer.weight.requires_grad = layer.bias.requires_grad = False
    assert not mg.recompute(f)(x).requires_grad


def test_a_step_shows_its_lines_and_explains_its_elements():
    x, w = leaves((2, 3), (3, 3))
    step, = mg.recompute(layers)(x, w).sum().backward_steps(until="recompute")
    assert "Chen et al. 2016" in step.formula
    assert [list(line.values) for line in step.lines][-1] == ["dx0", "dx1"]
    assert abs(step.why("dx0", (1, 2)).value - step.dxs[0][1, 2]) < 1e-6
    seen = record(mg.recompute(layers)(x, w).sum())
    assert all(view.identity is None or view.identity.ok for view in seen.views)
    nudge = seen.nudge("x", (0, 0))
    assert nudge.actual == pytest.approx(nudge.predicted, rel=1e-2)


def test_the_stepper_follows_a_recomputed_gpt_over_steps_of_an_optimizer():
    """The blocks run again with weights that are far from those of the forward."""
    gradients = []
    for recompute in (False, True):
        gpt = model(recompute)
        seen = record(loss_of(gpt), optimizer=optim.SGD(gpt.parameters(), lr=1.0))
        label = next(label for label, p in seen.leaves.items() if p is gpt.wpe.weight)
        gradients.append(seen.over_time({label: [(0, 0)]})[0].columns["g"])
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-4)
