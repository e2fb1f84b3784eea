"""The stepper: what a Step says is so, wherever in the walk, and looking changes nothing."""
import gc
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest

import fault_localization
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
from minigrad.step import record
from minigrad.step.explain import Again
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
    """A case of the registry on the tape: its leaves, and sum(dy * y) over its outputs."""
    xs = case.leaves()
    return xs, case.total(apply(case.op_class, *case.replaced(xs), **case.sample.static), case.dys)


def step_of(case):
    """The step of the op of a case."""
    _, total = case_loss(case)
    return next(step for step in total.backward_steps(retain_graph=True) if step.op_class is case.op_class)


every_sample = pytest.mark.parametrize(
    "op, sample", [(op, sample) for op in mg.OPS.values() for sample in op.samples],
    ids=lambda x: x.name if isinstance(x, type) else str(x)[:40])
every_mistake = pytest.mark.parametrize("mutant", OP_MISTAKES, ids=lambda op: f"{op.name}:{op.__name__}")


# ---- looking changes nothing ----------------------------------------------------------------------------------------

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


def test_an_edit_of_dxs_is_what_flows_on_and_the_check_says_so():
    x, w = leaf(3), leaf(3)
    for step in (F.tanh(x) * w).sum().backward_steps():
        if step.op == "mul":
            assert step.check().ok
            step.dxs[0] = np.zeros(3)
            row, = step.check().failures
            assert row.of == "da" and "differs from the textbook's" in row.detail
    np.testing.assert_array_equal(x.grad, np.zeros(3))
    assert w.grad.any()


def test_a_step_that_nobody_keeps_is_gone():
    x = leaf(3)
    kept = [weakref.ref(step) for step in F.exp(F.tanh(x)).sum().backward_steps()]
    gc.collect()
    assert [ref() for ref in kept] == [None] * 3


def test_a_record_refuses_what_has_no_backward():
    with pytest.raises(ValueError, match="needs dy"):
        record(leaf(3) * 2.0)
    with pytest.raises(ValueError, match="needs no gradient"):
        record(Tensor([1.0]).sum())


# ---- lines ----------------------------------------------------------------------------------------------------------

@every_sample
def test_lines_are_those_of_the_backward_and_end_in_its_gradients(op, sample):
    step = step_of(Case(op, sample, seed=0))
    source = step.source.splitlines()
    assert source[0].startswith("def backward(self, ")
    lines = step.lines
    assert lines and all(0 < line.first <= line.last < len(source) for line in lines)
    made = {name: value for line in lines for name, value in line.values.items()}
    for name, x, dx in zip(Again(step).names, step.inputs, step.dxs):
        if dx is not None and f"d{name}" in made and np.shape(made[f"d{name}"]) == dx.shape:
            np.testing.assert_allclose(made[f"d{name}"], dx, rtol=1e-12, atol=1e-12)    # what ran may be a kernel


def test_each_line_has_the_values_that_it_made_or_changed():
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


def test_a_debugger_keeps_the_tracer_and_steps_stay_whole():
    step = step_of(Case(mg.OPS["softmax"], mg.OPS["softmax"].samples[0], seed=0))
    watch = lambda *args: None
    before = sys.gettrace()
    sys.settrace(watch)
    try:
        lines, tracer = step.lines, sys.gettrace()
        listing = Again(step).forward_listed()[2]
        assert step.check().ok
    finally:
        sys.settrace(before)
    assert (lines, tracer) == ([], watch)
    assert "debugger" in listing.note and listing.source


def test_forward_steps_show_how_a_value_came_to_be():
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
def test_a_right_op_passes_its_own_check(op, sample):
    report = step_of(Case(op, sample, seed=1)).check()
    assert report.ok, str(report)


@pytest.mark.parametrize("name", ["attention", "layer_norm", "matmul", "split"])
def test_the_full_check_looks_at_every_element(name):
    case = Case(mg.OPS[name], mg.OPS[name].samples[0], seed=1)
    assert step_of(case).check(full=True).ok


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_a_small_or_large_gradient_is_checked_like_any_other(scale):
    right, wrong = (Case(op, mg.OPS["gelu"].samples[0], seed=1) for op in (mg.OPS["gelu"], MUTANTS["GeluForgetsThree"]))
    for case, ok in ((right, True), (wrong, False)):
        case.dys = [dy * scale for dy in case.dys]
        assert step_of(case).check().ok is ok


MUTANTS = {mutant.__name__: mutant for mutant in OP_MISTAKES}


@every_mistake
def test_until_bad_stops_at_the_steps_of_the_wrong_op_and_only_there(mutant):
    wrong, bad, steps = fault_localization.localize(mutant)
    assert bad and set(bad) == {mutant.name}
    assert len(bad) <= steps.count(mutant.name)


def test_in_a_network_without_a_mistake_nothing_is_bad():
    assert not list(fault_localization.loss(fault_localization.parameters()).backward_steps(until="bad"))


def test_the_table_in_the_docs_is_this_measurement():
    assert fault_localization.table() in (ROOT / "docs" / "stepper.md").read_text("utf-8")


@pytest.mark.parametrize("until", ["bad", lambda step: not step.check().ok])
def test_a_wrong_kernel_is_bad_and_the_lines_stay_the_textbooks(monkeypatch, until):
    wrong = type("SoftmaxZero", (Kernel, MUTANTS["SoftmaxZero"]), {}, register=False)
    executor = EXECUTORS[np.ndarray]
    monkeypatch.setitem(executor.kernels, mg.OPS["softmax"], wrong)
    monkeypatch.setattr(executor, "min_size", 1)
    with switch(plain=False):
        step, = (F.softmax(leaf(3, 5)) * leaf(3, 5)).sum().backward_steps(until=until)
        seen = record((F.softmax(leaf(3, 5)) * leaf(3, 5)).sum()).views[-1]
    assert step.op == "softmax" and [row.check for row in step.check().failures] == ["what ran"]
    assert "row = " in step.source
    assert seen.kernel.endswith("SoftmaxZero") and seen.difference == 1.0


def test_asking_after_the_weights_moved_is_refused():
    w = leaf(3, 2)
    step = next((leaf(4, 3) @ w).backward_steps(np.ones((4, 2))))
    w.data = np.zeros((3, 2))
    with pytest.raises(ValueError, match="was changed after matmul"):
        step.check()


# ---- why ------------------------------------------------------------------------------------------------------------

@every_sample
def test_the_terms_sum_to_the_recorded_scalar(op, sample):
    step = step_of(Case(op, sample, seed=2))
    for i, dx in enumerate(step.dxs):
        if dx is not None:
            at = tuple(np.unravel_index(RNG.integers(dx.size), dx.shape)) if dx.shape else ()
            why = step.why(i, at)
            assert abs(why.total - dx[at]) <= 1e-6 * max(why.magnitude, 1e-3)
            if why.count == len(why.terms):
                assert sum(term.product for term in why.terms) == pytest.approx(why.total, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_largest_terms_lead_from_any_weight_to_the_loss(dtype):
    gpt = model(dtype)
    seen = record(loss_of(gpt))
    for leaf_name in ("wpe.weight", "h.0.attn.c_attn.weight", "h.1.ln_2.bias"):
        step, name = next((v.index, x.name) for v in seen.views for x in v.inputs if x.leaf == leaf_name)
        at = np.unravel_index(np.abs(seen.gradients[leaf_name]).argmax(), seen.gradients[leaf_name].shape)
        path, why = [], seen.why(step, name, at)
        while why.terms:
            assert abs(why.total - why.value) <= 1e-6 * why.magnitude
            path.append(why.step)
            parts = seen.follow(why.terms[0])
            if not parts:
                break
            assert sum(part.value for part in parts) == pytest.approx(why.terms[0].dy, rel=1e-5)
            why = max(parts, key=lambda part: abs(part.value))
        assert path == sorted(path, reverse=True) and path[-1] == 0
        assert why.terms[0].dy == 1.0


def test_why_names_what_can_be_asked():
    step = next((leaf(2, 3) @ leaf(3, 2)).backward_steps(np.ones((2, 2))))
    assert step.why("a", (0, -1)).at == (0, 2) and step.why(1, (0, 0)).name == "db"
    with pytest.raises(ValueError, match="no gradient of 'c'; inputs that have one: a, b"):
        step.why("c", (0, 0))
    with pytest.raises(IndexError, match=r"da has shape \(2, 3\): \[2, 0\] is not in it"):
        step.why("a", (2, 0))


# ---- breakpoints ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("until, stops", [
    ("attention", {"attention"}), ("h.1.mlp", {"linear", "gelu"}), ("h.0.ln_1.weight", {"layer_norm"}),
    ("norm > 0", None), ("norm > 1e9", set()), ("nan", set()), (lambda step: step.op == "gelu", {"gelu"})])
def test_breakpoints(until, stops):
    found = {step.op for step in loss_of(model()).backward_steps(until=until)}
    assert found == stops if stops is not None else len(found) > 5


@pytest.mark.parametrize("until, message", [
    ("atention", "nearest: attention"), ("h.2.mlp", "nearest: h.1.mlp, h.0.mlp"), ("norm > x", "'x' is not a number")])
def test_a_breakpoint_that_is_not_there_is_refused_with_the_nearest(until, message):
    with pytest.raises(ValueError, match=message):
        loss_of(model()).backward_steps(until=until)


def test_a_breakpoint_of_another_type_is_refused():
    with pytest.raises(TypeError, match="until must be an op"):
        loss_of(model()).backward_steps(until=3)


@pytest.mark.parametrize("make, where", [
    (lambda x: F.log(x - 5.0) * 2.0, "made in the forward of log"),
    (lambda x: F.sqrt(x * 0.0) * x, "made in the backward of sqrt"),
    (lambda x: x * np.array([np.nan, 1.0]), "a leaf (2,), an input of mul"),
], ids=["forward", "backward", "leaf"])
@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")
def test_until_nan_leads_to_the_first_bad_line(make, where):
    x = Tensor([1.0, 2.0], requires_grad=True)
    steps = list(make(x).sum().backward_steps(until="nan", retain_graph=True))
    troubles = [view.trouble for view in record(make(x).sum()).views]
    assert steps and any(where in trouble for trouble in troubles), troubles


@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_line_that_made_it_is_quoted():
    x = Tensor([1.0, 2.0], requires_grad=True)
    trouble = record(F.log(x - 5.0).sum()).views[1].trouble
    assert trouble.endswith("by the line `return self.xp.log(x)`") and "test_step.py:" in trouble


# ---- the record -----------------------------------------------------------------------------------------------------

def test_a_view_says_whose_gradients_it_makes_and_what_was_there_before():
    x = leaf(3)
    seen = record((F.exp(x) * x).sum(), names={"x": x})
    product, exponential = seen.views[1:]
    assert [(i.name, i.label, i.source, i.leaf) for i in product.inputs] == [
        ("a", "exp (step 2)", 2, ""), ("b", "x", None, "x")]
    assert exponential.inputs[0].label == "x"
    np.testing.assert_array_equal(exponential.inputs[0].earlier, product.inputs[1].gradient)
    np.testing.assert_array_equal(x.grad, exponential.inputs[0].earlier + exponential.inputs[0].gradient)
    np.testing.assert_array_equal(seen.gradients["x"], x.grad)


def test_all_is_well_in_a_gpt():
    seen = record(loss_of(model()))
    for v in seen.views:
        assert v.report.ok and v.difference < 1e-12 and not v.trouble
        assert v.held is None or v.held.ok, v.held
        assert v.backward.lines and v.forward.lines


def test_the_replay_is_the_forward():
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


def test_nudges_confirm_the_gradient_in_the_limit():
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
def test_the_optimizers_walk_is_its_next_step(make, max_norm):
    gpt = model()
    opt = make(gpt.parameters())
    for _ in range(2):
        loss_of(gpt).backward()
        opt.step()
        opt.zero_grad()
    before = {name: p.numpy() for name, p in gpt.named_parameters()}
    seen = record(loss_of(gpt), optimizer=opt, max_norm=max_norm)
    walk = seen.walk
    assert bool(walk.clip) == bool(max_norm)
    if max_norm:
        optim.clip_grad_norm(gpt.parameters(), max_norm)
    opt.step()
    after = loss_of(gpt).item()
    for update in walk.updates:
        p = seen.leaves[update.leaf]
        np.testing.assert_allclose(before[update.leaf] + update.change, p.data, atol=1e-14)
        made = [name for line in update.listing.lines for name in line.values]
        assert "p_new" in made and {"p", "g", "m"} <= update.given.keys()
        assert update.predicted == pytest.approx((seen.gradients[update.leaf] * update.change).sum())
    assert walk.predicted == pytest.approx(sum(u.predicted for u in walk.updates))
    assert walk.actual == pytest.approx(after - seen.loss, abs=1e-12)


def test_unfused_and_second_order_graphs_can_be_stepped_too():
    with mg.unfused():
        loss = loss_of(model())
    assert all(v.report.ok for v in record(loss).views)
    x = leaf(3)
    slope = mg.grad((F.tanh(x) * x).sum(), x, create_graph=True)
    assert all(step.check().ok for step in (slope * slope).sum().backward_steps())


def test_an_op_of_ones_own_can_be_stepped():
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
        assert view.report.ok and "x²" in view.formula.text and view.held is None
    finally:
        del mg.OPS["cube"]
