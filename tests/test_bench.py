"""gpt.bench: all sides compute the same, the figures add up, and bad input is explained. minigrad.bench: the bound on
an op's overhead. No test depends on how long anything takes."""
import json
import os
import subprocess
import sys
from collections import Counter
from functools import partial

import fake_device  # noqa: F401  (registers the device "fake")
import numpy as np
import pytest

import minigrad as mg
from minigrad import bench, modes
from minigrad.executor import EXECUTORS, Executor
from minigrad.kernels import loops, vector
from minigrad.threads import blas_libraries

from gpt.bench import finetune, machine, options, presets, ranks, report, scaling, table
from gpt.bench.__main__ import main
from gpt.bench.finetune_sides import FinetuneSide, make_finetune_side
from gpt.bench.machine import CORES, on_threads
from gpt.bench.matmul_floor import floor, floor_flops, linear_layers
from gpt.bench.op_times import watched
from gpt.bench.options import Options
from gpt.bench.presets import Preset, prompt_and_new, random_batches
from gpt.bench.sides import MODES, VECTOR, MinigradSide, make_side, relative_differences, running
from gpt.bench.timing import time_in_turn
from gpt.model import GPTConfig
from gpt.run.options import Options as TrainOptions
from gpt.text import fables
from mpirun import MPIRUN

TINY = Preset(GPTConfig(block_size=7, vocab_size=11, n_layer=2, n_head=2, n_embd=8), batch_size=3)
TINY_GEN = TINY._replace(generates=True)


@pytest.fixture(autouse=True)
def with_kernels():
    """Also under MINIGRAD_PLAIN=1: only the side "textbook" is to run without kernels."""
    with modes.switch(plain=False):
        yield


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(presets.PRESETS, "cpu", TINY)
    monkeypatch.setitem(presets.PRESETS, "gen", TINY_GEN)


class CountingExecutor(Executor):
    """The textbook's executor; counts its calls."""

    def __init__(self):
        self.calls = Counter(forward=0, backward=0, update=0, clip=0)

    def __getattribute__(self, name):
        if name in ("forward", "backward", "update", "clip"):
            self.calls[name] += 1
        return super().__getattribute__(name)


def run(capsys, tmp_path, *arguments):
    """What the command prints, and what it writes with --json."""
    main(["--steps=2", "--threads=1", f"--json={tmp_path / 'bench.json'}", *arguments])
    return capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())


@pytest.mark.parametrize("preset", ["cpu", "gen"])
def test_each_side_is_timed_for_the_given_number_of_steps_and_described(preset, tiny, capsys, tmp_path):
    out, found = run(capsys, tmp_path, "--vs=plain", f"--preset={preset}")
    sides = found["sides"]
    assert list(sides) == ["minigrad", "textbook"] + ["floor"] * (preset == "cpu")
    for name, row in sides.items():
        assert len(row["all_ms"]) == 2 and row["p10_ms"] <= row["ms"] <= row["p90_ms"]
        assert name in out and f"{row['tokens_per_s']:,.0f}" in out
        tokens = 3 * 7 if preset == "cpu" else 3 * 6
        assert row["tokens_per_s"] == pytest.approx(1e3 * tokens / row["ms"])
        if name != "floor":
            assert row["memory_bytes"] >= 0
    ratio = found["ratios"]["textbook"]
    assert ratio["of_medians"] == pytest.approx(sides["minigrad"]["ms"] / sides["textbook"]["ms"])
    assert max(found["differences"]["textbook"].values()) < 1e-4
    assert f"minigrad takes {ratio['of_medians']:.3f} of the time of textbook" in out
    assert found["machine"]["threads"] == 1 and found["machine"]["numpy"] == np.__version__


def test_all_is_the_textbook_the_vector_kernels_and_pytorch_where_they_are_not_minigrad_itself(monkeypatch):
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(EXECUTORS, np.ndarray, loops.LoopsExecutor(np, vector.KERNELS))
    assert Options(vs="all").sides == ["minigrad", "textbook", "vector"]
    assert Options(vs="all", device="fake").sides == ["minigrad", "textbook"]
    with running(VECTOR):
        assert Options(vs="all").sides == ["minigrad", "textbook"]
        monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: "found")
        assert Options(vs="all").sides == ["minigrad", "textbook", "PyTorch"]


def test_without_loops_comparing_with_the_vector_kernels_is_refused():
    with running(VECTOR), pytest.raises(ValueError, match=r'pip install "minigrad\[fast\]"'):
        Options(vs="vector")
    with pytest.raises(ValueError, match="--vs=vector needs loops to compare with, which run on the CPU"):
        Options(vs="vector", device="fake")


@pytest.mark.parametrize("name", ["minigrad", "textbook", "vector"])
def test_forward_backward_and_update_of_a_side_run_on_its_executor_and_nothing_else_does(name, monkeypatch):
    default, vectors = CountingExecutor(), CountingExecutor()
    monkeypatch.setitem(EXECUTORS, np.ndarray, default)
    monkeypatch.setitem(MODES, "vector", partial(running, vectors))
    side = make_side(name, TINY, "cpu")
    side.learn(*next(random_batches(TINY)))
    side.update()
    side.generate(np.zeros((1, 1), int))
    for executor, used in ((default, name == "minigrad"), (vectors, name == "vector")):
        assert all(bool(calls) == used for calls in executor.calls.values())
    assert EXECUTORS[np.ndarray] is default


@pytest.mark.parametrize("preset", ["cpu", "gen"])
def test_the_vector_kernels_are_timed_in_turn_with_loops(preset, tiny, monkeypatch, capsys, tmp_path):
    """Here the side "minigrad" runs vector kernels too, so that nothing is compiled."""
    monkeypatch.setitem(EXECUTORS, np.ndarray, loops.LoopsExecutor(np, vector.KERNELS))
    monkeypatch.setattr(loops.LoopsExecutor, "describe", lambda self: "loops (in this test)")
    out, found = run(capsys, tmp_path, "--vs=vector", f"--preset={preset}")
    assert "minigrad runs loops (in this test)" in " ".join(out.split())
    assert len(found["sides"]["vector"]["all_ms"]) == 2 and "of the time of vector" in out
    assert found["sides"]["vector"]["memory_bytes"] >= 0


def test_several_presets_are_timed_one_after_the_other_and_end_in_a_table(tiny, capsys, tmp_path):
    out, reports = run(capsys, tmp_path, "--vs=plain", "--preset=gen,cpu")
    assert [report["preset"] for report in reports] == ["gen", "cpu"]
    assert out.index("what    gen: ") < out.index("what    cpu: ")
    assert out.endswith(f"\n\n{table.markdown(reports)}\n")


def test_all_presets_are_those_that_train_and_then_gen():
    assert Options(preset="all").presets == ["cpu", "gpu8", "wide", "gpt2", "micro", "default", "gen"]


MACHINE = {"cpu": "Abacus", "cores": 4, "threads": 2, "device": "cpu", "python": "3.14", "numpy": "2.4",
           "blas": "openblas 0.3.31", "executor": "loops (OpenMP, gemm of openblas)", "torch": "2.13"}


def reported(preset, **ms):
    """A report with these times of its sides."""
    sides = {name: {"ms": t, "memory_bytes": 1e6 * t} for name, t in ms.items()}
    ratios = {name: {"of_pairs": ms["minigrad"] / t} for name, t in ms.items() if name != "minigrad"}
    return {"preset": preset, "machine": MACHINE, "sides": sides, "ratios": ratios}


def test_the_table_has_a_row_for_each_preset_and_names_the_column_of_minigrad_by_what_ran(monkeypatch):
    monkeypatch.setattr(table, "PRESETS", {"cpu": TINY, "gen": TINY_GEN})
    reports = [reported("cpu", minigrad=20.04, textbook=1234.5, vector=40.08, PyTorch=10.02),
               reported("gen", minigrad=0.75, textbook=1.5, vector=0.75, PyTorch=1.0)]
    reports[1]["sides"]["PyTorch"]["memory_bytes"] = None
    assert table.markdown(reports).splitlines() == [
        "Abacus, 2 of 4 cores, cpu, Python 3.14, NumPy 2.4, openblas 0.3.31, PyTorch 2.13; minigrad runs loops "
        "(OpenMP, gemm of openblas)",
        "",
        "| preset | layers, heads, width, block, batch, vocabulary | textbook: ms, MB | vector: ms, MB | "
        "loops: ms, MB | PyTorch: ms, MB | loops / vector | loops / PyTorch |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| cpu | 2, 2, 8, 7, 3, 11 | 1234, 1234 | 40.1, 40 | 20.0, 20 | 10.0, 10 | 0.50 | 2.00 |",
        "| gen | 2, 2, 8, 7, 3, 11; samples 18 tokens | 1.50, 2 | 0.750, 1 | 0.750, 1 | 1.00 | 1.00 | 0.75 |"]


def test_a_side_that_failed_at_one_preset_has_an_empty_cell_and_one_that_ran_at_none_has_no_column(monkeypatch):
    monkeypatch.setattr(table, "PRESETS", {"cpu": TINY})
    both, alone = (reported("cpu", **ms) for ms in ({"minigrad": 2.0, "PyTorch": 1.0}, {"minigrad": 3.0}))
    heading, _, *rows = table.markdown([both, alone]).splitlines()[2:]
    assert heading.endswith("| loops: ms, MB | PyTorch: ms, MB | loops / PyTorch |") and "vector" not in heading
    assert [row.rpartition("11 | ")[2] for row in rows] == ["2.00, 2 | 1.00, 1 | 2.00 |", "3.00, 3 |  |  |"]


def test_the_preset_default_is_the_model_that_train_py_trains():
    o, p = TrainOptions(), presets.PRESETS["default"]
    assert p == Preset(o.shape(vocab_size=len(set(fables.text(10_000, seed=0)))), o.batch_size)


def test_no_side_exceeds_the_peak_rate(tiny, capsys, tmp_path):
    _, found = run(capsys, tmp_path)
    assert found["sides"]["floor"]["of_floor"] == 1.0
    assert all(0.0 < row["of_peak"] <= 1.0 for row in found["sides"].values())


def test_the_shares_of_the_ops_sum_to_the_whole_step(tiny, capsys, tmp_path):
    out, found = run(capsys, tmp_path)
    assert sum(row["share"] for row in found["ops"]) == pytest.approx(1.0)
    assert all(row["forward_ms"] >= 0.0 and row["backward_ms"] >= 0.0 for row in found["ops"])
    assert all(row["op"] in out for row in found["ops"])


def test_the_table_counts_each_op_as_often_as_the_tape_has_it(tiny, capsys, tmp_path):
    _, found = run(capsys, tmp_path)
    loss = MinigradSide(TINY, "cpu").model.loss(*np.zeros((2, 3, 7), int))
    counted = Counter(step.op for step in loss.backward_steps())
    assert counted == {row["op"]: row["calls"] for row in found["ops"][:-2]}


@pytest.mark.parametrize("device", ["cpu", "fake"])
def test_timing_the_ops_changes_no_result_and_is_undone_afterwards(device):
    x, y = next(random_batches(TINY))
    before = dict(EXECUTORS)
    untimed, timed = MinigradSide(TINY, device), MinigradSide(TINY, device)
    loss = untimed.learn(x, y).item()
    with watched(type(timed.optimizer.params[0].data)) as spent:
        assert timed.learn(x, y).item() == loss
    assert EXECUTORS == before
    assert spent["linear"][0] == 8
    for name, g in untimed.gradients().items():
        np.testing.assert_array_equal(timed.gradients()[name], g)


class WrongSide(MinigradSide):
    """A side with a mistake in the loss, the gradients, or the optimizer."""
    mistake = ""

    def learn(self, x, y):
        loss = super().learn(x, y)
        if self.mistake == "gradients":
            self.model.h[1].ln_2.bias.grad *= 1.001
        return loss * (1.001 if self.mistake == "loss" else 1.0)

    def update(self):
        if self.mistake == "loss after 3 steps":
            self.optimizer.groups[0]["lr"] *= 10.0
        super().update()


@pytest.mark.parametrize("mistake", ["loss", "gradients", "loss after 3 steps"])
def test_a_mistake_in_a_side_shows_in_the_relative_differences(mistake):
    other = WrongSide(TINY, "cpu")
    other.mistake = mistake
    found = relative_differences(MinigradSide(TINY, "cpu"), other, TINY)
    assert found[mistake] > 1e-4
    assert all(value < 1e-6 for what, value in found.items() if what != mistake and not what.startswith("loss after"))


def test_sides_that_compute_different_numbers_are_not_timed(tiny, monkeypatch, capsys):
    monkeypatch.setattr(WrongSide, "mistake", "gradients")
    monkeypatch.setattr(report, "make_side", lambda name, p, device:
                        (MinigradSide if name == "minigrad" else WrongSide)(p, device))
    with pytest.raises(SystemExit, match="do not compute the same: relative differences.*Nothing was timed"):
        main(["--vs=plain", "--threads=1"])
    assert "ms/step" not in capsys.readouterr().out


def test_the_floor_runs_each_product_of_the_linear_layers_once(monkeypatch):
    products = []
    with monkeypatch.context() as m:
        m.setattr(np, "matmul", lambda a, b, out: products.append((a, b, out)))
        floor(TINY, "cpu")()
    assert sum(2 * a.shape[0] * a.shape[1] * b.shape[1] for a, b, _ in products) == floor_flops(TINY)
    N, C = 3 * 7, 8
    assert floor_flops(TINY) == 6 * N * (2 * 12 * C * C + 11 * C)
    for a, b, out in products:
        assert out.shape == (a.shape[0], b.shape[1])
        assert not np.shares_memory(a, out) and not np.shares_memory(b, out)


def test_the_floor_runs_forward_and_then_backward_in_reverse_order(monkeypatch):
    products = []
    with monkeypatch.context() as m:
        m.setattr(np, "matmul", lambda a, b, out: products.append((a, b, out)))
        floor(TINY, "cpu")()
    forward, backward = products[:9], products[9:]
    assert [(x.shape[1], w.shape[1]) for x, w, _ in forward] == linear_layers(TINY.shape)
    for (x, w, y), dx, dw in zip(reversed(forward), backward[::2], backward[1::2], strict=True):
        assert dx[0] is y and dx[1].base is w and dx[2].shape == x.shape
        assert dw[0].base is x and dw[1] is y and dw[2].shape == w.shape


def test_minigrad_and_the_floor_run_on_a_device():
    sides = {"minigrad": MinigradSide(TINY, "fake")}
    times = time_in_turn(TINY, sides, floor(TINY, "fake"), seconds=0.0, steps=2)
    assert [len(t) for t in times.values()] == [2, 2]


def test_on_threads_limits_threads_and_cores_and_restores_them():
    def state():
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        blas = [library.get_num_threads() for library in blas_libraries()]
        return mg.get_num_threads(), cores, blas

    before = state()
    with on_threads(1):
        threads, cores, blas = state()
        assert threads == 1 and set(blas) <= {1} and (cores is None or len(cores) == 1)
    assert state() == before


def test_peak_memory_is_at_least_weights_gradients_and_two_moments():
    pytest.importorskip("resource")             # Windows has no such module
    p = Preset(GPTConfig(block_size=8, vocab_size=4096, n_layer=1, n_head=1, n_embd=512), batch_size=1)
    code = ("from gpt.bench.memory import *\nfrom gpt.model import GPTConfig\n"
            f"print(peak_memory('minigrad', {p!r}, 'cpu', 1))")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    parameters = sum(w.size for w in MinigradSide(p, "cpu").model.parameters())
    assert 4 * 4 * parameters < int(result.stdout) < 12 * 4 * parameters


def test_scaling_prints_and_plots_a_point_for_each_size(tiny, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(scaling, "SIZES", {"n_embd": (8, 16), "n_layer": (1, 2), "block_size": (7, 14)})
    monkeypatch.setattr(scaling, "BATCH_SIZES", (1, 3))
    out, found = run(capsys, tmp_path, f"--scaling={tmp_path / 'scaling.png'}")
    points = [(row["size"], row["value"]) for row in found["scaling"]]
    assert points == [("n_embd", 8), ("n_embd", 16), ("n_layer", 1), ("n_layer", 2), ("block_size", 7),
                      ("block_size", 14), ("batch_size", 1), ("batch_size", 3), ("threads", 1)]
    for row in found["scaling"]:
        assert list(row["us_per_token"]) == ["minigrad", "floor"]
        assert f"{row['us_per_token']['floor']:.2f}" in out
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
@pytest.mark.parametrize("arguments, reason", [
    (["--vs=plain"], "--ranks compares minigrad with itself"),
    (["--preset=gen"], "at presets that train"),
    (["--scaling=curves.png"], "without --vs and --scaling"),
    (["--device=fake"], "on the CPU"),
    (["--preset=cpu,micro"], "--ranks=2 must divide the rows of a step of --preset=micro, 1"),
])
def test_ranks_are_refused_where_they_cannot_be_compared(arguments, reason, capsys):
    with pytest.raises(SystemExit):
        main(["--threads=2", "--ranks=2", *arguments])
    assert reason in capsys.readouterr().err


def test_from_the_times_of_ranks_follow_their_ratio_the_share_of_the_exchange_and_the_bandwidth(monkeypatch, capsys):
    """Steps of 10, 20, 30 ms by one process and 20, 10, 30 ms by two; 1 MB of gradient."""
    times = {1: iter([0.01, 0.02, 0.03]), 2: iter([0.02, 0.01, 0.03])}
    monkeypatch.setattr(ranks, "ROUNDS", 3)
    monkeypatch.setattr(Options, "__post_init__", lambda self: None)

    def timed_run(p, n, o):
        t = next(times[n])
        return {"step": [t] * 3, "wait": [0.1 * t] * 3, "exchange": [0.05 * t] * 3, "gradient_bytes": 1_000_000}
    monkeypatch.setattr(ranks, "timed_run", timed_run)
    found = ranks.compare_ranks(Options(ranks=2, threads=2), TINY, "cpu")
    assert found["ms"] == {"1": pytest.approx([10.0, 20.0, 30.0]), "2": pytest.approx([20.0, 10.0, 30.0])}
    assert (found["ratio"], found["wait"], found["exchange"]) == pytest.approx((1.0, 0.1, 0.05))
    assert (found["sent_bytes"], found["bandwidth"]) == pytest.approx((1e6, 2 * 1e6 / 0.02))
    out = " ".join(capsys.readouterr().out.split())
    assert "2 processes take 1.000 of the time of 1 (0.500 - 2.000)" in out
    assert "5.0% of a step of 2 processes is the exchange of gradients, for which each sends 1.00 MB; 10.0% is" in out
    assert "C = 0.02 s" in out and "S = 1.00 MB" in out and "2 S / C = 100 MB/s each way, 0.80 Gb/s" in out


@pytest.mark.skipif(len(CORES) < 2, reason="one core")
def test_two_processes_are_timed_in_turn_with_one(monkeypatch, capsys, tmp_path):
    pytest.importorskip("mpi4py")
    if not MPIRUN:
        pytest.skip("no mpirun is installed")
    monkeypatch.setitem(presets.PRESETS, "cpu", TINY._replace(batch_size=4))
    monkeypatch.setattr(ranks, "ROUNDS", 1)
    out, found = run(capsys, tmp_path, "--threads=2", "--ranks=2")
    assert {n: len(t) for n, t in found["ms"].items()} == {"1": 1, "2": 1}
    assert found["gradient_bytes"] == 4 * sum(w.size for w in MinigradSide(TINY, "cpu").model.parameters())
    assert 0.0 < found["exchange"] < 1.0 and 0.0 < found["wait"] < 1.0
    assert "by 1 x 2 threads and by 2 x 1 thread; 1 runs of each" in " ".join(out.split())


def test_a_run_of_ranks_that_fails_is_shown(monkeypatch):
    monkeypatch.setattr(ranks, "started_by_mpirun", lambda n, command: [sys.executable, "-c", "raise SystemExit('no')"])
    with pytest.raises(ValueError, match="a run of 2 processes failed:\nno"):
        ranks.timed_run(TINY, 2, Options())


def test_without_torch_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(options.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'pip install "minigrad\[bench\]"'):
        Options(vs="torch")


@pytest.mark.parametrize("arguments, reason", [
    (["--preset=cpu,gpu"], "--preset must be one of cpu, gpu8, wide, gpt2, gen, micro, default, all, got 'gpu'; did "
                           "you mean gpu8?"),
    (["--vs=tensorflow"], "--vs must be one of"),
    (["--threads=9999"], "--threads must be at least 1 and at most"),
    (["--threads=0"], "--threads must be at least 1"),
    (["--steps=-1"], "must not be negative"),
    (["--compile"], "--compile needs --vs=torch and presets that train"),
    (["--ranks=0"], "--ranks=0 must be at least 1"),
    (["--threads=1", "--ranks=2"], "--ranks=2 must be at least 1 and divide --threads=1"),
    (["--scaling=curves.jpg"], "needs a name that ends in .png"),
    (["--scaling=curves.png", "--preset=gen"], "one preset that trains"),
    (["--scaling=curves.png", "--preset=cpu,gpu8"], "one preset that trains"),
    (["--device=tpu"], "unknown device 'tpu'"),
    (["--json=nowhere/bench.json"], "nowhere/bench.json: No such file or directory"),
])
def test_bad_input_exits_with_status_2_and_one_line_on_stderr(arguments, reason, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    out, err = capsys.readouterr()
    assert error.value.code == 2 and not out
    assert reason in err and err.count("\n") == 1


class TestWithTorch:
    """Only where PyTorch is installed."""

    @pytest.fixture(autouse=True)
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.mark.parametrize("bias", [True, False])
    def test_pytorch_computes_the_same_loss_gradients_and_steps(self, bias):
        p = TINY._replace(shape=GPTConfig(7, 11, 2, 2, 8, bias=bias))
        found = relative_differences(MinigradSide(p, "cpu"), make_side("PyTorch", p, "cpu"), p)
        assert list(found) == ["loss", "gradients", "loss after 3 steps"]
        assert max(found.values()) < 1e-5

    def test_pytorch_computes_the_same_logits_with_its_key_value_cache(self):
        found = relative_differences(MinigradSide(TINY_GEN, "cpu"), make_side("PyTorch", TINY_GEN, "cpu"), TINY_GEN)
        assert found["logits"] < 1e-5

    @pytest.mark.parametrize("preset", ["cpu", "gen"])
    def test_pytorch_is_timed_in_turn_with_minigrad(self, preset, tiny, capsys, tmp_path):
        out, found = run(capsys, tmp_path, "--vs=torch", f"--preset={preset}")
        assert "same    as PyTorch" in out and "of the time of PyTorch" in out
        assert len(found["sides"]["PyTorch"]["all_ms"]) == 2 and found["machine"]["torch"]


class TestFinetune:
    """python -m gpt.bench --finetune"""

    KINDS = ["full", "full, recompute", "LoRA", "LoRA, recompute", "sampling", "loading"]

    @pytest.fixture
    def folder(self, tmp_path):
        finetune.write_random(tmp_path, TINY.shape)
        return tmp_path

    @pytest.fixture
    def alone(self, monkeypatch):
        """As without the packages to compare with; and what a new process measures is measured in this one."""
        monkeypatch.setattr(finetune.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(finetune, "in_new_process", lambda function, *args: function(*args))

    @pytest.fixture
    def compared_with(self, alone, monkeypatch):
        """Let a side of this class stand for transformers."""
        def use(other):
            monkeypatch.setattr(finetune.importlib.util, "find_spec", lambda name: name)
            monkeypatch.setattr(finetune.importlib.metadata, "version", lambda name: "1.0")
            monkeypatch.setattr(machine, "describe", lambda threads, device, with_torch: MACHINE)
            monkeypatch.setattr(finetune, "make_finetune_side", lambda name, *args, **settings:
                                (other if name == "transformers" else FinetuneSide)(*args, **settings))
        return use

    def test_gpt2_is_the_preset_where_none_is_given(self):
        assert Options(finetune=True).presets == ["gpt2"] and Options().presets == ["cpu"]
        assert Options(finetune=True, preset="micro").presets == ["micro"]

    def test_sampling_from_a_block_of_256_draws_128_tokens_after_16(self):
        assert prompt_and_new(256) == (16, 128) and prompt_and_new(7) == (1, 3)

    @pytest.mark.parametrize("arguments", [["--vs=plain"], ["--preset=gen"], ["--device=fake"], ["--scaling=a.png"]])
    def test_what_does_not_go_with_finetune_is_refused(self, arguments, capsys):
        with pytest.raises(SystemExit) as error:
            main(["--finetune", *arguments])
        assert error.value.code == 2 and "--finetune is measured on the CPU" in capsys.readouterr().err

    def test_without_the_other_packages_minigrad_alone_is_measured(self, alone, tiny, capsys, tmp_path):
        out, found = run(capsys, tmp_path, "--finetune", "--preset=cpu")
        assert "minigrad alone: a comparison needs PyTorch and transformers" in " ".join(out.split())
        assert list(found["rows"]) == self.KINDS and "ours / theirs" not in out
        for kind, row in found["rows"].items():
            assert list(row) == ["sides"] and list(row["sides"]) == ["minigrad"]
            assert len(row["sides"]["minigrad"]["all_ms"]) == (finetune.LOADINGS if kind == "loading" else 2)
            assert 0 <= row["sides"]["minigrad"]["rise_bytes"] <= row["sides"]["minigrad"]["peak_bytes"]
            assert f"\n{kind} " in out
        sampling = found["rows"]["sampling"]["sides"]["minigrad"]
        assert sampling["tokens_per_s"] == pytest.approx(1e3 * 3 * 3 / sampling["ms"])

    def test_both_sides_are_checked_and_compared(self, compared_with, tiny, capsys, tmp_path):
        compared_with(FinetuneSide)
        out, found = run(capsys, tmp_path, "--finetune", "--preset=cpu")
        for kind in self.KINDS[:4]:
            assert found["differences"][kind] == {"loss": 0.0, "gradients": 0.0, "loss after 3 steps": 0.0}
            assert f"same    {kind}, without dropout" in out
        for row in found["rows"].values():
            ours, theirs = (np.array(row["sides"][name]["all_ms"]) for name in ("minigrad", "transformers"))
            assert row["ratio"]["time"] == pytest.approx(np.median(ours / theirs))
            assert f"{row['ratio']['time']:6.2f}" in out
        assert found["machine"]["transformers"] == "1.0" and "beside  peft 1.0" in out

    @pytest.mark.parametrize("kind", ["full", "LoRA, recompute"])
    def test_sides_that_compute_different_gradients_are_not_measured(self, kind, compared_with, folder):
        class Wrong(FinetuneSide):
            def gradients(self):
                found = super().gradients()
                return {name: g * (1.001 if name == list(found)[-1] else 1.0) for name, g in found.items()}

        compared_with(Wrong)
        with pytest.raises(SystemExit, match=f"do not compute the same, {kind}: .* Nothing was measured"):
            finetune.checked(kind, folder, TINY)

    def test_a_transformers_that_does_not_load_is_one_line(self, monkeypatch, folder):
        monkeypatch.setitem(sys.modules, "transformers", None)
        monkeypatch.delitem(sys.modules, "gpt.bench.transformers_side", raising=False)
        with pytest.raises(ValueError, match=r"transformers is installed but does not load \(.*\)$"):
            make_finetune_side("transformers", folder, "full")

    def test_a_process_that_dies_is_one_line(self, monkeypatch):
        monkeypatch.setattr(finetune, "in_new_process", lambda *args: None)
        with pytest.raises(ValueError, match="ended early: was memory short"):
            finetune.in_process(finetune.use_memory)

    def test_lora_has_gradients_of_the_adapters_alone_and_full_of_all(self, folder):
        x, y = next(random_batches(TINY))
        full, lora = (FinetuneSide(folder, kind) for kind in ("full", "LoRA"))
        for side in (full, lora):
            side.learn(x, y)
        assert set(full.gradients()) == {name for name, _ in full.model.named_parameters()}
        layers = [f"h.{i}.{layer}" for i in range(2) for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_proj")]
        assert set(lora.gradients()) == {f"{layer}.lora_{ab}" for layer in layers for ab in "AB"}

    def test_each_step_has_another_dropout(self, folder):
        x, y = next(random_batches(TINY))
        dropped, plain = FinetuneSide(folder, "full"), FinetuneSide(folder, "full", dropout=0.0)
        assert dropped.learn(x, y).item() != dropped.learn(x, y).item()
        assert plain.learn(x, y).item() == plain.learn(x, y).item()

    @pytest.mark.parametrize("kind", KINDS[:4])
    def test_transformers_computes_the_same_loss_gradients_and_steps(self, kind, folder):
        for package in ("torch", "transformers", "peft"):
            pytest.importorskip(package)
        found = finetune.checked(kind, folder, TINY)
        assert list(found) == ["loss", "gradients", "loss after 3 steps"] and max(found.values()) < 1e-5

    def test_transformers_samples_as_many_tokens(self, folder):
        for package in ("torch", "transformers"):
            pytest.importorskip(package)
        side = finetune.make_finetune_side("transformers", folder, "sampling")
        drawn = []
        generate = side.model.generate
        side.model.generate = lambda *args, **settings: drawn.append(generate(*args, **settings))
        side.generate(next(random_batches(TINY))[0])
        assert drawn[0].shape == (3, 1 + 3)


class TestOverheadOfAnOp:
    """python -m minigrad.bench"""

    @pytest.fixture
    def fixed_times(self, monkeypatch):
        """Fastest rounds: an overhead of 5 microseconds, and 0.1 microseconds for a small object."""
        times = {"object": [0.1, 0.2, 0.2], "bare": [3.0, 1.0, 2.0], "minigrad": [9.0, 6.0, 7.0]}
        monkeypatch.setattr(bench, "measure", lambda runs, rounds: {name: list(times[name]) for name in runs})
        monkeypatch.setattr(bench, "other_engines", lambda name, x: {})

    def test_every_op_and_the_overhead_are_printed(self, capsys):
        assert bench.main(["--rounds=2"]) == 0
        out = capsys.readouterr().out
        assert all(f"\n{name} " in out for name in ("add", "mul", "tanh", "layer_norm"))
        assert "\noverhead of an op: " in out

    @pytest.mark.parametrize("arguments", [[], ["--most=50"], ["--most=1000"]])
    def test_an_overhead_within_the_bound_exits_with_status_0(self, arguments, fixed_times, capsys):
        assert bench.main(arguments) == 0
        out, err = capsys.readouterr()
        assert out.endswith("overhead of an op: 5.0 microseconds, as long as making 50 small Python objects\n")
        assert not err

    def test_an_overhead_above_the_bound_exits_with_status_1_and_one_line_on_stderr(self, fixed_times, capsys):
        assert bench.main(["--most=49"]) == 1
        out, err = capsys.readouterr()
        assert "overhead of an op: 5.0 microseconds" in out
        assert "an op's overhead is 50 small objects, above --most=49" in err and err.count("\n") == 1

    def test_the_command_exits_with_the_status(self):
        command = [sys.executable, "-m", "minigrad.bench", "--rounds=1"]
        assert subprocess.run([*command, "--most=1e-6"], capture_output=True).returncode == 1
        assert subprocess.run([*command, "--most=1e9"], capture_output=True).returncode == 0

    @pytest.mark.parametrize("arguments, reason", [
        (["--rounds=0"], "--rounds must be at least 1, got 0"),
        (["--most=0"], "--most must be positive, got 0"),
        (["--most=nan"], "--most must be positive, got nan"),
    ])
    def test_bad_input_exits_with_status_2_and_one_line_on_stderr(self, arguments, reason, capsys):
        with pytest.raises(SystemExit) as error:
            bench.main(arguments)
        err = capsys.readouterr().err
        assert error.value.code == 2 and reason in err and err.count("\n") == 1
