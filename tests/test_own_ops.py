"""Ops of the reader's own: subclasses of mg.Op with a forward and a backward in plain NumPy."""
import copy
import importlib
import io
import linecache
import pickle
import re
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F, gradcheck
from minigrad.ops.op import Fused, Primitive
from minigrad.ops.sample import Sample
from minigrad.step import record
from minigrad.step.page import html
from minigrad.step.terminal import Terminal
from minigrad.words import index
from test_page import browse


@pytest.fixture(autouse=True)
def ops():
    """Ops that a test defines are removed after it."""
    before = dict(mg.OPS)
    yield
    mg.OPS.clear()
    mg.OPS.update(before)


class SoftmaxLoss(mg.Op, register=False):
    def forward(self, logits, targets):
        e = np.exp(logits - logits.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        self.save(p=p, targets=targets)
        return -np.log(p[np.arange(len(p)), targets]).mean()

    def backward(self, dy, p, targets):
        dlogits = p.copy()
        dlogits[np.arange(len(p)), targets] -= 1.0
        return dy * dlogits / len(p)


class ForgetsTheMean(SoftmaxLoss, register=False):
    def backward(self, dy, p, targets):
        return super().backward(dy, p, targets) * len(p)


class Cube(mg.Op, register=False):
    def forward(self, x):
        self.save(x=x)
        return x ** 3

    def backward(self, dy, x):
        return dy * 3.0 * x ** 2


TARGETS = [0, 2, 1, 2]


def leaf(*shape, dtype="float64"):
    return Tensor(np.random.default_rng(len(shape)).normal(size=shape).astype(dtype), requires_grad=True)


def own(forward, backward, **members):
    """An op with these methods; they are named after their arguments."""
    return type("Own", (mg.Op,), {"forward": forward, "backward": backward, **members}, register=False)


def checks(report):
    return {row.check: "not checked" if row.note else "passed" if row.ok else row.detail for row in report.rows}


# ---- a right op is right --------------------------------------------------------------------------------------------

def test_a_right_op_in_plain_numpy_passes_its_check():
    """Nothing is asked of it that it does not have: a decomposition, second derivatives, samples, formulas."""
    assert checks(gradcheck.check(SoftmaxLoss, (4, 3), targets=TARGETS)) == {
        **dict.fromkeys(("no side effects", "finite differences", "accumulation", "strided", "float32 kept", "float32",
                         "float16 kept"), "passed"),
        "decomposition": "not checked", "second order": "not checked"}


def test_the_report_says_what_was_not_checked_and_why():
    text = str(gradcheck.check(SoftmaxLoss, (4, 3), targets=TARGETS))
    assert "--   second order           not checked: it has no `composed`, which second derivatives need" in text
    assert "FAIL" not in text


def test_its_loss_and_gradient_are_those_of_cross_entropy():
    x, y = leaf(4, 3), leaf(4, 3)
    mine, theirs = mg.apply(SoftmaxLoss, x, targets=TARGETS), F.cross_entropy(y, TARGETS)
    mine.backward()
    theirs.backward()
    np.testing.assert_allclose([mine.item()], [theirs.item()], rtol=1e-14)
    np.testing.assert_allclose(x.grad, y.grad, atol=1e-15)


@pytest.mark.parametrize("given", [
    ((4, 3),), (np.linspace(-1.0, 1.0, 12).reshape(4, 3),), (leaf(4, 3),), (leaf(4, 3, dtype="float32"),),
    ([[0.1, 0.2, 0.3]] * 4,)], ids=["shape", "array", "tensor", "float32", "list"])
@pytest.mark.parametrize("targets", [TARGETS, np.array(TARGETS), Tensor(TARGETS)], ids=["list", "array", "tensor"])
def test_check_takes_a_shape_or_the_inputs_of_a_call(given, targets):
    assert gradcheck.check(SoftmaxLoss, *given, targets=targets).ok
    assert not gradcheck.check(ForgetsTheMean, *given, targets=targets).ok


def test_samples_of_the_class_are_what_it_is_checked_on_without_inputs():
    class Sampled(Cube):
        samples = [Sample((2, 3)), Sample(())]

    assert [row.what for row in gradcheck.check(Sampled).rows if row.check == "strided"] == [
        "sampled((2, 3))", "sampled(())"]


def test_a_check_without_samples_and_inputs_asks_for_shapes():
    with pytest.raises(ValueError, match=r"softmax_loss has no samples .* forward\(logits, targets\), a shape or an "
                                         r"array for each, such as check\(SoftmaxLoss, \(3, 5\)\)"):
        gradcheck.check(SoftmaxLoss)


def test_a_check_without_an_input_of_floats_says_so():
    for given in (3.0, np.array([1, 2])):
        detail = gradcheck.check(Cube, given).failures[0].detail
        assert "no input is an array of floating dtype" in detail and "shapes such as (3, 5)" in detail


@pytest.mark.parametrize("op, inputs", [
    (own(lambda self, x: (2.0 * x, 3.0 * x), lambda self, dy, dz: 2.0 * dy + 3.0 * dz), [(2, 3)]),
    (own(lambda self, *xs: sum(xs), lambda self, dy: (dy, dy)), [(2, 3), (2, 3)]),
    (own(lambda self, x, b: x + b, lambda self, dy: (dy, dy), broadcasts=True), [(2, 3), (3,)]),
    (Cube, [()]), (Cube, [(0, 2)]), (Cube, [(2, 1, 3)]),
], ids=["two outputs", "any number of inputs", "broadcasting", "a scalar", "empty", "three axes"])
def test_a_right_op_passes_whatever_its_inputs_and_outputs(op, inputs):
    assert gradcheck.check(op, *inputs).ok


def test_a_dtype_that_numpy_does_not_have_for_a_function_is_not_checked():
    """np.linalg has no float16."""
    class Inverse(mg.Op):
        def forward(self, a):
            y = np.linalg.inv(a)
            self.save(y=y)
            return y

        def backward(self, dy, y):
            return -y.T @ dy @ y.T

    found = checks(gradcheck.check(Inverse, (3, 3)))
    assert found["float16 kept"] == "not checked" and found["finite differences"] == "passed"


def test_lines_that_the_given_inputs_do_not_reach_are_not_checked():
    class Branches(mg.Op):
        def forward(self, x):
            return 2.0 * x

        def backward(self, dy):
            if dy.ndim > 2:
                return -dy
            return 2.0 * dy

    report = gradcheck.check(Branches, (2, 3))
    assert report.ok and checks(report)["coverage"] == "not checked"
    assert not gradcheck.check(Branches, (2, 3, 4)).ok


# ---- second derivatives ---------------------------------------------------------------------------------------------

def second_derivative(op):
    x = leaf(3)
    with mg.unfused():
        y = mg.apply(op, x).sum()
    g, = mg.grad(y, [x], create_graph=True)
    return mg.grad(g.sum(), [x])[0].data / x.data


def test_an_op_with_composed_has_second_derivatives():
    class Composed(Cube):
        @staticmethod
        def composed(F, x):
            return x * x * x

    np.testing.assert_allclose(second_derivative(Composed), 6.0)
    assert checks(gradcheck.check(Composed, (2, 3)))["decomposition"] == "passed"


def test_without_composed_unfused_and_second_derivatives_say_what_to_define():
    words = r"cube has no decomposition, .* define in Cube a static method `composed\(F, \*inputs\)`"
    with pytest.raises(ValueError, match=words):
        second_derivative(Cube)
    x = leaf(3)
    with pytest.raises(ValueError, match=words + ".*; the op was called at .*test_own_ops.py:"):
        mg.grad(mg.apply(Cube, x).sum(), [x], create_graph=True)


def test_a_primitive_in_plain_numpy_fails_with_the_advice_to_use_xp():
    class Exp2(Primitive):
        def forward(self, x):
            y = np.exp(x)
            self.save(y=y)
            return y

        def backward(self, dy, y):
            return dy * y

    row, = gradcheck.check(Exp2, (2, 3)).failures
    assert row.check == "second order" and "self.xp.exp, not np.exp" in row.detail and "minigrad.Op" in row.detail
    x = leaf(3)
    with pytest.raises(TypeError) as error:
        mg.grad(mg.apply(Exp2, x).sum(), [x], create_graph=True)
    assert "self.xp.exp, not np.exp" in " ".join(error.value.__notes__)


def test_a_fused_op_without_a_decomposition_fails_with_the_advice_to_subclass_op():
    op = type("Own", (Fused,), {"forward": lambda self, x: 2.0 * x, "backward": lambda self, dy: 2.0 * dy},
              register=False)
    assert "subclasses minigrad.Op" in gradcheck.check(op, (2, 3)).failures[0].detail


# ---- errors name what is missing ------------------------------------------------------------------------------------

def saving(**values):
    """A forward, y = x ** 2, that saves these functions of x by these names."""
    def forward(self, x):
        self.save(**{name: value(x) for name, value in values.items()})
        return x ** 2
    return forward


def double(self, x):
    return 2.0 * x


def product(self, x, w):
    return x * w


@pytest.mark.parametrize("op, shapes, words", [
    (own(double, mg.Op.backward), 1, r"Own needs a method backward\(self, dy, ...\)"),
    (own(mg.Op.forward, lambda self, dy: dy), 1, r"Own needs a method forward\(self, x\)"),
    (own(lambda self, x: None, lambda self, dy: dy), 1, "forward of Own returns nothing: is its `return` missing"),
    (own(double, lambda self, dy: None), 1, "backward returns None for dx.*is its `return` missing"),
    (own(product, lambda self, dy: None), 2, "backward returns nothing: write `return dx, dw`"),
    (own(lambda self, x: x * x, lambda self, dy, x: dy), 1, "backward of Own takes x, which forward did not save: add"),
    (own(saving(xs=lambda x: x), lambda self, dy, x: dy), 1, "takes x, but forward saved xs: the names must agree"),
    (own(saving(x=lambda x: x, y=lambda x: x), lambda self, dy, x: dy), 1, "does not take y, which forward saved"),
    (own(lambda self, x: self.save(x), lambda self, dy, x: dy), 1, r"a name for each value.*self.save\(x=x\)"),
    (own(lambda self, x: [x, x], lambda self, dy, dz: dy), 1, "forward of Own returns a list: return an array, or a"),
    (own(double, lambda self, dy: [dy]), 1, "backward returns a list"),
    (own(product, lambda self, dy: [dy, dy]), 2, "backward returns a list: write `return dx, dw`"),
    (own(product, lambda self, dy: dy), 2, "backward returns 1 gradients for 2 inputs: write `return dx, dw`, "),
    (own(lambda self, x: (x * 2.0, x), lambda self, dy: dy), 1, r"there are 2 outputs.*def backward\(self, dy0, dy1, "),
    (own(lambda self, x: F.tanh(x), lambda self, dy: dy), 1, "forward of Own returns a Tensor: it computes with "),
    (own(double, lambda self, dy: F.tanh(dy)), 1, "backward returns a Tensor for dx: return an array of shape"),
    (own(double, lambda self, dy: 2.0), 1, "backward returns a float for dx: return an array of shape"),
    (own(double, lambda self, dy: dy.T), 1, r"shape \(3, 2\)"),
    (own(lambda self, x, w: x + w[0], lambda self, dy: (dy, dy[0])), 2, r"shape \(3,\)"),
    (own(lambda self, x, w: x + w[:1], lambda self, dy: (dy, dy[:1])), 2, r"shape \(1, 3\)"),
], ids=lambda x: x if isinstance(x, str) else "")
def test_an_op_that_lacks_something_fails_with_an_error_that_names_it(op, shapes, words):
    """When it is used, and when it is checked."""
    inputs = [leaf(2, 3) for _ in range(shapes)]

    def use():
        y = mg.apply(op, *inputs)
        (y[0] * y[1] if isinstance(y, tuple) else y * 1.0).sum().backward()

    with pytest.raises((ValueError, TypeError, NotImplementedError), match=words):
        use()
    details = " ".join(row.detail for row in gradcheck.check(op, *[(2, 3)] * shapes).failures)
    assert re.search(words, details), details


def test_a_gradient_that_only_lacks_the_sum_over_a_broadcast_axis_is_told_how_to_get_it():
    op, x, b = own(lambda self, x, b: x + b, lambda self, dy: (dy, dy)), leaf(2, 3), leaf(3)
    with pytest.raises(ValueError, match="sum over axis 0; or set broadcasts = True in the class"):
        mg.apply(op, x, b).sum().backward()


def test_a_float64_constant_that_promotes_float32_is_named_as_the_likely_cause():
    class OneHot(SoftmaxLoss, register=False):
        def backward(self, dy, p, targets):
            return dy * (p - np.eye(p.shape[1])[targets]) / len(p)

    likely = r"float64 constant or array, such as np.float64\(2\), np.zeros\(n\) or np.eye\(n\)"
    with pytest.raises(TypeError, match=likely):
        mg.apply(OneHot, leaf(4, 3, dtype="float32"), targets=TARGETS).backward()
    row, = gradcheck.check(OneHot, (4, 3), targets=TARGETS).failures
    assert row.check == "float32 kept" and re.search("float32 gives float64 in dlogits: a " + likely, row.detail)


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_write_into_a_given_array_is_reported_before_anything_else(where):
    """What the other checks would find is not the mistake but its consequence."""
    def write(self, x):
        x *= 2.0
        return x

    op = own(write, lambda self, dy: 2.0 * dy) if where == "forward" else own(double, write)
    row, = [row for row in gradcheck.check(op, (2, 3)).failures]
    assert row.detail == f"{where} writes into an array that it was given: compute a new one, x = x * 2, not x *= 2"
    step = next((mg.apply(op, leaf(2, 3)) * 1.0).sum().backward_steps(until="own"))
    assert [row.detail for row in step.check().failures] == [row.detail]


def test_a_forward_that_draws_random_numbers_is_told_where_to_draw_them():
    def drop(self, x):
        kept = np.random.default_rng().uniform(size=x.shape) > 0.5
        self.save(kept=kept)
        return x * kept

    op = own(drop, lambda self, dy, kept: dy * kept)
    row, = gradcheck.check(op, (5, 7)).failures
    assert row.detail.startswith("a second forward gives another result: draw random numbers outside the op")
    step = next((mg.apply(op, leaf(5, 7)) ** 2).sum().backward_steps(until="bad"))
    assert [row.detail for row in step.check().failures] == [row.detail]


def test_a_floating_array_by_keyword_is_cast_with_the_inputs():
    class SquaredError(mg.Op):
        def forward(self, x, *, y):
            self.save(x=x, y=y)
            return ((x - y) ** 2).mean()

        def backward(self, dy, x, y):
            return dy * 2.0 * (x - y) / x.size

    assert gradcheck.check(SquaredError, (3, 4), y=np.ones((3, 4))).ok


def test_none_for_one_of_several_inputs_is_an_error_that_advises_a_keyword():
    op = own(product, lambda self, dy: (dy, None))
    row = gradcheck.check(op, (2, 3), (2, 3)).failures[0]
    assert row.detail == "backward returns None for dw: return a gradient, or give by keyword what has none"
    with pytest.raises(ValueError, match="backward returns None for dw, which is needed"):
        mg.apply(op, leaf(3), leaf(3)).sum().backward()
    mg.apply(op, leaf(3), np.ones(3)).sum().backward()


def test_integers_as_an_input_are_an_error_that_advises_a_keyword():
    """Inputs are cast to one dtype. The advice works without a change of the class."""
    words = r"the integers targets became float64; .* by keyword: apply\(SoftmaxLoss, ..., targets=targets\)"
    with pytest.raises(TypeError, match=words):
        mg.apply(SoftmaxLoss, leaf(4, 3), TARGETS)
    assert re.search(words, gradcheck.check(SoftmaxLoss, (4, 3), TARGETS).failures[0].detail)
    assert mg.apply(SoftmaxLoss, leaf(4, 3), targets=TARGETS).requires_grad


@pytest.mark.parametrize("wrong", [F.tanh, Cube(), "tanh", None])
def test_what_is_no_op_is_an_error(wrong):
    with pytest.raises(TypeError, match="apply takes a subclass of minigrad.Op and its inputs, not "):
        mg.apply(wrong, leaf(3))
    with pytest.raises(TypeError, match="check takes an op, a subclass of minigrad.Op, not "):
        gradcheck.check(wrong, (3,))


def test_static_methods_and_a_forgotten_self_are_errors_when_the_class_is_defined():
    for forward in (staticmethod(lambda ctx, x: x), lambda x: x):
        with pytest.raises(TypeError, match=r"forward of Own must be a method with an argument, `def forward\(self, "):
            own(forward, lambda self, dy: dy)


# ---- names ----------------------------------------------------------------------------------------------------------

def test_more_inputs_than_forward_takes_are_an_error_that_names_what_is_given_by_keyword():
    class Loss(mg.Op, register=False):
        samples = [(4, 3)]

        def forward(self, logits, *, targets):
            return logits

        def backward(self, dy):
            return dy

    words = r"forward of Loss takes 1 input \(logits\), not 2; give by keyword: targets=\.\.\."
    with pytest.raises(TypeError, match=words):
        mg.apply(Loss, np.ones((2, 3)), [0, 2])
    with pytest.raises(TypeError, match=words):
        mg.gradcheck.check(Loss, (2, 3), (2,))
    with pytest.raises(TypeError, match=r"samples of Loss is a list of Samples: .* samples = \[Sample\(\(3, 5\)\)\]"):
        mg.gradcheck.check(Loss)
    with pytest.raises(TypeError, match=r"not an object of it: write apply\(Loss, \.\.\.\)"):
        mg.apply(Loss(), np.ones((2, 3)))


def test_the_name_of_an_op_of_another_module_is_an_error_that_says_how_to_go_on():
    words = (r"'softmax' exists already, minigrad.ops.softmax.Softmax: choose another class name, .* "
             r"name=\"my_softmax\"\); to replace .* del minigrad.OPS\['softmax'\]")
    with pytest.raises(ValueError, match=words):
        class Softmax(mg.Op):
            pass

    class Softmax(mg.Op, name="my_softmax"):
        pass
    assert mg.OPS["my_softmax"] is Softmax and mg.OPS["softmax"] is not Softmax


def test_an_op_that_is_not_registered_has_its_name_and_a_version_of_an_op_the_name_of_the_op():
    class Own(mg.Op, register=False):
        pass

    class Faster(mg.OPS["softmax"], register=False):
        pass
    assert (Own.name, Faster.name) == ("own", "softmax") and "own" not in mg.OPS


def test_a_subclass_of_an_op_is_an_op():
    class Softmax2(mg.OPS["softmax"]):
        def backward(self, dy, p, axis):
            return super().backward(dy, p, axis) * 2.0

    x = leaf(2, 3)
    assert mg.apply(Softmax2, x, axis=1).node.op_class is mg.OPS["softmax2"]
    details = {row.detail.partition(": ")[2].partition(":")[0] for row in gradcheck.check(Softmax2).failures}
    assert "every entry is 2 times too large" in details


class Net(mg.nn.Module):
    def __init__(self):
        self.weight = mg.nn.Parameter(np.ones((3, 2)))
        self.op = Cube

    def forward(self, x):
        return mg.apply(self.op, x @ self.weight)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))],
                         ids=["deepcopy", "pickle"])
def test_a_model_with_an_op_can_be_copied_and_pickled(copied):
    x = np.ones((1, 3))
    np.testing.assert_array_equal(copied(Net())(x).data, Net()(x).data)


# ---- notebooks and modules that are edited --------------------------------------------------------------------------

CELL = """
class Scaled(mg.Op):
    def forward(self, x):
        return {factor} * x

    def backward(self, dy):
        dx = {factor} * dy
        return dx
"""


def run_cell(number, factor, names):
    """Run a cell as IPython does: its source is where Python looks for that of a file."""
    code, file = CELL.format(factor=factor), f"<cell {number}>"
    linecache.cache[file] = len(code), None, code.splitlines(True), file
    exec(compile(code, file, "exec"), names)


def test_a_cell_that_runs_again_replaces_the_op_and_its_source():
    names = {"mg": mg, "__name__": "__main__"}
    for number, factor in enumerate((2.0, 2.0, 5.0)):
        run_cell(number, factor, names)
        step = next(mg.apply(names["Scaled"], leaf(3)).backward_steps(np.ones(3)))
        assert mg.OPS["scaled"] is names["Scaled"] and step.dxs[0].tolist() == [factor] * 3
        assert f"dx = {factor} * dy" in step.source and [list(line.values) for line in step.lines] == [["dx"], []]
        assert step.check().ok and f"dx = {factor} * dy" in step._repr_html_()


def test_a_module_that_is_edited_and_reloaded_gives_its_new_op(tmp_path, monkeypatch):
    """As with %autoreload: a function that was imported before calls the new op."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "own_op_of_a_test.py"
    text = "import minigrad as mg\n" + CELL + "\n\ndef scaled(x):\n    return mg.apply(Scaled, x)\n"
    file.write_text(text.replace("{factor}", "2.0"))
    module = importlib.import_module("own_op_of_a_test")
    scaled = module.scaled
    file.write_text(text.replace("{factor}", "17.0"))
    try:
        importlib.reload(module)
        step = next(scaled(leaf(3)).backward_steps(np.ones(3)))
        assert step.dxs[0].tolist() == [17.0] * 3 and "17.0 * dy" in step.source
    finally:
        del sys.modules["own_op_of_a_test"]


def test_after_ipythons_autoreload_the_new_source_is_shown(tmp_path, monkeypatch):
    """It compiles an edited method by itself, so that its line numbers are not those of the file."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_op_of_a_test.py"
    text = "import minigrad as mg\n\n" + CELL
    file.write_text(text.replace("{factor}", "2.0"))
    module = importlib.import_module("edited_op_of_a_test")
    file.write_text(text.replace("{factor}", "17.0").replace("        dx =", "        # a comment\n        dx ="))
    alone = "class Alone:\n    def backward(self, dy):\n        dx = 17.0 * dy\n        return dx"
    names = {}
    exec(compile(alone, file, "exec"), names)
    try:
        module.Scaled.backward.__code__ = names["Alone"].backward.__code__
        step = next(mg.apply(module.Scaled, leaf(3)).backward_steps(np.ones(3)))
        assert step.source == "def backward(self, dy):\n    dx = 17.0 * dy\n    return dx"
        assert [(line.first, line.last, list(line.values)) for line in step.lines] == [(1, 1, ["dx"]), (2, 2, [])]
    finally:
        del sys.modules["edited_op_of_a_test"]


# ---- in the stepper -------------------------------------------------------------------------------------------------

def typed(record, *commands):
    """What the terminal prints for these commands."""
    terminal = Terminal(record, color=False, stdin=io.StringIO("\n".join(commands)), stdout=io.StringIO())
    terminal.cmdloop()
    return terminal.stdout.getvalue()


def loss_of(op):
    return mg.apply(op, F.tanh(leaf(4, 3)), targets=TARGETS)


def test_the_stepper_shows_an_op_without_a_docstring():
    """Its source and arrays on the page and in the terminal; there is no formula, and no box for one."""
    recorded = record(loss_of(SoftmaxLoss))
    assert recorded.views[0].formula.mathml == "" and recorded.views[0].report.ok
    assert "dlogits[np.arange(len(p)), targets] -= 1.0" in html(recorded)
    shown = typed(recorded, "line", "line", "check", "check full", "why dlogits[0,1]", "forward")
    assert "dlogits = p.copy()" in shown and "✗" not in shown


def test_a_docstring_of_prose_is_no_formula():
    class Prose(Cube):
        """Cubes of numbers.

        why not, one may ask; forward is easy, backward too.
        """

    view = record(mg.apply(Prose, leaf(3)).sum()).views[-1]
    assert (view.formula.shapes, view.formula.forward, view.formula.mathml) == ("", [], "")


def test_an_op_whose_source_is_in_no_file_is_stepped_through_without_lines():
    names = {"mg": mg, "__name__": "__main__"}
    exec(compile(CELL.format(factor=3.0), "<nowhere>", "exec"), names)
    recorded = record(mg.apply(names["Scaled"], leaf(3)).sum())
    view = recorded.views[-1]
    assert view.backward.lines == [] and "not in a file" in view.backward.note and view.report.ok
    assert html(recorded) and "not in a file" in typed(recorded, "next")


# ---- a failed check says why ----------------------------------------------------------------------------------------

WHY = "every entry is 4 times too large: missing 1/4, and 4 is the length of axis 0 of logits"


def test_a_check_of_a_step_that_fails_names_the_mistake():
    step = next(loss_of(ForgetsTheMean).backward_steps(until="bad"))
    row, = step.check().failures
    assert WHY in row.detail
    at = row.worst
    assert row.detail.startswith(f"dlogits{list(at)} is {row.analytic[at]:.6g}, should be {row.numeric[at]:.6g}: ")
    np.testing.assert_allclose(row.analytic, step.dxs[0], rtol=1e-12)           # in the units of the step
    np.testing.assert_allclose(row.analytic, 4.0 * row.numeric, rtol=1e-6)
    assert "0 of 12 pairs of analytic and numeric gradient agree" in str(step.check())


def test_a_gradient_that_is_added_to_a_small_loss_is_shown_in_its_own_size():
    step = next((loss_of(ForgetsTheMean) * 1e-6).backward_steps(until="softmax_loss"))
    row, = step.check().failures
    np.testing.assert_allclose(row.analytic, step.dxs[0], rtol=1e-12)
    assert WHY in row.detail


def test_the_page_and_the_terminal_show_why_a_check_failed():
    recorded = record(loss_of(ForgetsTheMean))
    assert WHY in html(recorded)
    shown = typed(recorded, "check")
    assert WHY in re.sub(r"\s+", " ", shown)
    at = recorded.views[0].report.failures[0].worst
    names = "dlogits, yours", "finite difference", f"error, worst [{','.join(map(str, at))}]"
    assert all(f"  {name} " in shown for name in names)
    assert WHY in recorded.views[0].step._repr_html_()


def test_the_page_draws_a_wrong_gradient_minus_finite_differences_with_the_worst_entry_outlined(tmp_path):
    """In the op as a whole; there is no box for the formula that this op does not have, and the graph marks the op."""
    recorded = record(loss_of(ForgetsTheMean))
    seen = browse(tmp_path, html(recorded), """
      seen.names = all("#right .equation figcaption b").map(e => e.textContent);
      seen.outlined = all("#right .equation figure").map(f => f.querySelectorAll("i.lit").length);
      seen.role = document.querySelector("#right .equation").getAttribute("aria-label");
      seen.alerts = all("#left .alert").map(e => e.textContent);
      seen.formulas = all("#left .formula").length;
      press("ArrowDown");
      seen.later = all("#right .equation[role=group]").length;
      seen.alertsLater = all("#left .alert").length;
    """)
    row, = recorded.views[0].report.failures
    assert seen.names == ["dlogits, yours", "finite difference", "error"] and seen.outlined == [1, 1, 1]
    assert seen.role == f"gradient check of dlogits failed, worst entry {index(row.worst)}"
    assert seen.alerts == [row.detail] and WHY in row.detail and seen.formulas == 0
    assert (seen.later, seen.alertsLater) == (0, 1)         # a step into the lines leaves the sentence


class WrongScale(mg.Op, register=False):
    """Along its last axis the gradient lacks a factor w; the rest of the op is x * w."""
    def forward(self, x, w):
        self.save(x=x, w=w)
        return x * w

    def backward(self, dy, x, w):
        return dy, (dy * x).sum(axis=(0, 1))


@pytest.mark.parametrize("shape", [(7, 5, 3), (30, 40, 50), (1, 1, 9000)])
def test_of_a_large_gradient_a_block_is_compared_and_the_row_says_so(shape):
    x, w = leaf(*shape), leaf(shape[-1])
    loss = (mg.apply(WrongScale, x, w) ** 2).sum()
    row, = next(loss.backward_steps(until="wrong_scale")).check().failures
    assert "missing factor w" in row.detail and row.of == "dx"
    assert row.numeric.ndim == 3 and row.numeric.size <= 1024
    compared = f"({' x '.join(map(str, row.numeric.shape))} of {' x '.join(map(str, shape))} elements compared)"
    assert row.detail.endswith(compared) == (row.numeric.shape != shape)


def test_rows_that_are_wrong_have_their_numbers_in_the_whole_array():
    class LosesRows(mg.Op, register=False):
        def forward(self, x):
            return 2.0 * x

        def backward(self, dy):
            dx = 2.0 * dy
            dx[100:] *= np.random.default_rng(1).normal(size=(100, 100))
            return dx

    loss = (mg.apply(LosesRows, leaf(200, 100)) ** 2).sum()
    row, = next(loss.backward_steps(until="loses_rows")).check().failures
    named = [int(k) for k in re.search(r"only rows \[([\d, ]*)\] are wrong", row.detail)[1].split(", ")]
    assert min(named) >= 100 and len(named) > 1


def test_a_kernel_that_differs_from_the_reference_code_is_diagnosed():
    for step in (F.tanh(leaf(3)) * leaf(3)).sum().backward_steps(until="mul"):
        step.dxs[0] = 3.0 * step.dxs[0]
        row, = step.check().failures
        assert row.check == "reference code" and "every entry is 3 times too large" in row.detail
