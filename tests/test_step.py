"""The stepper: what a Step and a Record say is true, and reading them changes no gradient."""
import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import locate_mistakes
import minigrad as mg
from faulty_ops import OP_MISTAKES
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, optim
from minigrad.gradcheck import Case
from minigrad.executor import EXECUTORS
from minigrad.kernels.executor import Kernel
from minigrad.modes import switch
from minigrad.ops.op import Fused, Primitive
from minigrad.ops.sample import Sample
from minigrad.step import examples, record
from minigrad.step.rerun import Rerun
from minigrad.tape import apply

ROOT = Path(__file__).parent.parent
RNG = np.random.default_rng(0)
IDX = RNG.integers(0, 13, (1, 8))


def model(dtype="float64", dropout=0.0):
    return GPT(GPTConfig(block_size=7, vocab_size=13, n_layer=2, n_head=2, n_embd=6, dropout=dropout), dtype=dtype)


def loss_of(gpt, key=None):
    return gpt(IDX[:, :-1], IDX[:, 1:], key=key)[1]


def leaf(*shape):
    return Tensor(RNG.normal(size=shape), requires_grad=True)


def gradients(gpt):
    return {name: p.grad.copy() for name, p in gpt.named_parameters()}


def case_loss(case):
    """A sample of an op, recorded: its leaves, and sum(dy * y) over its outputs."""
    xs = case.leaves()
    return xs, case.total(apply(case.op_class, *case.replaced(xs), **case.sample.static), case.dys)


def step_of(case):
    """The step of that op."""
    _, total = case_loss(case)
    return next(step for step in total.backward_steps(retain_graph=True) if step.op_class is case.op_class)


every_sample = pytest.mark.parametrize(
    "op, sample", [(op, sample) for op in mg.OPS.values() for sample in op.samples],
    ids=lambda x: x.name if isinstance(x, type) else str(x)[:40])
every_mistake = pytest.mark.parametrize("mutant", OP_MISTAKES, ids=lambda op: f"{op.name}:{op.__name__}")


# ---- a walk has the gradients of backward() -------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("walk", [record, lambda loss: [step.check() for step in loss.backward_steps()],
                                  lambda loss: list(loss.backward_steps(until="bad"))],
                         ids=["record", "check", "until"])
def test_gradients_are_bit_equal_to_backward(dtype, walk):
    gpt, key = model(dtype, dropout=0.2), mg.random.key(1)
    loss_of(gpt, key).backward()
    want = gradients(gpt)
    gpt.zero_grad()
    walk(loss_of(gpt, key))
    for name, g in gradients(gpt).items():
        np.testing.assert_array_equal(g, want[name])


def test_pausing_pauses_the_backward():
    x, w = leaf(3), leaf(3)
    steps = (F.tanh(x) * w).sum().backward_steps(until="mul")
    assert next(steps).op == "mul"
    assert x.grad is None and w.grad is None
    assert next(steps, None) is None
    assert x.grad is not None


def test_an_edit_of_dxs_is_accumulated_and_fails_the_check():
    x, w = leaf(3), leaf(3)
    for step in (F.tanh(x) * w).sum().backward_steps():
        if step.op == "mul":
            assert step.check().ok
            step.dxs[0] = np.zeros(3)
            row, = step.check().failures
            assert row.of == "da" and "differs from that of the reference code" in row.detail
    np.testing.assert_array_equal(x.grad, np.zeros(3))
    assert w.grad.any()


def test_a_step_without_references_is_freed():
    x = leaf(3)
    kept = [weakref.ref(step) for step in F.exp(F.tanh(x)).sum().backward_steps()]
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_a_record_of_a_tensor_without_a_backward_is_an_error():
    with pytest.raises(ValueError, match="needs dy"):
        record(leaf(3) * 2.0)
    with pytest.raises(ValueError, match="needs no gradient"):
        record(Tensor([1.0]).sum())


# ---- lines ----------------------------------------------------------------------------------------------------------

@every_sample
def test_lines_are_those_of_the_backward_and_the_last_values_are_its_gradients(op, sample):
    step = step_of(Case(op, sample, seed=0))
    source = step.source.splitlines()
    assert source[0].startswith("def backward(self, ")
    lines = step.lines
    assert lines and all(0 < line.first <= line.last < len(source) for line in lines)
    made = {name: value for line in lines for name, value in line.values.items()}
    for name, x, dx in zip(Rerun(step).names, step.inputs, step.dxs):
        if dx is not None and f"d{name}" in made and np.shape(made[f"d{name}"]) == dx.shape:
            np.testing.assert_allclose(made[f"d{name}"], dx, rtol=1e-12, atol=1e-12)    # a kernel may have run


def test_each_line_has_the_variables_that_it_set_or_changed():
    class InPlace(Fused):
        """x  ->  y"""
        def forward(self, x):
            return 2.0 * x

        def backward(self, dy):
            dx = dy + dy
            if dy.ndim > 3:
                dx = -dx
            dx *= (1.0 +
                   0.0)
            dx[0] = 7.0
            return dx * 1.0

        @staticmethod
        def composed(F, x):
            return x * 2.0

    try:
        x = leaf(2)
        step = next(apply(InPlace, x).backward_steps(np.array([1.0, 3.0])))
        named = [(line.first, line.last, {k: list(v) for k, v in line.values.items()}) for line in step.lines]
        assert named == [(1, 1, {"dx": [2.0, 6.0]}), (2, 2, {}), (4, 5, {}), (6, 6, {"dx": [7.0, 6.0]}), (7, 7, {})]
        assert [row.of for row in step.check().failures] == ["dx", "dx"]
    finally:
        del mg.OPS["in_place"]


def test_while_a_debugger_uses_the_tracer_steps_have_no_lines():
    step = step_of(Case(mg.OPS["softmax"], mg.OPS["softmax"].samples[0], seed=0))
    tracer_of_debugger = lambda *args: None
    before = sys.gettrace()
    sys.settrace(tracer_of_debugger)
    try:
        lines, tracer = step.lines, sys.gettrace()
        listing = Rerun(step).trace_forward()[2]
        assert step.check().ok
    finally:
        sys.settrace(before)
    assert (lines, tracer) == ([], tracer_of_debugger)
    assert "debugger" in listing.note and listing.source


def test_forward_steps_give_the_values_of_each_line_of_the_forward():
    x, w = leaf(3, 4), leaf(4, 5)
    steps = list(mg.forward_steps(lambda: F.softmax(x @ w).sum()))
    assert [(s.index, s.op) for s in steps] == [(0, "matmul"), (1, "softmax"), (2, "sum")]
    np.testing.assert_array_equal(steps[1].inputs["x"], x.data @ w.data)
    assert [list(line.values) for line in steps[1].listing.lines if line.values] == [["e"], ["p"], ["y"]]
    np.testing.assert_array_equal(steps[1].outputs["y"], F.softmax(x @ w).data)
    with pytest.raises(ValueError, match="requires_grad=True"):
        next(mg.forward_steps(lambda: Tensor([1.0]) * 2.0))


# ---- check ----------------------------------------------------------------------------------------------------------

@every_sample
def test_every_op_passes_the_check_of_its_step(op, sample):
    report = step_of(Case(op, sample, seed=1)).check()
    assert report.ok, str(report)


@pytest.mark.parametrize("name", ["attention", "layer_norm", "matmul", "split"])
def test_the_full_check_passes(name):
    case = Case(mg.OPS[name], mg.OPS[name].samples[0], seed=1)
    assert step_of(case).check(full=True).ok


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_check_does_not_depend_on_the_scale_of_the_gradient(scale):
    right, wrong = (Case(op, mg.OPS["gelu"].samples[0], seed=1) for op in (mg.OPS["gelu"], MUTANTS["GeluForgetsThree"]))
    for case, ok in ((right, True), (wrong, False)):
        case.dys = [dy * scale for dy in case.dys]
        assert step_of(case).check().ok is ok


MUTANTS = {mutant.__name__: mutant for mutant in OP_MISTAKES}


@every_mistake
def test_until_bad_stops_only_at_steps_of_the_op_with_the_mistake(mutant):
    wrong, bad, steps = locate_mistakes.locate(mutant)
    assert bad and set(bad) == {mutant.name}
    assert len(bad) <= steps.count(mutant.name)


def test_until_bad_stops_nowhere_without_a_mistake():
    assert not list(locate_mistakes.loss(locate_mistakes.parameters()).backward_steps(until="bad"))


def test_the_table_in_the_docs_is_up_to_date():
    assert locate_mistakes.table() in (ROOT / "docs" / "stepper.md").read_text("utf-8")


@pytest.mark.parametrize("until", ["bad", lambda step: not step.check().ok])
def test_a_wrong_kernel_fails_the_check_and_the_lines_are_the_textbooks(monkeypatch, until):
    wrong = type("SoftmaxZero", (Kernel, MUTANTS["SoftmaxZero"]), {}, register=False)
    executor = EXECUTORS[np.ndarray]
    monkeypatch.setitem(executor.kernels, mg.OPS["softmax"], wrong)
    monkeypatch.setattr(executor, "min_size", 1)
    with switch(plain=False):
        step, = (F.softmax(leaf(3, 5)) * leaf(3, 5)).sum().backward_steps(until=until)
        seen = record((F.softmax(leaf(3, 5)) * leaf(3, 5)).sum()).views[-1]
    assert step.op == "softmax" and [row.check for row in step.check().failures] == ["reference code"]
    assert "row = " in step.source
    assert seen.kernel_note.endswith('gradients that differ by 1.0e+00')
    assert seen.kernel.endswith("SoftmaxZero") and seen.difference == 1.0


def test_a_check_after_the_weights_changed_is_an_error():
    w = leaf(3, 2)
    step = next((leaf(4, 3) @ w).backward_steps(np.ones((4, 2))))
    w.data = np.zeros((3, 2))
    with pytest.raises(ValueError, match="was changed after matmul"):
        step.check()


# ---- breakpoints ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("until, stops", [
    ("attention", {"attention"}), ("h.1.mlp", {"linear", "gelu"}), ("h.0.ln_1.weight", {"layer_norm"}),
    ("norm > 0", None), ("norm > 1e9", set()), ("nan", set()), (lambda step: step.op == "gelu", {"gelu"})])
def test_breakpoints(until, stops):
    found = {step.op for step in loss_of(model()).backward_steps(until=until)}
    assert found == stops if stops is not None else len(found) > 5


@pytest.mark.parametrize("until, message", [
    ("atention", "nearest: attention"), ("h.2.mlp", "nearest: h.1.mlp, h.0.mlp"), ("norm > x", "'x' is not a number")])
def test_an_unknown_breakpoint_is_an_error_that_names_the_nearest(until, message):
    with pytest.raises(ValueError, match=message):
        loss_of(model()).backward_steps(until=until)


def test_a_breakpoint_of_another_type_is_an_error():
    with pytest.raises(TypeError, match="until must be an op"):
        loss_of(model()).backward_steps(until=3)


@pytest.mark.parametrize("make, where", [
    (lambda x: F.log(x - 5.0) * 2.0, "made in the forward of log"),
    (lambda x: F.sqrt(x * 0.0) * x, "made in the backward of sqrt"),
    (lambda x: x * np.array([np.nan, 1.0]), "a leaf (2,), an input of mul"),
], ids=["forward", "backward", "leaf"])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_a_record_says_where_a_nan_was_made(make, where):
    x = Tensor([1.0, 2.0], requires_grad=True)
    steps = list(make(x).sum().backward_steps(until="nan", retain_graph=True))
    origins = [view.bad_origin for view in record(make(x).sum()).views]
    assert steps and any(where in origin for origin in origins), origins


@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_line_that_made_a_nan_is_quoted():
    x = Tensor([1.0, 2.0], requires_grad=True)
    origin = record(F.log(x - 5.0).sum()).views[1].bad_origin
    assert origin.endswith("by the line `return self.xp.log(x)`") and "test_step.py:" in origin


# ---- the record -----------------------------------------------------------------------------------------------------

def test_a_view_names_its_inputs_and_has_their_earlier_gradients():
    x = leaf(3)
    seen = record((F.exp(x) * x).sum(), names={"x": x})
    product, exponential = seen.views[1:]
    assert [(i.name, i.label, i.source, i.leaf) for i in product.inputs] == [
        ("a", "exp (step 2)", 2, ""), ("b", "x", None, "x")]
    assert exponential.inputs[0].label == "x"
    np.testing.assert_array_equal(exponential.inputs[0].earlier, product.inputs[1].gradient)
    np.testing.assert_array_equal(x.grad, exponential.inputs[0].earlier + exponential.inputs[0].gradient)
    np.testing.assert_array_equal(seen.gradients["x"], x.grad)


def test_every_check_and_identity_of_a_gpt_passes():
    seen = record(loss_of(model()))
    for v in seen.views:
        assert v.report.ok and v.difference < 1e-12 and not v.bad_origin
        assert v.identity is None or v.identity.ok, v.identity
        assert v.backward.lines and v.forward.lines


def test_the_replay_gives_the_loss_of_the_forward():
    gpt = model()
    seen = record(loss_of(gpt))
    assert seen.replay.loss == pytest.approx(seen.loss, abs=1e-12)
    p = gpt.wte.weight
    moved = p.numpy()
    moved[IDX[0, 0]] += 0.25
    before = seen.loss
    change = seen.replay.change({id(p): moved})
    p.data = moved
    assert loss_of(gpt).item() - before == pytest.approx(change, abs=1e-12)


def test_the_smaller_a_nudge_the_closer_its_prediction():
    seen = record(loss_of(model()))
    assert {n.leaf for n in seen.nudges()} == set(seen.gradients)
    for n in seen.nudges(1):
        off = [abs(seen.nudge(n.leaf, n.at, delta).actual / (n.gradient * delta) - 1.0) for delta in (1e-3, 1e-5)]
        assert off[1] < 1e-3 and (off[1] < off[0] or off[0] < 1e-6)
    with pytest.raises(ValueError, match="no leaf is called 'wte'"):
        seen.nudge("wte", (0, 0))
    with pytest.raises(IndexError, match="is not in it"):
        seen.nudge("wte.weight", (99, 0))


@pytest.mark.parametrize("make, max_norm", [
    (lambda ps: optim.AdamW([{"params": ps[:3], "weight_decay": 0.3}, {"params": ps[3:]}], lr=0.01), 0.5),
    (lambda ps: optim.AdamW(ps, lr=0.01), None),
    (lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True), 1e9)])
def test_the_recorded_optimizer_step_is_the_next_step(make, max_norm):
    gpt = model()
    opt = make(gpt.parameters())
    for _ in range(2):
        loss_of(gpt).backward()
        opt.step()
        opt.zero_grad()
    before = {name: p.numpy() for name, p in gpt.named_parameters()}
    seen = record(loss_of(gpt), optimizer=opt, max_norm=max_norm)
    planned = seen.optimizer_step
    assert bool(planned.clip) == bool(max_norm)
    if max_norm:
        optim.clip_grad_norm(gpt.parameters(), max_norm)
    opt.step()
    after = loss_of(gpt).item()
    for update in planned.updates:
        p = seen.leaves[update.leaf]
        np.testing.assert_allclose(before[update.leaf] + update.change, p.data, atol=1e-14)
        made = [name for line in update.listing.lines for name in line.values]
        assert "p_new" in made and {"p", "g", "m"} <= update.given.keys()
        assert update.predicted == pytest.approx((seen.gradients[update.leaf] * update.change).sum())
    assert planned.predicted == pytest.approx(sum(u.predicted for u in planned.updates))
    assert planned.actual == pytest.approx(after - seen.loss, abs=1e-12)


def test_unfused_and_second_order_graphs_can_be_stepped_too():
    with mg.unfused():
        loss = loss_of(model())
    assert all(v.report.ok for v in record(loss).views)
    x = leaf(3)
    slope = mg.grad((F.tanh(x) * x).sum(), x, create_graph=True)
    assert all(step.check().ok for step in (slope * slope).sum().backward_steps())


def test_a_users_own_op_can_be_recorded():
    class Cube(Primitive):
        """x  ->  y

        forward   y = x^3
        backward  dx = 3 x^2 dy
        """
        samples = [Sample((3,))]

        def forward(self, x):
            self.save(x=x)
            return x * x * x

        def backward(self, dy, x):
            return 3.0 * x * x * dy

    try:
        view = record(apply(Cube, leaf(3)).sum()).views[1]
        assert view.report.ok and "x²" in view.formula.text and view.identity is None
    finally:
        del mg.OPS["cube"]


def test_a_record_shows_what_the_op_was_given_after_an_optimizer_changed_the_weights():
    x, w = Tensor(np.arange(6.0).reshape(2, 3)), Tensor(np.ones((3, 2)), requires_grad=True)
    opt = optim.SGD([w], lr=0.5)
    seen = record((x @ w).sum(), optimizer=opt)
    planned = seen.optimizer_step.updates[0]
    opt.step()
    view = seen.views[-1]
    assert (view.inputs[1].value == 1.0).all() and view.report.ok and view.identity.ok
    np.testing.assert_array_equal(view.outputs["y"], [[3.0, 3.0], [12.0, 12.0]])
    np.testing.assert_array_equal(planned.given["p"], np.ones((3, 2)))
    np.testing.assert_allclose(planned.change, -0.5 * seen.gradients["w"])


def test_lines_that_were_dropped_are_computed_again_with_the_same_values():
    seen = examples.tiny()
    seen.views[0].traces.most = 0.0
    first = [v.backward.lines for v in seen.views]
    for v, lines in zip(seen.views, first):
        again = v.backward.lines
        assert again is v.backward.lines and again is not lines
        for before, after in zip(lines, again, strict=True):
            assert before.values.keys() == after.values.keys()
            for name, value in before.values.items():
                np.testing.assert_array_equal(value, after.values[name])
