"""Inside a Module and a backward nobody waits for arrays that nobody looks at: results are the same, to the bit,
whoever comes late, and whoever looks at an array sees it complete."""
import _thread
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, functional as F, nn, optim, tape
from minigrad.kernels import cpu, pool

pytestmark = pytest.mark.usefixtures("with_kernels")
ROOT = Path(__file__).parent.parent
B, T, C, V = 4, 5, 6, 13                        # T is odd: rows of a part are not rows of the batch
X, Y = np.random.default_rng(0).integers(0, V, (2, B, T))


class Late:
    """Threads that are late for a share of their jobs: the caller's, the others' or all."""

    def __init__(self, who, share=0.5):
        self.who, self.share, self.rng = who, share, np.random.default_rng(0)
        self.next, self.do = pool.Lane.next, pool.do

    def __enter__(self):
        caller = threading.get_ident()

        def wait():
            late = "caller" if threading.get_ident() == caller else "workers"
            if self.who in ("all", late) and self.rng.random() < self.share:
                time.sleep(0.0005)

        def next_after_a_while(lane):
            wait()
            self.next(lane)

        def do_each_after_a_while(jobs):
            for job in jobs:
                wait()
                job()

        pool.Lane.next, pool.do = next_after_a_while, do_each_after_a_while

    def __exit__(self, *error):
        pool.Lane.next, pool.do = self.next, self.do


def train(steps=2, **shape):
    """All numbers of some steps of training."""
    gpt = GPT(GPTConfig(**dict(block_size=T, vocab_size=V, n_layer=2, n_head=2, n_embd=C) | shape))
    opt = optim.AdamW(gpt.parameters(), lr=0.01)
    losses = []
    for step in range(steps):
        loss = gpt(X, Y)[1] if step else gpt.loss(X, Y)
        loss.backward()
        optim.clip_grad_norm(gpt.parameters(), 0.5)
        opt.step()
        opt.zero_grad()
        losses.append(loss.item())
    return [np.array(losses), *gpt.state_dict().values()]


def made():
    return F.embedding(Tensor(np.ones((V, C))), X)


def nobody_ahead(monkeypatch):
    """Every op waits, as outside a Module."""
    monkeypatch.setattr(pool.Ours, "__enter__", lambda self: False)
    monkeypatch.setattr(pool.Ours, "__exit__", lambda self, *error: None)


@pytest.mark.parametrize("ahead", [0, 2, 10 ** 6])
@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_training_has_the_same_bits_whoever_is_late(threads, ahead, monkeypatch):
    pool.set_threads(threads)
    monkeypatch.setattr(pool, "AHEAD", ahead)
    with monkeypatch.context() as m:
        nobody_ahead(m)
        want = train()
    for who in ("nobody", "caller", "workers", "all"):
        with Late(who):
            got = train()
        assert all(np.array_equal(a, b) for a, b in zip(got, want, strict=True)), who


def test_the_caller_does_not_wait_inside_a_module(monkeypatch):
    """What all of this is for: a block goes forward and back without a wait."""
    waits = []
    reach = pool.Pool.reach
    monkeypatch.setattr(pool.Pool, "reach", lambda self, counts: (waits.append(counts), reach(self, counts)))
    monkeypatch.setattr(pool, "AHEAD", 10 ** 6)
    gpt = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=3, n_head=2, n_embd=C))
    x = gpt.wte(X)

    class Blocks(nn.Module):
        def forward(self, x):
            for block in gpt.h:
                x = block(x, None)
            waits.append("here")
            return x

    Blocks()(x)
    assert waits.index("here") <= 1


# ---- whoever looks sees it complete ---------------------------------------------------------------------------------

LOOKS = {
    "data": lambda t: t.data.copy(), "numpy": lambda t: t.numpy(), "tolist": lambda t: np.array(t.tolist()),
    "asarray": lambda t: np.array(t), "detach": lambda t: t.detach().numpy(), "argmax": lambda t: t.argmax(axis=-1),
    "item": lambda t: t[0, 0, 0].item(), "float": lambda t: float(t[-1, -1, -1]), "greater": lambda t: t > 0.0,
    "equal": lambda t: t == t.data, "dlpack": lambda t: np.from_dlpack(t).copy(),
    "astype": lambda t: t.astype("int32").numpy(), "to": lambda t: t.to("cpu").numpy(),
    "float64": lambda t: t.astype("float64").numpy(),
    "repr": lambda t: np.array(list(repr(t))), "sum": lambda t: t.sum().item(), "max": lambda t: t.max(axis=0).numpy(),
    "getitem": lambda t: t[1:].numpy(), "index": lambda t: Tensor(X)[(t.data[0, :, 0] > 0.0).astype(int)].numpy(),
    "concatenate": lambda t: F.concatenate([t, t]).numpy(), "leaf": lambda t: Tensor(t).numpy(),
    "iterate": lambda t: np.array([part.numpy() for part in t]), "add a row": lambda t: (t + t.data[0, 0]).numpy(),
    "add a number": lambda t: (t + 1.0).numpy(), "add other": lambda t: (t + t.swapaxes(0, 1).swapaxes(0, 1)).numpy()}


@pytest.mark.parametrize("look", LOOKS)
def test_arrays_are_complete_when_looked_at_inside_a_module(look):
    layer = nn.Linear(C, C, rng=np.random.default_rng(0))
    x = F.embedding(Tensor(np.random.default_rng(1).normal(size=(V, C)).astype("float32")), X)

    class Looks(nn.Module):
        def forward(self):
            return LOOKS[look](F.gelu(layer(x)))

    want = LOOKS[look](F.gelu(layer(x)))
    with Late("all"):
        for _ in range(3):
            np.testing.assert_array_equal(Looks()(), want)


def test_an_array_that_was_given_may_change_when_the_op_is_done():
    """Also inside a Module: nobody reads it later."""
    given_array = np.random.default_rng(0).normal(size=(B, T, C))
    want = F.gelu(Tensor(given_array.copy())).numpy()

    class Changes(nn.Module):
        def forward(self):
            y = F.gelu(Tensor(given_array))
            given_array[...] = 0.0
            return y

    with Late("all"):
        np.testing.assert_array_equal(Changes()().numpy(), want)


def test_hooks_and_steps_see_complete_gradients():
    gpt = GPT(GPTConfig(block_size=T, vocab_size=V, n_layer=2, n_head=2, n_embd=C))

    def seen(walk):
        found = []
        for p in gpt.parameters():
            p.hooks = [lambda g: found.append(g.copy())]
        x = gpt.wte(X) + gpt.wpe(np.arange(T))
        for block in gpt.h:
            x = block(x, None)
            x.register_hook(lambda g: found.append(g.copy()))
        walk(F.linear_cross_entropy(gpt.ln_f(x), gpt.wte.weight, Y))
        return found

    want = seen(lambda loss: loss.backward())
    with Late("all"):
        for walk in (lambda loss: loss.backward(), lambda loss: list(loss.backward_steps()),
                     lambda loss: mg.grad(loss, gpt.parameters())):
            got = seen(walk)
            assert len(got) == len(want) and all(np.array_equal(a, b) for a, b in zip(got, want))


def test_steps_inside_a_module_see_complete_gradients():
    rng = np.random.default_rng(0)
    layers = [nn.Linear(C, C, rng=rng), nn.LayerNorm(C), nn.Linear(C, C, rng=rng)]

    class Walks(nn.Module):
        def forward(self):
            h = F.embedding(Tensor(np.ones((V, C), "float32")), X)
            for layer in layers:
                h = F.gelu(layer(h))
            steps = h.backward_steps(np.ones(h.shape, "float32"))
            return [dx.copy() for step in steps for dx in step.dxs if dx is not None]

    want = Walks().forward()
    with Late("all"):
        got = Walks()()
    assert len(got) == len(want) and all(np.array_equal(a, b) for a, b in zip(got, want))


def test_a_nan_is_found_where_it_arises_inside_a_module():
    x, w = made(), Tensor(np.ones(C), requires_grad=True)
    x.data[-1, -1] = np.nan

    class Makes(nn.Module):
        def forward(self):
            return F.gelu(F.layer_norm(x, w))

    with Late("workers", 1.0), mg.detect_nan():
        for _ in range(3):
            with pytest.raises(FloatingPointError, match="forward of layer_norm"):
                Makes()()


# ---- any program ----------------------------------------------------------------------------------------------------

def heads(h, w):
    return F.merge_heads(F.scaled_dot_product_attention(*F.split_heads(h @ w["c, 3c"], 2), causal=True))


def heads_by_views(h, w):
    q, k, v = F.split((h @ w["c, 3c"]).reshape(*h.shape[:2], 6, -1).swapaxes(1, 2), 3, axis=1)
    return F.scaled_dot_product_attention(q, k, v, causal=True).swapaxes(1, 2).reshape(*h.shape)


def squares(h):
    return h.reshape(2, 2, 5, C)                # two axes that can be exchanged without a change of shape


def attention(x):
    return F.scaled_dot_product_attention(x, x, x, causal=True)


def losses(h, w, **how):
    return F.cross_entropy(F.linear(h, w["v, c"].T), Y if h.shape[0] == B else Y.T, **how)


def backward(y, w):
    """A number made of gradients, which are taken away again."""
    before = {name: x.grad for name, x in w.items()}
    for x in w.values():
        x.grad = None
    y.backward(np.ones(y.shape))
    total = sum(float(np.tanh(x.grad).mean()) for x in w.values() if x.grad is not None)
    for name, x in w.items():
        x.grad = before[name]
    return total


LINES = {                                       # h (B or T, T or B, C) -> h, of weights w and the h of all lines before
    "gelu": lambda h, w, all: F.gelu(h),
    "linear": lambda h, w, all: F.linear(h, w["c, c"], w["c"]),
    "linear of a result": lambda h, w, all: F.linear(h, F.gelu(w["c, c"])),
    "layer_norm": lambda h, w, all: F.layer_norm(h, w["c"], w["d"]),
    "layer_norm of a result": lambda h, w, all: F.layer_norm(h, F.gelu(w["c"]), w["d"]),
    "layer_norm of results": lambda h, w, all: F.layer_norm(h, F.gelu(w["c"]), F.linear(w["c"], w["c, c"])),
    "mlp": lambda h, w, all: F.linear(F.gelu(F.linear(h, w["c, 3c"])), w["c, 3c"].T),
    "attention": lambda h, w, all: heads(h, w),
    "attention by views": lambda h, w, all: heads_by_views(h, w),
    "heads of transposed": lambda h, w, all: heads(F.gelu(h).swapaxes(0, 1), w).swapaxes(0, 1),
    "merged twice": lambda h, w, all: F.merge_heads(F.gelu(squares(F.merge_heads(squares(h))))).reshape(h.shape),
    "attention of transposed": lambda h, w, all: attention(F.gelu(squares(h)).swapaxes(0, 1)).reshape(h.shape),
    "attention, transposed": lambda h, w, all: F.gelu(attention(squares(h)).swapaxes(0, 1)).reshape(h.shape),
    "attention, gelu": lambda h, w, all: F.gelu(heads(h, w)),
    "residual": lambda h, w, all: h + next(g for g in all if g.shape == h.shape),
    "transposed": lambda h, w, all: h.swapaxes(0, 1),
    "of transposed": lambda h, w, all: F.layer_norm(F.gelu(h.swapaxes(0, 1)), w["c"], w["d"]),
    "columns": lambda h, w, all: F.gelu(h.swapaxes(1, 2)).swapaxes(2, 1),
    "columns in rows": lambda h, w, all: F.gelu(F.gelu(h).swapaxes(1, 2).reshape(h.shape)),
    "heads of columns": lambda h, w, all: F.gelu(h.reshape(*h.shape[:2], 2, 3).swapaxes(2, 3)).reshape(h.shape),
    "another shape": lambda h, w, all: F.gelu(h.reshape(-1, 2, C)).reshape(h.shape),
    "reshape of transposed": lambda h, w, all: F.gelu(h.swapaxes(0, 1).reshape(-1, C)).reshape(h.shape),
    "parts of the batch": lambda h, w, all: F.concatenate(F.split(h, [1], axis=0)),
    "gelu of parts": lambda h, w, all: F.concatenate([F.gelu(part) for part in F.split(h, [1], axis=0)]),
    "rows backwards": lambda h, w, all: F.gelu(h[::-1]),
    "textbook": lambda h, w, all: F.tanh(h) * 2.0,
    "a row": lambda h, w, all: h + w["d"],
    "a result as a row": lambda h, w, all: h + F.gelu(w["d"]),
    "a result for each position": lambda h, w, all: F.gelu(h) + F.layer_norm(
        F.embedding(w["v, c"], np.arange(h.shape[1])), w["c"], w["d"]),
    "a result added to": lambda h, w, all: F.gelu(w["d"]) + F.gelu(h),
    "from a table": lambda h, w, all: h + F.embedding(F.gelu(w["v, c"]), X if h.shape[0] == B else X.T),
    "a result from a table": lambda h, w, all: h + F.embedding(F.gelu(w["v, c"]), X[:1, :1]),
    "a gradient": lambda h, w, all: h + mg.grad(F.gelu(F.linear(w["v, c"], w["c, c"])).sum(), w["v, c"])[0],
    "number": lambda h, w, all: h * float(F.gelu(h).data[0, 0, 0]),
    "losses": lambda h, w, all: h * F.tanh(F.gelu(losses(h, w, reduction="none")).mean()),
    "backward": lambda h, w, all: h * backward(F.layer_norm(F.linear(w["v, c"], w["c, c"]), w["c"], w["d"]), w),
    "twice": lambda h, w, all: F.gelu(h) + F.linear(h, w["c, c"])}


class Program(nn.Module):
    def __init__(self, lines):
        rng = np.random.default_rng(0)
        shapes = {"c": (C,), "d": (C,), "c, c": (C, C), "c, 3c": (C, 3 * C), "v, c": (V, C)}
        self.lines = lines
        self.w = {name: Tensor(0.5 * rng.normal(size=n), requires_grad=True) for name, n in shapes.items()}

    def forward(self):
        h = F.embedding(self.w["v, c"], X)                          # (B, T, C)
        all = [h]
        for line in self.lines:
            h = LINES[line](h, self.w, all)
            all.append(h)
        return (h * h).mean() + losses(h, self.w)

    def numbers(self):
        loss = self()
        loss.backward()
        grads = [w.grad for w in self.w.values()]
        for w in self.w.values():
            w.zero_grad()
        return [loss.item(), *(g.copy() for g in grads if g is not None)]


def agrees(lines, threads, late, ahead, vocabulary, share):
    before = pool.AHEAD, cpu.LATE, cpu.VOCABULARY, cpu.SHARE
    pool.AHEAD, cpu.LATE, cpu.VOCABULARY, cpu.SHARE = ahead, 1500.0 * ahead, vocabulary, share
    pool.set_threads(threads)
    try:
        program = Program(lines)
        with mg.plain():
            want = program.numbers()
        with Late(late):
            got = program.numbers()
    finally:
        pool.AHEAD, cpu.LATE, cpu.VOCABULARY, cpu.SHARE = before
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-8 * np.abs(b).max())


@pytest.mark.parametrize("before", ["gelu", "linear", "layer_norm", "attention"])
@pytest.mark.parametrize("line", LINES)
def test_any_line_gives_the_textbooks_numbers(line, before):
    """After and before lines whose results are still in the making; at last so that an op has more parts going back
    than going forward."""
    for threads, late, ahead, vocabulary, share in (
            (2, "workers", 0, V, 1e-9), (2, "all", 10 ** 6, 0, 1e-9), (3, "workers", 2, 0, 1e-9),
            (3, "caller", 2, 0, 1e-9), (4, "workers", 0, 0, 40.0)):
        agrees([before, line, before], threads, late, ahead, vocabulary, share)


@pytest.mark.parametrize("line", sorted(LINES.keys() - {"backward", "a gradient"}))
def test_any_line_gives_the_same_bits_without_gradients(line):
    program = Program(["attention", line, "layer_norm", line])
    with mg.no_grad():
        want = program.forward().item()
        for late in ("nobody", "caller", "workers", "all"):
            with Late(late):
                assert program().item() == want


@given(st.lists(st.sampled_from(sorted(LINES)), min_size=1, max_size=6), st.sampled_from([2, 3, 4]),
       st.sampled_from(["nobody", "caller", "workers", "all"]), st.sampled_from([0, 2, 10 ** 6]),
       st.sampled_from([0, V]), st.sampled_from([1e-9, 40.0]))
@settings(max_examples=100, deadline=None, database=None)
def test_any_program_gives_the_textbooks_numbers(lines, threads, late, ahead, vocabulary, share):
    agrees(lines, threads, late, ahead, vocabulary, share)


# ---- errors, interrupts, forks, other threads -----------------------------------------------------------------------

class Fails(nn.Module):
    def forward(self, x, then):
        y = F.gelu(x)
        return then(y)


@pytest.mark.parametrize("part", [0, 1])
def test_an_error_in_a_part_comes_out_and_all_goes_on(part, monkeypatch):
    class Broken(cpu.Gelu, register=False):
        def forward(self, x):
            def fail(rows):
                if (rows.start > 0) == part:
                    raise MemoryError("in a part")
            y = cpu.like(x)
            cpu.flow(fail, len(x), x.size, 1e9, reads=(x,), makes=(y,))
            return y

    x = made()
    with monkeypatch.context() as m:
        m.setitem(cpu.Gelu.__base__.kernels, np.ndarray, Broken)
        for then in (lambda y: y, lambda y: y.data, lambda y: F.gelu(y)):
            with pytest.raises(MemoryError, match="in a part"):
                Fails()(x, then)
    np.testing.assert_array_equal(Fails()(x, lambda y: y).numpy(), F.gelu(x).numpy())


def test_an_error_of_the_forward_leaves_nothing_under_way():
    def then(y):
        raise ValueError("of the user")

    with Late("workers"):
        with pytest.raises(ValueError, match="of the user"):
            Fails()(made(), then)
    assert not pool.pool.behind and not pool.pool.unsettled and pool.pool.owner == 0
    assert pool.pool.free.acquire(blocking=False)
    pool.pool.free.release()


def test_an_interrupt_comes_when_what_was_under_way_is_done(monkeypatch):
    x = made()

    class Slow(cpu.Gelu, register=False):
        def forward(self, x):
            y = cpu.like(x)
            cpu.flow(lambda rows: time.sleep(0.3 if rows.start else 0.0), len(x), x.size, 1e9, reads=(x,), makes=(y,))
            return y

    with monkeypatch.context() as m:
        m.setitem(cpu.Gelu.__base__.kernels, np.ndarray, Slow)
        timer = threading.Timer(0.1, _thread.interrupt_main)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            Fails()(x, lambda y: y)
            time.sleep(5)
    assert not pool.pool.behind and pool.pool.owner == 0
    np.testing.assert_array_equal(Fails()(x, lambda y: y).numpy(), F.gelu(x).numpy())


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_a_gradient_that_was_not_made_to_the_end_is_forgotten(error, monkeypatch):
    class Broken(cpu.Linear, register=False):
        def backward(self, dy, x2, w, shape):
            def fail(rows):
                raise error("in a gradient")
            dw = cpu.like(w)
            pool.flow([], None, 1e9, reads=(dy,), late=(dw,), then=[partial(fail, s) for s in pool.cuts(len(w), 2)])
            return dy, dw

    x, first, second, old = made(), *(Tensor(np.eye(C), requires_grad=True) for _ in range(3))
    old.grad = np.ones((C, C))
    with monkeypatch.context() as m:
        m.setitem(cpu.Linear.__base__.kernels, np.ndarray, Broken)
        with pytest.raises(error, match="in a gradient"):
            F.linear(F.linear(F.linear(x, old), first), second).sum().backward()
    assert first.grad is None and second.grad is None and (old.grad == 1.0).all()
    F.linear(x, first).sum().backward()
    np.testing.assert_allclose(first.grad, np.repeat(x.data.reshape(-1, C).sum(0)[:, None], C, 1))


def test_another_thread_computes_alone_meanwhile():
    found = []

    def train_with_kernels():
        with tape._switch(plain=False):         # modes are each thread's own
            found.append(train())

    def other(y):
        thread = threading.Thread(target=train_with_kernels)
        thread.start()
        thread.join(60)
        return y

    want = train()
    with Late("workers"):
        Fails()(made(), other)
    assert all(np.array_equal(a, b) for a, b in zip(found[0], want, strict=True))


@pytest.mark.parametrize("look", [lambda y: y.numpy(), lambda y: F.gelu(y).numpy(), lambda y: F.exp(y).numpy()])
def test_another_thread_sees_complete_arrays_while_the_caller_waits_for_it(look, monkeypatch):
    monkeypatch.setattr(pool, "AHEAD", 10 ** 6)
    x, found = made(), []

    def other(y):
        def see():
            with tape._switch(plain=False):
                found.append(look(y))

        thread = threading.Thread(target=see)
        thread.start()
        thread.join(60)
        return y

    want = look(F.gelu(x))
    for late in ("nobody", "workers", "all"):
        with Late(late):
            Fails()(x, other)
    assert len(found) == 3 and all(np.array_equal(got, want) for got in found)


def test_the_number_of_threads_may_change_inside():
    def then(y):
        pool.set_threads(3)
        return F.gelu(y)

    x = made()
    with Late("all"):
        got = Fails()(x, then).numpy()
    np.testing.assert_allclose(got, F.gelu(F.gelu(x)).numpy(), rtol=1e-12)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_that_is_forked_inside_a_module_sees_complete_arrays():
    ran = subprocess.run([sys.executable, "-c", """
import os, sys, time, warnings
import numpy as np
from minigrad import Tensor, functional as F, nn
from minigrad.kernels import cpu, pool
warnings.simplefilter("ignore", DeprecationWarning)
pool.set_threads(2)
x = F.gelu(Tensor(np.ones((400, 1000))))
next = pool.Lane.next
def late(lane):
    time.sleep(0.05)
    next(lane)
pool.Lane.next = late
want = F.gelu(x).numpy()

class Forks(nn.Module):
    def forward(self):
        y = F.gelu(x)
        self.child = os.fork()
        return F.gelu(y)

model = Forks()
again = model().numpy()
right = np.array_equal(again, F.gelu(Tensor(want)).numpy())
if model.child == 0:
    os._exit(0 if right else 1)
sys.exit(not right or os.waitstatus_to_exitcode(os.waitpid(model.child, 0)[1]))
"""], capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(ROOT), "MINIGRAD_PLAIN": "0"})
    assert ran.returncode == 0, ran.stderr
