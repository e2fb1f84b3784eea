"""The folder of a run: damaged, foreign and linked files, a second training, divergence, streams that fail."""
import contextlib
import errno
import io
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings, strategies as st

import train
from gpt import files, lab, sample, step as step_command, verify
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder, lock, plot
from gpt.run import run as run_module
from gpt.run.estimates import parameter_count
from gpt.run.failures import check_memory
from gpt.run.options import Options
from gpt.run.signals import stop_signals
from gpt.run.streams import streams_may_fail
from gpt.text import dataset, tokenizer
from minigrad import optim

ROOT = Path(__file__).parent.parent
RUN = ["--dataset=stars.txt", "--n_layer=1", "--n_head=1", "--n_embd=8", "--block_size=8", "--batch_size=2",
       "--max_iters=6", "--warmup_iters=0", "--eval_interval=2", "--eval_iters=1", "--log_interval=1",
       "--stats_interval=2", "--sample_interval=0", "--checkpoint_interval=2"]
all_steps, draw_samples = run_module.Run.steps, run_module.samples
NEEDED = ["config.json", "tokenizer.json", "tokens/meta.json", "tokens/train.bin", "tokens/val.bin"]
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a text and, in "run", a complete run on it, with checkpoints of the steps 2, 4 and 6."""
    prepared = tmp_path_factory.mktemp("prepared")
    (prepared / "stars.txt").write_text("the fox sees 3 stars\nthe owl sees 5 stars\n" * 30, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        patch.chdir(prepared)
        train.main([*RUN, "--out_dir=run"])
    return prepared


@pytest.fixture(autouse=True)
def in_a_copy(prepared, tmp_path, monkeypatch):
    shutil.copytree(prepared, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    quick(monkeypatch)


def quick(patch):
    """Leave out what takes most of the time of a short run."""
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        patch.setattr(plot, name, lambda *_: None)
    patch.setattr(run_module, "matmul_peak", lambda *_: 1e9)
    patch.setattr(run_module, "samples", lambda model, data, rows, *_: ["text\n"] * rows)


def resume(*options):
    train.main(["--init_from=resume", "--out_dir=run", *options])


def contents(path):
    """The content of each file in a folder; of large ones, their size."""
    return {file: file.read_bytes() if file.stat().st_size < 10 ** 6 else file.stat().st_size
            for file in sorted(Path(path).rglob("*")) if file.is_file()}


def exits_with_one_line(capsys, call, *arguments, code=2, notes=False):
    """Run a command that must end with this status and one line on stderr; returns the line."""
    with pytest.raises(SystemExit) as exit:
        call(*arguments)
    lines = [line for line in capsys.readouterr().err.splitlines() if not (notes and line.startswith("note "))]
    if isinstance(exit.value.code, str):                # printed by the interpreter, with status 1
        lines.append(exit.value.code)
    assert (1 if isinstance(exit.value.code, str) else exit.value.code) == code and len(lines) == 1, lines
    return lines[0]


# ---- damaged files ----

def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced_by(make):
    def damage(path):
        path.unlink()
        make(path)
    return damage


def socket_at(path):
    with contextlib.chdir(path.parent), socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)                            # the name of a socket is at most 107 bytes


DAMAGES = {
    "cut": cut, "one bit flipped": flip, "empty": lambda path: path.write_bytes(b""), "missing": Path.unlink,
    "not UTF-8": lambda path: path.write_bytes(b"\xff\xfe\0"), "null": lambda path: path.write_bytes(b"null"),
    "nested deeply": lambda path: path.write_bytes(b"[" * 10 ** 5), "a list": lambda path: path.write_bytes(b"[1]"),
    "a huge number": lambda path: path.write_bytes(b'{"step": ' + b"9" * 5000 + b"}"),
    "a terabyte": lambda path: os.truncate(path, 2 ** 40), "a folder": replaced_by(Path.mkdir),
    "a FIFO": replaced_by(os.mkfifo), "a socket": replaced_by(socket_at),
    "a link to itself": replaced_by(lambda path: path.symlink_to(path.name))}


@posix
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", NEEDED)
def test_a_damaged_file_that_is_needed_is_named_in_one_line(capsys, damage, file):
    DAMAGES[damage](Path("run", file))
    before = contents("run")
    assert str(Path("run", file)) in exits_with_one_line(capsys, resume)
    assert contents("run") == before


@posix
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["json", "safetensors"])
def test_a_damaged_checkpoint_is_passed_over(capsys, damage, kind):
    DAMAGES[damage](Path(f"run/checkpoints/step_000006.{kind}"))
    model, _ = checkpoint.load_model(Path("run"))
    resume("--max_iters=8")
    assert "2 of 8 steps" not in (said := capsys.readouterr()).out and "4 of 8 steps" in said.out
    assert "step_000006" in said.err and "not used" in said.err
    assert checkpoint.newest_step(Path("run")) == 8


@posix
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["env.json", "metrics.jsonl", "stats.jsonl"])
def test_a_damaged_file_that_is_not_needed_is_noticed_at_the_start(capsys, damage, file):
    """It is repaired with a note, or refused before the first step."""
    path = Path("run", file)
    steps = []
    DAMAGES[damage](path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module.Run, "steps", lambda run: steps.append(1) or all_steps(run))
        if damage in ("a folder", "a link to itself") or damage in ("a FIFO", "a socket") and file != "env.json":
            assert str(path) in exits_with_one_line(capsys, resume, notes=True)
            assert not steps
            return
        resume("--max_iters=8")
    assert folder.read_rows(Path("run/metrics.jsonl"))[-1]["step"] == 8
    noted = f"note    {path}" in capsys.readouterr().err
    assert noted or damage in ("a terabyte", "one bit flipped", "cut")      # beyond the checkpoint, or a digit


@given(position=st.floats(0.0, 0.999), bit=st.integers(0, 7), name=st.sampled_from(NEEDED))
@settings(max_examples=60, deadline=None)
def test_one_flipped_bit_is_noticed_or_changes_nothing(prepared, position, bit, name):
    """Nothing changes by a bit of white space in a JSON file, or of the e in 1e-3."""
    path = prepared / "run" / name
    original = path.read_bytes()
    data = bytearray(original)
    data[int(position * len(data))] ^= 1 << bit
    try:
        path.write_bytes(data)
        config, opened = folder.read_config(prepared / "run"), dataset.open_data(prepared / "run")
    except ValueError as error:
        assert str(path) in str(error)
    else:
        path.write_bytes(original)
        assert config == folder.read_config(prepared / "run") and name.endswith(".json")
        assert opened.tokenizer.to_json() == tokenizer.load(prepared / "run" / "tokenizer.json").to_json()
    finally:
        path.write_bytes(original)


def test_runs_of_versions_without_seals_can_be_resumed():
    for name in ("config.json", "tokenizer.json", "tokens/meta.json"):
        content = json.loads(Path("run", name).read_bytes())
        del content["sha256"]
        content.pop("sha256_of", None)
        Path("run", name).write_text(json.dumps(content))
    for path in Path("run/checkpoints").glob("*.json"):
        record = json.loads(path.read_bytes())
        del record["bytes"], record["record_sha256"]
        record["sha256"] = files.sha256(record, path.with_suffix(".safetensors").read_bytes())
        path.write_text(json.dumps(record))
    resume("--max_iters=8")
    assert checkpoint.newest_step(Path("run")) == 8
    tokens = np.fromfile("run/tokens/train.bin", "<u2")
    tokens[5] = 300
    tokens.tofile("run/tokens/train.bin")
    with pytest.raises(ValueError, match="train.bin is damaged: token 300 is outside the vocabulary of"):
        dataset.open_data(Path("run"))


@pytest.mark.parametrize("change, message", [
    (dict(n_embd="8"), "--n_embd must be of type int, got '8'"), (dict(dropout=None), "--dropout must be of type"),
    (dict(batch_size=2.5), "--batch_size must be of type int"), (dict(bias=1), "--bias must be of type bool"),
    (dict(rope=True), "unknown option rope: resume the run with the version"), (dict(dtype="int8"), "is damaged"),
])
def test_options_of_another_type_in_a_config_are_named(capsys, change, message):
    options, sources, shape = folder.read_config(Path("run"))
    folder.write_config(Path("run"), options | change, sources | dict.fromkeys(change, "default"), shape)
    assert message in exits_with_one_line(capsys, resume)


def test_a_tokenizer_of_another_run_is_refused():
    tokenizer.save(Path("run/tokenizer.json"), tokenizer.CharTokenizer("abc"))
    with pytest.raises(ValueError, match="tokenizer.json has 3 tokens and the model"):
        checkpoint.load_model(Path("run"))


@pytest.mark.parametrize("content", [{"type": "char"}, {"type": "char", "vocabulary": 5}, {"type": []}, {"type": "bpe"},
                                     {"type": "char", "vocabulary": "aa"}, {"type": "char", "vocabulary": ""},
                                     {"type": "bpe", "tokenizer": {}}, {"vocabulary": "abc"}, {"type": "byte", "x": 1}])
def test_a_tokenizer_of_wrong_content_is_damaged(content):
    if content.get("type") == "bpe":
        pytest.importorskip("tokenizers")
    Path("run/tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        tokenizer.load(Path("run/tokenizer.json"))


GOOD = b'{"step": 4, "val_loss": 2.5, "val_se": null}\n'


@pytest.mark.parametrize("line", [
    b"\xff\xfe\n", b"{\n", b"[1]\n", b"5\n", b"null\n", b"{}\n", b'{"step": "4"}\n', b'{"step": 4, "val_loss": null}\n',
    b'{"step": 4, "val_loss": "2"}\n', b'{"step": 4, "val_loss": [2]}\n', b'{"step": 1e400}\n', b"[" * 10 ** 5 + b"\n",
    b'{"step": 4, "tensor": 3}\n', b'{"step": 4, "tensor": "wte"}\n', b'{"step": 4, "x": ' + b"9" * 400 + b"}\n",
    b'{"step": 4, "val_loss"', b"x" * 10 ** 6 + b"\n", b"\0" * 100, b'{"step": true}\n'])
def test_a_damaged_line_of_a_log_is_left_out_with_a_note(capsys, line):
    Path("metrics.jsonl").write_bytes(GOOD + line + (GOOD if line.endswith(b"\n") else b""))
    folder.cut_log(Path("metrics.jsonl"), 10 ** 7)
    assert Path("metrics.jsonl").read_bytes() == (GOOD + GOOD if line.endswith(b"\n") else GOOD)
    assert "note    metrics.jsonl is damaged: 1 of its" in capsys.readouterr().err


def test_a_log_is_cut_to_its_length_at_the_checkpoint(capsys):
    Path("metrics.jsonl").write_bytes(2 * GOOD + b"\xff")
    folder.cut_log(Path("metrics.jsonl"), len(GOOD))
    assert Path("metrics.jsonl").read_bytes() == GOOD and capsys.readouterr().err == ""


def test_a_folder_of_checkpoints_that_cannot_be_read_is_no_run_without_checkpoints(capsys):
    shutil.rmtree("run/checkpoints")
    Path("run/checkpoints").write_bytes(b"")
    before = contents("run")
    for call, arguments in ((resume, []), (sample.main, [["--out_dir=run"]])):
        assert str(Path("run/checkpoints")) in exits_with_one_line(capsys, call, *arguments)
    assert contents("run") == before
    Path("run/checkpoints").unlink()
    resume()
    assert "run holds no checkpoint: it starts again from step 0" in capsys.readouterr().err


def test_a_resumed_run_without_any_validation_in_its_log_ends_without_an_error():
    Path("run/metrics.jsonl").write_bytes(b"")
    resume()
    assert [row["step"] for row in folder.read_rows(Path("run/metrics.jsonl"))] == [6]


@posix
@pytest.mark.parametrize("damage", ["a folder", "a FIFO", "a socket"])
@pytest.mark.parametrize("call, option", [(train.main, "--dataset=given"), (train.main, "--config=given"),
                                          (sample.main, "--start=FILE:given")])
def test_a_text_or_options_in_no_regular_file_are_refused(capsys, damage, call, option):
    """A FIFO would wait for a writer."""
    Path("given").touch()
    DAMAGES[damage](Path("given"))
    line = exits_with_one_line(capsys, call, [*(RUN if call is train.main else ["--out_dir=run"]), option])
    assert "given is not a regular file" in line or "given: No such file; --dataset takes" in line


@pytest.mark.parametrize("val_loss", [None, 99.0, 0.001, "2.5"])
def test_another_validation_loss_in_a_checkpoint_is_noticed_before_its_tensors_are_read(capsys, val_loss):
    """Otherwise gpt.sample would silently use another checkpoint."""
    for path in checkpoint.newest_first(Path("run")):
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"val_loss": val_loss}))
        checkpoint.load_model(Path("run"))
        assert f"{path.stem}.safetensors is damaged and is not used" in capsys.readouterr().err
        if checkpoint.step_of(path) == 4:
            break


@pytest.mark.parametrize("at, taken", [(-1, 4), (2, 2), (4, 4), (6, None)])
def test_the_stepper_takes_another_checkpoint_for_a_damaged_newest_one(capsys, at, taken):
    Path("run/checkpoints/step_000006.safetensors").write_bytes(b"")
    if taken:
        assert step_command.load(Path("run"), at)[-1] == taken
    else:
        line = exits_with_one_line(capsys, step_command.main, ["--out_dir=run", f"--at={at}"], notes=True)
        assert f"{Path('run/checkpoints/step_000006')} is damaged, diverged or" in line


@posix
def test_verify_reads_no_logs(monkeypatch):
    """Otherwise one of 20 GB would be copied."""
    os.truncate("run/metrics.jsonl", 20 * 10 ** 9)
    copied = []
    monkeypatch.setattr(verify, "train_and_kill",
                        lambda run, *_: str(copied.append((run / "metrics.jsonl").exists())))
    monkeypatch.setattr(verify.shutil, "copyfileobj", lambda original, copy: copy.write(original.read(10 ** 6)))
    assert verify.main(["run", "--steps=2"]) == 0 and copied == [False] * 3


@posix
def test_a_folder_in_the_place_of_a_temporary_file_is_named():
    Path("a.json.tmp").mkdir()
    with pytest.raises(OSError, match="move it away: 'a.json.tmp'"):
        files.write_atomically(Path("a.json"), b"")


# ---- foreign files among the checkpoints ----

@pytest.mark.parametrize("name", [
    "step_000020 (copy).json", "step_old.json", "step_.json", "step_000003.json~", ".DS_Store", "step_٠٠٠٠٢٠.json",
    "step_-00020.json", "step_0000020.json", "step_20.json", "step_1e6.json", "step_" + "9" * 200 + ".json",
    "step_000020.json", "step_999999999999999999.json", "step_000006 (copy).safetensors"])
@pytest.mark.parametrize("make", ["copy", "folder"])
def test_foreign_names_among_checkpoints_are_passed_over(capsys, name, make):
    path = Path("run/checkpoints", name)
    if make == "folder":
        path.mkdir()
    else:
        for kind in {path.suffix, ".safetensors"}:
            shutil.copy(Path("run/checkpoints/step_000006").with_suffix(
                kind if kind in (".json", ".safetensors") else ".json"), path.with_suffix(kind))
    checkpoint.load_model(Path("run"))
    assert checkpoint.last_intact(Path("run")) == "The checkpoint of step 6 is intact"
    capsys.readouterr()
    resume("--max_iters=20", "--keep=1")
    if name.startswith("step_") and not name.endswith("~"):
        assert name.partition(".")[0] in capsys.readouterr().err
    assert checkpoint.newest_step(Path("run"), last=20) == 20


def test_a_checkpoint_of_another_model_is_passed_over(capsys):
    model = GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=1, n_head=1, n_embd=4))
    checkpoint.save(Path("run"), model, optim.AdamW(model.parameters()), 9, 0.1)
    assert checkpoint.load_model(Path("run"))[0].config.n_embd == 8
    assert "step_000009.safetensors is of another model and is not used" in capsys.readouterr().err


def test_new_checkpoints_are_kept_beside_newer_ones_that_are_damaged():
    """With keep=1: the damaged ones do not count as the newest."""
    for path in Path("run/checkpoints").glob("step_00000[46].safetensors"):
        path.write_bytes(b"")
    step, count = optim.AdamW.step, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(optim.AdamW, "step", lambda self: (step(self), count.append(1),
                                                         os.kill(os.getpid(), signal.SIGINT)))
        with pytest.raises(SystemExit):
            resume("--keep=1")
    assert checkpoint.newest_step(Path("run")) == 3 and count == [1]


# ---- divergence ----

def poison(step, what, value=np.nan, val_loss=math.nan):
    """Make a checkpoint as versions that saved NaN did: sealed, and with this value in its weights or moments."""
    path = Path(f"run/checkpoints/step_{step:06}.json")
    tensors = safetensors.numpy.load(path.with_suffix(".safetensors").read_bytes())
    tensors[what] = np.full_like(tensors[what], value)
    data, record = safetensors.numpy.save(tensors), json.loads(path.read_bytes()) | {"val_loss": val_loss}
    path.with_suffix(".safetensors").write_bytes(data)
    record["bytes"] = len(data)
    path.write_text(json.dumps(checkpoint.sealed(record, data)))


@pytest.mark.parametrize("what", ["wte.weight", "ln_f.bias", "optimizer.m.wpe.weight", "optimizer.v.ln_f.weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_never_saved(what, value):
    model = GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=1, n_head=1, n_embd=4))
    optimizer = optim.AdamW(model.parameters())
    state = optimizer.state_dict()
    names = [name for name, _ in model.named_parameters()]
    _, _, rest = what.partition("optimizer.")
    if rest:
        moment, _, name = rest.partition(".")
        state[moment] = [np.full(p.shape, value if n == name else 0.0, "float32")
                         for n, p in zip(names, optimizer.params)]
        optimizer.load_state_dict(state)
    else:
        p = dict(model.named_parameters())[what]
        p.data = np.full(p.shape, value, "float32")
    before = contents("run")
    with pytest.raises(FloatingPointError, match=f"{what} has values that are not finite"):
        checkpoint.save(Path("run"), model, optimizer, 8, 1.0, keep=1)
    assert contents("run") == before


@pytest.mark.parametrize("what", ["wte.weight", "optimizer.m.wte.weight", "optimizer.v.ln_f.bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_saved_checkpoint_that_is_not_finite_is_passed_over_with_what_to_change(capsys, what, value):
    poison(6, what, value, val_loss=0.0)
    model, _ = checkpoint.load_model(Path("run"))
    assert all(np.isfinite(x).all() for x in model.state_dict().values())
    resume("--max_iters=8")
    assert f"step_000006.safetensors has diverged ({what} has values that are not finite; resume with a smaller " \
        "--learning_rate) and is not used" in capsys.readouterr().err
    assert checkpoint.newest_step(Path("run")) == 8


@pytest.mark.parametrize("val_loss", [math.nan, math.inf, -math.inf, None])
def test_a_validation_loss_that_is_not_finite_ranks_last(val_loss):
    poison(6, "ln_f.bias", 3.0, val_loss)
    assert not (checkpoint.load_model(Path("run"))[0].ln_f.bias.data == 3.0).any()


def test_a_run_whose_checkpoints_have_all_diverged_says_so(capsys):
    for step in (2, 4, 6):
        poison(step, "wte.weight")
    assert "damaged, diverged or of another model than config.json: train again in another --out_dir, after a " \
        "divergence with a smaller --learning_rate" in exits_with_one_line(capsys, resume, notes=True)


@pytest.mark.parametrize("options", [
    ["--eval_interval=1", "--checkpoint_interval=1"], ["--checkpoint_interval=1"], ["--max_iters=1"],
    ["--sample_interval=1"], ["--eval_interval=100"]])
def test_a_run_that_diverges_keeps_a_checkpoint_to_resume_from(capsys, monkeypatch, options):
    """Weights of 1e38 are finite, and their loss is NaN; with --keep=1."""
    monkeypatch.setattr(run_module, "samples", draw_samples)
    line = exits_with_one_line(capsys, train.main, [*RUN, "--learning_rate=1e38", "--grad_clip=0", "--keep=1", *options,
                                                    "--out_dir=new"], code=1)
    assert "training diverged" in line and "The checkpoint of step 0 is intact; try --learning_rate=" in line
    kept = [safetensors.numpy.load(path.read_bytes()) for path in Path("new/checkpoints").glob("*.safetensors")]
    assert kept and all(np.abs(x).max() < 1e6 for tensors in kept for x in tensors.values())
    quick(monkeypatch)
    train.main(["--init_from=resume", "--out_dir=new", "--learning_rate=1e-3", "--max_iters=3"])
    assert checkpoint.newest_step(Path("new")) == 3


@pytest.mark.parametrize("learning_rate", ["3e4", "1e12"])
def test_no_checkpoint_stays_whose_weights_have_a_loss_of_100_or_more(capsys, learning_rate):
    """Every resume of it would diverge at its first step, with any learning rate."""
    exits_with_one_line(capsys, train.main, [*RUN, f"--learning_rate={learning_rate}", "--checkpoint_interval=1",
                                             "--eval_interval=100", "--weight_decay=0", "--out_dir=new"], code=1)
    train.main(["--init_from=resume", "--out_dir=new", "--learning_rate=1e-3"])
    assert checkpoint.newest_step(Path("new")) == 6


# ---- one training per folder ----

def test_a_folder_in_which_a_training_runs_is_refused_and_can_be_read(capsys):
    with lock.locked(Path("run")):
        before = contents("run")
        line = exits_with_one_line(capsys, resume)
        assert f"run is in use: a training runs there (process {os.getpid()} on" in line and "delete" not in line
        sample.main(["--out_dir=run", "--max_new_tokens=1", "--device=cpu"])
        dataset.open_data(Path("run"))
        assert contents("run") == before
    assert not Path("run/lock").exists()


def test_a_run_that_goes_on_can_be_sampled_and_its_folder_is_free_afterwards(monkeypatch):
    seen, save = [], checkpoint.save

    def watched(out_dir, *arguments):
        save(out_dir, *arguments)
        model, _ = checkpoint.load_model(out_dir)
        seen.append((Path(out_dir, "lock").exists(), model.config.n_embd))
    monkeypatch.setattr(checkpoint, "save", watched)
    train.main([*RUN, "--out_dir=new"])
    assert seen == [(True, 8)] * 4 and not Path("new/lock").exists()
    train.main(["--init_from=resume", "--out_dir=new", "--max_iters=8"])


def test_the_folder_is_free_after_a_start_that_failed(capsys):
    before = contents("run")
    exits_with_one_line(capsys, resume, "--max_iters=5")
    assert contents("run") == before
    resume("--max_iters=7")


@posix
def test_a_killed_training_leaves_no_lock():
    code = ("import os, signal; from pathlib import Path; from gpt.run.lock import locked\n"
            "with locked(Path('run')): os.kill(os.getpid(), signal.SIGKILL)")
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert killed.returncode == -signal.SIGKILL and Path("run/lock").exists()
    with lock.locked(Path("run")):
        assert json.loads(Path("run/lock").read_bytes())["pid"] == os.getpid()


OTHER = {"pid": 12, "host": "another-host", "since": "2020-01-02 03:04:05"}


@pytest.mark.parametrize("flock", ["works", "does not exist", "is not supported by this disk"])
def test_a_lock_of_another_host_is_refused_with_how_to_go_on(monkeypatch, capsys, flock):
    """Its process may be running: whether an flock is seen on other hosts of a shared disk is not known."""
    if flock == "does not exist":
        monkeypatch.setattr(lock, "fcntl", None)
    elif flock != "works":
        def unsupported(*_):
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    Path("run/lock").write_text(json.dumps(OTHER))
    line = exits_with_one_line(capsys, resume)
    assert "process 12 on another-host since 2020-01-02 03:04:05" in line
    assert line.endswith(f"if that process has ended, delete {Path('run/lock')}")
    Path("run/lock").unlink()
    with lock.locked(Path("run")):
        assert json.loads(Path("run/lock").read_bytes())["pid"] == os.getpid()
        with pytest.raises(ValueError, match="is in use"), lock.locked(Path("run")):
            pass
        assert Path("run/lock").exists()
    assert not Path("run/lock").exists()


@posix
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 1000, b'{"pid": 1}'])
def test_a_damaged_lock_without_a_process_locks_nothing(content):
    Path("run/lock").write_bytes(content)
    with lock.locked(Path("run")):
        pass


@posix
@pytest.mark.parametrize("damage", ["a folder", "a FIFO", "a socket", "a link to itself"])
def test_a_lock_that_is_no_file_is_named(capsys, damage):
    Path("run/lock").touch()
    DAMAGES[damage](Path("run/lock"))
    assert str(Path("run/lock")) in exits_with_one_line(capsys, resume)


def test_runs_without_an_out_dir_that_start_at_the_same_time_get_different_folders():
    made = []
    threads = [threading.Thread(target=lambda: made.append(folder.make("", "stars.txt"))) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [Path("runs", f"stars-{i:03}") for i in range(1, 21)]


def test_only_one_of_many_threads_gets_a_lock():
    holders, most, refused, barrier = [], [], [], threading.Barrier(8)

    def work():
        barrier.wait()
        for _ in range(50):
            try:
                with lock.locked(Path("run")):
                    holders.append(1)
                    most.append(len(holders))
                    holders.pop()
            except ValueError:
                refused.append(1)
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(most) == {1} and len(most) + len(refused) == 400


@pytest.mark.parametrize("left", ["metrics.jsonl", "stats.jsonl", "samples.md", "checkpoints"])
def test_a_new_run_never_adds_to_a_run_that_lost_its_config(capsys, left):
    Path("run/config.json").rename("config.json")
    for name in {"metrics.jsonl", "stats.jsonl", "samples.md", "checkpoints"} - {left}:
        shutil.move(f"run/{name}", "moved-" + name)
    before = contents("run")
    for call, arguments in ((train.main, [*RUN, "--out_dir=run"]), (resume, "--max_iters=9")):
        line = exits_with_one_line(capsys, call, arguments)
        assert f"run holds no run any more: {Path('run/config.json')} is missing; restore it from a copy" in line
    assert contents("run") == before


@posix
def test_a_fork_that_ends_leaves_the_lock_to_its_parent():
    claim = lock.locked(Path("run"))
    claim.__enter__()
    if (pid := os.fork()) == 0:
        try:
            claim.__exit__(None, None, None)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert Path("run/lock").exists()
    with pytest.raises(ValueError, match="is in use"), lock.locked(Path("run")):
        pass
    claim.__exit__(None, None, None)
    assert not Path("run/lock").exists()


@pytest.mark.parametrize("what", ["config.json", "."])
def test_a_training_whose_folder_is_deleted_ends_at_its_next_checkpoint(capsys, monkeypatch, what):
    """Its later checkpoints could not be resumed."""
    step = optim.AdamW.step
    monkeypatch.setattr(optim.AdamW, "step", lambda self: (
        step(self), shutil.rmtree("new") if what == "." else Path("new", what).unlink(missing_ok=True)))
    line = exits_with_one_line(capsys, train.main, [*RUN, "--out_dir=new", "--eval_interval=1"])
    assert "new was moved, or files in it deleted, while the training ran" in line
    assert checkpoint.newest_first(Path("new"))[1:] == []


@posix
@pytest.mark.parametrize("make", [Path.touch, os.mkfifo])
def test_a_file_in_the_place_of_the_folder_is_named(capsys, make):
    make(Path("new"))
    assert "new is not a folder: choose another --out_dir" in exits_with_one_line(capsys, train.main,
                                                                                  [*RUN, "--out_dir=new"])


# ---- nothing is written outside ----

@posix
@pytest.mark.parametrize("name", ["metrics.jsonl", "stats.jsonl", "samples.md", "env.json", "config.json", "loss.png",
                                  "stats.png", "lock", "tokens", "tokens/train.bin", "tokens/meta.json", "checkpoints",
                                  "config.json.tmp", "checkpoints/step_000008.safetensors.tmp", "tokenizer.json"])
@pytest.mark.parametrize("new", [False, True])
def test_a_symbolic_link_in_the_folder_of_a_run_is_refused(capsys, name, new):
    path, outside = Path("new" if new else "run", name), Path("outside").absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        path.rename(outside)
    elif name in ("tokens", "checkpoints"):
        outside.mkdir()
    else:
        outside.write_text("mine")
    path.symlink_to(outside)
    before = contents(".")
    if new:
        assert "new" in exits_with_one_line(capsys, train.main, [*RUN, "--out_dir=new"])
    else:
        assert str(path) in exits_with_one_line(capsys, resume, "--max_iters=9")
    assert contents(".") == before


@posix
def test_the_folder_itself_may_be_a_link():
    Path("run").rename("elsewhere")
    Path("run").symlink_to("elsewhere")
    resume("--max_iters=8")


@posix
def test_a_hard_link_to_a_log_outside_the_folder_is_not_changed():
    """As made by a backup with cp -l."""
    os.link("run/metrics.jsonl", "backup.jsonl")
    before = Path("backup.jsonl").read_bytes()
    resume("--max_iters=8")
    assert Path("backup.jsonl").read_bytes() == before != Path("run/metrics.jsonl").read_bytes()


@posix
@pytest.mark.parametrize("make", [lambda path: path.symlink_to("outside"), os.mkfifo])
def test_files_are_never_written_through_a_link_or_into_a_fifo(make):
    Path("outside").write_text("mine")
    make(Path("new.json.tmp"))
    make(Path("new.json"))
    make(Path("log"))
    with pytest.raises(OSError, match="log"):
        files.append(Path("log"), "text")
    files.write_atomically(Path("new.json"), b"{}")
    assert Path("outside").read_text() == "mine" and Path("new.json").read_bytes() == b"{}"
    assert not Path("new.json").is_symlink() and not os.path.lexists("new.json.tmp")


# ---- streams, threads, signals ----

class Failing(io.StringIO):
    """A stream whose disk is full after the first write."""

    def write(self, text):
        if self.tell():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(text)


@pytest.mark.parametrize("stdout, stderr", [(Failing, io.StringIO), (Failing, Failing), (lambda: None, io.StringIO),
                                            (io.StringIO, lambda: None), (lambda: None, lambda: None)])
def test_a_training_goes_on_where_a_stream_is_closed_or_fails(monkeypatch, stdout, stderr):
    out, err = stdout(), stderr()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    train.main([*RUN, "--out_dir=new"])
    assert (sys.stdout, sys.stderr) == (out, err) and checkpoint.newest_step(Path("new")) == 6
    if isinstance(out, Failing):
        said = err.getvalue()
        assert said.startswith("train.py: cannot write to stdout (No space left on device): the training goes on") \
            and said.count("\n") == (1 if not isinstance(err, Failing) else 0)


class OnlyWrite:
    def write(self, text):
        pass


@pytest.mark.parametrize("names", [["stdout"], ["stderr"], ["stdout", "stderr"]])
def test_a_training_prints_to_objects_that_have_nothing_but_write(monkeypatch, names):
    for name in names:
        monkeypatch.setattr(sys, name, OnlyWrite())
    train.main([*RUN, "--out_dir=new"])
    assert checkpoint.newest_step(Path("new")) == 6


def test_a_full_disk_is_named_where_the_lock_is_written(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError) as error, lock.locked(Path("run")):
        pass
    assert error.value.filename == str(Path("run/lock"))


def test_a_lack_of_file_descriptors_ends_a_run_with_one_line(capsys, monkeypatch):
    """The folder of checkpoints cannot be listed either."""
    def too_many(*_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    monkeypatch.setattr(plot, "draw", lambda *_: (monkeypatch.setattr(os, "listdir", too_many), too_many()))
    line = exits_with_one_line(capsys, train.main, [*RUN, "--out_dir=new"])
    assert "Too many open files. Its checkpoints cannot be read now (Too many open files)" in line


def test_a_plot_that_fails_is_noted_and_the_report_goes_on(capsys, monkeypatch):
    """As with MPLBACKEND=unknown."""
    def fail(*_):
        raise ValueError("Key backend: 'unknown' is not a valid value for backend")
    monkeypatch.setattr(plot, "draw", fail)
    train.main([*RUN, "--out_dir=new"])
    said = capsys.readouterr().out
    assert "note    no plots: Key backend: 'unknown'" in said and "next    python -m gpt.sample" in said


def test_characters_that_a_stream_does_not_have_become_question_marks(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    with streams_may_fail():
        print("3 ± 1")
    assert raw.getvalue() == b"3 ? 1\n"


@posix
@pytest.mark.parametrize("streams", [">&- 2>&- <&-", ">/dev/full 2>/dev/full", "| true"])
def test_train_py_ends_with_status_0_where_its_streams_are_closed_full_or_not_read(streams):
    if "/dev/full" in streams and not Path("/dev/full").exists():
        streams = ">&-"
    done = subprocess.run(["bash", "-c", f'set -o pipefail; "$@" {streams}', "bash", sys.executable, "-W", "error",
                           str(ROOT / "train.py"), *RUN, "--max_iters=1", "--out_dir=new"], capture_output=True)
    assert done.returncode == 0 and Path("new/loss.png").exists() and done.stderr.count(b"\n") <= 1, done.stderr


def test_a_training_in_a_thread_trains_and_prints_why_it_ended(capsys):
    def ignoring_the_exit(*options):                    # as threading does; pytest does not
        with contextlib.suppress(SystemExit):
            train.main([*RUN, *options])
    for options in (["--out_dir=new"], ["--out_dir=other", "--learning_rate=1e38", "--grad_clip=0"], ["--n_head=3"]):
        thread = threading.Thread(target=ignoring_the_exit, args=options)
        thread.start()
        thread.join()
    assert checkpoint.newest_step(Path("new")) == 6
    err = capsys.readouterr().err.splitlines()
    assert len(err) == 2 and "training diverged" in err[0] and "n_head" in err[1]


@pytest.mark.parametrize("name", ["my run; rm -rf $HOME", "-dash", "it's"])
def test_printed_commands_quote_the_folder(capsys, name):
    train.main([*RUN, f"--out_dir={name}"])
    commands = capsys.readouterr().out.partition("next ")[2].splitlines()
    for command in commands[:2]:
        shell = subprocess.run(["bash", "-c", command.strip().replace("python", 'printf "%s\\n"', 1)],
                               capture_output=True, text=True, check=True)
        assert f"--out_dir={name}" in shell.stdout.splitlines()


@posix
def test_an_ignored_hangup_stays_ignored():
    """As under nohup. If it is not ignored, the first one ends the run after its step."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, received_after in ((signal.SIG_IGN, []), (signal.SIG_DFL, [signal.SIGHUP])):
            signal.signal(signal.SIGHUP, handler)
            with stop_signals() as received:
                os.kill(os.getpid(), signal.SIGHUP)
                assert received == received_after
            assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)


# ---- memory ----

@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_counted_before_the_model_is_made(bias, tied):
    shape = GPTConfig(block_size=5, vocab_size=7, n_layer=3, n_head=2, n_embd=6, bias=bias, tied=tied)
    assert parameter_count(shape) == sum(p.size for p in GPT(shape).parameters())


@pytest.mark.parametrize("option", ["--n_embd=400000", "--n_layer=1000000000", "--batch_size=1000000000",
                                    "--block_size=100000000", "--gradient_accumulation_steps=10000000000"])
def test_a_model_that_does_not_fit_into_memory_is_refused_at_once(capsys, option):
    line = exits_with_one_line(capsys, train.main, ["--dataset=stars.txt", option, "--out_dir=new"])
    assert line.startswith("train.py: out of memory: training takes about ") and f": lower {option}" in line
    assert not Path("new").exists()


def test_the_default_model_fits_into_little_memory(monkeypatch):
    monkeypatch.setattr("gpt.run.failures.memory", lambda: 100e6)
    check_memory(Options())
    with pytest.raises(ValueError, match="there are 0.1: lower --n_embd=768"):
        check_memory(Options(n_embd=768))


def test_a_lack_of_memory_while_the_model_is_made_names_the_options(capsys, monkeypatch):
    def too_much(*_):
        raise MemoryError("Unable to allocate 3 TiB")
    for place, name in ((lab, "GPT"), (GPT, "configure_optimizer")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, too_much)
            line = exits_with_one_line(capsys, train.main, [*RUN, "--batch_size=99", f"--out_dir=new {name}"])
            assert "out of memory: Unable to allocate 3 TiB; lower --batch_size=99" in line


def test_verify_takes_the_folder_with_and_without_out_dir(monkeypatch):
    monkeypatch.setattr(verify, "train_and_kill", lambda run, step, *_: str(step))
    assert verify.main(["run", "--steps", "2"]) == verify.main(["--out_dir", "run", "--steps=2"]) == 0
