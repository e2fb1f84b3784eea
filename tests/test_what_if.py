"""What a record says about other values of its leaves: the loss along one number, an optimizer's steps over time."""
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, optim
from minigrad.step import record, replay
from minigrad.step.nudge import POINTS

IDX = np.random.default_rng(0).integers(0, 13, (1, 8))


def model():
    return GPT(GPTConfig(block_size=7, vocab_size=13, n_layer=2, n_head=2, n_embd=6, dropout=0.0), dtype="float64")


def loss_of(gpt):
    return gpt(IDX[:, :-1], IDX[:, 1:])[1]


def quadratic(scale=1.0):
    """A record of sum(a * x * x) / 2, whose Hessian is diag(a), and x."""
    a = np.array([1.0, 4.0, 0.5]) * scale
    x = Tensor(np.array([1.0, -2.0, 3.0]), requires_grad=True)
    return record((Tensor(a) * x * x).sum() * 0.5, names={"x": x}, optimizer=optim.SGD([x], lr=0.1)), a, x


# ---- gradients of the replay ----------------------------------------------------------------------------------------

def test_the_replay_gives_the_gradients_of_the_backward_also_with_other_values_of_the_leaves():
    gpt = model()
    seen = record(loss_of(gpt))
    loss, found = seen.replay.gradients({})
    assert loss == pytest.approx(seen.loss, abs=1e-12)
    for name, g in seen.gradients.items():
        np.testing.assert_allclose(found[id(seen.leaves[name])], g, atol=1e-13)
    rng = np.random.default_rng(1)
    moved = {id(p): p.numpy() + 0.1 * rng.normal(size=p.shape) for p in gpt.parameters()}
    loss, found = seen.replay.gradients(moved)
    for p in gpt.parameters():
        p.data = moved[id(p)]
        p.zero_grad()
    after = loss_of(gpt)
    after.backward()
    assert loss == pytest.approx(after.item(), abs=1e-12)
    for p in gpt.parameters():
        np.testing.assert_allclose(found[id(p)], p.grad, atol=1e-13)


# ---- the loss along one number --------------------------------------------------------------------------------------

def test_the_curve_of_a_quadratic_loss_is_its_parabola():
    seen, a, x = quadratic()
    curve = seen.nudge_curve("x", (1,))
    assert (curve.value, curve.loss, curve.gradient) == (-2.0, seen.loss, a[1] * -2.0)
    np.testing.assert_allclose(curve.changes, a[1] * (-2.0 * curve.deltas + curve.deltas ** 2 / 2.0), atol=1e-12)


def test_the_curve_of_a_weight_is_the_loss_of_the_model_with_that_weight():
    gpt = model()
    seen = record(loss_of(gpt))
    curve, p = seen.nudge_curve("h.0.mlp.c_fc.weight", (2, -1)), gpt.h[0].mlp.c_fc.weight
    assert curve.at == (2, p.shape[1] - 1)
    before = p.numpy()
    for delta, change in list(zip(curve.deltas, curve.changes))[::4]:
        moved = before.copy()
        moved[curve.at] += delta
        p.data = moved
        assert loss_of(gpt).item() - seen.loss == pytest.approx(change, abs=1e-12)


def test_a_curve_is_symmetric_around_the_recorded_value_and_reaches_to_where_it_bends():
    seen = record(loss_of(model()))
    for n in seen.nudges(1):
        curve = seen.nudge_curve(n.leaf, n.at)
        assert len(curve.deltas) == len(curve.changes) == POINTS
        np.testing.assert_allclose(curve.deltas, -curve.deltas[::-1])
        assert curve.changes[POINTS // 2] == 0.0
        ends = np.abs(curve.changes - curve.gradient * curve.deltas)[[0, -1]]
        assert ends.max() >= abs(curve.gradient * curve.deltas[0]) / 2.0


@pytest.mark.parametrize("make", [
    lambda x: (x * 0.0).sum(), lambda x: F.log(x).sum(), lambda x: (x * 2.0).sum(), lambda x: (x * 1e-9).sum() + 1e6,
    lambda x: F.sqrt(x).sum()], ids=["flat", "log", "line", "tiny", "sqrt"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_every_curve_can_be_drawn_in_text_and_as_a_picture(make, shape):
    x = Tensor(np.full(shape, 0.25), requires_grad=True)
    seen = record(make(x), names={"x": x})
    with np.errstate(all="ignore"):
        curve = seen.nudge_curve("x", (0,) * len(shape))
    lines = str(curve).splitlines()
    assert len(lines) == 14 and max(map(len, lines)) <= 80
    assert sum(line.count("@") for line in lines) == 1 + lines[0].count("@") and "0.25" in lines[-1]
    figure = ElementTree.fromstring(curve._repr_html_().replace("&nbsp;", " "))
    curves = figure.findall(".//polyline")
    assert len(curves[0].get("points").split()) == POINTS
    assert figure.find("svg").get("aria-label").startswith(f"the loss along x{'[0]' if shape else ''}: loss ")


def test_where_the_loss_is_nan_there_is_no_curve():
    x = Tensor(np.array([-1.0, 2.0]), requires_grad=True)
    with np.errstate(all="ignore"):
        curve = record(F.log(x).sum(), names={"x": x}).nudge_curve("x", (1,))
    assert str(curve) == "  no curve: x[1] is 2, the loss is nan" and "the loss is nan" in curve._repr_html_()


def test_the_text_of_a_curve_marks_the_loss_its_tangent_and_the_recorded_value():
    seen, _, _ = quadratic()
    head, *rows, axis = str(seen.nudge_curve("x", (1,))).splitlines()
    assert head.strip() == "loss along x[1]: * loss, . tangent, @ recorded value"
    curve = seen.nudge_curve("x", (1,))
    assert f"{curve.loss + max(curve.changes.max(), abs(curve.gradient * curve.deltas[0])):.4g}" in rows[0]
    assert next(row for row in rows if "@" in row).strip().startswith(f"{seen.loss:.5g}"[:4])
    assert [float(x) for x in axis.split()] == pytest.approx([-2 + curve.deltas[0], -2.0, -2 + curve.deltas[-1]], 1e-3)


def test_a_curve_of_an_unknown_leaf_or_index_is_an_error_that_says_what_there_is():
    seen, _, _ = quadratic()
    with pytest.raises(ValueError, match="no leaf is called 'y'; those with a gradient: x"):
        seen.nudge_curve("y", (0,))
    with pytest.raises(IndexError, match=r"x has shape \(3,\): \[3\] is not in it"):
        seen.nudge_curve("x", (3,))


# ---- the curvature of a step ----------------------------------------------------------------------------------------

def test_of_a_quadratic_loss_the_second_order_term_is_all_that_the_prediction_lacks():
    seen, a, x = quadratic()
    step = seen.optimizer_step
    d = step.updates[0].change
    assert step.second_order == step.updates[0].second_order == pytest.approx(0.5 * (a * d * d).sum(), rel=1e-9)
    assert step.actual == pytest.approx(step.predicted + step.second_order, rel=1e-9)
    assert f"½ dᵀHd = {step.second_order:.4g}" in step.why_not_as_predicted


def test_the_smaller_the_step_the_more_of_the_difference_is_the_second_order_term():
    def rest(lr):
        gpt = model()
        step = record(loss_of(gpt), optimizer=optim.SGD(gpt.parameters(), lr=lr)).optimizer_step
        return abs(step.actual - step.predicted - step.second_order) / abs(step.actual - step.predicted)

    assert rest(1e-4) < 0.03 and rest(1e-4) < 0.2 * rest(1e-3)


# ---- over time ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("make, max_norm", [
    (lambda ps: optim.AdamW([{"params": ps[:3], "weight_decay": 0.3}, {"params": ps[3:]}], lr=0.02), 0.5),
    (lambda ps: optim.AdamW(ps, lr=0.02, betas=(0.0, 0.9)), None),
    (lambda ps: optim.SGD(ps, lr=0.1, momentum=0.9, nesterov=True), None),
    (lambda ps: optim.SGD(ps, lr=0.1), 0.1)], ids=["clipped groups", "adamw", "nesterov", "sgd"])
def test_the_state_over_time_is_that_of_30_real_steps_on_the_batch(make, max_norm):
    gpt = model()
    recorded = make(gpt.parameters())
    loss_of(gpt).backward()
    recorded.step()                             # moments that are not 0, which do not count
    recorded.zero_grad()
    seen = record(loss_of(gpt), optimizer=recorded, max_norm=max_norm)
    picks = {"wte.weight": [(int(IDX[0, 0]), 1), (0, 0)], "h.1.ln_1.bias": [(2,)]}
    found = seen.over_time(picks)
    assert [(x.leaf, x.at) for x in found] == [(leaf, at) for leaf, indices in picks.items() for at in indices]
    real, losses = make(gpt.parameters()), []
    for t in range(30):
        gpt.zero_grad()
        loss = loss_of(gpt)
        losses.append(loss.item())
        loss.backward()
        if max_norm:
            optim.clip_grad_norm(gpt.parameters(), max_norm)
        before = {name: p.numpy() for name, p in gpt.named_parameters()}
        real.step()
        for x in found:
            p = dict(gpt.named_parameters())[x.leaf]
            state = real.state_of(p)
            assert x.columns["g"][t] == pytest.approx(p.grad[x.at], abs=1e-11)
            for moment in real.moments:
                assert x.columns[moment][t] == pytest.approx(state[moment][x.at], abs=1e-11)
            assert x.columns["step"][t] == pytest.approx(p.data[x.at] - before[x.leaf][x.at], abs=1e-11)
    assert f"the loss goes from {losses[0]:.4g} to {losses[-1]:.4g}" in found[0].about
    names = ["g", "m", "v", "m-hat", "v-hat", "step", "uncorrected"] if len(real.moments) == 2 else ["g", "m", "step"]
    assert list(found[0].columns) == names


def test_with_a_constant_gradient_the_corrected_moments_are_the_gradient_and_its_square(monkeypatch):
    monkeypatch.setattr(replay, "MOST_PARAMETERS", 0)      # as of a model too large to train
    x = Tensor(np.array([0.3, -2.0]), requires_grad=True)
    opt = optim.AdamW([x], lr=0.1, betas=(0.9, 0.999), eps=0.0, weight_decay=0.0)
    seen, = record((x * x).sum(), names={"x": x}, optimizer=opt).over_time({"x": [(1,)]})
    t, g = np.arange(1, 31), -4.0
    closed = {"g": g + 0.0 * t, "m": (1 - 0.9 ** t) * g, "v": (1 - 0.999 ** t) * g ** 2, "m-hat": g + 0.0 * t,
              "v-hat": g ** 2 + 0.0 * t, "step": 0.1 + 0.0 * t,
              "uncorrected": 0.1 * (1 - 0.9 ** t) / np.sqrt(1 - 0.999 ** t)}
    for name, want in closed.items():
        np.testing.assert_allclose(seen.columns[name], want, rtol=1e-9)
    assert "g stays as recorded" in seen.about
    assert "at t = 1 it is (1 - beta1) / sqrt(1 - beta2) = 3.16 times the step" in seen.about


def test_the_table_over_time_fits_into_80_columns():
    gpt = model()
    seen = record(loss_of(gpt), optimizer=optim.AdamW(gpt.parameters()))
    head, *rows = str(seen.over_time({"wte.weight": [(3, 1)]})[0]).splitlines()
    assert head.split() == ["t", "g", "m", "v", "m-hat", "v-hat", "step", "uncorrected"]
    assert [row.split()[0] for row in (rows[0], rows[-1])] == ["1", "30"]
    assert max(map(len, [head, *rows])) <= 80 and all(len(row.split()) == 8 for row in rows)


def test_over_time_of_an_unknown_leaf_or_index_or_without_an_optimizer_is_an_error():
    seen, _, x = quadratic()
    with pytest.raises(ValueError, match="updates no leaf 'y' of this record; it updates x"):
        seen.over_time({"y": [(0,)]})
    with pytest.raises(IndexError, match="is not in it"):
        seen.over_time({"x": [(7,)]})
    with pytest.raises(ValueError, match=re.escape("record(loss, optimizer=...)")):
        record((x * x).sum(), names={"x": x}).over_time({"x": [(0,)]})


def test_over_time_the_gradient_of_a_large_model_stays_as_recorded_and_only_picked_weights_are_computed(monkeypatch):
    monkeypatch.setattr(replay.Replay, "is_quick", False)
    x = Tensor([[1.0, -2.0], [3.0, 0.5]], requires_grad=True)
    opt = optim.AdamW([x], lr=0.1, betas=(0.9, 0.99), weight_decay=0.2)
    seen = record((x * x).sum(), names={"x": x}, optimizer=opt, max_norm=1.0)
    computed, forward = [], opt.op.forward
    monkeypatch.setattr(opt.op, "forward", lambda self, p, *args, **kw: computed.append(p.size) or forward(
        self, p, *args, **kw))
    found = seen.over_time({"x": [(1, 0), (0, 1)]})
    assert set(computed) == {2}
    g = 2.0 * np.array([3.0, -2.0]) / (np.linalg.norm(2.0 * x.data) + 1e-6)
    for over, gradient, weight in zip(found, g, [3.0, -2.0], strict=True):
        for k in range(30):
            assert over.columns["g"][k] == pytest.approx(gradient, rel=1e-9)
            assert over.columns["m"][k] == pytest.approx((1.0 - 0.9 ** (k + 1)) * gradient, rel=1e-9)
            step = -0.1 * (gradient / (abs(gradient) + 1e-8) + 0.2 * weight)
            assert over.columns["step"][k] == pytest.approx(step, rel=1e-6)
            weight += step
