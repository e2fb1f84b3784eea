"""What all commands share: how train.py is named, closed and full streams, and a system that starts no thread."""
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

import minigrad as mg
import train
from gpt import blas, sample, step
from gpt.bench import presets
from gpt.bench.__main__ import main as bench
from gpt.bench.memory import in_new_process
from gpt.bench.presets import Preset
from gpt.model import GPTConfig
from gpt.run.command_line import bad_input_exits, train_command, train_name
from minigrad import threads
from minigrad.step import __main__ as minigrad_step

ROOT = Path(__file__).parent.parent
RUN = ["--dataset=stars.txt", "--out_dir=run", "--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8",
       "--batch_size=4", "--max_iters=4", "--warmup_iters=2", "--eval_interval=2", "--eval_iters=2",
       "--checkpoint_interval=2", "--step_at=1"]


# ---- how train.py is named ----

@pytest.mark.parametrize("started, folder, command", [
    (["python", "train.py"], "/", "python train.py"),
    (["python", "-O", "../my project/train.py", "--seed=1"], "/", "python '../my project/train.py'"),
    (["python", "-m", "gpt.train"], "/", "python -m gpt.train"),
    (["python", "-m", "gpt.train"], ROOT, "python -m gpt.train"),
    (["python", "-m", "gpt.sample"], "/", "python -m gpt.train"),
    (["python", "-m", "gpt.sample"], ROOT, "python train.py"),
    (["python", "-m", "ipykernel_launcher"], ROOT, "python train.py"),
])
def test_train_py_is_named_as_it_was_started_or_as_it_can_be(started, folder, command, monkeypatch):
    script = next((word for word in started if word.endswith("train.py")), str(ROOT / "train.py"))
    monkeypatch.setattr(sys, "orig_argv", started)
    monkeypatch.setattr(sys, "argv", [script if "sample" not in started[2:] else str(ROOT / "gpt" / "sample.py")])
    monkeypatch.chdir(folder)
    assert train_command() == command
    assert train_name() == ("gpt.train" if "gpt.train" in started else "train.py")


def test_another_train_py_in_the_current_folder_is_not_recommended(tmp_path, monkeypatch, capsys):
    (tmp_path / "train.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        step.main(["--out_dir=nowhere"])
    assert "train first, with python -m gpt.train --out_dir=nowhere" in capsys.readouterr().err


def test_python_m_gpt_train_is_the_same_program_as_train_py(tmp_path):
    said = [subprocess.run([sys.executable, *how, "--help"], capture_output=True, cwd=ROOT, check=True).stdout
            for how in (["train.py"], ["-m", "gpt.train"])]
    assert said[0] == said[1] and b"--out_dir" in said[0]


def test_bytes_of_the_command_line_that_are_no_text_are_named(capsys):
    with pytest.raises(SystemExit) as exit, bad_input_exits("gpt.sample"):
        "the owl \udcff".encode()
    said = capsys.readouterr().err
    assert exit.value.code == 2
    assert said == "gpt.sample: 'the owl \\udcff' has bytes that are not UTF-8: give text in UTF-8\n"


# ---- streams ----

@pytest.mark.parametrize("name", ["stdin", "stdout"])
def test_the_stepper_ends_where_a_stream_is_closed(name, monkeypatch):
    """Python sets a stream to None that is closed when it starts."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    monkeypatch.setattr(sys, name, None)
    assert minigrad_step.main([]) == 0


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
@pytest.mark.parametrize("command, streams, status", [
    ("gpt.sample --out_dir=nowhere", "2>&-", 2), ("gpt.verify nowhere", "2>&-", 2), ("gpt.step --at=3", "2>&-", 2),
    ("minigrad.gradcheck --op=exp", "2>&- >/dev/full", 2)])
def test_messages_are_not_written_to_stdout_where_stderr_is_closed(command, streams, status):
    done = subprocess.run(["bash", "-c", f'"$@" {streams}', "bash", sys.executable, "-m", *command.split()], cwd=ROOT,
                          stdout=subprocess.PIPE)
    assert (done.returncode, done.stdout) == (status, b"")


@pytest.mark.parametrize("command", ["minigrad.gradcheck --op=exp", "minigrad.bench --rounds=1",
                                     "minigrad.step --out=/dev/null"])
def test_a_full_disk_behind_stdout_is_one_line(command):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, stdout=full, stderr=subprocess.PIPE,
                              encoding="utf-8")
    assert done.returncode == 2 and done.stderr.startswith("python -m minigrad.") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", ["minigrad.gradcheck", "minigrad.bench --rounds=1", "gpt.bench --help"])
def test_a_reader_that_ends_early_is_no_error(command):
    """The pipe has no reader from the start."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", *command.split()], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert not done.stderr


@pytest.mark.parametrize("option", ["--json=FOLDER", "--json=FOLDER/none/a.json", "--scaling=FOLDER/none/a.png"])
def test_a_result_that_cannot_be_written_is_refused_before_the_measurement(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        bench([option.replace("FOLDER", str(tmp_path))])
    said = capsys.readouterr()
    assert exit.value.code == 2 and not said.out and said.err.count("\n") == 1 and str(tmp_path) in said.err


def test_a_pytorch_that_does_not_load_is_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "torch.py").write_text("raise ImportError('libcudart.so.12: cannot open shared object file')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "torch" or name == "gpt.bench.torch_side"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit) as exit:
        bench(["--vs=torch", "--steps=1"])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and "does not load (libcudart.so.12" in said and said.count("\n") == 1


# ---- threads ----

def test_training_sampling_stepping_and_timing_work_where_no_thread_can_be_started(tmp_path, monkeypatch, capsys):
    limited(monkeypatch, 0)
    monkeypatch.setitem(presets.PRESETS, "cpu", Preset(GPTConfig(7, 11, 1, 2, 8), batch_size=3))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "stars.txt").write_text("the fox sees the stars\n" * 40)
    train.main(RUN)
    sample.main(["--out_dir=run", "--start=the", "--max_new_tokens=3"])
    step.main(["--out_dir=run", "--out=step.html"])
    bench(["--steps=1", "--threads=1"])
    assert (tmp_path / "run" / "loss.png").exists() and "ms/step" in capsys.readouterr().out


def limited(monkeypatch, allowed):
    """The system starts this many threads and no more."""
    start = threading.Thread.start
    running = []

    def start_within_limit(thread):
        running[:] = [each for each in running if each.is_alive()]
        if len(running) >= allowed:
            raise RuntimeError("can't start new thread")
        running.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_within_limit)


@pytest.mark.parametrize("allowed, n", [(0, 1), (1, 2), (2, 3), (9, 4)])
def test_matrix_products_run_on_as_many_threads_as_can_be_started(monkeypatch, allowed, n):
    before = mg.get_num_threads()
    try:
        mg.set_num_threads(1)
        limited(monkeypatch, allowed)
        mg.set_num_threads(4)
        assert mg.get_num_threads() == n
        mg.set_num_threads(1)
        assert mg.get_num_threads() == 1
    finally:
        monkeypatch.undo()
        mg.set_num_threads(before)


def test_the_number_of_threads_started_for_a_test_is_limited(monkeypatch):
    before, started = mg.get_num_threads(), []
    monkeypatch.setattr(threads, "MOST", 5)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: started.append(thread))
    monkeypatch.setattr(threading.Thread, "join", lambda thread: None)
    try:
        mg.set_num_threads(10 ** 12)
        assert len(started) == 5
    finally:
        monkeypatch.undo()
        mg.set_num_threads(before)


def test_openblas_is_told_to_start_no_thread_where_none_can_be_started(monkeypatch):
    limited(monkeypatch, 0)
    monkeypatch.delitem(sys.modules, "numpy")
    for name in ("OPENBLAS_NUM_THREADS", "OPENBLAS_THREAD_TIMEOUT", "OPENBLAS_CORETYPE"):
        monkeypatch.setenv(name, "")            # undone at the end
        monkeypatch.delenv(name)
    blas.choose()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "1"


def test_a_new_process_gives_a_result_or_none_where_it_dies():
    assert in_new_process(abs, -3) == 3
    assert in_new_process(os._exit, 1) is None


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX")
def test_a_new_process_prints_nothing_where_the_process_that_waits_for_it_has_ended():
    code = ("import os, threading, time; from gpt.bench.memory import in_new_process\n"
            "if __name__ == '__main__':\n"
            "    threading.Timer(0.5, os._exit, [0]).start()\n"
            "    in_new_process(time.sleep, 1.5)\n")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "waits.py").write_text(code)
        done = subprocess.run([sys.executable, "waits.py"], cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
                              stderr=subprocess.PIPE)
    assert not done.stderr
