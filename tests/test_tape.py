"""The tape: order of the backward, memory, ownership of gradients, modes, and errors that name op, shapes and line."""
import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F
from minigrad.ops.op import Primitive
from minigrad.tape import apply


def leaf(*values, dtype="float64"):
    return Tensor(np.array(values, dtype=dtype), requires_grad=True)


# ---- the backward loop ----

def test_backward_gives_the_same_gradients_as_iterating_over_backward_steps():
    def run(how):
        x = Tensor(np.random.default_rng(0).normal(size=(3, 5)), requires_grad=True)
        y = F.softmax(x * x, axis=-1)
        how((y * F.exp(x)).sum())
        return x.grad

    np.testing.assert_array_equal(run(lambda y: y.backward()), run(lambda y: list(y.backward_steps())))


def test_nodes_run_newest_first():
    a = leaf(1.0, 2.0)
    b = a * 2.0
    c = F.exp(b)
    d = b + c
    e = d * a
    assert [s.op for s in e.sum().backward_steps()] == ["sum", "mul", "add", "exp", "mul"]


def test_a_node_runs_after_all_nodes_that_use_its_output():
    """a = 1, b = a + a, c = b + b: if b ran after one of its two gradients only, a's gradient would be 2, not 4."""
    a = leaf(1.0)
    b = a + a
    c = b + b
    c.backward()
    assert a.grad == [4.0]


def test_pausing_the_loop_pauses_the_backward():
    x = leaf(1.0, 2.0)
    steps = (F.exp(x) * 3.0).sum().backward_steps()
    next(steps), next(steps)
    assert x.grad is None                       # exp has not run
    assert next(steps).op == "exp" and x.grad is None       # its result is not added yet
    assert next(steps, None) is None
    np.testing.assert_allclose(x.grad, 3.0 * np.exp([1.0, 2.0]))


def test_a_step_has_the_name_of_its_op_and_the_line_that_called_it():
    class Model(mg.nn.Module):
        def __init__(self):
            self.norm = mg.nn.LayerNorm(3, dtype="float64")

        def forward(self, x):
            return self.norm(x)

    model = Model()
    steps = list(model(leaf(1.0, 2.0, 4.0)).backward_steps(np.array([1.0, 2.0, 3.0])))
    step, = steps
    assert (step.op, step.name, step.index) == ("layer_norm", "norm", 0)
    assert "rstd" in step.saved and "rstd" in step.formula
    assert step.created_at.startswith(("tests", "/")) and "test_tape.py:" in step.created_at
    assert repr(step).startswith("step 0: layer_norm in norm at") and repr(step).endswith(
        "-> dx (3,), dw (3,), db (3,)"
    )


def test_created_at_is_the_users_line():
    x = leaf(1.0)
    y = F.exp(x)                                # this line
    line = test_created_at_is_the_users_line.__code__.co_firstlineno + 2
    assert y.node.created_at.endswith(f"test_tape.py:{line}")


def test_a_gradient_replaced_in_a_step_is_accumulated_in_place_of_the_computed_one():
    x = leaf(1.0, 2.0)
    for step in (F.exp(x) * 3.0).sum().backward_steps():
        if step.op == "mul":
            step.dxs[0] = np.zeros_like(step.dxs[0])
    np.testing.assert_array_equal(x.grad, [0.0, 0.0])
    for step in (F.exp(x) * x).sum().backward_steps():
        if step.op == "mul":
            step.dxs[0] = None                  # exp gets no gradient
    np.testing.assert_allclose(x.grad, np.exp([1.0, 2.0]))


def test_the_arrays_of_a_step_do_not_change_in_later_steps():
    x = leaf(1.0, 2.0)
    steps = list((F.exp(x) * F.tanh(x)).sum().backward_steps())
    exp = next(s for s in steps if s.op == "exp")
    np.testing.assert_allclose(exp.saved["y"], np.exp(x.data))
    np.testing.assert_allclose(exp.dxs[0], exp.dy * np.exp(x.data))     # later contributions are not added to it


def test_a_chain_of_50_000_ops_runs_and_is_freed():
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y * 1.00001
    y.backward()
    np.testing.assert_allclose(x.grad, 1.00001 ** 50_000)
    y = x
    for _ in range(50_000):
        y = y * 1.00001
    del y                                       # a graph without a backward is freed without recursion


# ---- memory ----

def test_a_graph_is_freed_without_the_garbage_collector():
    gc.disable()
    try:
        x = leaf(1.0, 2.0)
        y = F.softmax(F.exp(x) * x)
        z = (y * y).sum()
        z.retain_grad()
        y.register_hook(lambda g: None)
        refs = [weakref.ref(y), weakref.ref(z)]
        z.backward(retain_graph=True)
        del y, z
        assert [r() for r in refs] == [None, None]
    finally:
        gc.enable()


def test_backward_frees_the_arrays_of_the_graph():
    x = Tensor(np.ones(1000), requires_grad=True)
    y = F.exp(x)
    alive = weakref.ref(y)
    z = F.tanh(y).sum()
    del y
    assert alive() is not None                  # exp's output: tanh's node refers to it
    z.backward()
    assert alive() is None


def test_peak_memory_is_that_of_the_saved_arrays_and_a_few_more():
    """A chain of n tanh on N bytes keeps n outputs. The backward adds a few arrays, independent of n."""
    n, N = 40, 8 * 100_000
    x = Tensor(np.full(N // 8, 0.1), requires_grad=True)
    tracemalloc.start()
    y = x
    for _ in range(n):
        y = F.tanh(y)
    forward = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    y.backward(np.ones(N // 8))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert forward < (n + 1) * N
    assert peak < (n + 6) * N


# ---- accumulation and ownership ----

def test_gradients_of_several_backwards_are_summed_until_zero_grad():
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [4.0, 8.0])
    x.zero_grad()
    assert x.grad is None
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0])


def test_grad_is_an_ordinary_array_that_only_its_leaf_changes():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).backward(np.array([1.0, 1.0]))      # add returns dy itself as the gradient of both
    assert not np.shares_memory(x.grad, y.grad)
    x.grad *= 2.0
    np.testing.assert_array_equal(y.grad, [1.0, 1.0])
    kept = x.grad
    (x * 3.0).sum().backward()                  # adds to x.grad
    x.zero_grad()
    (x * 5.0).sum().backward()
    np.testing.assert_array_equal(kept, [2.0, 2.0])     # unchanged


def test_a_gradient_does_not_alias_the_dy_given_to_backward():
    x, dy = leaf(1.0, 2.0), np.array([1.0, 1.0])
    y = x * 1.0
    (y + x + x).backward(dy)
    np.testing.assert_array_equal(dy, [1.0, 1.0])
    assert not np.shares_memory(x.grad, dy)


def test_only_retain_grad_keeps_the_gradient_of_a_tensor_that_is_no_leaf():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    z = y * y
    y.retain_grad()
    z.sum().backward()
    np.testing.assert_allclose(y.grad, 2.0 * y.data)
    assert z.grad is None


def test_a_hook_is_called_once_with_the_whole_gradient():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    seen = {"x": [], "y": []}
    x.register_hook(lambda g: seen["x"].append(g.copy()))
    y.register_hook(lambda g: seen["y"].append(g.copy()))
    (y * y + y + x).sum().backward()
    whole = 2.0 * y.data + 1.0
    np.testing.assert_allclose(seen["y"], [whole])
    np.testing.assert_allclose(seen["x"], [whole * y.data + 1.0])


def test_what_a_hook_returns_replaces_the_gradient():
    x = leaf(1.0, 2.0)
    y = F.exp(x)
    y.register_hook(lambda g: 0.0 * g)
    x.register_hook(lambda g: g + 7.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [7.0, 7.0])


def test_backward_of_a_leaf_adds_dy_to_its_grad():
    x = leaf(3.0)
    x.backward()
    assert x.grad == [1.0]


def test_the_gradient_of_an_unused_output_is_zeros():
    x = leaf(1.0, 2.0, 3.0, 4.0)
    a, b = F.split(x, 2)
    b.sum().backward()
    np.testing.assert_array_equal(x.grad, [0.0, 0.0, 1.0, 1.0])


# ---- freed graphs, changed data ----

def test_a_second_backward_through_a_freed_graph_raises_an_error():
    x = leaf(1.0)
    y = F.exp(x)
    y.backward()
    with pytest.raises(ValueError, match="freed by an earlier backward.*retain_graph=True"):
        y.backward()
    with pytest.raises(ValueError, match="exp.*test_tape.py"):
        (y * 2.0).backward()


def test_with_retain_graph_a_second_backward_adds_the_same_gradients_again():
    x = leaf(1.0)
    y = F.exp(x) * x
    y.backward(retain_graph=True)
    once = x.grad.copy()
    y.backward()
    np.testing.assert_array_equal(x.grad, 2.0 * once)


def test_backward_after_an_optimizer_step_raises_an_error_that_names_the_parameter():
    layer = mg.nn.Linear(2, 3, dtype="float64")
    optimizer = mg.optim.AdamW(layer.parameters())
    loss = layer(np.ones((4, 2))).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(ValueError, match=r"weight \(2, 3\) was changed after linear at .*test_tape.py"):
        loss.backward()


@pytest.mark.parametrize("change", [
    lambda layer: setattr(layer.weight, "data", np.ones((2, 3))),
    lambda layer: layer.load_state_dict(layer.state_dict()),
])
def test_backward_after_new_data_of_a_parameter_raises_an_error(change):
    layer = mg.nn.Linear(2, 3)
    loss = layer(np.ones((4, 2), "float32")).sum()
    change(layer)
    with pytest.raises(ValueError, match="was changed after"):
        loss.backward()


def test_assigning_data_copies_into_the_same_memory():
    x = leaf(1.0, 2.0)
    array = x.data
    x.data = [3.0, 4.0]
    assert x.data is array and array.tolist() == [3.0, 4.0]
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        x.data = [1.0, 2.0, 3.0]
    with pytest.raises(ValueError, match="only leaves"):
        (x * 2.0).data = [1.0, 2.0]


# ---- in-place changes ----

@pytest.mark.parametrize("change", ["t[0] = 1.0", "t += 1.0", "t -= 1.0", "t *= 2.0", "t /= 2.0", "t **= 2", "t @= t"])
def test_in_place_changes_of_a_tensor_raise_an_error(change):
    with pytest.raises(TypeError, match="never changed in place"):
        exec(change, {"t": leaf(1.0, 2.0)})


# ---- modes ----

def test_no_grad_may_be_nested_and_ends_with_its_block():
    x = leaf(1.0)
    with mg.no_grad():
        with mg.no_grad():
            pass
        assert not F.exp(x).requires_grad
    assert F.exp(x).requires_grad
    with pytest.raises(RuntimeError), mg.no_grad():
        raise RuntimeError
    assert F.exp(x).requires_grad


def test_no_grad_applies_to_its_own_thread_only():
    x, seen = leaf(1.0), []
    with mg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(F.exp(x).requires_grad))
        thread.start()
        thread.join()
    assert seen == [True]


def test_no_grad_may_be_used_again_and_in_itself():
    x, no_grad = Tensor([1.0], requires_grad=True), mg.no_grad()
    for _ in range(2):
        with no_grad, no_grad:
            assert not (x * 2.0).requires_grad
        assert (x * 2.0).requires_grad


def test_no_grad_does_not_decorate_what_runs_later():
    def generator():
        yield

    async def coroutine():
        pass

    async def both():
        yield

    for function in (generator, coroutine, both, Tensor):
        with pytest.raises(TypeError, match="put a `with` block"):
            mg.no_grad()(function)


def test_no_grad_works_as_a_decorator():
    @mg.no_grad()
    def f(x):
        return F.exp(x)

    assert not f(leaf(1.0)).requires_grad and not f(leaf(1.0)).requires_grad


def test_detach_returns_a_leaf_that_shares_the_array():
    x = leaf(1.0)
    y = F.exp(x)
    z = y.detach()
    assert z.data is y.data and not z.requires_grad
    (y * z).backward()
    np.testing.assert_allclose(x.grad, np.exp([2.0]))


def test_detect_nan_raises_an_error_at_the_first_bad_value_of_a_forward():
    x = leaf(1.0, 0.0, 4.0)
    with mg.detect_nan(), pytest.warns(RuntimeWarning), pytest.raises(
        FloatingPointError, match="forward of log at .*test_tape.py.*infinite"
    ):
        F.exp(F.log(x))


def test_detect_nan_raises_an_error_at_the_first_bad_value_of_a_backward():
    x = leaf(0.0, 4.0)
    with mg.detect_nan():
        y = (F.sqrt(x) * 2.0).sum()
        with pytest.warns(RuntimeWarning), pytest.raises(
            FloatingPointError, match="backward of sqrt at .*test_tape.py"
        ):
            y.backward()


def test_detect_nan_allows_infinity_if_an_input_has_it():
    with mg.detect_nan():
        y = F.where(np.array([True, False]), leaf(1.0, 2.0), -np.inf)
        F.exp(y).sum().backward()


def test_without_detect_nan_bad_values_raise_no_error():
    with pytest.warns(RuntimeWarning):
        assert np.isneginf(F.log(leaf(0.0)).data)


# ---- errors ----

def notes(error):
    return " ".join(getattr(error.value, "__notes__", []))


def test_an_error_in_a_forward_names_op_shapes_and_line():
    with pytest.raises(ValueError, match=r"add: shapes \(3, 4\) and \(5,\) do not broadcast") as error:
        Tensor(np.ones((3, 4))) + Tensor(np.ones(5))
    assert "in forward of add on (3, 4), (5,), called at " in notes(error) and "test_tape.py:" in notes(error)


class Broken(Primitive, register=False):
    """x -> y"""

    def forward(self, x):
        self.save(x=x)
        return x * 1.0

    def backward(self, dy, x):
        return self.answer(dy, x)


@pytest.mark.parametrize("answer, message", [
    (lambda dy, x: dy.reshape(1, -1), r"gradient of shape \(1, 2\), the input is \(2,\)"),
    (lambda dy, x: dy.astype("float32"), "dtype float32, the input is float64"),
    (lambda dy, x: (dy, dy), "2 gradients for 1 inputs"),
    (lambda dy, x: 1 / 0, "division by zero"),
])
def test_an_error_in_a_backward_names_op_shapes_and_line(answer, message):
    op = type("Op", (Broken,), {"answer": staticmethod(answer), "name": "broken"}, register=False)
    with pytest.raises((ValueError, TypeError, ZeroDivisionError), match=message) as error:
        apply(op, leaf(1.0, 2.0)).sum().backward()
    assert "in backward of broken at " in notes(error) and "dy (2,)" in notes(error) and "test_tape.py:" in notes(error)


@pytest.mark.parametrize("make, message", [
    (lambda: leaf(1.0, 2.0).backward(), r"shape \(2,\) needs dy"),
    (lambda: (leaf(1.0, 2.0) * 2.0).backward(np.ones(3)), r"dy has shape \(3,\)"),
    (lambda: Tensor([1.0]).backward(), "needs no gradient"),
    (lambda: Tensor([1.0]).register_hook(print), "requires_grad=True"),
    (lambda: mg.grad(leaf(1.0) * 2.0, Tensor([1.0])), "needs no gradient"),
])
def test_wrong_arguments_of_backward_hooks_and_grad_raise_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_backward_steps_checks_its_arguments_when_it_is_called():
    with pytest.raises(ValueError, match="needs dy"):
        (leaf(1.0, 2.0) * 2.0).backward_steps()


def test_mg_grad_leaves_dot_grad_alone_and_is_zeros_for_an_x_that_y_does_not_depend_on():
    x, y = leaf(1.0, 2.0), leaf(3.0)
    z = F.exp(x)
    dz, dx, dy = mg.grad((z * z).sum(), [z, x, y])
    np.testing.assert_allclose(dz.data, 2.0 * z.data)
    np.testing.assert_allclose(dx.data, 2.0 * np.exp(2.0 * x.data))
    np.testing.assert_array_equal(dy.data, [0.0])
    assert x.grad is None and z.node.hooks == {0: []}
