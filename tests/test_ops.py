"""Every op, on every sample: gradient checks, dtypes, docstring, decomposition."""
import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, gradcheck, tape
from minigrad.executor import EXECUTORS
from minigrad.kernels.executor import Kernel
from minigrad.modes import switch
from minigrad.ops.op import Fused, Primitive
from minigrad.step.formula import SECTIONS

EXPECTED = """
add sub mul div neg pow exp log sqrt tanh sigmoid relu gelu abs maximum minimum where clip
sum mean max min var logsumexp reshape transpose swapaxes broadcast_to squeeze expand_dims getitem concatenate stack
split split_heads merge_heads scatter_add astype matmul linear softmax log_softmax layer_norm embedding dropout
cross_entropy linear_cross_entropy attention sgd adamw recompute
""".split()
FUSED = """
softmax log_softmax cross_entropy linear_cross_entropy layer_norm gelu linear attention embedding dropout sgd adamw
recompute
""".split()


def test_the_registered_ops_are_those_expected():
    assert sorted(mg.OPS) == sorted(EXPECTED)


def test_every_op_is_primitive_or_fused():
    assert sorted(name for name, op in mg.OPS.items() if op.fused) == sorted(FUSED)
    for op in mg.OPS.values():
        assert issubclass(op, Fused if op.fused else Primitive)
        assert op.samples


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_gradcheck_passes(name):
    report = gradcheck.check(mg.OPS[name])
    assert report.ok, "\n".join(map(str, report.failures))


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_docstring_has_shapes_and_sections_in_order(name):
    """The stepper parses them."""
    lines = [line.strip() for line in mg.OPS[name].__doc__.splitlines()]
    assert "->" in lines[0]
    heads = [line.split()[0] for line in lines if line.split() and line.split()[0] in SECTIONS]
    assert heads == [h for h in SECTIONS if h in heads]
    assert [h for h in heads if h != "axes"][:2] == ["forward", "backward"] and "identity" in heads


@pytest.mark.parametrize("name", [n for n in EXPECTED if n not in ("astype", "sgd", "adamw", "dropout")])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_outputs_and_gradients_keep_the_dtype_of_the_inputs(name, dtype):
    for sample in mg.OPS[name].samples:
        xs = [Tensor(x.astype(dtype), requires_grad=True) if isinstance(x, np.ndarray) else x for x in sample.draw(0)]
        y = tape.apply(mg.OPS[name], *xs, **sample.static)
        for a in y if isinstance(y, tuple) else (y,):
            assert a.dtype == dtype
        (sum(a.sum() for a in y) if isinstance(y, tuple) else y.sum()).backward()
        assert all(x.grad.dtype == dtype for x in xs if isinstance(x, Tensor))


@pytest.mark.parametrize("name", FUSED)
def test_unfused_gives_the_same_values_and_records_only_primitives(name):
    op, sample = mg.OPS[name], mg.OPS[name].samples[0]
    xs = [Tensor(x, requires_grad=True) if isinstance(x, np.ndarray) else x for x in sample.draw(0)]
    fused = tape.apply(op, *xs, **sample.static)
    with mg.unfused():
        composed = tape.apply(op, *xs, **sample.static)
    first = lambda y: y[0] if isinstance(y, tuple) else y
    np.testing.assert_allclose(first(fused).data, first(composed).data, rtol=1e-12, atol=1e-12)
    steps = list(first(composed).sum().backward_steps())
    assert not any(mg.OPS[step.op].fused for step in steps)
    assert any(mg.OPS[step.op].fused for step in first(fused).sum().backward_steps())


@pytest.mark.parametrize("name", FUSED)
def test_unfused_accepts_plain_arrays(name):
    sample = mg.OPS[name].samples[0]
    with mg.unfused():
        y = tape.apply(mg.OPS[name], *sample.draw(0), **sample.static)
    assert isinstance(y[0] if isinstance(y, tuple) else y, Tensor)


def test_a_kernel_runs_where_it_is_registered_and_plain_turns_it_off(monkeypatch):
    class Faster(Kernel, mg.OPS["exp"], register=False):
        def forward(self, x):
            self.save(y=np.exp(x), was_here=True)
            return self.saved["y"]

        def backward(self, dy, y, was_here):
            return dy * y

    exp = mg.OPS["exp"]
    x = Tensor([1.0, 2.0], requires_grad=True)
    executor = EXECUTORS[np.ndarray]
    monkeypatch.setitem(executor.kernels, exp, Faster)
    monkeypatch.setattr(executor, "min_size", 1)
    with switch(plain=False):
        y = mg.functional.exp(x)
    with mg.plain():
        z = mg.functional.exp(x)
    assert isinstance(y.node.op, Faster) and type(z.node.op) is exp
    y.sum().backward()                          # chosen at the forward, used by the backward
    assert gradcheck.check(exp).ok
    Faster.backward = lambda self, dy, y, was_here: dy * y * 1.01
    assert [row.check for row in gradcheck.check(exp).failures] == ["kernel"] * 2 * len(exp.samples)


def test_a_second_op_of_the_same_name_is_an_error():
    with pytest.raises(ValueError, match="exists already"):
        class Exp(Primitive):
            pass


def test_an_op_that_is_defined_again_replaces_the_one_before():
    """As when a notebook's cell runs a second time."""
    def cell(slope):
        class TwiceDefined(Primitive):
            def forward(self, x):
                return slope * x

            def backward(self, dy):
                return slope * dy
        return TwiceDefined

    try:
        first, second = cell(2.0), cell(3.0)
        assert mg.OPS["twice_defined"] is second is not first
        assert mg.tape.apply(mg.OPS["twice_defined"], mg.Tensor(1.0)).item() == 3.0
    finally:
        del mg.OPS["twice_defined"]
