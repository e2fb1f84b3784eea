"""The commands from an installed wheel, in a folder that is not the repository: pytest tests/wheel_suite.py"""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUN = ["--out_dir=a run", "--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8",
       "--batch_size=4", "--max_iters=6", "--warmup_iters=2", "--eval_interval=3", "--eval_iters=2",
       "--checkpoint_interval=2"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A function that runs a command in a new environment with the wheel and its requirements, in a folder without the
    repository, and returns what it prints. The wheel is built with the installed setuptools, without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    keep_out = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__", "tests", "runs")
    shutil.copytree(ROOT, folder / "source", ignore=keep_out)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", ".", "--no-deps", "--no-build-isolation", "--no-index",
                    "-w", folder], cwd=folder / "source", check=True)
    shutil.rmtree(folder / "source")
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv" / "bin" / "python"
    packages = Path(subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True).strip())
    zipfile.ZipFile(next(folder.glob("*.whl"))).extractall(packages)
    # a line of a .pth file adds a folder without its own .pth files, so no editable install of this project
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / "empty").mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(*arguments, stdin="", status=0):
        done = subprocess.run([python, "-W", "error", *arguments], cwd=folder / "empty", env=environment, input=stdin,
                              capture_output=True, encoding="utf-8")
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    where = run("-c", "import gpt.model, minigrad; print(gpt.__file__, minigrad.__file__)")
    assert where.count(str(packages)) == 2
    (folder / "empty" / "stars.txt").write_text("the fox sees the stars\n" * 40)
    (folder / "empty" / "train.py").write_text("raise SystemExit('this is another train.py')")
    return run


@pytest.fixture(scope="module")
def trained(installed):
    """What training printed."""
    return installed("-m", "gpt.train", *RUN)


def test_the_cuda_sources_are_installed(installed):
    assert "add_at" in installed("-c", "from minigrad.cuda import kernels; print(kernels.source('add_at'))")


def test_training_prints_commands_that_work_without_train_py(installed, trained):
    assert "python train.py" not in trained
    nexts = re.findall(r"python (-m gpt\.train .*)", trained)
    assert len(nexts) == 2 and "--init_from=resume" in nexts[0]
    assert "2 of 8 steps" in installed("-m", "gpt.train", "--init_from=resume", "--out_dir=a run", "--max_iters=8")


def test_messages_recommend_gpt_train_where_there_is_no_train_py(installed, trained):
    assert "gpt.train: unknown option --oops" in installed("-m", "gpt.train", "--oops=1", status=2)
    for program in ("gpt.sample", "gpt.step"):
        said = installed("-m", program, "--out_dir=nowhere", status=2)
        assert said.startswith(f"{program}: nowhere") and "python -m gpt.train --out_dir=nowhere" in said
        assert "train.py" not in said and said.count("\n") == 1
    for program in ("gpt.train", "gpt.sample", "gpt.step", "gpt.verify", "gpt.bench", "minigrad.step", "minigrad.bench",
                    "minigrad.gradcheck"):
        assert "--" in installed("-m", program, "--help")


def test_sampling_continues_a_text(installed, trained):
    said = installed("-m", "gpt.sample", "--out_dir=a run", "--start=the fox", "--max_new_tokens=5")
    assert said.startswith("the fox")


def test_the_stepper_walks_and_writes_pages(installed, trained):
    assert "training step" in installed("-m", "gpt.step", "--out_dir=a run", stdin="n\nl\nwhy\nq\n")
    assert "wrote step.html" in installed("-m", "gpt.step", "--out_dir=a run", "--out=step.html")
    assert "✓" in installed("-m", "minigrad.step", "--example=gpt", stdin="j attention\nq\n")


def test_gradcheck_checks_every_op(installed):
    assert " 0 failures" in installed("-m", "minigrad.gradcheck")


def test_verify_finds_equal_bits(installed, trained):
    assert "equal: weights" in installed("-m", "gpt.verify", "a run", "--steps=2")


def test_benchmarks_measure(installed):
    assert "overhead of an op" in installed("-m", "minigrad.bench", "--rounds=2")
    assert "ms/step" in installed("-m", "gpt.bench", "--steps=1", "--threads=1")
