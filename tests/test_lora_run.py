"""Runs that train adapters: resumed bit for bit, sampled, stepped through and merged from their folder alone."""
import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from mpirun import TEXT
from test_lora import close
from test_resume import in_a_copy, outcome, resume  # noqa: F401 (a fixture of every test)

import minigrad as mg
import train
from gpt import lora, merge, model_folder, sample, step, verify
from gpt.model import GPT, GPTConfig
from gpt.run import base, checkpoint, plot
from gpt.text import tokenizer
from gpt.text.dataset import open_data
from minigrad import optim

RUN = ["--init_from=model", "--dataset=stars.txt",
       "--lora_rank=2", "--lora_alpha=4", "--lora_targets=c_attn,mlp.c_proj",
       "--batch_size=2", "--gradient_accumulation_steps=2", "--max_iters=8", "--warmup_iters=1", "--learning_rate=0.01",
       "--eval_interval=2", "--eval_iters=2", "--checkpoint_interval=2", "--stats_interval=3", "--keep=2",
       "--sample_interval=0"]
ADAPTERS = [f"h.0.{layer}.lora_{which}" for layer in ("attn.c_attn", "mlp.c_proj") for which in "AB"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a small model, a text and, in "complete", an uninterrupted run that trains adapters."""
    prepared = tmp_path_factory.mktemp("prepared")
    model = GPT(GPTConfig(block_size=8, vocab_size=256, n_layer=1, n_head=2, n_embd=8), seed=3)
    model.save_pretrained(prepared / "model")
    tokenizer.to_folder(prepared / "model", tokenizer.ByteTokenizer())
    (prepared / "stars.txt").write_text(TEXT, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(prepared)
        for name in ("loss_curve", "lr_curve", "stats_maps"):
            patch.setattr(plot, name, lambda *_: None)
        train.main([*RUN, "--out_dir=complete"])
    return prepared


def files_of_adapters(out_dir):
    return [Path(out_dir, name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")]


def logits(model):
    with mg.no_grad():
        return model.eval()(np.arange(97, 105)[None])[0].numpy()


# ---- training ----

def test_only_adapters_change_and_are_in_the_checkpoints():
    tensors = safetensors.numpy.load_file("complete/checkpoints/step_000008.safetensors")
    assert set(tensors) == {prefix + name for name in ADAPTERS for prefix in ("", "optimizer.m.", "optimizer.v.")}
    assert all(tensors[name].any() for name in tensors)
    start, frozen = GPT.from_pretrained("model").state_dict(), safetensors.numpy.load_file("complete/base.safetensors")
    assert start.keys() == frozen.keys() and all(np.array_equal(frozen[name], start[name]) for name in start)
    rows = [json.loads(line) for line in Path("complete/stats.jsonl").read_text().splitlines()]
    assert {row["tensor"] for row in rows} == set(ADAPTERS)


def test_training_lowers_the_validation_loss():
    losses = [json.loads(line) for line in Path("complete/metrics.jsonl").read_text().splitlines()]
    losses = [row["val_loss"] for row in losses if "val_loss" in row]
    assert losses[-1] < losses[0]


def test_the_first_step_has_the_loss_of_the_model_and_the_header_the_numbers_of_parameters(capsys):
    train.main([*RUN, "--out_dir=run", "--max_iters=2"])
    out = " ".join(capsys.readouterr().out.split())
    whole, adapters = GPT.from_pretrained("model"), 2 * (8 + 24) + 2 * (32 + 8)
    n = sum(p.size for p in whole.parameters()) + adapters
    assert f"{n:,} parameters trained {adapters} of them" in out
    assert "adapters of rank 2, alpha 4 on c_attn,mlp.c_proj" in out
    first = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[0])
    x, y = open_data(Path("run")).val.windows(8, 4)
    assert first["val_loss"] == pytest.approx(whole.loss(x, y).item(), rel=1e-6)


# ---- resuming ----

@pytest.mark.parametrize("at", [3, 4])
def test_a_stopped_run_resumes_bit_for_bit_without_the_folder_it_started_from(monkeypatch, at):
    step, count = optim.AdamW.step, []

    def interrupted(self):
        step(self)
        count.append(1)
        if len(count) == at:
            os.kill(os.getpid(), signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(optim.AdamW, "step", interrupted)
        with pytest.raises(SystemExit):
            train.main([*RUN, "--out_dir=run"])
    shutil.rmtree("model")
    resume("run")
    assert outcome("run") == outcome("complete")
    assert files_of_adapters("run") == files_of_adapters("complete")


def test_a_run_without_a_checkpoint_starts_again_from_its_frozen_weights():
    expected = outcome("complete")
    shutil.rmtree("complete/checkpoints")
    shutil.rmtree("model")
    resume("complete")
    assert outcome("complete") == expected


def test_the_copy_that_verify_trains_has_the_frozen_weights():
    assert verify.copy_run(Path("complete"), Path("copy"), 2) == 6
    resume("copy")
    assert outcome("copy")[:2] == outcome("complete")[:2]


@pytest.mark.parametrize("option, words", [
    ("--lora_rank=4", "lora_rank 2 -> 4"), ("--lora_targets=c_attn", "lora_targets"), ("--lora_alpha=8", "lora_alpha"),
    ("--lora_rank=0", "lora_rank 2 -> 0")])
def test_other_adapters_are_refused_on_resume(capsys, option, words):
    with pytest.raises(SystemExit) as exit:
        resume("complete", option)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error and error.count("\n") == 1


@pytest.mark.parametrize("options, words", [
    (["--lora_rank=2"], "--lora_rank=2 trains adapters for a model that is trained already"),
    (["--lora_rank=-1"], "--lora_rank must not be negative"),
    (["--init_from=model", "--lora_rank=2", "--lora_alpha=0"], "alpha"),
    (["--init_from=model", "--lora_rank=2", "--lora_targets=c_atn"], "no layer of this GPT is called 'c_atn'"),
    (["--init_from=model", "--lora_rank=2", "--lora_targets="], "no layer of this GPT is called ''")])
def test_impossible_adapters_are_refused_in_one_line(capsys, options, words):
    with pytest.raises(SystemExit) as exit:
        train.main(["--dataset=stars.txt", "--out_dir=run", *options])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error and error.count("\n") == 1
    assert not Path("run").exists()


# ---- the frozen weights ----

def flip(path):
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def of_another_model(path):
    base.write(path.parent, freeze(GPT(GPTConfig(block_size=8, vocab_size=256, n_layer=1, n_head=2, n_embd=16))))


def of_another_dtype(path):
    base.write(path.parent, freeze(GPT(GPTConfig(8, 256, 1, 2, 8), dtype="float64")))


def freeze(model):
    for p in model.parameters():
        p.requires_grad = False
    return model


@pytest.mark.parametrize("damage, words", [
    (Path.unlink, "is missing"), (flip, "does not have the SHA-256"), (of_another_model, "has shape (256, 16)"),
    (of_another_dtype, "not of dtype float32"), (lambda path: path.write_bytes(path.read_bytes()[:-9]), "damaged")])
def test_damaged_frozen_weights_are_named_in_one_line(capsys, damage, words):
    damage(Path("complete/base.safetensors"))
    for command, arguments in ((train.main, ["--init_from=resume"]), (sample.main, []), (step.main, [])):
        with pytest.raises(SystemExit) as exit:
            command([*arguments, "--out_dir=complete"])
        error = capsys.readouterr().err
        assert exit.value.code == 2 and "complete/base.safetensors" in error and words in error
        assert error.count("\n") == 1


# ---- what is made of the run ----

def test_the_adapters_in_the_folder_are_those_of_the_best_checkpoint():
    model = GPT.from_pretrained("model")
    lora.load_adapters(Path("complete"), model)
    of_run, _ = checkpoint.load_model(Path("complete"))
    assert np.array_equal(logits(model), logits(of_run))
    assert json.loads(Path("complete/adapter_config.json").read_text())["base_model_name_or_path"] == "model"


def test_a_worse_checkpoint_leaves_the_adapters_of_the_best(tmp_path):
    model = GPT(GPTConfig(8, 256, 1, 2, 8))
    lora.add_adapters(model, 2, 4.0, ["c_attn"])
    optimizer, saved = model.configure_optimizer(0.0, (0.9, 0.99)), []
    for at, val_loss in enumerate([3.0, 2.0, 2.5, None, 2.0]):
        model.h[0].attn.c_attn.lora_B.data = np.full((2, 24), float(at))
        checkpoint.save(tmp_path, model, optimizer, at, val_loss)
        tensors = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
        saved.append(tensors["base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"][0, 0])
    assert saved == [0.0, 1.0, 1.0, 1.0, 4.0]


def test_merge_writes_a_whole_model_with_the_logits_of_the_run():
    merge.main(["--model=complete", "--out=whole"])
    whole, encoding = model_folder.load("whole")
    assert close(logits(whole), logits(checkpoint.load_model(Path("complete"))[0]), 1e-6) and len(encoding) == 256
    assert not close(logits(whole), logits(GPT.from_pretrained("model")), 1e-3)


def test_a_run_starts_from_the_merged_weights_of_a_run_with_adapters():
    started = model_folder.load_model("complete")
    assert started.adapters is None
    assert close(logits(started), logits(checkpoint.load_model(Path("complete"))[0]), 1e-6)


def test_a_step_shows_the_ops_of_the_adapters():
    views = step.training_step(*step.load(Path("complete"), -1)).views
    ops = [(view.op, [x.leaf for x in view.inputs if x.leaf]) for view in views
           if view.step.node.module == "h.0.mlp.c_proj"]
    A, B = (f"h.0.mlp.c_proj.lora_{which}" for which in "AB")
    assert ops == [("add", []), ("linear", [B]), ("mul", []), ("linear", [A]), ("linear", [])]      # the last: x W + b
