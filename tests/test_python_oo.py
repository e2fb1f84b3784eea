"""python -OO leaves out docstrings and asserts: every command works, and prints a sentence in place of a formula."""
import ast
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minigrad.executor import EXECUTORS
from minigrad.kernels import loops

ROOT = Path(__file__).parent.parent
NO_FORMULAS = "no formulas: they are in docstrings, which python -OO leaves out"
RUN = ["--out_dir=run", "--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8",
       "--batch_size=4", "--max_iters=4", "--warmup_iters=2", "--eval_interval=2", "--eval_iters=2",
       "--checkpoint_interval=2", "--step_at=1"]


@pytest.fixture(scope="module", autouse=True)
def loops_are_compiled():
    """The commands would say that they compile them: -OO changes the bytecode, for which a cache is valid."""
    if isinstance(EXECUTORS[np.ndarray], loops.LoopsExecutor):
        command("-m", "minigrad.kernels.loops", silent=False)


def command(*arguments, stdin="", cwd=ROOT, silent=True):
    done = subprocess.run([sys.executable, "-W", "error", "-OO", *arguments], cwd=cwd, input=stdin,
                          capture_output=True, encoding="utf-8", env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0 and not (silent and done.stderr), done.stderr
    return done.stdout


@pytest.mark.parametrize("path", [*ROOT.glob("minigrad/**/*.py"), *ROOT.glob("gpt/**/*.py"), ROOT / "train.py"],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_check_is_an_assert(path):
    assert not [node.lineno for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Assert)]


def test_a_run_is_trained_sampled_and_stepped_under_oo(tmp_path):
    (tmp_path / "stars.txt").write_text("the fox sees the stars\n" * 40)
    # without plots: Matplotlib would be compiled anew for -OO
    code = "import sys, train; from gpt.run import plot; plot.draw = lambda *_: None; train.main(sys.argv[1:])"
    assert "python -m gpt.sample --out_dir=run" in command("-c", code, *RUN, cwd=tmp_path)
    assert NO_FORMULAS in (tmp_path / "run" / "step-1.html").read_text("utf-8")
    said = command("-m", "gpt.sample", "--out_dir=run", "--start=the", "--max_new_tokens=3", cwd=tmp_path)
    assert said.startswith("the")
    commands = ["n", "l", "f", "l", "f", "why", "nudge", "check full", "h", "o", "w", "b bad", "j linear", "why dw",
                "why 1", "o wte.weight", "nudge wte.weight[0,0] 0.1", "nudge [!!", "q"]
    said = command("-m", "gpt.step", "--out_dir=run", cwd=tmp_path, stdin="\n".join(commands))
    assert said.count(NO_FORMULAS) >= 6 and "  None\n" not in said
    assert "'[!!' cannot be read" in said and "  optimizer\n" in said


def test_gradcheck_checks_ops_under_oo():
    assert " 0 failures" in command("-m", "minigrad.gradcheck")
    assert NO_FORMULAS in command("-m", "minigrad.gradcheck", "--op=gelu")


@pytest.mark.parametrize("program", ["gpt.train", "gpt.sample", "gpt.step", "gpt.verify", "gpt.bench"])
def test_help_lists_the_options_under_oo(program):
    said = command("-m", program, "--help")
    assert "--out_dir=" in said or "--preset=" in said
    assert "Options(" not in said and said.isascii() and all(len(line) < 100 for line in said.splitlines())


def test_benchmarks_measure_under_oo():
    assert "overhead of an op" in command("-m", "minigrad.bench", "--rounds=1")
    assert "ms/step" in command("-m", "gpt.bench", "--steps=1", "--threads=1")
