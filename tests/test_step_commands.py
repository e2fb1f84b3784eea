"""The command lines of the stepper: python -m minigrad.step, python -m gpt.step, train.py --step_at."""
import dataclasses
import importlib.metadata
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from gpt2_folder import write_folder

import train
from gpt import example, model_folder, step
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, plot
from gpt.run.lr_schedule import learning_rate
from gpt.run.options import configure
from gpt.text import fables
from gpt.text.tokenizer import CharTokenizer
from minigrad.step import __main__ as command
from minigrad.step import examples

ROOT = Path(__file__).parent.parent
TEXT = "".join(f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl", "hare"))
SHORT = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=4", "--max_iters=6",
         "--warmup_iters=2", "--eval_interval=3", "--eval_iters=2", "--log_interval=2", "--checkpoint_interval=2",
         "--keep=9", "--sample_interval=0", "--dropout=0.1", "--gradient_accumulation_steps=2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of six steps with checkpoints at 0, 2, 4 and 6; beside it the same run with --step_at=3."""
    folder = tmp_path_factory.mktemp("step")
    (folder / "stars.txt").write_text(TEXT, "utf-8")
    patch = pytest.MonkeyPatch()
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        patch.setattr(plot, name, lambda *_: None)
    for name, options in (("run", []), ("stepped", ["--step_at=3"])):
        train.main([f"--dataset={folder / 'stars.txt'}", f"--out_dir={folder / name}", *SHORT, *options])
    patch.undo()
    return folder / "run"


@pytest.fixture
def commands(monkeypatch):
    """Commands on stdin."""
    monkeypatch.setenv("COLUMNS", "100")
    return lambda *lines: monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def exits_with(status, capsys, main, arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == status
    errors = capsys.readouterr().err.strip()
    assert "Traceback" not in errors and len(errors.splitlines()) == 1
    return errors


# ---- python -m minigrad.step ----

def test_the_default_is_the_tiny_example(commands, capsys):
    commands("n", "q")
    assert command.main([]) == 0
    said = capsys.readouterr().out
    assert "'banana'" in said and "── step 1/6  linear" in said and "\x1b" not in said


def test_the_terminal_ends_with_its_pipe(commands, capsys):
    commands("l")
    assert command.main(["--no-color"]) == 0
    assert capsys.readouterr().out.endswith("(step) \n")


def test_op_starts_at_that_op(commands, capsys):
    commands("q")
    command.main(["--op", "attention"])
    said = capsys.readouterr().out
    assert "  attention  minigrad/step/examples.py:" in said and "causal=True" in said


def test_until_starts_at_a_breakpoint(commands, capsys):
    commands("q")
    command.main(["--until", "fc.weight"])
    assert "── step 5/6" in capsys.readouterr().out


@pytest.mark.parametrize("example", ["tiny", "gpt"])
def test_out_writes_a_page_and_starts_no_terminal(example, tmp_path, capsys):
    page = tmp_path / "step.html"
    assert command.main(["--example", example, "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert said == f"wrote {page}, {page.stat().st_size / 1e6:.2f} MB: open it in a browser, {page.as_uri()}\n"


def test_the_address_of_a_page_is_right_for_a_relative_path_with_a_space(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command.main(["--out", "my page.html"])
    address = capsys.readouterr().out.split()[-1]
    assert address == f"{tmp_path.as_uri()}/my%20page.html"


@pytest.mark.parametrize("arguments, message", [
    (["--op", "atention"], "there is no op 'atention'; did you mean attention?"),
    (["--example", "tyni"], "there is no example 'tyni'; there are: bug1, bug2, bug3, gpt, tiny"),
    (["--op", "exp", "--example", "tiny"], "give --op or --example, not both"),
    (["--until", "cross"], "nearest: cross_entropy"),
    (["--until", "norm > x"], "'x' is not a number"),
    (["--until", "bad"], "bad stops at none of the 7 steps"),
    (["--out", "nowhere/step.html"], "nowhere/step.html"),
    (["--oops"], "--oops"),
])
def test_bad_input_ends_with_status_2_and_one_line(arguments, message, capsys):
    assert message in exits_with(2, capsys, command.main, arguments)


def test_a_package_registers_an_example_as_an_entry_point(monkeypatch, commands, capsys):
    entry = importlib.metadata.EntryPoint("mine", "minigrad.step.examples:tiny", examples.GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints([entry]))
    commands("q")
    assert command.main(["--example", "mine"]) == 0
    assert "'banana'" in capsys.readouterr().out
    assert "there are: bug1, bug2, bug3, mine, tiny" in exits_with(2, capsys, command.main, ["--example", "gpt"])


def test_where_no_package_is_installed_the_error_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: importlib.metadata.EntryPoints())
    errors = exits_with(2, capsys, command.main, ["--example", "gpt"])
    assert "there are: bug1, bug2, bug3, tiny" in errors and "pip install -e ." in errors


def test_the_axes_of_the_tiny_example_have_different_sizes():
    record = examples.tiny()
    sizes = {n for v in record.views for x in v.inputs for n in x.shape}
    assert len(record.labels["token"]) == 5 and sizes == {3, 4, 5, 7}
    assert any(x.earlier is not None for v in record.views for x in v.inputs)     # a Tensor is used twice
    assert all(v.created_at.startswith("minigrad/step/examples.py") for v in record.views)


def test_the_gpt_example_runs_from_the_command_line(tmp_path):
    said = subprocess.run([sys.executable, "-W", "error", "-m", "minigrad.step", "--example", "gpt"], cwd=ROOT,
                          input="j attention\nwhy dq\nq\n", capture_output=True, check=True, encoding="utf-8").stdout
    assert "attention → h.1.attn  gpt/model.py:" in said and "✓ all" in said


# ---- python -m gpt.step ----

def test_the_default_is_the_newest_checkpoint(run, commands, capsys):
    commands("o", "q")
    step.main([f"--out_dir={run}"])
    said = " ".join(capsys.readouterr().out.split())
    assert "training step 6 on" in said and "wte.weight" in said and "all at once" in said
    assert "row 1 of the batch of 8 x 8 tokens: loss and gradients are those of these tokens alone" in said


def test_at_the_end_of_the_schedule_the_update_is_shown_with_a_tenth_of_the_largest_learning_rate(run):
    """The cosine is 0 there: the update would be 0, too."""
    record = step.training_step(*step.load(run, -1))
    (u, *_) = record.optimizer_step.updates
    assert u.given["t"] == 7 and u.given["lr"] == pytest.approx(8e-4) and np.abs(u.change).max() > 0.0
    assert "the learning rate of step 6 is 0" in record.notes[0]
    assert "0.0008, a tenth of the run's largest" in record.notes[0]
    assert "learning rate" not in step.training_step(*step.load(run, 4)).notes[0]


def test_the_record_has_the_runs_weights_moments_learning_rate_and_batch(run):
    model, optimizer, its_data, options, at = step.load(run, 2)
    record = step.training_step(model, optimizer, its_data, options, at)
    weights = checkpoint.weights(checkpoint._first_intact([run / "checkpoints" / "step_000002.json"])[1])
    assert all(np.array_equal(leaf.numpy(), weights[name]) for name, leaf in record.leaves.items())
    x, y = its_data.train.batch(8, 8, 1337, 2)
    idx = next(v for v in record.views if v.name == "wte").step.static["idx"]
    assert np.array_equal(idx, x[:1])
    assert "".join(record.labels["token"]) == its_data.tokenizer.decode(x[0]).replace(" ", "␣").replace("\n", "\\n")
    u = record.optimizer_step.updates[0]
    assert u.given["t"] == 3 and u.given["lr"] == learning_rate("cosine", 2, 2, 6, options["learning_rate"], 0.0)
    assert np.abs(u.given["m"]).max() > 0.0
    assert record.optimizer_step.clip and any(v.op == "dropout" for v in record.views)


def test_a_prompt_replaces_the_batch(run, commands, capsys):
    commands("j wte", "q")
    step.main([f"--out_dir={run}", "--at=0", "--prompt=the fox"])
    said = capsys.readouterr().out
    assert "training step 0 on" in said and "prompt" not in said and "batch" not in said
    labels = [line.split()[0] for line in said.split("dy 1x6x16")[1].splitlines()[3:9]]
    assert labels == list("the␣fo")


@pytest.mark.parametrize("context, shown, reason", [
    (8, 8, "as the model's context is 8 tokens"), (64, 16, "as more do not fit on a screen")])
def test_a_prompt_that_is_cut_says_why_and_how_to_see_the_rest(run, context, shown, reason):
    _, _, its_data, options, _ = step.load(run, 0)
    model = GPT(GPTConfig(context, len(its_data.tokenizer), 1, 2, 16))
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    record = step.training_step(model, optimizer, its_data, options, 0, "the fox sees 3 stars\nthe owl sees")
    assert len(record.labels["token"]) == shown
    assert record.notes == [f"the prompt has 33 tokens: the first {shown} are read, {reason}, and each predicts the "
                            "next; to see another part, give that part as --prompt"]


def test_a_batch_that_is_cut_says_why(run):
    _, _, its_data, options, _ = step.load(run, 0)
    model = GPT(GPTConfig(64, len(its_data.tokenizer), 1, 2, 16))
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    record = step.training_step(model, optimizer, its_data, options | {"block_size": 64}, 0)
    assert record.notes == ["row 1 of the batch of 8 x 64 tokens, and of it the first 16 tokens, as more do not fit on "
                            "a screen: loss and gradients are those of these tokens alone"]


def test_out_writes_the_page_of_a_run(run, tmp_path, capsys):
    step.main([f"--out_dir={run}", f"--out={tmp_path / 'step.html'}"])
    assert "wrote" in capsys.readouterr().out and (tmp_path / "step.html").stat().st_size > 10_000


@pytest.mark.parametrize("options, message", [
    ([], "which model? Give --model=FOLDER, the folder of a GPT-2 or a run"),
    (["--out_dir=RUN", "--model=RUN"], "are two models: give one of them"),
    (["--model=nowhere"], "nowhere is no folder: nothing is downloaded"),
    (["--model=RUN", "--at=3"], "has no checkpoint of step 3; it has 0, 2, 4, 6"),
    (["--out_dir=nowhere"], "nowhere holds no run"),
    (["--out_dir=RUN", "--at=3"], "has no checkpoint of step 3; it has 0, 2, 4, 6"),
    (["--out_dir=RUN", "--prompt=t"], "--prompt='t' has 1 token: give at least two"),
    (["--out_dir=RUN", "--prompt="], "--prompt='' has 0 tokens: give at least two, one to read and one to predict"),
    (["--out_dir=RUN", "--prompt=the cat"], "has no token for 'c'"),
    (["--out_dir=RUN", "--out=nowhere/step.html"], "nowhere/step.html"),
    (["--out_dir=RUN", "--promt=the fox"], "did you mean --prompt?"),
])
def test_bad_input_to_gpt_step_ends_with_status_2_and_one_line(run, options, message, capsys):
    errors = exits_with(2, capsys, step.main, [o.replace("RUN", str(run)) for o in options])
    assert errors.startswith("gpt.step: ") and message in errors


def test_the_folder_of_a_run_can_be_given_as_that_of_a_model(run, commands, capsys):
    outputs = []
    for option in ("out_dir", "model"):
        commands("j wte", "q")
        step.main([f"--{option}={run}", "--at=2", "--prompt=the fox"])
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != ""


# ---- a GPT-2 ----

def test_the_first_step_of_fine_tuning_a_gpt2_is_recorded_with_its_weights_and_learning_rate(tmp_path):
    pytest.importorskip("tokenizers")
    model, tokenizer = model_folder.load(write_folder(tmp_path, vocab_size=384))
    record = step.training_step(*step.pretrained(tmp_path), prompt="the quick brown fox")
    assert all(np.array_equal(leaf.data, model.state_dict()[name]) for name, leaf in record.leaves.items())
    tokens = tokenizer.encode("the quick brown fox")
    assert "".join(record.labels["token"]) == tokenizer.decode(tokens[:-1]).replace(" ", "␣")
    assert record.loss == pytest.approx(model(tokens[None, :-1], tokens[None, 1:])[1].item(), rel=1e-6)
    update = record.optimizer_step.updates[0]
    assert float(update.given["lr"]) == pytest.approx(3e-5) and float(update.given["t"]) == 1
    assert all(view.report.ok for view in record.views)


def test_a_gpt2_is_stepped_through_on_a_sentence_by_default(tmp_path, commands, capsys):
    pytest.importorskip("tokenizers")
    commands("j wte", "q")
    step.main([f"--model={write_folder(tmp_path)}"])
    said = " ".join(capsys.readouterr().out.split())
    assert f"training step 0 on a text, from the weights in {tmp_path}" in said


def test_a_model_whose_record_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch, capsys):
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(step, "memory", lambda: 300_000.0)
    errors = exits_with(2, capsys, step.main, [f"--model={write_folder(tmp_path)}"])
    assert errors.startswith("gpt.step: out of memory: the record of a step takes about 0.0 GB")


def test_the_checkpoint_of_a_gpt2_is_refused(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    errors = exits_with(2, capsys, step.main, [f"--model={write_folder(tmp_path)}", "--at=3"])
    assert errors == f"gpt.step: {tmp_path} has no checkpoints, as it is no run: leave out --at=3"


def test_stepping_changes_no_file_of_the_run(run, commands):
    commands("why", "q")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    step.main([f"--out_dir={run}"])
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_invisible_characters_of_a_token_are_made_visible():
    tokenizer = CharTokenizer(" \n\ta'")
    assert [step.visible(i, tokenizer) for i in range(5)] == ["␣", "\\n", "\\t", "a", "'"]


@pytest.fixture(scope="module")
def example_record():
    return step.example()


def test_the_gpt_example_is_labelled_with_its_text_and_passes_all_checks(example_record):
    words = "".join(example_record.labels["token"]).replace("␣", " ").replace("\\n", "\n")
    assert words == example.PROMPT[:-1] and words in fables.text(50_000, 0)
    assert all(v.report.ok for v in example_record.views) and example_record.views[0].dys["dy"].dtype == np.float64
    assert example_record.title == "training step 4000 on fables" and not example_record.notes


def test_the_heads_of_the_gpt_example_attend_to_something(example_record):
    """At the space after "'is the" a head of the second layer attends to the thing that the line before has named, and
    one of the first layer to the quote, which tells that this line is the question."""
    second, first = (next(iter(line.values["P"] for line in v.forward.lines[::-1] if "P" in line.values))[0]
                     for v in example_record.views if v.op == "attention")                          # (nh, T, T)
    space = example.PROMPT.rindex(" ")
    assert second[:, space, :3].sum(axis=-1).max() > 0.9                    # "fig"
    assert first[:, space, example.PROMPT.index("'")].max() > 0.8
    assert np.exp(-example_record.loss) > 0.7                               # the mean probability of the next character


def test_the_gpt_example_has_been_trained_and_its_file_is_small(example_record):
    """A trained weight's moments are such that a step of AdamW is smaller than lr, by which it moves at t = 1."""
    assert example.PATH.stat().st_size < 180_000
    for u in example_record.optimizer_step.updates:
        assert (u.given["t"], u.given["lr"]) == (4001, 5e-4)
        m, v = (u.given[name][u.given["v"] > 0.0] for name in "mv")
        assert 0.0 < np.median(np.abs(m) / np.sqrt(v)) < 0.5


def test_the_command_that_trains_the_gpt_example_writes_a_file_that_the_example_reads(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "PATH", tmp_path / "example.safetensors")
    monkeypatch.setattr(example, "OPTIONS", dataclasses.replace(example.OPTIONS, max_iters=2, warmup_iters=1))
    monkeypatch.setattr(example, "CHARACTERS", 200_000)
    assert example.main() == 0
    assert f"wrote {tmp_path / 'example.safetensors'}" in capsys.readouterr().out
    assert step.example().title == "training step 2 on fables"


# ---- train.py --step_at ----

def test_step_at_changes_no_bit_of_the_run(run):
    for name in ("step_000004.safetensors", "step_000006.safetensors"):
        assert (run / "checkpoints" / name).read_bytes() == (run.parent / "stepped" / "checkpoints" / name).read_bytes()
    assert (run.parent / "stepped" / "step-3.html").stat().st_size > 10_000 and not list(run.glob("step*"))


def test_a_run_without_this_option_in_its_config_can_be_resumed(run, tmp_path):
    shutil.copytree(run, tmp_path / "old")
    config = json.loads((tmp_path / "old" / "config.json").read_text("utf-8"))
    del config["options"]["step_at"], config["sha256"]
    (tmp_path / "old" / "config.json").write_text(json.dumps(config), "utf-8")
    options, sources, changes = configure(["--init_from=resume", f"--out_dir={tmp_path / 'old'}"])
    assert options.step_at == -1 and sources["step_at"] == "default" and not changes
    assert sources["n_layer"] == "command line"


@pytest.mark.parametrize("at", [-2, 6])
def test_a_step_outside_the_run_is_refused(at, tmp_path, capsys):
    errors = exits_with(2, capsys, train.main, [f"--out_dir={tmp_path}", *SHORT, f"--step_at={at}"])
    assert f"--step_at={at}" in errors and "0 to 5" in errors
