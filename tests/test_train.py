"""train.py and gpt/run: a training step, learning-rate schedules, plots, options, and short runs."""
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings, strategies as st

import fake_device
import minigrad as mg
import train
from gpt import sample
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder, plot
from gpt.run.command_line import help_text, parse, spelled
from gpt.run.estimates import activation_bytes
from gpt.run.evaluate import evaluate
from gpt.run.failures import exit_diverged
from gpt.run.lr_schedule import SCHEDULES, decay_start, learning_rate
from gpt.run.options import Options, configure
from gpt.run.plot import loss_curve, lr_curve, spread, stats_maps
from gpt.run.tensor_stats import tensor_stats
from gpt.text import batches, corpus
from gpt.text.baselines import reference_lines
from gpt.text.dataset import open_data
from minigrad import Tensor, functional as F, optim
from minigrad.kernels.vector.settings import settings as kernel_settings
from minigrad.parallel import GradientSum, World

ROOT = Path(__file__).parent.parent

TEXT = "".join(f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl", "hare"))
SHORT = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=4", "--max_iters=6",
         "--warmup_iters=2", "--eval_interval=3", "--eval_iters=2", "--log_interval=2", "--checkpoint_interval=3"]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "stars.txt"
    path.write_text(TEXT, "utf-8")
    return path


@pytest.fixture
def no_plots(monkeypatch):
    """Draw no plots: it takes most of the time of a short run."""
    for name in ("loss_curve", "lr_curve", "stats_maps"):
        monkeypatch.setattr(plot, name, lambda *_: None)


def run(text_file, out_dir, *options):
    """A short run in this process  ->  the tensors of its newest checkpoint."""
    train.main([f"--dataset={text_file}", f"--out_dir={out_dir}", *SHORT, *options])
    return saved(out_dir)


def saved(out_dir):
    newest = checkpoint.newest_first(out_dir)[0]
    return safetensors.numpy.load(newest.with_suffix(".safetensors").read_bytes())


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name].view("u1"), b[name].view("u1")) for name in a)


# ---- a training step ----

def accumulated(model, x, y, micro_steps, seed=0, step=0):
    """The loss of a step, whose gradient is then in the parameters."""
    sums = GradientSum(list(model.parameters()), micro_steps, World())
    train.accumulate_gradient(model, sums, x, y, seed, step)
    return sums.total()[0]


def test_accumulated_gradients_equal_the_gradient_of_the_whole_batch():
    """In float64 to 1e-12, with masked targets, and one micro-batch without any counted target."""
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8), dtype="float64")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (2, 6, 8))
    y[rng.random(y.shape) < 0.3] = -100
    y[2:4] = -100
    loss = model.loss(x, y)
    expected = mg.grad(loss, model.parameters())
    for parts in (1, 2, 3, 6):
        model.zero_grad()
        assert abs(accumulated(model, x, y, parts).item() - loss.item()) < 1e-12
        for p, g in zip(model.parameters(), expected):
            assert np.abs(p.grad - g.data).max() < 1e-12


def test_each_micro_batch_has_its_own_dropout_key():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8))
    keys, loss = [], model.loss
    model.loss = lambda x, y, key: keys.append(key) or loss(x, y, key)
    accumulated(model, *np.zeros((2, 6, 8), int), 3, seed=5, step=7)
    assert keys == [mg.random.key(5, 7, micro) for micro in range(3)]


def test_the_validation_loss_is_the_mean_over_windows_with_its_standard_error():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.5), dtype="float64")
    windows = np.random.default_rng(0).integers(0, 11, (7, 9))
    loss, error = evaluate(model, batches.pairs(windows), batch_size=3)
    assert model.training                                   # evaluated in eval mode: dropout got no key
    model.eval()
    each = [model.loss(w[None, :-1], w[None, 1:]).item() for w in windows]
    assert loss == pytest.approx(np.mean(each), abs=1e-12)
    assert error == pytest.approx(np.std(each, ddof=1) / math.sqrt(7), abs=1e-12)
    assert evaluate(model, batches.pairs(windows[:1]), batch_size=3)[1] is None


# ---- schedules ----

SCHEDULE = st.tuples(st.sampled_from(SCHEDULES), st.integers(0, 40), st.integers(1, 200), st.floats(1e-6, 1.0),
                     st.floats(0.0, 1.0))


@given(SCHEDULE)
@settings(max_examples=200, deadline=None)
def test_a_schedule_rises_to_max_lr_then_falls_to_min_lr(case):
    schedule, warmup, after, max_lr, share = case
    max_iters, min_lr = warmup + after, max_lr * share
    rates = [learning_rate(schedule, step, warmup, max_iters, max_lr, min_lr) for step in range(max_iters + 3)]
    start = decay_start(schedule, warmup, max_iters)
    assert warmup <= start <= max_iters
    assert all(0.0 < a < b for a, b in zip(rates[:warmup], rates[1:warmup + 1]))
    assert rates[warmup:start + 1] == [max_lr] * (start + 1 - warmup)
    assert all(a >= b for a, b in zip(rates[start:], rates[start + 1:]))
    assert rates[max_iters:] == pytest.approx([max_lr if schedule == "constant" else min_lr] * 3)


def test_schedules_equal_rates_computed_by_hand():
    def rates(schedule):
        return [round(learning_rate(schedule, step, 0, 10, 1.0, 0.5), 3) for step in (0, 5, 8, 9, 10)]
    assert rates("cosine") == [1.0, 0.75, 0.548, 0.512, 0.5]
    assert rates("linear") == [1.0, 0.75, 0.6, 0.55, 0.5]
    assert rates("constant") == [1.0] * 5
    assert rates("wsd") == [1.0, 1.0, 1.0, 0.75, 0.5]


# ---- plots ----

@pytest.mark.parametrize("title", ["$\\frac$", "a$b$c_$", "x\udcff", "文"])
def test_plots_are_drawn_under_any_title_and_for_losses_of_zero(tmp_path, recwarn, title):
    """The title has the name of the text; a text of one character is predicted without a loss."""
    metrics = [{"step": step, "train_loss": 0.0, "val_loss": 0.0, "val_se": None, "lr": 1e-3} for step in (0, 1)]
    plot.draw(tmp_path, Options(max_iters=200), title, metrics, [], {"ln V": 0.0}, "token")
    assert (tmp_path / "loss.png").exists() and not recwarn.list


@pytest.mark.parametrize("points", [1, 2, 100])
def test_plots_are_drawn_for_one_or_more_points(tmp_path, points):
    metrics = [{"step": step, "train_loss": 2.0, "lr": 1e-3, "grad_norm": 1.0, "tokens_per_s": 1}
               for step in range(points)]
    metrics += [{"step": step, "val_loss": 2.0, "val_se": None} for step in (0, points)]
    stats = [{"step": step, "tensor": name, "weight_norm": norm, "grad_norm": 1.0, "update_norm": 0.1,
              "update_ratio": 0.1} for step in range(points) for name, norm in (("w", 1.0), ("b", 0.0))]
    loss_curve(tmp_path / "loss.png", "a run", metrics, {"ln V": 3.0, "1-gram": 2.999})
    metrics.append({"step": points, "val_loss": math.nan, "val_se": None})
    loss_curve(tmp_path / "loss.png", "diverged", metrics, {})
    lr_curve(tmp_path / "lr.png", metrics, 0, points, points)
    stats_maps(tmp_path / "stats.png", stats)
    for name in ("loss", "lr", "stats"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_labels_keep_a_minimum_distance_and_their_order():
    placed = spread({"a": 0.5, "b": 0.1, "c": 0.51, "d": 0.52}, 0.05)
    assert placed == pytest.approx({"b": 0.1, "a": 0.5, "c": 0.55, "d": 0.6})


def test_the_moving_mean_reaches_both_ends_of_the_curve_and_keeps_a_straight_line():
    line = np.linspace(3.0, 1.0, 20)
    np.testing.assert_allclose(plot.moving_mean(line, 9), line, rtol=1e-14)
    values = np.random.default_rng(0).normal(size=20)
    smooth = plot.moving_mean(values, 9)
    assert smooth[10] == pytest.approx(values[6:15].mean()) and smooth[2] == pytest.approx(values[:5].mean())
    assert smooth[0] == values[0] and smooth[-1] == pytest.approx(values[-1])
    four = [values[0], values[:3].mean(), values[1:4].mean(), values[3]]
    np.testing.assert_allclose(plot.moving_mean(values[:4], 9), four)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: (figure.draw_without_rendering(), figures.append(figure)))
    return figures


def test_the_legend_of_the_loss_covers_no_line_and_a_leader_joins_each_label_to_its_line(drawn):
    metrics = [{"step": step, "train_loss": 3.0 * 0.9 ** step} for step in range(40)]
    metrics += [{"step": step, "val_loss": 2.0, "val_se": 0.1} for step in (0, 40)]
    references = {"4-gram": 0.524, "5-gram": 0.520, "6-gram": 0.516, "best possible": 0.249}
    loss_curve(Path("loss.png"), "a run", metrics, references)
    axes, legend = drawn[0].axes[0], drawn[0].legends[0].get_window_extent()
    assert not legend.overlaps(axes.get_window_extent())
    assert len(axes.texts) == 5
    for label in axes.texts:
        loss = references.get(label.get_text().split("  ")[0], 2.0)
        height = axes.transAxes.inverted().transform(axes.transData.transform((0.0, loss)))[1]
        assert label.xy == pytest.approx((1.0, height), abs=1e-9) and label.arrow_patch is not None
        assert not label.get_window_extent().overlaps(legend)
    smooth = next(line for line in axes.lines if line.get_label() == "mean of 9 of them")
    assert (smooth.get_xdata()[0], smooth.get_xdata()[-1]) == (0, 39)


def test_the_healthy_ratio_of_update_to_weight_is_the_middle_of_the_colors_and_has_its_word(drawn):
    stats = [{"step": step, "tensor": "w", "weight_norm": 1.0, "grad_norm": 1.0, "update_norm": ratio,
              "update_ratio": ratio} for step, ratio in enumerate((1e-1, 1e-3, 1e-4))]
    stats_maps(Path("stats.png"), stats)
    ratios, bar = drawn[0].axes[0].images[0], drawn[0].axes[3]
    np.testing.assert_allclose(ratios.norm(np.log10([1e-1, 1e-3, 1e-4])), [1.0, 0.5, 0.25])
    assert "−3: healthy" in [tick.get_text() for tick in bar.get_yticklabels()]


def test_plots_have_200_dots_per_inch(tmp_path):
    lr_curve(tmp_path / "lr.png", [{"step": step, "lr": 1e-3} for step in range(3)], 0, 3, 3)
    png = (tmp_path / "lr.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") == 8 * 200


def test_tensor_stats_are_norms_of_weight_gradient_and_update():
    p = mg.nn.Parameter(np.array([3.0, 4.0]))
    p.grad, before = np.array([0.6, 0.8]), np.array([0.0, 4.0])
    (row,) = tensor_stats(7, [p], [before])
    assert (row["step"], row["weight_norm"], row["update_norm"], row["update_ratio"]) == (7, 4.0, 3.0, 0.75)
    assert row["grad_norm"] == pytest.approx(1.0)


def test_the_memory_estimate_is_within_a_factor_of_2_of_the_measured_peak(monkeypatch):
    import tracemalloc
    monkeypatch.setattr(kernel_settings, "reused_bytes", math.inf)          # no memory is reused
    shape = GPTConfig(block_size=64, vocab_size=31, n_layer=2, n_head=4, n_embd=96)
    model, x = GPT(shape), np.zeros((16, 64), int)
    model.loss(x, x).backward()                             # allocates the gradients
    tracemalloc.start()
    model.loss(x, x).backward()
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 0.5 < activation_bytes(shape, 16, itemsize=4) / measured < 2.0


# ---- options ----

@pytest.mark.parametrize("spelling", [["--n_layer=3"], ["--n-layer=3"], ["--n_layer", "3"]])
def test_options_are_spelled_as_in_nanogpt(spelling):
    assert parse(Options, spelling).n_layer == 3


def test_values_are_converted_to_the_type_of_the_option():
    o = parse(Options, ["--bias=False", "--learning_rate=1e-3", "--seed=7", "--dataset=a=b.txt"])
    assert (o.bias, o.learning_rate, o.seed, o.dataset) == (False, 1e-3, 7, "a=b.txt")


@pytest.mark.parametrize("options", [Options, sample.Options])
def test_help_lists_every_option_on_one_screen(options, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(options, ["--help"])
    shown = capsys.readouterr().out
    assert not exit.value.code and shown.strip() == help_text(options).strip()
    assert all(f"{spelled(field.name)}=" in shown for field in dataclasses.fields(options))
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) <= 48


@pytest.mark.parametrize("options, message", [
    (["--lerning_rate=1"], "unknown option --lerning_rate; did you mean --learning_rate?"),
    (["my.txt"], "unexpected 'my.txt'"),
    (["--batch_size=big"], "--batch_size expects a whole number, got 'big'"),
    (["--threads=99999999999999999999"], "--threads expects a whole number, got '99999999999999999999'"),
    (["--max_iters=1e3"], "--max_iters expects a whole number, got '1e3'"),
    (["--learning_rate=nan"], "--learning_rate expects a number, got 'nan'"),
    (["--bias=maybe"], "--bias expects true or false, got 'maybe'"),
    (["--seed"], "--seed expects a whole number, got ''"),
    (["--seed=-1"], "--seed must not be negative, got -1"),
    (["--max_iters=0"], "--max_iters must be at least 1, got 0"),
    (["--eval_interval=0"], "--eval_interval must be at least 1"),
    (["--warmup_iters=30", "--max_iters=20"], "try --warmup_iters=2"),
    (["--learning_rate=1e-5", "--min_lr=1e-4"], "try --min_lr=1e-06"),
    (["--beta1=1.0"], "--beta1=1 and --beta2=0.99 must be in [0, 1)"),
    (["--lr_schedule=cosin"], "did you mean cosine?"),
    (["--tokenizer=word"], "--tokenizer must be one of char, byte, bpe"),
    (["--preset=shakespeare"], "--preset must be one of"),
    (["--config=missing.toml"], "missing.toml: No such file"),
    (["--init_from=resume"], "--out_dir=runs/"),
    (["--init_from=resume", "--out_dir=nowhere"], "nowhere holds no run"),
    (["--out_dir=stars.txt"], "stars.txt"),
    (["--n_embd=130", "--n_head=4"], "nearest: 128 or 132"),
    (["--dtype=float16"], "--dtype must be one of float32, float64, got 'float16'"),
    (["--dtype=bfloat16"], "--dtype must be one of float32, float64, got 'bfloat16'"),
    (["--device=gpu"], "unknown device 'gpu'"),
    (["--dataset=missing.txt"], "missing.txt: No such file"),
    (["--block_size=900"], "use --block_size="),
])
def test_bad_input_exits_with_status_2_and_one_line(text_file, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        train.main([f"--dataset={text_file}", *options])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.startswith("train.py: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content, message", [
    (b"", "the text is too short"), (b"a few words", "is too short"),
    (b"\xff\xfe\0", "byte 0xff at offset 0"),
])
def test_a_text_that_is_empty_too_short_or_binary_is_rejected(text_file, capsys, content, message):
    text_file.write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        train.main([f"--dataset={text_file}"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and message in error


def test_a_new_run_in_the_folder_of_another_run_is_rejected(text_file, tmp_path, capsys, no_plots):
    before = run(text_file, tmp_path / "run", "--max_iters=3")
    with pytest.raises(SystemExit) as exit:
        run(text_file, tmp_path / "run", "--max_iters=4")
    assert exit.value.code == 2 and "holds a run already: --init_from=resume" in capsys.readouterr().err
    assert same_bits(saved(tmp_path / "run"), before)


def test_default_folders_are_numbered(text_file, tmp_path, monkeypatch, no_plots):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train.main([f"--dataset={text_file}", *SHORT, "--max_iters=3"])
    assert sorted(path.name for path in Path("runs").iterdir()) == ["stars-001", "stars-002"]


def test_options_come_from_command_line_then_file_then_preset_then_default(tmp_path):
    toml = tmp_path / "mine.toml"
    toml.write_text('preset = "shakespeare-cpu"\nn_layer = 5\nbias = true\nlearning_rate = 1\nn_head = 2\n')
    o, sources, _ = configure([f"--config={toml}", "--n_head=8"])
    assert (o.n_head, o.n_layer, o.bias, o.learning_rate, o.n_embd, o.seed) == (8, 5, True, 1.0, 128, 1337)
    assert {sources[name] for name in ("n_layer", "bias", "learning_rate")} == {str(toml)}
    assert (sources["n_head"], sources["n_embd"], sources["seed"]) == ("command line", "preset shakespeare-cpu",
                                                                       "default")


def test_a_toml_file_can_resume_a_run(text_file, tmp_path, no_plots):
    run(text_file, tmp_path / "run", "--max_iters=3")
    toml = tmp_path / "mine.toml"
    toml.write_text(f'out_dir = "{(tmp_path / "run").as_posix()}"\ninit_from = "resume"\n')
    o, sources, _ = configure([f"--config={toml}"])
    assert (o.init_from, o.max_iters, sources["init_from"]) == ("resume", 3, "default")
    toml.write_text('init_from = "resume"\n')
    with pytest.raises(ValueError, match="--init_from=resume needs the folder of the run"):
        configure([f"--config={toml}"])


@pytest.mark.parametrize("text, message", [
    ("n_layer = 'two'", "n_layer in .* expects a whole number, got 'two'"),
    ("n_layer = 2.5", "expects a whole number, got '2.5'"), ("n_layers = 2", "did you mean n_layer?"),
    ("n_layer: 2", "is not TOML"), ("[model]\nn_layer = 2", "unknown option model"),
])
def test_a_bad_toml_file_is_rejected(tmp_path, text, message):
    toml = tmp_path / "mine.toml"
    toml.write_text(text)
    with pytest.raises(ValueError, match=message):
        configure([f"--config={toml}"])


def test_presets_have_nanogpts_values():
    def shape_of(o):
        return o.n_layer, o.n_head, o.n_embd, o.block_size, o.batch_size, o.max_iters
    cpu, _, _ = configure(["--preset=shakespeare-cpu"])
    assert shape_of(cpu) == (4, 4, 128, 64, 12, 2000)
    gpu, _, _ = configure(["--preset=shakespeare-gpu"])
    assert shape_of(gpu) == (6, 6, 384, 256, 64, 5000)
    assert (cpu.dropout, gpu.dropout) == (0.0, 0.2)
    for o in (cpu, gpu):
        assert (o.learning_rate, o.min_lr, o.warmup_iters, o.beta1, o.beta2) == (1e-3, 1e-4, 100, 0.9, 0.99)
        assert (o.weight_decay, o.grad_clip, o.bias, o.sampling) == (0.1, 1.0, False, "random")
        assert o.dataset == "shakespeare"


# ---- short runs from start to end ----

def test_a_run_on_fables_reports_its_distance_to_the_best_possible_loss(tmp_path, monkeypatch, capsys, no_plots):
    """The default dataset, shortened: prints the exact losses of the reference predictors before training, and the
    distance to the best possible loss on the same windows after it."""
    monkeypatch.setattr(corpus, "FABLES_CHARACTERS", 20_000)
    train.main([f"--out_dir={tmp_path / 'run'}", *SHORT, "--block_size=32", "--sample_interval=0"])
    out = capsys.readouterr().out
    text = open_data(tmp_path / "run")
    all_windows = text.val.windows(32)
    lines, best = (reference_lines(text, w) for w in (text.val.windows(32, 8), all_windows))
    for label, loss in lines.items():
        assert f"{label} {loss:.3f}" in " ".join(out.split())
    (full,) = (row for row in folder.read_rows(tmp_path / "run" / "metrics.jsonl") if "full_val_loss" in row)
    above = 100 * (full["full_val_loss"] / best["best possible"] - 1)
    assert f"best    {best['best possible']:.4f} is the best possible loss on them: val lies {above:.1f} % above" in out
    assert re.search(r"grammar 0 of \d+ fables in the samples are grammatical", out)
    model, _ = checkpoint.load_model(tmp_path / "run")
    again = evaluate(model, all_windows, 4)
    assert again == pytest.approx((full["full_val_loss"], full["full_val_se"]), rel=1e-5)
    assert full["full_val_loss"] > best["best possible"]


def test_weights_depend_on_the_seed_but_not_on_evaluating_logging_and_saving(text_file, tmp_path, no_plots):
    options = ["--dropout=0.1", "--gradient_accumulation_steps=2"]
    once = run(text_file, tmp_path / "once", *options)
    again = run(text_file, tmp_path / "again", *options)
    watched = run(text_file, tmp_path / "watched", *options, "--eval_interval=1", "--eval_iters=1", "--log_interval=1",
                  "--checkpoint_interval=1", "--sample_interval=2", "--stats_interval=1", "--keep=1")
    other = run(text_file, tmp_path / "other", *options, "--seed=1")
    assert same_bits(once, again) and same_bits(once, watched) and not same_bits(once, other)


def test_a_run_equals_its_steps_written_out(text_file, tmp_path, no_plots):
    """Batch, gradient, clipping, learning rate, and AdamW with weight decay on matrices alone."""
    after = run(text_file, tmp_path / "run", "--dtype=float64", "--grad_clip=0.5", "--gradient_accumulation_steps=2",
                "--learning_rate=5e-3", "--min_lr=4e-4", "--tied=false")
    text = open_data(tmp_path / "run")
    config = GPTConfig(block_size=8, vocab_size=len(text.tokenizer), n_layer=1, n_head=2, n_embd=16, tied=False)
    model = GPT(config, seed=1337, dtype="float64")
    state = [(p, Tensor(np.zeros(p.shape)), Tensor(np.zeros(p.shape))) for p in model.parameters()]
    for step in range(6):
        x, y = text.train.batch(8, 8, 1337, step)
        grads = mg.grad(model.loss(x, y), model.parameters())
        scale = min(1.0, 0.5 / math.sqrt(sum((g.data ** 2).sum() for g in grads)))
        lr = optim.warmup_cosine(step, 2, 6, 5e-3, 4e-4)
        new = [F.adamw(p, g * scale, m, v, lr, 0.9, 0.99, 1e-8, 0.1 if p.ndim == 2 else 0.0, t=step + 1)
               for (p, m, v), g in zip(state, grads)]
        for (p, _, _), (p_new, _, _) in zip(state, new):
            p.data = p_new
        state = [(p, m.detach(), v.detach()) for (p, _, _), (_, m, v) in zip(state, new)]
    for p, m, v in state:
        assert np.abs(after[p.name] - p.data).max() < 1e-7          # clip_grad_norm adds 1e-6 to the norm
        assert np.abs(after["optimizer.m." + p.name] - m.data).max() < 1e-5


def test_a_training_step_never_synchronizes_with_the_device():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.1), device="fake")
    optimizer = optim.AdamW(model.parameters())
    x, y = batches.batch(np.arange(11).repeat(6), 8, 6, seed=0, step=0)
    with fake_device.synchronizations() as found:
        accumulated(model, x, y, 2)
        optim.clip_grad_norm(optimizer.params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert found == []


def test_a_diverging_run_exits_and_names_the_last_intact_checkpoint(text_file, tmp_path):
    with pytest.raises(SystemExit) as exit:
        run(text_file, tmp_path / "run", "--learning_rate=1e30", "--max_iters=20", "--checkpoint_interval=1",
            "--grad_clip=0")
    message = exit.value.code
    assert re.search(r"training diverged: the loss is \S+ at step \d+; .*The checkpoint of step \d+ is intact; "
                     r"try --learning_rate=3e\+29 or --grad_clip=1", message)
    model, _ = checkpoint.load_model(tmp_path / "run")
    assert all(np.isfinite(x).all() for x in model.state_dict().values())


def test_a_diverging_run_names_the_op_of_the_first_value_that_is_not_finite(tmp_path):
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8))
    model.h[1].mlp.c_fc.weight.data = np.full((8, 32), np.inf, "float32")
    x = np.zeros((2, 8), int)
    with pytest.raises(SystemExit, match="forward of linear in h.1.mlp.c_fc .*Nothing was saved"), \
            np.errstate(all="ignore"):
        exit_diverged(model, Options(), tmp_path, 7, "the loss is nan",
                      lambda: accumulated(model, x, x, 1), World())


def test_out_of_memory_names_the_options_that_use_less(text_file, tmp_path, monkeypatch, capsys):
    def too_much(*_):
        raise MemoryError
    monkeypatch.setattr(train, "accumulate_gradient", too_much)
    with pytest.raises(SystemExit) as exit:
        run(text_file, tmp_path / "run")
    error = capsys.readouterr().err
    assert exit.value.code == 2 and "--batch_size=4" in error and "--gradient_accumulation_steps=1" in error


def test_train_py_and_gpt_sample_as_commands(text_file, tmp_path):
    """As processes, with stdout in a log file: the loss falls, every file is written, and the model can be sampled."""
    script = [sys.executable, "-W", "error", str(ROOT / "train.py"), "--dataset=stars.txt", "--out_dir=run", *SHORT,
              "--max-iters", "60", "--learning_rate=1e-2", "--eval-interval=30", "--checkpoint_interval=10",
              "--sample_interval=20", "--keep=2"]
    process = dict(cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    done = subprocess.run(script, **process)
    assert done.returncode == 0 and done.stderr == "" and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    labels = [line.split()[0] for line in lines if line[:1].strip()]
    assert labels[:6] == ["device", "data", "model", "memory", "run", "lines"]
    report = done.stdout.split("Samples, ")[0] + done.stdout.split("\nval ")[1]
    report, commands = report.split("\nnext ")
    assert max(map(len, report.splitlines())) <= 80
    assert f"python {script[3]} --init_from=resume --out_dir=run " in commands      # as it was started
    losses = [float(line.split("val ")[1].split()[0]) for line in lines if line.startswith("step")]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]
    out_dir = tmp_path / "run"
    assert {path.name for path in out_dir.iterdir()} == {
        "config.json", "env.json", "tokenizer.json", "tokens", "checkpoints", "metrics.jsonl", "stats.jsonl",
        "samples.md", "loss.png", "lr.png", "stats.png"}
    assert sorted(path.name for path in (out_dir / "checkpoints").iterdir()) == [
        f"step_{step:06}.{kind}" for step in (50, 60) for kind in ("json", "safetensors")]
    config = json.loads((out_dir / "config.json").read_text("utf-8"))
    assert config["options"]["max_iters"] == {"value": 60, "from": "command line"}
    assert config["options"]["seed"] == {"value": 1337, "from": "default"}
    rows = folder.read_rows(out_dir / "metrics.jsonl")
    assert [row["step"] for row in rows if "train_loss" in row] == list(range(0, 60, 2))
    assert [row["val_loss"] for row in rows if "val_loss" in row] == pytest.approx(losses, abs=1e-3)
    titles = re.findall("## (.*)", (out_dir / "samples.md").read_text("utf-8"))
    assert titles == ["step 0", "step 20", "step 40", "step 60, the end"]
    sampled = done.stdout.split("Samples, at temperature 0.8:\n")[1].split("\nval ")[0]
    assert len(sampled) > 300 and set(sampled) <= set(TEXT)

    command = [sys.executable, "-W", "error", "-m", "gpt.sample", "--out_dir=run", "--start=the fox",
               "--max_new_tokens=20"]
    one, same, other = (subprocess.run([*command, f"--seed={seed}"], check=True, **process).stdout
                        for seed in (0, 0, 1))
    assert one == same != other and one.startswith("the fox") and len(one) == len("the fox") + 20 + 1
