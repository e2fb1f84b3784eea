"""The randomised suite draws every op, and finds faults that are planted. CI runs it at length."""
import re

import numpy as np
import pytest

import minigrad as mg
from gpt.run import checkpoint
from minigrad import optim, tape
from minigrad.ops import shape

import faulty_ops
from locate_mistakes import with_mistake
from tests.randomised import __main__ as suite, damage, kills, lines, nets, processes, programs

WORDS = {"add": " + ", "mul": "total(", "matmul": " @ ", "attention": "F.scaled_dot_product_attention("}


def failure(program):
    """What `check` finds wrong in a program, or None."""
    try:
        programs.check(*program)
    except programs.Wrong as error:
        return str(error)
    return None


def first_failure(trial, most):
    """The result of the first of `most` trials that fails, or None."""
    found = (trial(np.random.default_rng([12, n])) for n in range(most))
    return next((result for result in found if result is not None), None)


@pytest.fixture(scope="module")
def drawn():
    """120 random programs."""
    return [programs.draw(np.random.default_rng([12, n])) for n in range(120)]


@pytest.fixture(scope="module")
def prepared():
    with processes.prepared() as folder:
        yield folder


# ---- programs -------------------------------------------------------------------------------------------------------

def test_there_is_a_line_for_every_op():
    assert lines.CALLS.keys() == mg.OPS.keys()


def test_every_use_is_drawn(drawn):
    assert {re.match(r"\w+", line)[0] for _, uses, *_ in drawn for line in uses} == set(programs.USES)


def test_the_same_seed_draws_the_same_program(drawn):
    assert programs.draw(np.random.default_rng([12, 5])) == drawn[5]


def test_random_programs_have_right_gradients(drawn):
    assert [failure(program) for program in drawn[:30]] == [None] * 30


def test_a_maximum_that_ties_with_a_constant_is_no_fault(monkeypatch):
    """Its gradient lies between the slopes of both sides."""
    monkeypatch.setattr(programs, "torch", None)
    graph = """
x0 = leaf((2, 3), seed=1)
with no_grad(): t1 = F.exp(x0)
t2 = F.concatenate([F.exp(x0), t1, F.exp(x0)], axis=0)
l0 = total(F.max(t2, axis=None, keepdims=False))
"""
    programs.check(graph, "\ngrad('l0', 'x0')\n", dtype="float32", mode="small kernels")


@pytest.mark.parametrize("mistake", faulty_ops.OP_MISTAKES, ids=lambda mistake: mistake.__name__)
def test_every_mistake_in_a_backward_is_found(drawn, mistake):
    word = WORDS.get(mistake.name, f"F.{mistake.name}(")
    with with_mistake(mistake):
        assert any(failure(program) for program in drawn if word in "\n".join(program[0]))


class GetitemLosesRepeats(shape.Getitem, register=False):
    """The gradients of repeated indices are not summed."""

    def backward(self, dy, index, shape):
        dx = np.zeros(shape, dy.dtype)
        dx[index] = dy
        return dx


class MulOneInAThousandOff(mg.OPS["mul"], register=False):
    def backward(self, dy, a, b):
        da, db = super().backward(dy, a, b)
        return da if da is None else da * 1.001, db


@pytest.mark.parametrize("mistake", [GetitemLosesRepeats, MulOneInAThousandOff])
def test_getitem_that_loses_repeats_and_a_small_factor_are_found(drawn, mistake):
    with with_mistake(mistake):
        assert any(map(failure, drawn))


def test_a_graph_used_again_after_an_interruption_is_found(monkeypatch):
    """A node counts as used only when it is freed, although its backward may have overwritten its saved values."""
    def check_unused(node):
        if node.op is None:
            raise ValueError("this graph was freed")
    monkeypatch.setattr(tape.Node, "check_unused", check_unused)
    graph = ["x0 = leaf((3, 5), seed=1)", "t0 = F.gelu(x0)", "l0 = total(t0)", "l1 = total(t0)"]
    assert "x0.grad is off" in failure((graph, ["fail('l0', 'x0')", "backward('l1')"], "float64", "small kernels"))


def test_gradients_left_by_an_interrupted_backward_are_found(monkeypatch):
    monkeypatch.setattr(tape, "backward", lambda y, dy, retain_graph: list(
        tape.walk(y, tape.errors.first_gradient(y, dy), retain_graph=retain_graph)))
    graph = ["x0 = leaf((3, 5), seed=1)", "x1 = leaf((3, 5), seed=2)", "l0 = total(x0 * 2.0, x1 * 3.0)"]
    assert "some leaves and not of others" in failure((graph, ["fail('l0', 'x0')"], "float64", "plain"))


def test_a_script_of_a_shrunk_program_repeats_the_failure(drawn):
    with with_mistake(faulty_ops.GeluForgetsThree):
        message, script = first_failure(programs.trial, 120)
        with pytest.raises(programs.Wrong, match=re.escape(message.splitlines()[0])):
            exec(script, {})
    graph = script.split('"""')[1].strip().splitlines()
    assert len(graph) <= 4 and any("F.gelu(" in line for line in graph), script


# ---- networks -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mistake", [faulty_ops.BetasSwapped, faulty_ops.DecayInMoments],
                         ids=lambda mistake: mistake.__name__)
def test_a_mistake_of_an_optimizer_is_found(monkeypatch, mistake):
    monkeypatch.setattr(nets, "ROUNDTRIPS", {})
    monkeypatch.setattr(optim.AdamW, "op", mistake)
    assert any(nets.failure(nets.draw(np.random.default_rng([12, n]))) for n in range(40))


def test_an_optimizer_that_loads_no_moments_is_found(monkeypatch):
    load = optim.Optimizer.load_state_dict
    monkeypatch.setattr(nets, "ROUNDTRIPS", {"state_dict": nets.from_state})
    monkeypatch.setattr(optim.Optimizer, "load_state_dict", lambda self, state: load(
        self, {name: value if name == "t" else [0.0 * x for x in value] for name, value in state.items()}))
    assert any(nets.failure(nets.draw(np.random.default_rng([12, n]))) for n in range(40))


# ---- runs -----------------------------------------------------------------------------------------------------------

def test_a_resume_that_skips_a_batch_is_found(prepared, monkeypatch):
    resume = checkpoint.resume
    monkeypatch.setattr(checkpoint, "resume", lambda *arguments: (resume(*arguments) or -1) + 1)
    assert "another result" in first_failure(damage.Runs(prepared).trial, 10)[0]
    assert first_failure(kills.Kills(prepared).trial, 6)


def test_a_command_that_hangs_or_shows_a_traceback_is_found(prepared, monkeypatch):
    monkeypatch.setattr(processes, "HANGS", 0.2)
    hanging = processes.run(lambda: processes.time.sleep(9), prepared)
    assert damage.wrong(hanging, prepared / "x", same=True) == "status hangs"
    assert damage.wrong(processes.run(lambda: 1 / 0, prepared), prepared / "x", same=True) == "status 1"


def test_the_command_prints_the_options_that_repeat_a_fault(monkeypatch, capsys):
    monkeypatch.setattr(nets, "ROUNDTRIPS", {})
    with monkeypatch.context() as patch:
        patch.setattr(optim.AdamW, "op", faulty_ops.BetasSwapped)
        assert suite.main(["--seed=3", "--only=nets", "--seconds=60"]) == 1
        shown = capsys.readouterr().out
        options = shown.splitlines()[-1].split("python -m tests.randomised ")[1].split()
        assert suite.main(options) == 1
        assert capsys.readouterr().out == shown
    assert suite.main(options) == 0
