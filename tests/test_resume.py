"""A run that is killed, stopped, or damaged and then resumed ends as the one that never was: in every bit."""
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import train
from gpt import checkpoint, monitor, verify
from gpt.model import GPT, GPTConfig
from minigrad import optim

ROOT = Path(__file__).parent.parent
RUN = ["--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=2",
       "--dropout=0.1", "--gradient_accumulation_steps=2", "--max_iters=12", "--warmup_iters=2", "--eval_interval=4",
       "--eval_iters=2", "--log_interval=1", "--stats_interval=3", "--sample_interval=6", "--checkpoint_interval=2"]

# Runs train.py and kills it, without warning, when it is about to do its n-th deed of those that touch the disk or the
# weights: write a line, write, flush or rename a checkpoint, delete an old one, change the weights.
KILLED = """
import os, pathlib, signal, sys
import train
from gpt import checkpoint
from minigrad import optim
left = int(sys.argv[1])
def dying(deed):
    def wrapped(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return deed(*args, **kwargs)
    return wrapped
os.fsync, os.replace, pathlib.Path.unlink = dying(os.fsync), dying(os.replace), dying(pathlib.Path.unlink)
train.append, train.note_samples = dying(train.append), dying(train.note_samples)
checkpoint.write_whole, optim.AdamW.step = dying(checkpoint.write_whole), dying(optim.AdamW.step)
for picture in ("loss_curve", "lr_curve", "stats_maps"):
    setattr(train, picture, lambda *_: None)
train.main(sys.argv[2:])
print("lived with", left, "to go")
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a text, and in "whole" a run on it that nothing disturbed."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "stars.txt").write_text("".join(f"the {animal} sees {n} stars\n" for n in range(40)
                                              for animal in ("fox", "owl", "hare")), "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train.main([*RUN, "--out_dir=whole"])
    return folder


@pytest.fixture(autouse=True)
def in_a_copy(prepared, tmp_path, monkeypatch):
    """Each test has its own copy; pictures take time and are looked at elsewhere."""
    shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        monkeypatch.setattr(train, name, lambda *_: None)


def outcome(folder):
    """All that must agree: the weights and moments, and what was noted, but for timings."""
    newest = checkpoint.newest_first(Path(folder))[0]
    metrics = [{name: value for name, value in row.items() if name != "tokens_per_s"}
               for row in monitor.read_rows(Path(folder, "metrics.jsonl"))]
    return (newest.name, newest.with_suffix(".safetensors").read_bytes(), metrics,
            Path(folder, "stats.jsonl").read_text("utf-8"), Path(folder, "samples.md").read_text("utf-8"))


def resume(folder, *options):
    train.main(["--init_from=resume", f"--out_dir={folder}", *options])


@pytest.fixture
def whole():
    """What came of the undisturbed run."""
    return outcome("whole")


def start_killed(deeds, *arguments):
    return subprocess.run([sys.executable, "-c", KILLED, str(deeds), *arguments], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("deeds", [16, 30, 47, 75, 104])
def test_a_run_killed_at_any_instant_ends_as_if_it_had_not_been(whole, deeds):
    killed = start_killed(deeds, *RUN, "--out_dir=run")
    assert killed.returncode == -signal.SIGKILL, killed.stdout + killed.stderr
    resume("run")
    assert outcome("run") == whole


def test_a_run_killed_again_and_again_ends_as_if_it_had_not_been(whole):
    """Each life is a little longer than what it takes to get to the next checkpoint, and ends at another deed."""
    lives = [start_killed(25, *RUN, "--out_dir=run")]
    while lives[-1].returncode == -signal.SIGKILL and len(lives) < 15:
        lives.append(start_killed(31 + len(lives), "--init_from=resume", "--out_dir=run"))
    assert lives[-1].returncode == 0 and len(lives) > 3, lives[-1].stderr
    assert outcome("run") == whole


def test_a_run_killed_before_its_first_checkpoint_starts_again(whole):
    assert start_killed(10, *RUN, "--out_dir=run").returncode == -signal.SIGKILL
    assert Path("run/config.json").exists() and not checkpoint.newest_first(Path("run"))
    resume("run")
    assert outcome("run") == whole


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_saves_and_says_how_to_go_on(whole, monkeypatch, capsys, name):
    number, step, count = getattr(signal, name), optim.AdamW.step, []

    def interrupted(self):
        step(self)
        count.append(1)
        if len(count) == 5:                     # at no checkpoint, no validation
            os.kill(os.getpid(), number)
    with monkeypatch.context() as patch:
        patch.setattr(optim.AdamW, "step", interrupted)
        with pytest.raises(SystemExit) as exit:
            train.main([*RUN, "--out_dir=run"])
    assert exit.value.code == 128 + number
    assert "stopped at step 5, which is saved" in capsys.readouterr().out
    resume("run")
    assert outcome("run") == whole


def test_a_signal_while_a_checkpoint_is_written_waits_for_the_end_of_the_next_step(whole, monkeypatch, capsys):
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
    assert outcome("run") == whole


def test_the_second_signal_ends_the_program_at_once():
    code = ("import os, signal\nfrom gpt.monitor import stop_signals\nwith stop_signals() as received:\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n    print(received, flush=True)\n"
            "    os.kill(os.getpid(), signal.SIGTERM)\n    print('still here')")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == -signal.SIGTERM and done.stdout == f"[{int(signal.SIGINT)}]\n"


@pytest.mark.parametrize("damage", ["truncated", "altered", "record altered", "record empty", "tensors gone"])
def test_a_damaged_checkpoint_is_noticed_and_the_one_before_is_used(whole, capsys, damage):
    tensors, record = (Path(f"whole/checkpoints/step_000012.{kind}") for kind in ("safetensors", "json"))
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
    assert checkpoint.last_good(Path("whole")) == "The checkpoint of step 10 is whole"
    checkpoint.load_model(Path("whole"))
    resume("whole")
    assert "step_000012.safetensors is damaged" in capsys.readouterr().err
    assert outcome("whole") == whole


def test_where_all_checkpoints_are_damaged_nothing_is_guessed(whole, capsys):
    for path in Path("whole/checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as exit:
        resume("whole")
    assert exit.value.code == 2 and "all checkpoints in whole/checkpoints are damaged" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(whole, monkeypatch, capsys, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "run/checkpoints/step_000006.safetensors")

    write_whole = checkpoint.write_whole

    def nearly_full(path, data):
        with monkeypatch.context() as patch:
            if path.name == "step_000006.safetensors":
                if call == "write":
                    patch.setattr("builtins.open", full)
                else:
                    patch.setattr(os, call, full)
            write_whole(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_whole", nearly_full)
        with pytest.raises(SystemExit) as exit:
            train.main([*RUN, "--out_dir=run"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and os.strerror(errno.ENOSPC) in error
    assert "The checkpoint of step 4 is whole; --init_from=resume --out_dir=run goes on from it" in error
    assert not list(Path("run/checkpoints").glob("*.tmp"))
    resume("run")
    assert outcome("run") == whole


@pytest.mark.parametrize("option, message", [
    ("--n_layer=2", "n_layer 1 -> 2"), ("--n_embd=16", "n_embd 8 -> 16"), ("--dtype=float64", "dtype"),
    ("--dataset=fables", "dataset 'stars.txt' -> 'fables'"), ("--bias=false", "bias True -> False"),
    ("--max_iters=11", "is at step 12 already"),
])
def test_another_model_or_text_is_refused_with_the_difference(whole, capsys, option, message):
    with pytest.raises(SystemExit) as exit:
        resume("whole", option)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and message in error and error.count("\n") == 1
    assert outcome("whole")[:2] == whole[:2]


def test_other_values_may_change_and_are_noted(whole, capsys):
    resume("whole", "--max_iters=14", "--learning_rate=1e-3")
    out = capsys.readouterr().out
    assert "note    max_iters 12 -> 14 from here on" in out and "note    learning_rate 0.008 -> 0.001" in out
    config = json.loads(Path("whole/config.json").read_text("utf-8"))["options"]
    assert config["max_iters"] == {"value": 14, "from": "command line"}
    assert config["n_layer"] == {"value": 1, "from": "command line"} and config["seed"]["from"] == "default"
    assert outcome("whole")[0] == "step_000014.json"


def test_a_resumed_run_needs_no_source_file(whole):
    Path("stars.txt").unlink()
    Path("whole/checkpoints/step_000012.json").unlink()
    resume("whole")
    assert outcome("whole") == whole


# ---- checkpoints ----

def test_a_checkpoint_holds_weights_moments_and_step(whole):
    tensors = safetensors.numpy.load(Path("whole/checkpoints/step_000012.safetensors").read_bytes())
    model, tokenizer = checkpoint.load_model(Path("whole"))
    names = set(model.state_dict())
    assert set(tensors) == {prefix + name for name in names for prefix in ("", "optimizer.m.", "optimizer.v.")}
    optimizer = optim.AdamW(model.parameters())
    assert checkpoint.resume(Path("whole"), model, optimizer) == 12
    for p in model.parameters():
        assert np.array_equal(p.data, tensors[p.name]) and optimizer.state_of(p)["t"] == 12
        for moment in ("m", "v"):
            assert np.array_equal(optimizer.state_of(p)[moment], tensors[f"optimizer.{moment}.{p.name}"])
    assert tokenizer.decode(tokenizer.encode("the fox")) == "the fox"


def test_the_last_few_and_the_best_are_kept_and_the_best_is_loaded(tmp_path):
    model = GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=1, n_head=2, n_embd=8))
    optimizer = optim.AdamW(model.parameters())
    for step, val_loss in enumerate([3.0, 2.0, 1.0, 1.5, None, 1.2, 1.1]):
        model.ln_f.bias.data = np.full(8, step, "float32")
        checkpoint.save(tmp_path, model, optimizer, step, val_loss, keep=2)
    assert [checkpoint.step_of(path) for path in checkpoint.newest_first(tmp_path)] == [6, 5, 2]
    checkpoint.write_config(tmp_path, {"dtype": "float32"}, {"dtype": "default"}, model.config)
    (tmp_path / "tokenizer.json").write_text('{"type": "char", "vocabulary": "abcde"}')
    assert checkpoint.load_model(tmp_path)[0].ln_f.bias.data[0] == 2


@pytest.mark.parametrize("content", [None, b"{", b"{}", b"[]"])
def test_a_missing_or_damaged_config_is_named(whole, content):
    Path("whole/config.json").unlink()
    if content is not None:
        Path("whole/config.json").write_bytes(content)
    with pytest.raises(ValueError, match="holds no run" if content is None else "config.json is damaged"):
        checkpoint.load_model(Path("whole"))


# ---- the proof on one's own run ----

def test_verify_proves_it_on_a_run(whole, capsys):
    assert verify.main(["whole", "--steps=4"]) == 0
    hashes = [line.split()[-1] for line in capsys.readouterr().out.splitlines()
              if line.startswith(("in one go", "resumed"))]
    assert len(hashes) == 2 and hashes[0] == hashes[1] and len(hashes[0]) == 64
    assert outcome("whole") == whole            # it worked on copies


def test_verify_tells_a_difference(whole, monkeypatch):
    monkeypatch.setattr(verify, "train_and_kill", lambda run, step: run.name)
    assert verify.main(["whole", "--steps=2"]) == 1


def test_verify_refuses_what_it_cannot_prove(whole, capsys):
    for arguments, message in (([], "give the folder"), (["nowhere"], "holds no run"),
                               (["whole", "--steps=13"], "use a smaller --steps")):
        with pytest.raises(SystemExit) as exit:
            verify.main(arguments)
        assert exit.value.code == 2 and message in capsys.readouterr().err
