"""gpt/lab.py: each mistake breaks what it says, and a broken run is never taken for a whole one."""
import json
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import train
from gpt import lab, sample, step, verify
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder, plot
from gpt.run.options import configure
from minigrad import functional as F, optim
from minigrad.parallel import GradientSum, World

SHAPE = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8)
X, Y = np.random.default_rng(0).integers(0, 11, (2, 3, 8))


def broken(mistake, dtype="float64"):
    model = lab.make(mistake, SHAPE, dtype=dtype)
    for p in model.parameters():                # larger weights than at first, so that attention is not uniform
        p.data = 20.0 * p.data if p.ndim == 2 else p.data
    return model


def logits(model, x):
    return model(x)[0].numpy()


def depends(model):
    """[t, s]: whether the logits of position t change with token s."""
    before = logits(model, X[:1])[0]                                                    # (T, V)
    found = np.zeros((8, 8), bool)
    for s in range(8):
        x = X[:1].copy()
        x[0, s] = (x[0, s] + 1) % 11
        found[:, s] = abs(logits(model, x)[0] - before).max(axis=1) > 1e-9
    return found


# ---- the mistakes ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mistake", ["", *lab.BREAKS])
def test_a_broken_model_has_the_parameters_of_a_whole_one_with_their_first_values(mistake):
    whole, model = GPT(SHAPE), lab.make(mistake, SHAPE)
    assert type(model) is (lab.BrokenGPT if mistake else GPT)
    for (name, p), (other, q) in zip(whole.named_parameters(), model.named_parameters(), strict=True):
        assert name == other and np.array_equal(p.data, q.data)


@pytest.mark.parametrize("mistake, mask", [("", np.tri(8)), ("no-mask", np.ones((8, 8))), ("no-scale", np.tri(8))])
def test_what_a_position_depends_on(mistake, mask):
    assert np.array_equal(depends(broken(mistake)), mask.astype(bool))


def test_a_mask_that_is_off_by_one_shows_one_position_more_per_layer_or_none_at_the_start():
    assert np.array_equal(depends(broken("mask-ahead")), np.tri(8, k=2, dtype=bool))    # two layers
    attention = broken("mask-behind").h[0].attn
    x = mg.Tensor(np.random.default_rng(1).normal(size=(1, 8, 8)))
    assert np.array_equal(attention(x, None).numpy()[0, 0], attention.c_proj.bias.data)
    assert abs(attention(x, None).numpy()[0, 1] - attention.c_proj.bias.data).max() > 1e-3


def test_scores_without_the_scale_are_those_of_a_whole_model_with_a_larger_query():
    whole, model = broken(""), broken("no-scale")
    for block in whole.h:
        weight = block.attn.c_attn.weight                                               # (C, 3C), the query first
        weight.data = weight.data * np.repeat([2.0, 1.0, 1.0], 8)                       # sqrt(4), of a head's size
    assert np.allclose(logits(whole, X), logits(model, X), atol=1e-12)


def test_the_targets_of_a_model_with_a_mistake_in_them():
    whole = broken("")
    z = mg.Tensor(logits(whole, X))
    assert broken("y-is-x").loss(X, Y).item() == pytest.approx(F.cross_entropy(z, X).item(), abs=1e-12)
    two = F.cross_entropy(z[:, :-1], Y[:, 1:])
    assert broken("shift-two").loss(X, Y).item() == pytest.approx(two.item(), abs=1e-12)
    counted = lab.unequal(X, Y) != -100
    assert len(set(counted.sum(axis=1))) > 1 and (counted[:, :-1] >= counted[:, 1:]).all() and counted[:, 0].all()


def test_a_model_is_sampled_from_without_targets_and_without_a_cache():
    for mistake in lab.BREAKS:
        model = broken(mistake)
        tokens = model.generate(X[:1, :3], 6, seed=1)
        assert tokens.shape == (1, 9) and np.array_equal(tokens, model.generate(X[:1, :3], 6, seed=1, use_cache=False))


def test_layers_without_residual_or_norm():
    x = mg.Tensor(np.random.default_rng(1).normal(size=(1, 8, 8)))
    block = broken("no-residual").h[0]
    assert np.allclose(block(x, None).numpy(), block.mlp(block.ln_2(block.attn(block.ln_1(x), None)), None).numpy())
    norm = broken("no-layer-norm").ln_f
    assert np.array_equal(norm(x).numpy(), x.numpy())


def one_parameter(mistake):
    model = lab.make(mistake, SHAPE, dtype="float64")
    return model, model.configure_optimizer(0.0, (0.9, 0.99)), model.ln_f.bias


def test_gradients_that_are_not_set_to_zero_add_up():
    model, optimizer, p = one_parameter("no-zero-grad")
    model.loss(X, Y).backward()
    once = p.grad.copy()
    optimizer.zero_grad()
    model.loss(X, Y).backward()
    assert np.allclose(p.grad, 2 * once)


def test_without_bias_correction_two_equal_gradients_make_steps_of_other_lengths():
    lengths = {}
    for mistake in ("", "no-bias-correction"):
        model, optimizer, p = one_parameter(mistake)
        lengths[mistake] = []
        for _ in range(2):
            before = p.data.copy()
            p.grad = np.ones(8)
            optimizer.step()
            lengths[mistake].append(abs(p.data - before)[0] / optimizer.groups[1]["lr"])
    assert np.allclose(lengths[""], [1.0, 1.0]) and np.allclose(lengths["no-bias-correction"], [1.0, 1.347], atol=1e-3)


def test_a_mean_of_means_is_another_gradient_than_that_of_the_whole_batch():
    def gradient(parts):
        model = broken("mean-of-means")
        sums = GradientSum(list(model.parameters()), parts, World())
        train.accumulate_gradient(model, sums, X, Y, seed=0, step=0)
        sums.total()
        return model.wte.weight.grad
    assert np.linalg.norm(gradient(3) - gradient(1)) > 0.1 * np.linalg.norm(gradient(1))


# ---- runs -----------------------------------------------------------------------------------------------------------

SHORT = ["--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=4", "--max_iters=4",
         "--warmup_iters=1", "--eval_interval=2", "--eval_iters=1", "--log_interval=1", "--checkpoint_interval=2",
         "--threads=1"]


@pytest.fixture
def text(tmp_path, monkeypatch):
    """A text in the current folder; no plots are drawn."""
    monkeypatch.chdir(tmp_path)
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        monkeypatch.setattr(plot, name, lambda *_: None)
    lines = [f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl")]
    Path("stars.txt").write_text("".join(lines), "utf-8")


def run(*options):
    train.main(["--dataset=stars.txt", *SHORT, *options])


def fails(capsys, call, *arguments):
    """The one line that a command prints before it exits with status 2."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        call(list(arguments))
    said = capsys.readouterr().err
    assert end.value.code == 2 and said.count("\n") == 1
    return said


@pytest.mark.parametrize("mistake", lab.BREAKS)
def test_a_broken_run_says_so_in_every_line_and_in_its_config(mistake, text, capsys):
    run(f"--break={mistake}", "--out_dir=run")
    out, err = capsys.readouterr()
    lines = [line for line in (out + err).replace("\r", "\n").splitlines() if line.strip()]
    assert len(lines) > 10 and all(line.startswith(f"BROKEN {mistake} | ") for line in lines)
    options = json.loads(Path("run/config.json").read_text("utf-8"))["options"]
    assert options["break_"]["value"] == mistake


def test_a_broken_run_that_diverges_says_so_too(text, capsys):
    with pytest.raises(SystemExit) as end:
        run("--break=no-layer-norm", "--out_dir=run", "--learning_rate=1e9", "--grad_clip=0", "--max_iters=20")
    assert end.value.code.startswith("BROKEN no-layer-norm | ") and "training diverged" in end.value.code


def test_a_progress_bar_begins_each_of_its_lines_with_the_mistake(capsys):
    with lab.lines_say("no-mask"):
        for text in ("\r", "1/3", " loss", "\r2/3\r", "\n", "\nend\n", ""):
            sys.stderr.write(text)
    label = "BROKEN no-mask | "
    assert capsys.readouterr().err == f"\r{label}1/3 loss\r{label}2/3\r\n\n{label}end\n"


def test_the_mistake_decides_on_options_where_it_must(text):
    assert configure(["--break=no-warmup"])[0].warmup_iters == 0
    o, sources, _ = configure(["--break=mean-of-means", "--batch_size=12"])
    assert (o.gradient_accumulation_steps, o.batch_size) == (4, 3) and sources["batch_size"] == "break mean-of-means"
    assert configure(["--break=mean-of-means", "--gradient_accumulation_steps=2"])[0].batch_size == 12
    Path("o.toml").write_text("break = 'no-mask'\n")
    assert configure(["--config=o.toml"])[0].break_ == "no-mask"


def test_a_broken_run_is_resumed_with_its_mistake_alone(text, capsys):
    run("--break=no-mask", "--out_dir=run")
    resume = ["--init_from=resume", "--out_dir=run", "--max_iters=6"]
    assert "it is resumed with --break=no-mask alone, not as a whole one" in fails(capsys, train.main, *resume)
    assert "not with --break=no-scale" in fails(capsys, train.main, *resume, "--break=no-scale")
    capsys.readouterr()
    train.main([*resume, "--break=no-mask"])
    assert checkpoint.newest_step(Path("run")) == 6
    assert "--init_from=resume --out_dir=run --max_iters=12 --break=no-mask" in " ".join(
        capsys.readouterr().out.replace("BROKEN no-mask | ", "").split())


def test_a_whole_run_is_not_resumed_with_a_mistake(text, capsys):
    run("--out_dir=run")
    before = Path("run/config.json").read_bytes()
    said = fails(capsys, train.main, "--init_from=resume", "--out_dir=run", "--break=no-mask")
    assert "run is a whole run, which cannot be resumed with --break=no-mask" in said
    assert Path("run/config.json").read_bytes() == before


def test_a_run_without_zero_grad_is_not_resumed(text, capsys):
    run("--break=no-zero-grad", "--out_dir=run")
    said = fails(capsys, train.main, "--init_from=resume", "--out_dir=run", "--break=no-zero-grad")
    assert "cannot be resumed, as the gradients that it adds up are in no checkpoint" in said


def test_sampling_and_stepping_say_that_a_run_is_broken_and_verifying_refuses_it(text, capsys):
    run("--break=no-mask", "--out_dir=run")
    warning = "run is a broken run, --break=no-mask: every position attends to the whole window"
    capsys.readouterr()
    sample.main(["--out_dir=run", "--max_new_tokens=3"])
    assert warning in capsys.readouterr().err
    loaded = step.load(Path("run"), -1)
    assert warning in capsys.readouterr().err and type(loaded[0]) is lab.BrokenGPT
    assert any("--break=no-mask" in note for note in step.training_step(*loaded).notes)
    assert warning in fails(capsys, verify.main, "run")


def test_a_resumed_broken_run_has_the_bits_of_one_in_one_go(text):
    run("--break=no-bias-correction", "--out_dir=whole", "--max_iters=6")
    run("--break=no-bias-correction", "--out_dir=parts", "--lr_schedule=constant")
    run("--break=no-bias-correction", "--out_dir=straight", "--max_iters=6", "--lr_schedule=constant")
    train.main(["--init_from=resume", "--out_dir=parts", "--max_iters=6", "--break=no-bias-correction"])
    newest = [checkpoint.newest_first(Path(name))[0].with_suffix(".safetensors") for name in ("parts", "straight")]
    assert newest[0].read_bytes() == newest[1].read_bytes()


@pytest.mark.parametrize("given, words", [
    ("no-masc", "did you mean no-mask?"), ("mask", "--break must be one of no-mask, mask-ahead"),
])
def test_an_unknown_mistake_is_refused_with_the_nearest_one(given, words, text, capsys):
    assert words in fails(capsys, train.main, "--dataset=stars.txt", f"--break={given}")


def test_the_option_without_a_mistake_is_refused(text, capsys):
    assert "--break expects a value" in fails(capsys, train.main, "--dataset=stars.txt", "--break")


def test_a_whole_run_says_nothing_of_the_lab(text, capsys):
    run("--out_dir=run")
    assert "BROKEN" not in "".join(capsys.readouterr())
    assert folder.read_config(Path("run"))[0]["break_"] == ""
    model = lab.make("", SHAPE)
    assert type(model.configure_optimizer(0.1, (0.9, 0.99))) is optim.AdamW
