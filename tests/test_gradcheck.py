"""gradcheck and diagnose: every faulty op fails the check, no right op does, and no diagnosis is wrong."""
import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes

import faulty_ops
import minigrad as mg
from faulty_ops import ADAMW_MISTAKES, DIAGNOSES, OP_MISTAKES
from minigrad import Tensor, functional as F, gradcheck, optim
from minigrad.diagnose import NO_RULE, diagnose
from minigrad.ops.adamw import AdamW
from minigrad.ops.op import Fused, Op
from minigrad.ops.sample import Sample, fixed
from minigrad.tape import apply

SEEDS = range(20)
every_mistake = pytest.mark.parametrize("faulty", OP_MISTAKES, ids=lambda op: f"{op.name}:{op.__name__}")


def failures(op, seed):
    """The rows that fail by finite differences, over all samples of an op."""
    return [row for sample in op.samples for row in gradcheck.check_sample(op, sample, seed).failures]


# ---- faulty ops fail, right ops pass --------------------------------------------------------------------------------

def test_a_faulty_op_overrides_only_its_backward_and_a_faulty_adamw_only_its_forward():
    """There are 47 and 12 of them, and none is registered."""
    assert (len(OP_MISTAKES), len(ADAMW_MISTAKES)) == (47, 12)
    assert len({op.__name__ for op in OP_MISTAKES + ADAMW_MISTAKES}) == 59
    for op in OP_MISTAKES + ADAMW_MISTAKES:
        own = "backward" if op in OP_MISTAKES else "forward"
        assert {name for name in vars(op) if not name.startswith("__")} == {own}
        assert op.__base__ is mg.OPS[op.name] and op.__doc__
        assert inspect.signature(getattr(op, own)) == inspect.signature(getattr(op.__base__, own))


@every_mistake
def test_a_wrong_backward_fails_for_every_seed(faulty):
    passed = [seed for seed in SEEDS
              if all(gradcheck.check_sample(faulty, sample, seed).ok for sample in faulty.samples)]
    assert not passed, f"{faulty.__doc__}: passes for seeds {passed}"


@pytest.mark.parametrize("name", sorted(mg.OPS))
def test_a_right_backward_passes_for_every_seed(name):
    failed = {seed: failures(mg.OPS[name], seed) for seed in SEEDS}
    assert not any(failed.values()), failed


@every_mistake
def test_the_full_check_of_a_faulty_op_fails(faulty):
    assert not gradcheck.check(faulty).ok


# ---- weaker checks that faulty ops pass -----------------------------------------------------------------------------

def accepts(faulty, sample, ones=False):
    """Whether a faulty op passes finite differences on this sample; `ones`: with ones as the gradient of the output."""
    case = gradcheck.Case(faulty, sample, seed=0)
    if ones:
        case.dys = [np.ones_like(dy) for dy in case.dys]
    want = [gradcheck.numeric_gradient(case.value, x) for x in case.arrays]
    return all(gradcheck.relative_error(g, w) < 1e-6 for g, w in zip(case.gradients(), want))


IDS, ONES, ZEROS = np.array([1, 0, 2]), fixed(np.ones(5)), fixed(np.zeros((5, 3)))


@pytest.mark.parametrize("faulty, sample", [
    (faulty_ops.SoftmaxZero, Sample((3, 5))),               # each row of p sums to 1 for every x
    (faulty_ops.LayerNormZero, Sample((3, 5), ONES)),       # each row of xhat sums to 0 for every x
    (faulty_ops.CrossEntropyIgnoresDy, Sample((3, 5), targets=IDS)),
    (faulty_ops.TransposeReshapes, Sample((2, 3))),
    (faulty_ops.MeanSpreadsOverFirstAxis, Sample((3, 4), axis=1)),
], ids=lambda x: getattr(x, "__name__", ""))
def test_with_ones_as_the_gradient_of_the_output_a_faulty_op_passes(faulty, sample):
    assert accepts(faulty, sample, ones=True)
    assert not accepts(faulty, sample)


@pytest.mark.parametrize("faulty, weak, strong", [
    (faulty_ops.CrossEntropyDividesByV, Sample((3, 3), targets=IDS), Sample((3, 4), targets=IDS)),
    (faulty_ops.LayerNormForgetsW, Sample((3, 5), ONES), Sample((3, 5), (5,))),
    (faulty_ops.EmbeddingLosesRepeats, Sample((5, 3), idx=IDS), Sample((5, 3), idx=IDS % 2)),
    (faulty_ops.AttentionForgetsScale, Sample(ZEROS, ZEROS, (5, 4)), Sample((5, 3), (5, 3), (5, 4))),
    (faulty_ops.MeanForgetsN, Sample((1, 5), axis=0), Sample((2, 5), axis=0)),
    (faulty_ops.AttentionMaskOneTooFar, Sample((5, 3), (5, 3), (5, 4)), Sample((5, 3), (5, 3), (5, 4), causal=True)),
    (faulty_ops.MatmulReshapesB, Sample((2, 3), (3, 1)), Sample((2, 3), (3, 2))),
], ids=lambda x: getattr(x, "__name__", ""))
def test_with_too_regular_inputs_a_faulty_op_passes(faulty, weak, strong):
    """As many rows as classes, weights of 1, no token twice, queries and keys of 0, an axis of size 1, no mask: this is
    why the sizes of samples are odd and unequal, and their indices repeat."""
    assert accepts(faulty, weak)
    assert not accepts(faulty, strong)


# ---- AdamW: six closed forms ----------------------------------------------------------------------------------------

LR, BETAS, DECAY = 0.01, (0.9, 0.95), 0.1


def steps(rule, gradients, start, weight_decay=0.0):
    """The values of a parameter before the first and after each step of optim.AdamW with this update rule."""
    p = Tensor(np.array(start), requires_grad=True)
    optimizer = optim.AdamW([p], lr=LR, betas=BETAS, weight_decay=weight_decay)
    optimizer.op, values = rule, [p.numpy()]
    for g in gradients:
        p.grad = np.array(g)
        optimizer.step()
        values.append(p.numpy())
    return np.array(values)


def first_step(rule):
    """The first step is -lr sign(g) for every size of g."""
    p = steps(rule, [[3.0, -0.02]], [1.0, 1.0])
    return np.allclose(p[1] - p[0], [-LR, LR], rtol=1e-4)


def zero_gradient(rule):
    """With gradients of 0, p decays to p (1 - lr weight_decay)^t."""
    p = steps(rule, [[0.0, 0.0]] * 20, [1.0, -2.0], DECAY)
    return np.allclose(p[-1], np.array([1.0, -2.0]) * (1.0 - LR * DECAY) ** 20, rtol=1e-12)


def constant_gradient(rule):
    """Under a constant gradient every step is -lr sign(g)."""
    return np.allclose(np.diff(steps(rule, [[0.5]] * 30, [1.0]), axis=0), -LR, rtol=1e-4)


def impulse(rule):
    """After one gradient and then zeros, step t is -lr (m_t / (1 - beta1^t)) / sqrt(v_t / (1 - beta2^t)), where m_t and
    v_t shrink by beta1 and beta2."""
    moved = np.diff(steps(rule, [[0.5]] + [[0.0]] * 10, [1.0])[:, 0])
    t, (beta1, beta2) = np.arange(1, 12), BETAS
    m, v = beta1 ** (t - 1) * (1.0 - beta1) / (1.0 - beta1 ** t), beta2 ** (t - 1) * (1.0 - beta2) / (1.0 - beta2 ** t)
    return np.allclose(moved, -LR * m / np.sqrt(v), rtol=1e-4)


def scale_of_gradients(rule):
    """Gradients 1000 times smaller make the same steps."""
    g = np.random.default_rng(0).normal(size=(8, 3))
    return np.allclose(steps(rule, g, [1.0, 2.0, 3.0]), steps(rule, 1e-3 * g, [1.0, 2.0, 3.0]), rtol=1e-5)


def decay_of_old_parameter(rule):
    """The gradient step and the decay are both computed from the old p."""
    return np.allclose(steps(rule, [[1.0]], [5.0], DECAY)[1], 5.0 - LR - LR * DECAY * 5.0, rtol=1e-9)


PROPERTIES = [first_step, zero_gradient, constant_gradient, impulse, scale_of_gradients, decay_of_old_parameter]


@pytest.mark.parametrize("has_property", PROPERTIES, ids=lambda f: f.__name__)
def test_adamw_has_the_property(has_property):
    assert has_property(AdamW), has_property.__doc__


WRONG_STEP = {first_step, constant_gradient, impulse, decay_of_old_parameter}
WRONG_DECAY = {zero_gradient, decay_of_old_parameter}


@pytest.mark.parametrize("faulty, broken", [
    (faulty_ops.NoBiasCorrection, WRONG_STEP),
    (faulty_ops.StepsFromZero, WRONG_STEP),
    (faulty_ops.OnlyMCorrected, WRONG_STEP | {scale_of_gradients}),
    (faulty_ops.DecayInMoments, WRONG_DECAY),
    (faulty_ops.BetasSwapped, {impulse}),                   # the only property in which the betas differ
    (faulty_ops.VariancesOfG, {first_step, constant_gradient, impulse, scale_of_gradients}),
    (faulty_ops.EpsInRoot, {scale_of_gradients}),           # the only property that depends on the place of eps
    (faulty_ops.Ascent, WRONG_STEP),
    (faulty_ops.DecayWithoutLr, WRONG_DECAY),
    (faulty_ops.NoDecay, WRONG_DECAY),
    (faulty_ops.DecayGrows, WRONG_DECAY),
    (faulty_ops.DecayAfterStep, {decay_of_old_parameter}),
], ids=lambda x: getattr(x, "__name__", ""))
def test_a_faulty_adamw_lacks_these_properties_and_no_others(faulty, broken):
    assert {f.__name__ for f in PROPERTIES if not f(faulty)} == {f.__name__ for f in broken}


def test_a_falling_loss_does_not_show_that_adamw_is_right():
    """On a least squares problem at least 9 of the 12 faulty AdamWs halve the loss."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(64, 8))
    y = X @ rng.normal(size=8)

    def falls(rule):
        p = Tensor(np.zeros(8), requires_grad=True)
        optimizer = optim.AdamW([p], lr=LR, betas=BETAS, weight_decay=DECAY)
        optimizer.op, losses = rule, []
        for _ in range(300):
            off = X @ p.data - y
            losses.append((off * off).mean())
            p.grad = 2.0 / len(X) * X.T @ off
            optimizer.step()
        return losses[-1] < 0.5 * losses[0]

    assert falls(AdamW)
    assert sum(falls(faulty) for faulty in ADAMW_MISTAKES) >= 9


# ---- diagnoses ------------------------------------------------------------------------------------------------------

WHERE_ONLY = re.compile(r": only (rows|columns|entries|indices of axis \d:) \[[\d, ]*\] are wrong$")


@every_mistake
def test_every_diagnosis_is_right_or_only_says_where_the_wrong_entries_are(faulty):
    """For every sample: one of the right diagnoses of this mistake, or where the wrong entries are, or that no simple
    rule fits, or what NumPy raised."""
    for seed in range(5):
        for row in failures(faulty, seed):
            no_diagnosis = NO_RULE in row.detail or WHERE_ONLY.search(row.detail) or "raised ValueError" in row.detail
            assert no_diagnosis or any(words in row.detail for words in DIAGNOSES[faulty]), row.detail


@every_mistake
def test_the_first_failure_names_the_mistake(faulty):
    """For 43 of the 47; the values of the others follow no simple rule."""
    details = [failures(faulty, seed)[0].detail for seed in range(5)]
    if DIAGNOSES[faulty]:
        assert all(any(words in detail for words in DIAGNOSES[faulty]) for detail in details), details
    else:
        assert all(NO_RULE in detail or WHERE_ONLY.search(detail) for detail in details), details
    assert sum(bool(words) for words in DIAGNOSES.values()) == 43


X, Y, DY = np.random.default_rng(0).normal(size=(3, 3, 5))
W, R, IDX = X[0] + 3.0, np.arange(2.0, 5.0)[:, None], np.array([2, 0, 2, 1])
KNOWN = {"x": X, "y": Y, "w": W, "r": R, "idx": IDX, "n": 7, "scale": 0.37, "mask": X > 0.0, "shape": (3, 5)}
ROW, COLUMN = np.array([[3.0], [-1.0], [0.5]]), np.array([2.0, -1.0, 0.3, 0.8, 5.0])


@pytest.mark.parametrize("got, words", [
    (np.where(X > 1.0, np.nan, DY), "of 15 entries are NaN or infinite"),
    (0.0 * DY, "all zeros"),
    (-DY, "the sign is flipped"),
    (5.0 * DY, "every entry is 5 times too large: missing 1/5, and 5 is the length of axis 1 of x"),
    (DY / 3.0, "every entry is 3 times too small: an extra 1/3, and 3 is the length of axis 0 of x"),
    (7.0 * DY, "missing 1/7, and 7 is n"),
    (-15.0 * DY, "its sign is flipped: missing 1/15, and 15 is the length of axes 0 and 1 together of x"),
    (1e7 * DY, "every entry is 1e+07 times too large"),
    (1e-7 * DY, "every entry is 1e+07 times too small"),
    (1e-7 * np.exp(X), NO_RULE),
    (1e7 * np.exp(X), NO_RULE),
    (np.sqrt(5.0) * DY, "missing 1/sqrt(5), and 5 is"),
    (DY / 0.37, "missing factor scale"),
    (0.37 * DY, "an extra factor scale"),
    (0.6 * DY, "1/5 instead of 1/3"),
    (1.234 * DY, "every entry is 1.234 times too large"),
    (DY.T, "transposed: this is the right gradient with its axes in the order (1, 0)"),
    (DY.T.reshape(3, 5), "the right numbers in the wrong places: reshaped where the axes must be transposed"),
    (DY[::-1], "the right numbers in the wrong places"),
    (DY[None], "the right numbers in the wrong shape"),
    (np.stack([X, DY - X]), "not summed over axis 0, along which the input was broadcast"),
    (DY.sum(axis=1), "its total is right: summed over other axes"),
    (np.ones((2, 2)), NO_RULE),
    (DY * R, "an extra factor r"),
    (DY / W, "missing factor w"),
    (DY / W * Y, "multiplied by y instead of w"),
    (DY + ROW * X, "a projection term is missing or wrong: off by (one number per row) x x"),
    (DY + X * COLUMN, "off by (one number for each line along axis 0) x x"),
    (DY + ROW, "a term constant along axis 1 is missing or wrong: a mean or a sum"),
    (DY + COLUMN, "a term constant along axis 0"),
    (DY + ROW + ROW[::-1] * Y, "two terms are missing or wrong, a mean and a projection: off by "
                               "(one number per row) + (one number per row) x y"),
    (DY + W * (ROW - COLUMN), "a sum is over the wrong one of axes 0 and 1: off by (the wrong sum - the right one) x"),
    (ROW * DY, "every entry is off by a factor, one number per row"),
    (COLUMN * DY, "every entry is off by a factor, one number for each line along axis 0"),
    (DY + np.exp(X) * [[0], [0], [1]], "only rows [2] are wrong"),
    (DY + np.exp(X) * [0, 1, 0, 0, 1], "only columns [1, 4] are wrong"),
    (DY + np.exp(X), NO_RULE),
])
def test_diagnosis_where_the_right_gradient_is_dy(got, words):
    """Also with noise as large as the error of central differences."""
    noise = 1e-10 * np.random.default_rng(1).normal(size=DY.shape)
    assert words in diagnose(got, DY, KNOWN)
    assert words in diagnose(got, DY + noise, KNOWN)


def test_diagnosis_where_other_arrays_are_known():
    q = np.random.default_rng(3).normal(size=(4, 4))
    assert diagnose(q @ q, q.T @ q, {"q": q}) == "this is q @ q instead of q^T @ q"
    x = q[0] * 2.0
    dy, y = q[1], np.tanh(x)
    assert "this is dy * (1 - 1 * y), elementwise" in diagnose(
        np.tile(dy * (1.0 - y), 2), np.tile(dy * (1.0 - y * y), 2), {"dy": np.tile(dy, 2), "y": np.tile(y, 2)})
    dw = np.arange(12.0).reshape(4, 3)
    assert "only rows [2] are wrong, those that idx names more than once" in diagnose(
        dw * [[1], [1], [0], [1]], dw, {"idx": IDX})
    assert "wrong only at [i, t[i]]" in diagnose(dw - np.eye(4, 3), dw, {"t": np.array([0, 1, 2, 1])})
    assert diagnose(np.ones(3), np.zeros(3)) == "the right gradient is 0 everywhere"
    assert diagnose(np.ones(3), np.full(3, np.nan)) == "there is no finite derivative to compare with here"


@given(st.integers(0, 10 ** 6), array_shapes(min_dims=1, max_dims=3, min_side=3, max_side=6))
@settings(max_examples=60, deadline=None)
def test_the_difference_of_unrelated_arrays_follows_no_rule(seed, shape):
    got, want, x, dy = np.random.default_rng(seed).normal(size=(4, *shape))
    assert diagnose(got, want, {"x": x, "dy": dy, "w": x[..., 0], "n": 3, "i": np.arange(3)}) == NO_RULE


@given(st.integers(0, 10 ** 6), *[array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)] * 4,
       st.sampled_from([0.0, 1.0, 1e-200, 1e200]))
@settings(max_examples=200, deadline=None)
def test_there_is_a_diagnosis_for_any_shapes_and_values(seed, a, b, c, d, size):
    """Also for empty arrays, zeros and numbers that overflow."""
    rng = np.random.default_rng(seed)
    known = {"x": rng.normal(size=c) * size, "dy": rng.normal(size=d), "i": rng.integers(-2, 3, size=c), "none": None}
    assert diagnose(rng.normal(size=a), rng.normal(size=b), known)
    assert diagnose(rng.normal(size=a) * size, rng.normal(size=a), known)


# ---- mistakes other than a wrong gradient ---------------------------------------------------------------------------

class Doubled(Fused, register=False):
    """y = 2 x, without a mistake: the base class of those below"""
    samples = [Sample((2, 3))]

    def forward(self, x):
        self.save(x=x, twos=2.0 + 0.0 * x)
        return 2.0 * x

    def backward(self, dy, x, twos):
        return dy * twos

    @staticmethod
    def composed(F, x):
        return 2.0 * x


class WritesIntoDy(Doubled, register=False):
    """backward writes into an array that it was given"""
    def backward(self, dy, x, twos):
        dy *= twos
        return dy


class WritesIntoInput(Doubled, register=False):
    """backward writes into an array that it was given"""
    def backward(self, dy, x, twos):
        x += 1.0
        return dy * twos


class WritesIntoSaved(Doubled, register=False):
    """backward changes what the forward saved"""
    def backward(self, dy, x, twos):
        dx = dy * twos
        twos += 1.0
        return dx


class SharesMemory(Doubled, register=False):
    """a gradient shares memory with an input or a saved array"""
    def backward(self, dy, x, twos):
        return twos.reshape(twos.shape)


class RunsOnce(Doubled, register=False):
    """a second backward gives another result"""
    runs = 0

    def backward(self, dy, x, twos):
        self.runs += 1
        return dy * twos * self.runs


class Promotes(Doubled, register=False):
    """float32 gives float64"""
    def backward(self, dy, x, twos):
        return dy * np.float64(2.0)


class AddsAnAxis(Doubled, register=False):
    """dx has shape (1, 2, 3), should be (2, 3): the right numbers in the wrong shape"""
    def backward(self, dy, x, twos):
        return (dy * twos)[None]


class GivesNothing(Doubled, register=False):
    """backward returns None for dx"""
    def backward(self, dy, x, twos):
        return None


class GivesTwo(Doubled, register=False):
    """backward returns 2 gradients for 1 inputs"""
    def backward(self, dy, x, twos):
        return dy * twos, dy


class Raises(Doubled, register=False):
    """raised ZeroDivisionError: division by zero"""
    def backward(self, dy, x, twos):
        return dy * (2 / 0)


class HasNan(Doubled, register=False):
    """6 of 6 entries are NaN or infinite"""
    def backward(self, dy, x, twos):
        return dy * np.nan


class IsNeverDifferentiated(Doubled, register=False):
    """no sample differentiates c"""
    samples = [Sample((2, 3), 2.0)]

    def forward(self, x, c):
        self.save(c=c)
        return x * c

    def backward(self, dy, c):
        return dy * c, None

    @staticmethod
    def composed(F, x, c):
        return x * c


class HasALineThatNeverRuns(Doubled, register=False):
    """no sample runs line"""
    def backward(self, dy, x, twos):
        if dy.ndim > 2:
            return -dy
        return dy * twos


class DecompositionDiffers(Doubled, register=False):
    """the right gradient"""
    @staticmethod
    def composed(F, x):
        return 2.0 * x + 1.0


def test_a_right_op_passes():
    report = gradcheck.check(Doubled)
    assert report.ok and report.rows, report


@pytest.mark.parametrize("op", [
    WritesIntoDy, WritesIntoInput, WritesIntoSaved, SharesMemory, RunsOnce, Promotes, AddsAnAxis, GivesNothing,
    GivesTwo, Raises, HasNan, IsNeverDifferentiated, HasALineThatNeverRuns,
], ids=lambda op: op.__name__)
def test_an_op_with_a_mistake_fails_for_the_reason_in_its_docstring(op):
    report = gradcheck.check(op)
    assert any(op.__doc__ in row.detail for row in report.failures), report


def test_a_decomposition_that_computes_something_else_fails():
    report = gradcheck.check(DecompositionDiffers)
    assert {(row.check, row.of) for row in report.failures} == {("decomposition", "y")}


# ---- a whole model --------------------------------------------------------------------------------------------------

def small_model(norm, dtype="float64"):
    """The loss of two linear layers with the given layer norm op between them, and its parameters by name."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: Tensor(rng.normal(size=shape).astype(dtype), requires_grad=True)
    parameters = {"fc.weight": draw(3, 5), "ln.weight": draw(5), "ln.bias": draw(5), "head.weight": draw(5, 2)}
    x, targets = rng.normal(size=(7, 3)).astype(dtype), np.array([0, 1, 1, 0, 1, 0, 0])

    def loss():
        h = apply(norm, F.tanh(x @ parameters["fc.weight"]), parameters["ln.weight"], parameters["ln.bias"])
        return F.cross_entropy(F.gelu(h) @ parameters["head.weight"], targets)
    return loss, parameters


def wrong(report):
    """Names of the parameters that fail."""
    return {row.what for row in report.failures}


def test_check_model_passes_for_a_right_model_and_does_not_change_it():
    loss, parameters = small_model(mg.OPS["layer_norm"])
    before = {name: p.numpy() for name, p in parameters.items()}
    report = gradcheck.check_model(loss, parameters.items())
    assert report.ok and {row.what for row in report.rows} == set(parameters)
    for name, p in parameters.items():
        np.testing.assert_array_equal(p.data, before[name])
        assert p.grad is None


@pytest.mark.parametrize("norm, names", [
    (faulty_ops.LayerNormAveragesDw, {"ln.weight"}), (faulty_ops.LayerNormForgetsMean, {"fc.weight"})])
def test_check_model_fails_exactly_for_the_parameters_with_a_wrong_gradient(norm, names):
    loss, parameters = small_model(norm)
    assert wrong(gradcheck.check_model(loss, parameters.items())) == names


def test_check_model_keeps_the_analytic_and_the_numeric_derivative_of_every_entry_that_it_picked():
    loss, parameters = small_model(mg.OPS["layer_norm"])
    report = gradcheck.check_model(loss, parameters.items(), coordinates=4)
    pairs = report.scatter()
    assert [name for _, _, name in pairs] == [name for name in parameters for _ in range(4)]
    for p, g in zip(parameters.values(), mg.grad(loss(), list(parameters.values()))):
        picked = [analytic for analytic, _, name in pairs if parameters[name] is p]
        assert set(picked) <= set(g.numpy().ravel().tolist())
    np.testing.assert_allclose([a for a, _, _ in pairs], [n for _, n, _ in pairs], rtol=1e-6, atol=1e-9)
    assert str(report).splitlines()[-1].startswith("all 16 pairs of analytic and numeric gradient agree; largest ")


def test_the_report_of_a_wrong_model_says_how_many_pairs_agree():
    loss, parameters = small_model(faulty_ops.LayerNormAveragesDw)     # the gradient of ln.weight is 7 times too small
    report = gradcheck.check_model(loss, parameters.items(), coordinates=4)
    assert str(report).splitlines()[-1].startswith("12 of 16 pairs of analytic and numeric gradient agree; largest ")
    wrong_ratios = {round(n / a, 4) for a, n, name in report.scatter() if name == "ln.weight"}
    assert wrong_ratios == {7.0}


def test_check_model_names_parameters_without_a_name_by_their_number():
    loss, parameters = small_model(faulty_ops.LayerNormAveragesDw)
    assert wrong(gradcheck.check_model(loss, parameters.values())) == {"parameter 1"}


def test_check_model_of_float32_parameters_is_an_error():
    loss, parameters = small_model(mg.OPS["layer_norm"], "float32")
    with pytest.raises(TypeError, match="fc.weight is float32: numeric derivatives need float64"):
        gradcheck.check_model(loss, parameters.items())


def test_check_model_of_a_loss_that_is_not_finite_is_an_error():
    loss, parameters = small_model(mg.OPS["layer_norm"])
    with pytest.raises(ValueError, match="loss_fn gives nan"):
        gradcheck.check_model(lambda: loss() * np.nan, parameters.items())


def test_check_model_of_a_loss_that_differs_between_calls_is_an_error():
    loss, parameters = small_model(mg.OPS["layer_norm"])
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="gives another loss when it is called again"):
        gradcheck.check_model(lambda: loss() * rng.normal(), parameters.items())


# ---- the command line -----------------------------------------------------------------------------------------------

def test_the_command_prints_a_line_for_every_op():
    run = subprocess.run([sys.executable, "-m", "minigrad.gradcheck"], capture_output=True, text=True,
                         cwd=Path(mg.__file__).parents[1])
    assert (run.returncode, run.stderr) == (0, "")
    assert [line.split()[0] for line in run.stdout.splitlines()[1:-1]] == sorted(mg.OPS)
    assert run.stdout.splitlines()[-1].endswith(" 0 failures")


def test_the_command_prints_formula_and_checks_of_one_op(capsys):
    assert gradcheck.main(["--op", "attention"]) == 0
    shown = capsys.readouterr().out
    assert "dS = P * (dP - sum_key(dP * P)) / sqrt(D)" in shown
    assert shown.count("ok   finite differences") == len(mg.OPS["attention"].samples)


def test_an_unknown_op_is_an_error_that_suggests_the_nearest_name(capsys):
    with pytest.raises(SystemExit) as exit:
        gradcheck.main(["--op", "atention"])
    assert exit.value.code == 2
    assert "there is no op 'atention'; did you mean attention" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["--op", "softmax"]])
def test_the_command_returns_1_for_a_faulty_op(monkeypatch, capsys, argv):
    ops: dict[str, type[Op]] = {"softmax": faulty_ops.SoftmaxNotCoupled, "relu": mg.OPS["relu"]}
    monkeypatch.setattr(gradcheck, "OPS", ops)
    assert gradcheck.main(argv) == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "off by (one number per row) x p" in shown
