"""What holds for every executor: its numbers equal the textbook's, backward_steps gives the same bits as backward,
arrays of the user do not change, and a failed backward leaves no wrong gradient.

The executors are the textbook on NumPy's arrays, the kernels for NumPy, the textbook on a fake device, and an executor
for this device that is registered here, as one for CUDA would be.
"""
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, device as devices, functional as F, optim
from minigrad.executor import EXECUTORS, Executor
from minigrad.gradcheck import relative_error
from minigrad.kernels.executor import Kernel, KernelExecutor
from minigrad.kernels.vector.settings import settings
from minigrad.modes import mode, switch
from minigrad.ops.pointwise import Gelu

from fake_device import FakeArray, xp as fake_xp

pytestmark = pytest.mark.usefixtures("with_kernels")
RNG = np.random.default_rng(0)
IDX = RNG.integers(0, 13, (3, 8))


class GeluSlope(Kernel, Gelu, register=False):
    """A kernel of GELU for any array library. It saves the derivative and drops x."""
    unaliased = drops = 0,

    def forward(self, x):
        y = super().forward(x)
        self.slope = super().backward(self.xp.ones_like(x), **self.saved)
        self.save(slope=self.slope)
        return y

    def backward(self, dy, slope):
        if not self.may_overwrite:
            return dy * slope
        slope *= dy
        return slope


class CountingExecutor(KernelExecutor):
    """An executor for the fake device, with one kernel. It counts the calls of its methods."""

    def __init__(self):
        super().__init__(fake_xp, [GeluSlope])
        self.calls = Counter()

    def forward(self, op_class, arrays, static, needs):
        self.calls["forward"] += 1
        return super().forward(op_class, arrays, static, needs)

    def backward(self, op, dys, grads):
        self.calls["backward"] += 1
        return super().backward(op, dys, grads)

    def update(self, *args):
        self.calls["update"] += 1
        super().update(*args)

    def clip(self, *args):
        self.calls["clip"] += 1
        return super().clip(*args)


@pytest.fixture(params=["textbook", "vector", "fake", "counting"])
def device_name(request, monkeypatch):
    """Makes ops run on the executor of the parameter. Returns the name of the device to use."""
    if request.param == "counting":
        monkeypatch.setitem(EXECUTORS, FakeArray, CountingExecutor())
    with switch(plain=request.param == "textbook"):
        yield "fake" if request.param in ("fake", "counting") else "cpu"


def model(device_name, dtype="float64", **shape):
    return GPT(GPTConfig(**dict(block_size=7, vocab_size=13, n_layer=2, n_head=2, n_embd=6) | shape), dtype=dtype,
               device=device_name)


def loss_of(gpt, fused_head=True):
    return gpt.loss(IDX[:, :-1], IDX[:, 1:]) if fused_head else gpt(IDX[:, :-1], IDX[:, 1:])[1]


def copied_gradients(gpt):
    """Name -> a copy on the host, for every gradient."""
    return {name: devices.host(p.grad).copy() for name, p in gpt.named_parameters()}


def gradients(gpt, run=lambda loss: loss.backward(), fused_head=True):
    gpt.zero_grad()
    run(loss_of(gpt, fused_head) * 1.5)
    return copied_gradients(gpt)


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


# ---- the same numbers -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fused_head", [True, False])
def test_loss_and_gradients_equal_the_textbooks(device_name, fused_head):
    gpt = model(device_name)
    loss, found = loss_of(gpt, fused_head).item(), gradients(gpt, fused_head=fused_head)
    with mg.plain():
        other = model("cpu")
        assert abs(loss - loss_of(other, fused_head).item()) < 1e-12
        want = gradients(other, fused_head=fused_head)
    assert all(relative_error(found[name], g) < 1e-11 for name, g in want.items())


def test_updates_and_clipping_equal_the_textbooks(device_name):
    def train(device_name):
        gpt = model(device_name)
        opt = optim.AdamW(gpt.parameters(), lr=0.01)
        norms = []
        for _ in range(4):
            loss_of(gpt).backward()
            norms.append(optim.clip_grad_norm(gpt.parameters(), 0.5).item())
            opt.step()
            opt.zero_grad()
        state = opt.state_dict()
        return gpt.state_dict() | {f"{k}{i}": m for k in "mv" for i, m in enumerate(state[k])}, norms

    found, norms = train(device_name)
    with mg.plain():
        want, wanted_norms = train("cpu")
    np.testing.assert_allclose(norms, wanted_norms, rtol=1e-10)
    for name, a in want.items():
        np.testing.assert_allclose(found[name], a, rtol=1e-8, atol=1e-10, err_msg=name)


# ---- the same bits --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("fused_head", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_have_the_same_bits_stepped_through_or_not(device_name, tied, fused_head):
    """backward, backward_steps, backward_steps whose steps are kept, and retain_graph give the same bits."""
    gpt = model(device_name, "float32", tied=tied)
    want = gradients(gpt, fused_head=fused_head)
    kept = []
    for run in (lambda loss: list(loss.backward_steps()), lambda loss: kept.extend(loss.backward_steps()),
                lambda loss: loss.backward(retain_graph=True)):
        assert same_bits(gradients(gpt, run, fused_head), want)


def test_a_graph_recorded_outside_plain_gives_the_same_bits_inside_it(device_name):
    """The implementation is chosen at the forward and runs the backward too, in any mode."""
    gpt = model(device_name)
    want = gradients(gpt)

    def in_plain(loss):
        with mg.plain():
            loss.backward()

    def steps_in_plain(loss):
        with mg.plain():
            list(loss.backward_steps())

    def one_step_in_plain(loss):
        steps = loss.backward_steps()
        for _ in range(9):
            next(steps)
        with mg.plain():
            next(steps)
        list(steps)

    for run in (in_plain, steps_in_plain, one_step_in_plain):
        assert same_bits(gradients(gpt, run), want)


def test_a_graph_recorded_inside_plain_gives_the_textbooks_bits_outside_it(device_name):
    gpt = model(device_name)

    def of_plain_graph(run):
        gpt.zero_grad()
        with mg.plain():
            loss = loss_of(gpt)
        run(loss)
        return copied_gradients(gpt)

    with mg.plain():
        gpt.zero_grad()
        loss_of(gpt).backward()
        want = copied_gradients(gpt)
    assert same_bits(of_plain_graph(lambda loss: loss.backward()), want)
    assert same_bits(of_plain_graph(lambda loss: list(loss.backward_steps())), want)


def test_with_retain_graph_a_second_backward_adds_the_same_bits_again(device_name):
    gpt = model(device_name)
    loss = loss_of(gpt)
    loss.backward(retain_graph=True)
    once = copied_gradients(gpt)
    loss.backward()
    assert same_bits(copied_gradients(gpt), {name: g + g for name, g in once.items()})


# ---- arrays of the user ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("function", [
    lambda x: F.gelu(x), lambda x: x + 1.0, lambda x: x + x, lambda x: F.linear(x, x.xp.eye(4)),
    lambda x: F.layer_norm(x, x.xp.ones(4)), lambda x: F.cross_entropy(x, [0, 1, 2], reduction="none"),
    lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: F.embedding(x, [0, 2])])
@pytest.mark.parametrize("recorded", [True, False])
def test_changing_an_array_after_an_op_does_not_change_the_ops_output(device_name, function, recorded):
    array = devices.put(RNG.normal(size=(3, 4)), device_name)
    y = function(Tensor(array, requires_grad=recorded))
    assert y.requires_grad == recorded
    before = y.numpy()
    array[...] = 7.0
    np.testing.assert_array_equal(y.numpy(), before)


def test_further_training_does_not_change_arrays_that_were_kept(device_name):
    """The arrays are activations, and gradients of hooks, of steps and of parameters."""
    gpt = model(device_name)
    opt = optim.AdamW(gpt.parameters(), lr=0.1)
    kept = []

    def keep(a):
        kept.append((a, devices.host(a).copy()))

    for step in range(4):
        x = gpt.hidden(IDX[:, :-1])
        x.register_hook(keep)
        keep(x.data)
        loss = F.cross_entropy(gpt.lm_head(x), IDX[:, 1:])
        if step % 2:
            for s in loss.backward_steps():
                for dx in s.dxs:
                    if dx is not None:
                        keep(dx)
        else:
            loss.backward()
        for p in gpt.parameters():
            keep(p.grad)
        opt.step()
        gpt.zero_grad()
    assert len(kept) > 100
    for a, copy in kept:
        np.testing.assert_array_equal(devices.host(a), copy)


def test_backward_does_not_change_dy(device_name):
    x = Tensor(RNG.normal(size=(3, 4)), requires_grad=True, device=device_name)
    dy = devices.put(np.ones((3, 4)), device_name)
    y = F.gelu(x + x)
    (y + y + x).backward(dy)
    np.testing.assert_array_equal(devices.host(dy), 1.0)


# ---- a backward that fails or is interrupted ------------------------------------------------------------------------

def nodes_of(loss):
    """All nodes that a loss depends on, newest first."""
    found, stack = {}, [loss.node]
    while stack:
        node = stack.pop()
        if node.seq not in found:
            found[node.seq] = node
            stack += [x.node for x in node.inputs if getattr(x, "node", None) is not None]
    return [found[seq] for seq in sorted(found, reverse=True)]


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("fused_head", [True, False])
def test_after_a_failed_backward_a_second_one_raises_an_error_or_gives_the_same_bits(device_name, error, fused_head):
    """At whatever node it fails, `.grad` is as before; a second backward raises ValueError or gives the same bits."""
    gpt = model(device_name, n_layer=1)
    want = gradients(gpt, fused_head=fused_head)
    loss_of(gpt, fused_head).backward()         # gradients that the failed backward would add to
    before = copied_gradients(gpt)
    refused = 0
    for i in range(len(nodes_of(loss_of(gpt, fused_head) * 1.5))):
        loss = loss_of(gpt, fused_head) * 1.5
        node = nodes_of(loss)[i]

        def fail(g):
            raise error

        node.hooks = {0: [fail]}
        with pytest.raises(error):
            loss.backward()
        assert same_bits(copied_gradients(gpt), before)
        node.hooks = None
        gpt.zero_grad()
        try:
            loss.backward()
            assert same_bits(copied_gradients(gpt), want)
        except ValueError as refusal:
            assert "freed by an earlier backward" in str(refusal)
            refused += 1
        for name, p in gpt.named_parameters():
            p.grad = devices.put(before[name].copy(), device_name)
    assert refused > 0


def test_after_an_error_at_the_end_of_an_ops_backward_a_second_backward_raises_an_error(device_name, monkeypatch):
    gpt = model(device_name)
    loss = loss_of(gpt)
    node = next(node for node in nodes_of(loss) if node.op_class is Gelu)
    backward = type(node.op).backward

    def fails_at_its_end(self, *args, **saved):
        backward(self, *args, **saved)
        raise MemoryError

    with monkeypatch.context() as m:
        m.setattr(type(node.op), "backward", fails_at_its_end)
        with pytest.raises(MemoryError):
            loss.backward()
    with pytest.raises(ValueError, match="freed by an earlier backward"):
        loss.backward()
    assert all(p.grad is None for p in gpt.parameters())


def test_after_an_unfinished_backward_steps_a_backward_raises_an_error(device_name):
    gpt = model(device_name)
    loss = loss_of(gpt)
    steps = loss.backward_steps()
    next(steps)
    del steps
    with pytest.raises(ValueError, match="freed by an earlier backward"):
        loss.backward()


@pytest.mark.parametrize("retain_graph", [True, False])
def test_a_paused_walk_raises_if_another_backward_has_freed_its_graph(device_name, retain_graph):
    x = Tensor(RNG.normal(size=(4, 5)), requires_grad=True, device=device_name)
    shared = F.gelu(x)
    first, second = (shared * 2.0).sum(), (shared * shared).sum()
    steps = first.backward_steps(retain_graph=retain_graph)
    next(steps)
    second.backward()
    with pytest.raises(ValueError, match="freed by an earlier backward"):
        list(steps)
    with pytest.raises(ValueError, match="freed by an earlier backward"):
        first.backward()


def test_the_saved_values_of_a_step_do_not_change_in_a_later_backward(device_name):
    gpt = model(device_name)
    loss = loss_of(gpt)
    steps = list(loss.backward_steps(retain_graph=True))
    kept = [(a, devices.host(a).copy()) for step in steps for a in step.saved.values() if devices.is_array(a)]
    assert len(kept) > 20
    loss.backward()
    for a, copy in kept:
        np.testing.assert_array_equal(devices.host(a), copy)


# ---- threads and processes ------------------------------------------------------------------------------------------

def test_a_graph_recorded_in_another_thread_gives_the_same_bits(device_name):
    gpt = model(device_name)
    want = gradients(gpt)
    plain, found = mode().plain, []

    def forward():
        with switch(plain=plain):               # a new thread has the default modes
            found.append(loss_of(gpt) * 1.5)

    gpt.zero_grad()
    thread = threading.Thread(target=forward)
    thread.start()
    thread.join(60)
    found.pop().backward()
    assert same_bits(copied_gradients(gpt), want)


def test_training_steps_in_several_threads_give_the_bits_of_one_thread(device_name):
    plain, want, found = mode().plain, gradients(model(device_name)), []

    def work():
        gpt = model(device_name)
        with switch(plain=plain):
            for _ in range(3):
                found.append(gradients(gpt))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert len(found) == 12 and all(same_bits(got, want) for got in found)


SCRIPT = """
import os, sys
import gpt
import numpy as np
import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad.executor import EXECUTORS
EXECUTORS[np.ndarray].min_size = 1
idx = np.arange(24).reshape(2, 12) % 13
def loss():
    gpt = GPT(GPTConfig(block_size=11, vocab_size=13, n_layer=1, n_head=2, n_embd=8))
    out = gpt.loss(idx[:, :-1], idx[:, 1:])
    out.backward()
    return out.item(), float(gpt.wte.weight.grad.sum())
"""
ROOT = Path(__file__).parent.parent


def run_script(code, **environment):
    return subprocess.run([sys.executable, "-W", "error", "-c", SCRIPT + code], capture_output=True, text=True,
                          timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), "MINIGRAD_PLAIN": "0"} | environment)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("plain", ["0", "1"])
def test_a_forked_process_computes_the_same_bits(plain):
    ran = run_script("""
mg.set_num_threads(2)
big = np.ones((600, 600), "float32")
first = loss(), float((big @ big).sum())        # BLAS's threads exist when the process forks
import warnings; warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    os._exit(0 if (loss(), float((big @ big).sum())) == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""", MINIGRAD_PLAIN=plain, MINIGRAD_EXECUTOR="vector")        # a child of a process with loops takes vector kernels
    assert ran.returncode == 0, ran.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_another_thread_computes_computes_too():
    ran = run_script("""
import signal, threading, warnings
from minigrad.kernels.vector.settings import settings
from minigrad.kernels.vector.buffers import empty
settings.reused_bytes = 64
warnings.simplefilter("ignore", DeprecationWarning)
mg.set_num_threads(1)
going = True
def allocate():
    while going:
        empty((100,), "float64")
thread = threading.Thread(target=allocate)
thread.start()
codes = []
for _ in range(20):
    child = os.fork()
    if child == 0:
        signal.alarm(20)                        # a child that waits forever is killed
        empty((100,), "float64")
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
going = False
thread.join()
sys.exit(any(codes))
""")
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("plain", ["0", "1"])
def test_the_environment_variable_minigrad_plain_switches_plain_on(plain):
    ran = run_script("from minigrad.modes import mode; print(mode().plain, np.isfinite(loss()[0]))",
                     MINIGRAD_PLAIN=plain)
    assert ran.stdout == f"{plain == '1'} True\n", ran.stderr


def test_importing_and_computing_do_not_change_the_number_of_blas_threads():
    ran = run_script("""
from threadpoolctl import threadpool_info, threadpool_limits
threadpool_limits(2, user_api="blas")
loss()
print({lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"})
""")
    assert ran.stdout == "{2}\n", ran.stderr


def test_set_num_threads_changes_results_by_rounding_only_and_refuses_other_values():
    found = []
    for threads in (1, 2, 3):
        mg.set_num_threads(threads)
        assert mg.get_num_threads() == threads
        found.append(gradients(model("cpu"))["wte.weight"])
    assert all(relative_error(a, found[0]) < 1e-13 for a in found)
    for wrong in (0, -1, 1.5, "two"):
        with pytest.raises(ValueError, match="whole number of at least 1"):
            mg.set_num_threads(wrong)


# ---- registered executors -------------------------------------------------------------------------------------------

def test_a_registered_executor_runs_every_op_update_and_clip_but_none_inside_plain(monkeypatch):
    counting = CountingExecutor()
    monkeypatch.setitem(EXECUTORS, FakeArray, counting)
    gpt = model("fake")
    opt = optim.AdamW(gpt.parameters())
    loss = loss_of(gpt)
    nodes = nodes_of(loss)
    assert any(isinstance(node.op, GeluSlope) for node in nodes)
    loss.backward()
    optim.clip_grad_norm(gpt.parameters(), 1.0)
    opt.step()
    assert counting.calls["forward"] >= len(nodes) == counting.calls["backward"]
    assert counting.calls["clip"] == 1 and counting.calls["update"] >= 1
    with mg.plain():
        calls = counting.calls.copy()
        loss_of(gpt).backward()
        assert counting.calls == calls


def test_an_executor_that_overrides_nothing_computes_the_textbooks_bits(monkeypatch):
    class Plain(Executor):
        pass

    monkeypatch.setitem(EXECUTORS, FakeArray, Plain())
    assert same_bits(gradients(model("fake")), gradients_of_textbook())


def gradients_of_textbook():
    with mg.plain():
        return gradients(model("fake"))


def test_the_fixture_with_kernels_sets_sizes_so_small_that_small_arrays_are_split(with_kernels):
    """Without it, the paths for large arrays would not run in these tests."""
    assert settings.piece < 30 and EXECUTORS[np.ndarray].min_size == 1
