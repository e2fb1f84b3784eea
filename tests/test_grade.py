"""check(exercise, answer): the verdict on an answer, and what it says of a wrong one."""
import functools
import inspect
import random
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad.diagnose import NO_RULE
from minigrad.grade import check
from minigrad.grade.answer import array, call, number, results
from minigrad.grade.backward import grade_backward
from minigrad.grade.check import backwards
from minigrad.grade.exercises import EXERCISES
from minigrad.grade.practice import PRACTICE
from minigrad.grade.verdict import Wrong
from minigrad.ops.op import OPS, Op
from minigrad.ops.sample import Sample
from tests.faulty_ops import OP_MISTAKES


def own_backward(op_class):
    """The backward of an op as a plain function, as a student writes it."""
    op = op_class()
    op.xp, op.needs = np, [True] * 20           # also for optional inputs that are not given

    def mine(*args, **kwargs):
        return op.backward(*args, **kwargs)

    mine.__signature__ = inspect.signature(op.backward)
    return mine


def softmax(dy, p, axis):
    return p * (dy - (dy * p).sum(axis=axis, keepdims=True))


def mul(dy, a, b):
    return dy * b, dy * a


def rms_norm(dy, xhat, w, r):
    g = dy * w
    return r * (g - xhat * (g * xhat).mean(axis=-1, keepdims=True)), (dy * xhat).reshape(-1, len(w)).sum(axis=0)


# ---- right answers --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", OPS)
def test_the_own_backward_of_each_op_is_right_on_20_seeds(name):
    grade_backward(OPS[name], own_backward(OPS[name]), seeds=range(20))


def test_a_right_answer_prints_one_line_and_is_true():
    verdict = check("softmax.backward", softmax)
    assert verdict and verdict.verdict == "right"
    assert repr(verdict) == "✓ softmax.backward: right"


@pytest.mark.parametrize("answer", [
    lambda dy, p, axis=-1, eps=1e-9: softmax(dy, p, axis),      # a default for what is saved, and for what is not
    lambda dy, *, axis, p: softmax(dy, p, axis),
    lambda dy, **saved: softmax(dy, saved["p"], saved["axis"]),
    lambda *dys, p, axis: softmax(*dys, p, axis),
    functools.partial(softmax),
    lambda dy, p, axis: (softmax(dy, p, axis),),
    lambda dy, p, axis: [softmax(dy, p, axis)],
])
def test_an_answer_may_take_its_arguments_in_any_way_that_python_has(answer):
    assert check("softmax.backward", answer)


@pytest.mark.parametrize("exercise, answer", [
    ("mul.backward", lambda dy, a, b: [dy * b, dy * a]),
    ("mul.backward", lambda dy, a, b: tuple(                    # summed over broadcast axes, or not
        d.sum(axis=tuple(range(d.ndim - np.ndim(x)))) for d, x in [(dy * b, a), (dy * a, b)])),
    ("stack.backward", lambda dy, axis, n: list(np.moveaxis(dy, axis, 0))),
    ("split.backward", lambda *dys, axis: np.concatenate(dys, axis)),
    ("split_heads.backward", lambda dq, dk, dv, shape: np.concatenate([dq, dk, dv], 1).swapaxes(1, 2).reshape(shape)),
    ("layer_norm.backward", lambda dy, xhat, rstd, w: own_backward(OPS["layer_norm"])(dy, xhat, rstd, w)[:3]),
    ("mean.backward", lambda dy, shape, kept, n: np.broadcast_to(dy.reshape(kept) / n, shape)),
    ("rms_norm.backward", rms_norm),
])
def test_an_answer_may_return_a_list_or_a_view_and_gradients_of_optional_inputs(exercise, answer):
    assert check(exercise, answer)


# ---- wrong answers --------------------------------------------------------------------------------------------------

def test_the_verdict_on_a_wrong_gradient_gives_input_count_place_numbers_and_a_diagnosis():
    verdict = check("softmax.backward", lambda dy, p, axis: p * dy)
    assert not verdict
    assert repr(verdict) == """\
✗ softmax.backward: wrong
  input   softmax((3, 5))
  dx differs at 15 of 15 entries, most at dx[2, 1]
  yours   -0.851960    finite difference -0.604844    ratio 1.409
  why     a projection term is missing or wrong: off by (one number per row) x p"""
    assert verdict.why == "a projection term is missing or wrong: off by (one number per row) x p"


def test_the_verdict_shows_where_a_gradient_is_wrong_unless_all_of_it_is():
    def loses_repeats(dy, idx, shape):
        dw = np.zeros(shape)
        dw[idx] += dy
        return dw

    assert repr(check("embedding.backward", loses_repeats)).splitlines()[4:] == [
        "  where   · · ·",
        "          × × ×",
        "          · · ·",
        "          · · ·",
        "          · · ·",
        "          · · ·",
        "          ...",
        "  why     only rows [1] are wrong, those that idx names more than once: add the",
        "          gradients of all uses"]


def test_the_verdict_says_on_how_many_inputs_an_answer_was_right_before():
    right = own_backward(OPS["layer_norm"])
    only_rows = lambda dy, xhat, rstd, w: (right(dy, xhat, rstd, w)[0], (dy * xhat).sum(axis=0), dy.sum(axis=0))
    assert repr(check("layer_norm.backward", only_rows)).splitlines()[1:] == [
        "  input   layer_norm((2, 3, 5), (5,), (5,))    (right on 1 input before it)",
        "  dw has shape (3, 5), should be (5,)",
        "  why     not summed over axis 0, along which the input was broadcast"]


def test_a_long_line_of_a_verdict_is_printed_as_several_but_not_one_of_code():
    long = check("accumulation", lambda counts: [1 / len(counts) for _ in counts])
    assert max(map(len, repr(long).splitlines())) <= 88 < len(long.explanation)
    assert " ".join(line.strip() for line in repr(long).splitlines()[1:]) == long.why
    code = lambda *args: np.zeros(3) + np.zeros(4) + 1000000000000000000000000000000000000000000000000000000000000
    assert max(map(len, repr(check("schedule", code)).splitlines())) > 88


def test_47_planted_mistakes_are_wrong_and_at_least_45_of_them_are_explained():
    verdicts = [check(f"{op.__base__.name}.backward", own_backward(op)) for op in OP_MISTAKES]
    assert len(verdicts) == 47
    assert [v.verdict for v in verdicts] == ["wrong"] * 47
    assert sum("  why  " in v.explanation and NO_RULE not in v.why for v in verdicts) >= 45


@pytest.mark.parametrize("nonsense", [lambda *args, **kwargs: "nonsense", lambda *args, **kwargs: 42.0,
                                      lambda *args, **kwargs: None, lambda *args, **kwargs: np.full((3, 5), np.nan)],
                         ids=["text", "42", "None", "NaN"])
@pytest.mark.parametrize("exercise", [*EXERCISES, *backwards()])
def test_nonsense_is_wrong_in_every_exercise(exercise, nonsense):
    verdict = check(exercise, nonsense)
    assert verdict.verdict == "wrong" and verdict.explanation.startswith("  ") and verdict.why


def test_every_op_of_the_engine_and_of_practice_is_an_exercise():
    assert set(backwards()) == {f"{name}.backward" for name in [*OPS, *PRACTICE]}


def test_a_gradient_is_wrong_if_it_is_off_by_a_hundred_thousandth():
    assert not check("softmax.backward", lambda dy, p, axis: softmax(dy, p, axis) * (1.0 + 1e-5))


@pytest.mark.parametrize("answer, words", [
    (lambda dy, p, axis: None, "the result is None: is a `return` missing?"),
    (lambda dy, p, axis: softmax(dy, p, axis).tolist(), "dx is a list, should be an array of shape (3, 5)"),
    (lambda dy, p, axis: list(softmax(dy, p, axis)), "dx is a list, should be an array of shape (3, 5)"),
    (lambda dy, p, axis: 0, "dx is an int, should be an array of shape (3, 5)"),
    (lambda dy, p, axis: "dx", "dx is a str, should be an array of shape (3, 5)"),
    (lambda dy, p, axis: mg.Tensor(dy), "dx is a Tensor, should be an array of shape (3, 5)"),
    (lambda dy, p, axis: np.zeros(dy.shape, np.int64), "dx is an array of int64, should be of float64: integers lose"),
    (lambda dy, p, axis: dy > 0, "dx is an array of bool, should be of float64"),
    (lambda dy, p, axis: softmax(dy, p, axis) + 0j, "dx is an array of complex128, should be of float64"),
    (lambda dy, p, axis: softmax(dy, p, axis).astype(np.float32),
     "dx is right up to the rounding errors of float32, but dy is float64: keep the dtype of dy"),
    (lambda dy, p, axis: 2 * softmax(dy, p, axis).astype(np.float32), "every entry is 2 times too large"),
    (lambda dy, p, axis: softmax(dy, p, axis) * np.nan, "15 of 15 entries are NaN or infinite"),
    (lambda dy, p, axis: softmax(dy, p, axis)[:, :4], "dx has shape (3, 4), should be (3, 5)"),
    (lambda dy, p, axis: softmax(dy, p, axis)[:1], "it broadcasts to this shape, but one number for each"),
    (lambda dy, p, axis: np.zeros((1,) * 30), "1, 1), should be (3, 5)"),
    (lambda dy, p, axis: np.broadcast_to(0.0, (10**6, 10**6)), "shape (1000000, 1000000), should be (3, 5)"),
    (lambda dy, p, axis: dy.sum(), "it broadcasts to this shape, but one number for each"),
    (lambda dy, p, axis: softmax(dy, p, axis).T, "transposed"),
    (lambda dy, p, axis: (dy, dy), "it returns 2 gradients, should be 1: return dx"),
    (lambda dy, p, axis: (), "it returns 0 gradients, should be 1: return dx"),
    (lambda dy, x, axis: dy, "it takes x, but softmax saves p, axis"),
    (lambda p, dy, axis: dy, "it takes dy, but softmax saves p, axis: dy comes first"),
    (lambda self, dy, p, axis: dy, "it takes self: write a function, not a method"),
    (lambda: 0.0, "it takes no arguments; first must come dy"),
    (int, "its arguments cannot be found out"),
    (softmax(np.ones((1, 2)), np.ones((1, 2)), 1), "expected a function, got a ndarray: pass it without ()"),
    (None, "expected a function, got None: pass it without ()"),
])
def test_what_is_no_gradient_of_softmax_gets_a_sentence(answer, words):
    verdict = check("softmax.backward", answer)
    assert verdict.verdict == "wrong"
    assert words in verdict.explanation


@pytest.mark.parametrize("exercise, answer, words", [
    ("log_softmax.backward", lambda dy, y, axis: dy - np.exp(y) * dy.mean(axis=axis, keepdims=True),
     "a projection term is missing or wrong: off by (one number per row) x exp(y)"),
    ("mul.backward", lambda dy, a, b: dy * b, "it returns 1 gradient, should be 2: return da, db"),
    ("mul.backward", lambda dy, a, b: (dy * b, None), "db is None, should be an array of shape (2, 3)"),
    ("mul.backward", lambda dy, a, b: (*mul(dy, a, b), dy), "it returns 3 gradients, should be 2: return da, db"),
    ("mul.backward", lambda dy, a, b: mul(dy, a, b)[::-1], "multiplied by a instead of b"),
    ("mul.backward", lambda dy, a, b: 3, "the result is an int, should be 2 gradients: return da, db"),
    ("split.backward", lambda dys, axis: np.concatenate(dys, axis),
     "it takes dys, axis; first must come the gradients of the 3 outputs, def mine(*dys, ...)"),
    ("rms_norm.backward", lambda dy, xhat, w, r: (dy * w * r, rms_norm(dy, xhat, w, r)[1]), "x xhat"),
    ("rms_norm.backward", lambda dy, xhat, w, r: (rms_norm(dy, xhat, w, r)[0], dy * xhat),
     "not summed over axis 0 and 1"),
    ("rms_norm.backward", lambda dy, xhat, w, r: (rms_norm(dy, xhat, w, r)[0] / r, w), "missing factor r"),
    ("rms_norm.backward", lambda dy, xhat, w, r: rms_norm(dy, xhat, np.ones_like(w), r), "missing factor w"),
])
def test_wrong_gradients_of_other_ops_get_a_sentence(exercise, answer, words):
    verdict = check(exercise, answer)
    assert verdict.verdict == "wrong"
    assert words in verdict.explanation


def test_an_exception_is_shown_with_its_line_text_type_and_message():
    def mine(dy, p, axis):
        row = helper(dy)
        return p * row

    def helper(x):
        return np.zeros(3) + np.zeros(4)                # NumPy raises

    line = inspect.getsourcelines(helper)[1] + 1
    assert check("softmax.backward", mine).explanation == (
        f"  input   softmax((3, 5))\n  line {line}   return np.zeros(3) + np.zeros(4)                # NumPy raises\n"
        "  raised ValueError: operands could not be broadcast together with shapes (3,) (4,)")


def test_an_exception_is_shown_also_if_it_has_no_text():
    class Mine(Exception):
        def __str__(self):
            raise RuntimeError

    def mine(dy, p, axis):
        raise Mine

    assert check("softmax.backward", mine).why.endswith("Mine: <exception str() failed>")
    assert check("softmax.backward", lambda dy, p, axis: {}["p"]).why == "raised KeyError: 'p'"


def test_an_input_that_is_a_number_has_a_shape_as_an_array_has():
    def summed(d, x):
        d = d.sum(axis=tuple(range(d.ndim - x.ndim)))
        return d.sum(axis=tuple(i for i, n in enumerate(x.shape) if n == 1), keepdims=True)

    assert check("mul.backward", lambda dy, a, b: (summed(dy * b, a), summed(dy * a, b)))


def test_an_endless_recursion_and_sys_exit_are_wrong_answers():
    def recursion(dy, p, axis):
        return recursion(dy, p, axis)

    assert "raised RecursionError: maximum recursion" in check("softmax.backward", recursion).why
    assert check("softmax.backward", lambda dy, p, axis: sys.exit(3)).why == "calls sys.exit, which ends the program"


def test_an_exception_of_any_type_is_a_wrong_answer_but_ctrl_c_ends_the_grader():
    assert check("softmax.backward", lambda dy, p, axis: pytest.fail("not yet")).why == "raised Failed: not yet"

    def ctrl_c(dy, p, axis):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check("softmax.backward", ctrl_c)


def test_a_value_that_breaks_its_grader_is_not_graded():
    class Unprintable:
        def __repr__(self):
            raise RuntimeError("no text")

    verdict = check("topological", lambda root, parents: [Unprintable()])
    assert (verdict.verdict, verdict.why) == ("not graded", "what it returns cannot be graded: RuntimeError: no text")


def test_arguments_are_read_only_copies():
    def writes(dy, p, axis):
        dy -= 1.0
        return dy

    assert check("softmax.backward", writes).why == "it writes into an array that it is given: make a new one"
    given = [np.ones(3), {"w": np.ones(3)}]
    got = call(lambda x: x, given)
    assert not got[0].flags.writeable and not got[1]["w"].flags.writeable and given[0].flags.writeable


def test_a_stub_is_not_attempted_but_an_answer_that_calls_something_unimplemented_is_wrong():
    def stub(dy, p, axis):
        raise NotImplementedError

    verdict = check("softmax.backward", stub)
    assert not verdict and repr(verdict) == "· softmax.backward: not attempted"
    calls = lambda dy, p, axis: Op().forward(dy)
    assert "raised NotImplementedError" in check("softmax.backward", calls).explanation


def test_an_answer_that_replaces_functions_of_numpy_is_told_so_and_they_are_restored():
    exp = np.exp

    def replaces(dy, p, axis):
        np.exp = lambda x: 1.0
        return softmax(dy, p, axis)

    assert check("softmax.backward", replaces).why.startswith("it replaces numpy.exp, which everything else uses too")
    assert np.exp is exp
    np.exp = None                                       # before it is graded
    assert check("softmax.backward", softmax).why.startswith("it replaces numpy.exp")
    assert np.exp is exp and check("softmax.backward", softmax)


def test_what_an_answer_seeds_is_afterwards_as_before():
    def seeds(dy, p, axis):
        np.random.seed(0)                               # noqa: NPY002
        random.seed(0)
        np.seterr(all="raise")
        return softmax(dy, p, axis)

    before = np.random.get_state()[1].tolist(), random.getstate(), np.geterr()              # noqa: NPY002
    assert check("softmax.backward", seeds)
    assert before == (np.random.get_state()[1].tolist(), random.getstate(), np.geterr())    # noqa: NPY002


# ---- exercises that do not exist ------------------------------------------------------------------------------------

@pytest.mark.parametrize("exercise, words", [
    ("sofmax.backward", "there is no exercise 'sofmax.backward'; did you mean softmax.backward or "),
    ("softmax_backward", "did you mean softmax.backward"),
    ("shedule", "did you mean schedule?"),
    ("softmax", "there is no exercise 'softmax'; did you mean softmax.backward?"),
    ("add", "did you mean add.backward?"),
    ("SOFTMAX.BACKWARD", "did you mean softmax.backward or "),
    ("xyz", "there is no exercise 'xyz'; there are schedule, softmax.backward, ..."),
    (softmax, "expected the name of an exercise first, got a function: check(\"softmax.backward\", mine)"),
])
def test_an_unknown_exercise_names_the_nearest_and_is_one_line_in_a_notebook(exercise, words):
    with pytest.raises(ValueError) as error:
        check(exercise, softmax)
    assert words in str(error.value)
    assert error.value._render_traceback_() == [f"ValueError: {error.value}"]


def test_an_op_without_samples_cannot_be_graded():
    class Unsampled(Op):
        def forward(self, x):
            return x

        def backward(self, dy):
            return dy

    try:
        with pytest.raises(ValueError, match="unsampled.backward cannot be graded: the op has no samples"):
            check("unsampled.backward", lambda dy: dy)
    finally:
        del OPS["unsampled"]


# ---- ops of which only the forward is given -------------------------------------------------------------------------

@pytest.mark.parametrize("op", PRACTICE.values(), ids=PRACTICE)
def test_a_practice_op_has_inputs_without_two_axes_of_one_length(op):
    shapes = [[np.shape(x) for x in sample.draw(0)] for sample in op.samples]
    assert any(all(len(set(shape)) == len(shape) for shape in sample) for sample in shapes)


class SinCos(Op, register=False):
    name = "sin_cos"

    def forward(self, x):
        self.save(x=x)
        return np.sin(x), np.cos(x)

    samples = [Sample((2, 3))]


def test_a_practice_op_may_have_several_outputs():
    grade_backward(SinCos, lambda dsin, dcos, x: dsin * np.cos(x) - dcos * np.sin(x))
    with pytest.raises(Wrong, match="the sign is flipped"):
        grade_backward(SinCos, lambda dsin, dcos, x: dcos * np.sin(x) - dsin * np.cos(x))


def test_a_diagnosis_of_a_practice_op_names_dy():
    class Scaled(SinCos, register=False):
        def forward(self, x):
            self.save(x=x)
            return np.sin(x)

    with pytest.raises(Wrong, match="missing factor dy"):
        grade_backward(Scaled, lambda dy, x: np.cos(x))


# ---- the values that graders take -----------------------------------------------------------------------------------

@pytest.mark.parametrize("x", [3, 3.0, np.float32(3), np.int64(3), np.array(3.0)])
def test_number_takes_numbers_of_any_type(x):
    assert number(x, "it") == 3.0 and type(number(x, "it")) is float


@pytest.mark.parametrize("take, x, words", [
    (number, None, "x is None: is a `return` missing?"),
    (number, [3.0], "x is a list, should be a number"),
    (number, np.ones(1), "x is an array of shape (1,), should be a number"),
    (number, True, "x is a bool, should be a number"),
    (number, 3j, "x is a complex, should be a number"),
    (number, float("nan"), "x is nan"),
    (number, np.inf, "x is inf"),
    (number, 10 ** 400, "x is an int, should be a number"),
    (lambda x, what: array(x, (2,), what), [1, 2], "x is a list, should be an array of shape (2,)"),
    (lambda x, what: array(x, (2,), what), np.ones(3), "x has shape (3,), should be (2,)"),
    (lambda x, what: array(x, (2,), what), np.array(["a", "b"]), "x is an array of <U1, should be one of numbers"),
    (lambda x, what: array(x, (2,), what), np.array([1, np.inf]),
     "x: 1 of 2 entries are NaN or infinite, the first is x[1]"),
    (lambda x, what: array(x, (), what), np.nan, "x: 1 of 1 entries are NaN or infinite, the first is x"),
    (lambda x, what: results(x, "p", "m"), None, "the result is None: is a `return` missing?"),
    (lambda x, what: results(x, "p", "m"), 1.0, "the result is a float, should be 2 values: p, m"),
    (lambda x, what: results(x, "p", "m"), (1,), "it returns 1 value, should be 2 values: p, m"),
])
def test_a_value_of_another_kind_is_wrong_in_a_sentence(take, x, words):
    with pytest.raises(Wrong) as wrong:
        take(x, "x")
    assert str(wrong.value) == f"  {words}"
