"""A run that is killed, stopped or damaged and then resumed gives the same bits as one that was not interrupted."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import train
from gpt import files, verify
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder, plot, processes
from minigrad import nn, optim
from mpirun import MPIRUN

ROOT = Path(__file__).parent.parent
RUN = ["--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=2",
       "--dropout=0.1", "--gradient_accumulation_steps=2", "--max_iters=12", "--warmup_iters=2", "--eval_interval=4",
       "--eval_iters=2", "--log_interval=1", "--stats_interval=3", "--sample_interval=6", "--checkpoint_interval=2"]

# Runs train.py and sends it SIGKILL before the n-th call that writes to a file, flushes, renames or deletes one, or
# changes the weights.
KILLED = """
import os, pathlib, signal, sys
import train
from gpt import files
from gpt.run import folder, plot
from minigrad import nn, optim
left = int(sys.argv[1])
def counted(call):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*args, **kwargs)
    return wrapped
os.fsync, os.replace, pathlib.Path.unlink = counted(os.fsync), counted(os.replace), counted(pathlib.Path.unlink)
folder.append, folder.append_samples = counted(folder.append), counted(folder.append_samples)
files.write_atomically, optim.AdamW.step = counted(files.write_atomically), counted(optim.AdamW.step)
for picture in ("loss_curve", "lr_curve", "stats_maps"):
    setattr(plot, picture, lambda *_: None)
train.main(sys.argv[2:])
print("ended with", left, "calls left")
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a text and, in "complete", an uninterrupted run on it."""
    prepared = tmp_path_factory.mktemp("prepared")
    (prepared / "stars.txt").write_text("".join(f"the {animal} sees {n} stars\n" for n in range(40)
                                                for animal in ("fox", "owl", "hare")), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(prepared)
        train.main([*RUN, "--out_dir=complete"])
    return prepared


@pytest.fixture(autouse=True)
def in_a_copy(prepared, tmp_path, monkeypatch):
    """Each test works in its own copy of the folder, and draws no plots, which takes time."""
    shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        monkeypatch.setattr(plot, name, lambda *_: None)


def outcome(out_dir):
    """What must be equal: the newest checkpoint and the logs without timings."""
    newest = checkpoint.newest_first(Path(out_dir))[0]
    metrics = [{name: value for name, value in row.items() if name != "tokens_per_s"}
               for row in folder.read_rows(Path(out_dir, "metrics.jsonl"))]
    return (newest.name, newest.with_suffix(".safetensors").read_bytes(), metrics,
            Path(out_dir, "stats.jsonl").read_text("utf-8"), Path(out_dir, "samples.md").read_text("utf-8"))


def resume(out_dir, *options):
    train.main(["--init_from=resume", f"--out_dir={out_dir}", *options])


@pytest.fixture
def expected():
    """The outcome of the uninterrupted run."""
    return outcome("complete")


def start_killed(calls, *arguments):
    return subprocess.run([sys.executable, "-c", KILLED, str(calls), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("calls", [36, 43, 67, 101, 130])
def test_a_run_killed_at_any_write_and_resumed_gives_the_same_bits(expected, calls):
    killed = start_killed(calls, *RUN, "--out_dir=run")
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    resume("run")
    assert outcome("run") == expected


def test_a_run_killed_and_resumed_repeatedly_gives_the_same_bits(expected):
    """Each process gets a little beyond the next checkpoint, and is killed at another call."""
    processes = [start_killed(50, *RUN, "--out_dir=run")]
    while processes[-1].returncode == -signal.SIGKILL and len(processes) < 15:
        processes.append(start_killed(55 + len(processes), "--init_from=resume", "--out_dir=run"))
    assert processes[-1].returncode == 0 and len(processes) > 3, processes[-1].stderr
    assert outcome("run") == expected


def test_a_run_killed_before_its_first_checkpoint_restarts_from_step_0(expected):
    assert start_killed(33, *RUN, "--out_dir=run").returncode == -signal.SIGKILL
    assert Path("run/config.json").exists() and not checkpoint.newest_first(Path("run"))
    resume("run")
    assert outcome("run") == expected


@pytest.mark.parametrize("calls", [9, 28])
def test_a_run_killed_before_it_has_a_config_can_be_started_again(expected, calls):
    assert start_killed(calls, *RUN, "--out_dir=run").returncode == -signal.SIGKILL
    with pytest.raises(SystemExit):
        resume("run")
    train.main([*RUN, "--out_dir=run"])
    assert outcome("run") == expected


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_saves_and_prints_how_to_resume(expected, monkeypatch, capsys, name):
    number, step, count = getattr(signal, name), optim.AdamW.step, []

    def interrupted(self):
        step(self)
        count.append(1)
        if len(count) == 5:                     # a step without checkpoint and validation
            os.kill(os.getpid(), number)
    with monkeypatch.context() as patch:
        patch.setattr(optim.AdamW, "step", interrupted)
        with pytest.raises(SystemExit) as exit:
            train.main([*RUN, "--out_dir=run"])
    assert exit.value.code == 128 + number
    assert "stopped at step 5, which is saved" in capsys.readouterr().out
    resume("run")
    assert outcome("run") == expected


def test_a_signal_while_a_checkpoint_is_written_stops_after_the_next_step(expected, monkeypatch, capsys):
    save = checkpoint.save

    def interrupted(out_dir, model, optimizer, step, *args):
        save(out_dir, model, optimizer, step, *args)
        if step == 6:
            os.kill(os.getpid(), signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", interrupted)
        with pytest.raises(SystemExit):
            train.main([*RUN, "--out_dir=run"])
    assert "stopped at step 7, which is saved" in capsys.readouterr().out
    resume("run")
    assert outcome("run") == expected


def test_the_second_signal_ends_the_program_at_once():
    code = ("import os, signal\nfrom gpt.run.signals import stop_signals\nwith stop_signals() as received:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n    print(received, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n    print('still here')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGTERM and done.stdout == f"[{int(signal.SIGINT)}]\n"


@pytest.mark.parametrize("damage", ["truncated", "altered", "record altered", "record empty", "tensors gone"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(expected, capsys, damage):
    tensors, record = (Path(f"complete/checkpoints/step_000012.{kind}") for kind in ("safetensors", "json"))
    data = tensors.read_bytes()
    if damage == "truncated":
        tensors.write_bytes(data[:-100])
    elif damage == "altered":
        tensors.write_bytes(data[:-5] + bytes([data[-5] ^ 1]) + data[-4:])
    elif damage == "record altered":
        record.write_text(record.read_text().replace('"step": 12', '"step": 11'))
    elif damage == "record empty":
        record.write_bytes(b"")
    else:
        tensors.unlink()
    assert checkpoint.last_intact(Path("complete")) == "The checkpoint of step 10 is intact"
    checkpoint.load_model(Path("complete"))
    resume("complete")
    assert "step_000012.safetensors is damaged" in capsys.readouterr().err
    assert outcome("complete") == expected


def test_a_run_whose_checkpoints_are_all_damaged_is_rejected(expected, capsys):
    for path in Path("complete/checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as exit:
        resume("complete")
    assert exit.value.code == 2 and "all checkpoints in complete/checkpoints are damaged" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_checkpoint_intact_and_names_it(expected, monkeypatch, capsys, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/checkpoints/step_000006.safetensors")

    write = files.write_atomically

    def nearly_full(path, *data):
        with monkeypatch.context() as patch:
            if path.name == "step_000006.safetensors":
                if call == "write":
                    patch.setattr("builtins.open", full)
                else:
                    patch.setattr(os, call, full)
            write(path, *data)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomically", nearly_full)
        with pytest.raises(SystemExit) as exit:
            train.main([*RUN, "--out_dir=run"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and os.strerror(errno.ENOSPC) in error
    assert "The checkpoint of step 4 is intact; --init_from=resume --out_dir=run resumes the run" in error
    assert not list(Path("run/checkpoints").glob("*.tmp"))
    resume("run")
    assert outcome("run") == expected


@pytest.mark.parametrize("option, message", [
    ("--n_layer=2", "n_layer 1 -> 2"), ("--n_embd=16", "n_embd 8 -> 16"), ("--dtype=float64", "dtype"),
    ("--dataset=fables", "dataset 'stars.txt' -> 'fables'"), ("--bias=false", "bias True -> False"),
    ("--max_iters=11", "is at step 12 already"),
])
def test_resuming_with_another_model_or_text_is_rejected_with_the_difference(expected, capsys, option, message):
    with pytest.raises(SystemExit) as exit:
        resume("complete", option)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1
    assert outcome("complete")[:2] == expected[:2]


def test_other_options_may_change_and_are_printed(expected, capsys):
    resume("complete", "--max_iters=14", "--learning_rate=1e-3")
    out = capsys.readouterr().out
    assert "note    max_iters 12 -> 14 from here on" in out and "note    learning_rate 0.008 -> 0.001" in out
    config = json.loads(Path("complete/config.json").read_text("utf-8"))["options"]
    assert config["max_iters"] == {"value": 14, "from": "command line"}
    assert config["n_layer"] == {"value": 1, "from": "command line"} and config["seed"]["from"] == "default"
    assert outcome("complete")[0] == "step_000014.json"


def test_a_resumed_run_needs_no_source_file(expected):
    Path("stars.txt").unlink()
    Path("complete/checkpoints/step_000012.json").unlink()
    resume("complete")
    assert outcome("complete") == expected


# ---- checkpoints ----

def test_a_checkpoint_holds_weights_moments_and_step(expected):
    tensors = safetensors.numpy.load(Path("complete/checkpoints/step_000012.safetensors").read_bytes())
    model, tokenizer = checkpoint.load_model(Path("complete"))
    names = set(model.state_dict())
    assert set(tensors) == {prefix + name for name in names for prefix in ("", "optimizer.m.", "optimizer.v.")}
    optimizer = optim.AdamW(model.parameters())
    assert checkpoint.resume(Path("complete"), model, optimizer) == 12
    for p in model.parameters():
        assert np.array_equal(p.data, tensors[p.name]) and optimizer.state_of(p)["t"] == 12
        for moment in ("m", "v"):
            assert np.array_equal(optimizer.state_of(p)[moment], tensors[f"optimizer.{moment}.{p.name}"])
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"


def test_a_checkpoint_that_is_deleted_after_it_was_checked_can_still_be_read(expected):
    path = Path("complete/checkpoints/step_000008.json")
    whole = safetensors.numpy.load_file(path.with_suffix(".safetensors"))
    _, tensors = checkpoint._first_intact([path])
    path.with_suffix(".safetensors").unlink()
    assert tensors.keys() == whole.keys()
    for name, x in whole.items():
        np.testing.assert_array_equal(tensors[name], x)


def test_a_parameter_whose_memory_is_transposed_is_saved_by_its_values(tmp_path):
    model = GPT(GPTConfig(6, 5, 1, 2, 4))
    model.wpe.weight = nn.Parameter(np.arange(24.0, dtype=np.float32).reshape(4, 6).T)
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    checkpoint.save(tmp_path, model, optimizer, 1)
    again = GPT(GPTConfig(6, 5, 1, 2, 4))
    checkpoint.resume(tmp_path, again, again.configure_optimizer(0.1, (0.9, 0.99)))
    assert np.array_equal(again.wpe.weight.data, model.wpe.weight.data)


def test_the_newest_and_the_best_checkpoints_are_kept_and_the_best_is_loaded(tmp_path):
    model = GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=1, n_head=2, n_embd=8))
    optimizer = optim.AdamW(model.parameters())
    for step, val_loss in enumerate([3.0, 2.0, 1.0, 1.5, None, 1.2, 1.1]):
        model.ln_f.bias.data = np.full(8, step, "float32")
        checkpoint.save(tmp_path, model, optimizer, step, val_loss, keep=2)
    assert [checkpoint.step_of(path) for path in checkpoint.newest_first(tmp_path)] == [6, 5, 2]
    folder.write_config(tmp_path, {"dtype": "float32"}, {"dtype": "default"}, model.config)
    (tmp_path / "tokenizer.json").write_text('{"type": "char", "vocabulary": "abcde"}')
    assert checkpoint.load_model(tmp_path)[0].ln_f.bias.data[0] == 2


@pytest.mark.parametrize("content", [None, b"{", b"{}", b"[]"])
def test_a_missing_or_damaged_config_is_named(expected, content):
    Path("complete/config.json").unlink()
    if content is not None:
        Path("complete/config.json").write_bytes(content)
    with pytest.raises(ValueError, match="config.json is (missing|damaged)"):
        checkpoint.load_model(Path("complete"))


# ---- python -m gpt.verify ----

def test_verify_finds_equal_bits(expected, capsys):
    assert verify.main(["complete", "--steps=4"]) == 0
    hashes = [line.split()[-1] for line in capsys.readouterr().out.splitlines()
              if line.startswith(("in one go", "resumed"))]
    assert len(hashes) == 2 and hashes[0] == hashes[1] and len(hashes[0]) == 64
    assert outcome("complete") == expected            # it works on copies


def test_verify_exits_with_1_for_different_bits(expected, monkeypatch):
    monkeypatch.setattr(verify, "train_and_kill", lambda run, *_: run.name)
    assert verify.main(["complete", "--steps=2"]) == 1


def test_verify_with_ranks_finds_equal_bits_and_leaves_no_process_running(expected, capsys, monkeypatch, tmp_path):
    """In one go by one process, killed with two, resumed with one."""
    pytest.importorskip("mpi4py")
    if not MPIRUN:
        pytest.skip("no mpirun is installed")
    monkeypatch.setattr(verify.tempfile, "tempdir", str(tmp_path))
    ranks = []
    start = verify.started_by_mpirun
    monkeypatch.setattr(verify, "started_by_mpirun", lambda n, command: ranks.append(n) or start(n, command))
    assert verify.main(["complete", "--steps=4", "--ranks=2"]) == 0
    out = capsys.readouterr().out
    assert ranks == [2, 1, 2, 1]                        # the first looks whether there is an mpirun
    assert "until the kill by 2, then by 1; each with the run's --threads=2" in out and "equal: " in out
    assert outcome("complete") == expected
    assert_none_runs_in(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_verify_that_is_stopped_leaves_no_process_and_no_file(number, expected, tmp_path):
    pytest.importorskip("mpi4py")
    if not MPIRUN:
        pytest.skip("no mpirun is installed")
    process = subprocess.Popen([sys.executable, "-m", "gpt.verify", "complete", "--steps=4", "--ranks=2"],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)})
    while not list(tmp_path.glob("*/killed/lock")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert_none_runs_in(tmp_path)
    assert not list(tmp_path.glob("tmp*"))


def assert_none_runs_in(folder):
    """No process has the folder in its command line."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(folder).encode() not in file.read_bytes(), file
        except OSError:                                 # a process that has ended
            pass


def test_verify_says_what_is_missing_for_several_processes_and_how_many_a_run_can_have(expected, capsys, monkeypatch):
    def fails(*arguments):
        with pytest.raises(SystemExit) as exit:
            verify.main(["complete", "--steps=2", *arguments])
        out, err = capsys.readouterr()
        assert exit.value.code == 2 and not out and err.count("\n") == 1
        return err

    assert "--ranks=3 is more than the --gradient_accumulation_steps=2 of complete" in fails("--ranks=3")
    assert "use --ranks=2 or less" in fails("--ranks=3")
    assert "--ranks=1 or more" in fails("--ranks=0")
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: "found")
    monkeypatch.setattr(processes.shutil, "which", lambda *_, **__: None)
    assert "2 processes need mpirun, which is neither beside" in fails("--ranks=2")
    monkeypatch.setattr(processes.importlib.util, "find_spec", lambda name: None)
    assert '2 processes need mpi4py: pip install -e ".[mpi]"' in fails("--ranks=2")


def test_verify_shows_what_mpirun_says_where_it_refuses_to_start(expected, capsys, monkeypatch):
    """As Open MPI's does for root."""
    monkeypatch.setattr(verify, "started_by_mpirun", lambda n, command: [
        sys.executable, "-c", "import sys; sys.exit('no root\\nno ranks')"] if n > 1 else command)
    with pytest.raises(SystemExit) as exit:
        verify.main(["complete", "--steps=2", "--ranks=2"])
    assert exit.value.code == 2 and "mpirun says\nno root\nno ranks\n" in capsys.readouterr().err


def test_verify_rejects_bad_arguments(expected, capsys):
    for arguments, message in (([], "give the folder"), (["nowhere"], "holds no run"),
                               (["complete", "--steps=13"], "use a smaller --steps")):
        with pytest.raises(SystemExit) as exit:
            verify.main(arguments)
        assert exit.value.code == 2 and message in capsys.readouterr().err
