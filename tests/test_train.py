"""train.py and what it is made of: text, tokens, batches, counts, checkpoints, options, and whole short runs."""
import dataclasses
import json
import math
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings, strategies as st

import fake_device
import minigrad as mg
import train
from gpt import checkpoint, corpus, data, sample
from gpt.config import help_text, parse
from gpt.model import GPT, GPTConfig
from gpt.plot import loss_curve
from gpt.tokenizer import CharTokenizer
from minigrad import Tensor, functional as F, optim

ROOT = Path(__file__).parent.parent

TEXT = "".join(f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl", "hare"))
SHORT = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=4", "--max_iters=6",
         "--warmup_iters=2", "--eval_interval=3", "--eval_iters=2", "--log_interval=2"]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "stars.txt"
    path.write_text(TEXT, "utf-8")
    return path


def run(text_file, out_dir, *options):
    """A short run in this process  ->  what it saved."""
    train.main([f"--dataset={text_file}", f"--out_dir={out_dir}", *SHORT, *options])
    return safetensors.numpy.load((out_dir / "checkpoint.safetensors").read_bytes())


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[name].view("u1"), b[name].view("u1")) for name in a)


# ---- text and tokens ----

@pytest.mark.parametrize("raw, text", [
    (b"two\nlines\n", "two\nlines\n"), (b"\xef\xbb\xbfwith a mark", "with a mark"), (b"one\r\ntwo\r\n", "one\ntwo\n"),
    ("naïve ☃ 🦊".encode(), "naïve ☃ 🦊"), (b"", ""),
])
def test_utf8_files_are_read_with_or_without_a_byte_order_mark(tmp_path, raw, text):
    (tmp_path / "text").write_bytes(raw)
    assert corpus.read_text(tmp_path / "text") == text


def test_a_file_that_is_not_utf8_is_refused_with_the_offset_of_its_first_bad_byte(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfcaf\xe9 au lait")
    with pytest.raises(ValueError, match="byte 0xe9 at offset 6"):
        corpus.read_text(tmp_path / "text")


def test_the_default_text_is_python_without_its_tests():
    text = corpus.load_text("python")
    assert 1_000_000 < len(text) <= corpus.PYTHON_CHARACTERS and text == corpus.python_source()
    assert "import argparse" in text and "import unittest\n\nclass" not in text
    assert len(set(text)) < 500


@given(st.text(min_size=1))
@settings(max_examples=50, deadline=None)
def test_tokens_decode_to_the_text(text):
    tokenizer = CharTokenizer.of(text)
    tokens = tokenizer.encode(text)
    assert tokens.shape == (len(text),) and tokenizer.decode(tokens) == text
    assert len(tokenizer) == len(set(text)) == tokens.max() + 1 and list(tokenizer.vocabulary) == sorted(set(text))


def test_unknown_characters_are_listed():
    with pytest.raises(ValueError, match="never seen 'd' 'é'; it knows 'abc'"):
        CharTokenizer("abc").encode("aébcd")


# ---- batches ----

def test_targets_are_the_text_one_token_on():
    tokens = np.arange(100)
    x, y = data.random_batch(tokens, 8, 5, mg.random.key(0))
    assert x.shape == y.shape == (5, 8) and np.array_equal(y, x + 1) and np.array_equal(x, x[:, :1] + np.arange(8))


def test_a_batch_is_a_function_of_seed_and_step():
    one, same, next_step, other_seed = (data.random_batch(np.arange(1000), 8, 5, mg.random.key(seed, step))[0]
                                        for seed, step in ((0, 1), (0, 1), (0, 2), (1, 1)))
    assert np.array_equal(one, same) and not np.array_equal(one, next_step) and not np.array_equal(one, other_seed)


def test_every_place_comes_up_and_none_beyond_the_end():
    x, _ = data.random_batch(np.arange(12), 8, 500, mg.random.key(0))
    assert set(x[:, 0]) == {0, 1, 2, 3}


@given(st.integers(9, 200), st.integers(1, 30))
@settings(max_examples=50, deadline=None)
def test_validation_windows_are_spread_and_never_predict_a_token_twice(size, n):
    windows = data.fixed_windows(np.arange(size), 8, n)
    targets = windows[:, 1:].ravel()
    assert len(windows) == min(n, (size - 1) // 8) and len(set(targets)) == len(targets)
    assert windows[0, 0] == 0 and (len(windows) == 1 or windows[-1, -1] == size - 1)


def test_the_last_tenth_is_held_out():
    kept, held_out = data.split(np.arange(1000), 8)
    assert np.array_equal(np.concatenate([kept, held_out]), np.arange(1000)) and len(held_out) == 100


# ---- counting ----

def counted_by_hand(tokens, windows, V, max_order):
    """Witten and Bell's estimate as a recursion over contexts, with dictionaries."""
    followers = defaultdict(Counter)
    for n in range(1, max_order + 1):
        for i in range(len(tokens) - n + 1):
            followers[n, tuple(tokens[i:i + n - 1])][tokens[i + n - 1]] += 1

    def p(token, context):
        shorter = p(token, context[1:]) if context else 1.0 / V
        seen = followers[len(context) + 1, context]
        return (seen[token] + len(seen) * shorter) / (sum(seen.values()) + len(seen)) if seen else shorter

    return [np.mean([-math.log(p(w[t], tuple(w[max(t - n + 1, 0):t]))) for w in windows for t in range(1, len(w))])
            for n in range(1, max_order + 1)]


@given(st.integers(1, 4).flatmap(lambda V: st.tuples(
    st.just(V), st.lists(st.integers(0, V - 1), min_size=4, max_size=40),
    st.lists(st.lists(st.integers(0, V - 1), min_size=5, max_size=5), min_size=1, max_size=4))))
@settings(max_examples=100, deadline=None)
def test_ngram_losses_against_dictionaries(case):
    V, tokens, windows = case
    assert np.allclose(corpus.ngram_losses(np.array(tokens), np.array(windows), V, max_order=3),
                       counted_by_hand(tokens, windows, V, max_order=3), rtol=1e-12)


def test_pairs_foresee_what_single_characters_cannot():
    tokens = np.tile([0, 1], 5000)
    one, two = corpus.ngram_losses(tokens, tokens[:90].reshape(10, 9), 2, max_order=2)
    assert one == pytest.approx(math.log(2), abs=1e-3) and two < 1e-3


# ---- a step ----

def test_accumulated_gradients_equal_those_of_the_large_batch():
    """In float64 to 1e-12, with masked targets, one micro-batch masked altogether."""
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8), dtype="float64")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (2, 6, 8))
    y[rng.random(y.shape) < 0.3] = -100
    y[2:4] = -100
    loss = model.loss(x, y)
    expected = mg.grad(loss, model.parameters())
    for parts in (1, 2, 3, 6):
        model.zero_grad()
        assert abs(train.accumulate_gradient(model, x, y, parts, seed=0, step=0).item() - loss.item()) < 1e-12
        for p, g in zip(model.parameters(), expected):
            assert np.abs(p.grad - g.data).max() < 1e-12


def test_each_micro_batch_drops_out_by_a_key_of_its_own():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8))
    keys, loss = [], model.loss
    model.loss = lambda x, y, key: keys.append(key) or loss(x, y, key)
    train.accumulate_gradient(model, *np.zeros((2, 6, 8), int), 3, seed=5, step=7)
    assert keys == [mg.random.key(5, 7, micro) for micro in range(3)]


def test_validation_is_the_mean_over_windows_with_its_standard_error():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.5), dtype="float64")
    windows = np.random.default_rng(0).integers(0, 11, (7, 9))
    loss, error = train.evaluate(model, windows, batch_size=3)
    assert model.training                                   # and without dropout: no key was needed
    model.eval()
    each = [model.loss(w[None, :-1], w[None, 1:]).item() for w in windows]
    assert loss == pytest.approx(np.mean(each), abs=1e-12)
    assert error == pytest.approx(np.std(each, ddof=1) / math.sqrt(7), abs=1e-12)
    assert math.isnan(train.evaluate(model, windows[:1], batch_size=3)[1])


# ---- checkpoints ----

def test_a_crash_while_writing_leaves_the_file_before(tmp_path, monkeypatch):
    path = tmp_path / "file"
    checkpoint.write_whole(path, b"before")
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, lambda *_: (_ for _ in ()).throw(OSError("no space left")))
            with pytest.raises(OSError, match="no space"):
                checkpoint.write_whole(path, b"after")
        assert path.read_bytes() == b"before"
    checkpoint.write_whole(path, b"after")
    assert path.read_bytes() == b"after"


def test_a_checkpoint_holds_weights_moments_and_step_and_is_read_back(tmp_path):
    shape, tokenizer = GPTConfig(block_size=8, vocab_size=5, n_layer=1, n_head=2, n_embd=8), CharTokenizer("\nabcé")
    model = GPT(shape, seed=5)
    optimizer = optim.AdamW(reversed(model.parameters()), lr=0.1)
    model.loss(np.array([[1, 2]]), np.array([[2, 3]])).backward()
    optimizer.step()
    checkpoint.create_run(tmp_path / "run", {"dtype": "float32"}, shape, tokenizer)
    checkpoint.save(tmp_path / "run", model, optimizer, step=1)

    with safetensors.safe_open(tmp_path / "run" / "checkpoint.safetensors", "numpy") as file:
        assert file.metadata() == {"step": "1"}
        names = set(file.keys())
        for p in model.parameters():
            for moment in ("m", "v"):
                assert np.array_equal(file.get_tensor(f"optimizer.{moment}.{p.name}"), optimizer.state_of(p)[moment])
    assert names == {prefix + name for name in model.state_dict() for prefix in ("", "optimizer.m.", "optimizer.v.")}
    again, same_tokenizer = checkpoint.load(tmp_path / "run")
    assert again.config == shape and same_tokenizer.vocabulary == tokenizer.vocabulary
    assert same_bits(again.state_dict(), model.state_dict())


@pytest.mark.parametrize("file, content, message", [
    ("checkpoint.safetensors", None, "holds no checkpoint"), ("config.json", None, "holds no checkpoint"),
    ("checkpoint.safetensors", b"\x10\0\0\0\0\0\0\0{", "damaged"), ("config.json", b"{", "damaged"),
    ("config.json", b"{}", "damaged"),
])
def test_a_missing_or_damaged_file_is_named(text_file, tmp_path, file, content, message):
    run(text_file, tmp_path / "run", "--max_iters=3")
    path = tmp_path / "run" / file
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        checkpoint.load(tmp_path / "run")


# ---- the curve ----

@pytest.mark.parametrize("points", [1, 2, 100])
def test_the_curve_is_drawn_from_one_point_on(tmp_path, points):
    train_curve = [(step, 2.0) for step in range(points)]
    val_curve = [(step, 2.0, math.nan) for step in (0, points)]
    loss_curve(tmp_path / "loss.png", "a run", train_curve, val_curve, {"ln V": 3.0})
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


# ---- options ----

@pytest.mark.parametrize("spelling", [["--n_layer=3"], ["--n-layer=3"], ["--n_layer", "3"]])
def test_options_are_spelled_as_in_nanogpt(spelling):
    assert parse(train.Options, spelling).n_layer == 3


def test_values_take_the_type_of_their_default():
    o = parse(train.Options, ["--bias=False", "--learning_rate=1e-3", "--seed=7", "--dataset=a=b.txt"])
    assert (o.bias, o.learning_rate, o.seed, o.dataset) == (False, 1e-3, 7, "a=b.txt")


@pytest.mark.parametrize("options", [train.Options, sample.Options])
def test_help_lists_every_option_on_one_screen(options, capsys):
    with pytest.raises(SystemExit) as exit:
        parse(options, ["--help"])
    shown = capsys.readouterr().out
    assert not exit.value.code and shown.strip() == help_text(options).strip()
    assert all(f"--{field.name}=" in shown for field in dataclasses.fields(options))
    assert max(map(len, shown.splitlines())) <= 80 and len(shown.splitlines()) <= 40


@pytest.mark.parametrize("options, message", [
    (["--lerning_rate=1"], "unknown option --lerning_rate; did you mean --learning_rate?"),
    (["my.txt"], "unexpected 'my.txt'"),
    (["--batch_size=big"], "--batch_size expects a whole number, got 'big'"),
    (["--max_iters=1e3"], "--max_iters expects a whole number, got '1e3'"),
    (["--learning_rate=nan"], "--learning_rate expects a number, got 'nan'"),
    (["--bias=maybe"], "--bias expects true or false, got 'maybe'"),
    (["--seed"], "--seed expects a whole number, got ''"),
    (["--seed=-1"], "--seed must not be negative, got -1"),
    (["--max_iters=0"], "--max_iters must be at least 1, got 0"),
    (["--eval_interval=0"], "--eval_interval must be at least 1"),
    (["--warmup_iters=30", "--max_iters=20"], "try --warmup_iters=2"),
    (["--learning_rate=1e-5"], "try --min_lr=1e-06"),
    (["--beta1=1.0"], "betas"),
    (["--n_embd=130", "--n_head=4"], "nearest: 128 or 132"),
    (["--dtype=float16"], "--dtype must be float32 or float64, got 'float16'"),
    (["--device=gpu"], "unknown device 'gpu'"),
    (["--dataset=missing.txt"], "missing.txt: No such file"),
    (["--block_size=900"], "use --block_size="),
])
def test_bad_input_ends_with_status_2_and_one_line(text_file, tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        train.main([f"--dataset={text_file}", *options])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.startswith("train.py: ") and error.count("\n") == 1 and message in error
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("content, message", [
    (b"", "the text is too short"), (b"a few words", "use a text of 650 tokens or more"),
    (b"\xff\xfe\0", "byte 0xff at offset 0"),
])
def test_a_useless_text_is_refused(text_file, capsys, content, message):
    text_file.write_bytes(content)
    with pytest.raises(SystemExit) as exit:
        train.main([f"--dataset={text_file}"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.count("\n") == 1 and message in error


def test_a_run_is_never_written_over(text_file, tmp_path, capsys):
    run(text_file, tmp_path / "run", "--max_iters=3")
    saved = (tmp_path / "run" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(SystemExit) as exit:
        run(text_file, tmp_path / "run", "--max_iters=4")
    assert exit.value.code == 2 and "holds a run already" in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoint.safetensors").read_bytes() == saved


def test_runs_are_numbered(text_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        train.main([f"--dataset={text_file}", *SHORT, "--max_iters=3"])
    assert sorted(path.name for path in Path("runs").iterdir()) == ["stars-001", "stars-002"]


# ---- whole runs ----

def test_the_seed_decides_every_bit_and_looking_more_often_none(text_file, tmp_path):
    options = ["--dropout=0.1", "--gradient_accumulation_steps=2"]
    once = run(text_file, tmp_path / "once", *options)
    again = run(text_file, tmp_path / "again", *options)
    looking = run(text_file, tmp_path / "looking", *options, "--eval_interval=1", "--eval_iters=1", "--log_interval=1")
    other = run(text_file, tmp_path / "other", *options, "--seed=1")
    assert same_bits(once, again) and same_bits(once, looking) and not same_bits(once, other)


def test_a_run_is_its_steps_one_after_the_other(text_file, tmp_path):
    """Batch, gradient, clipping, rate and AdamW with decay on matrices only, written out once more."""
    saved = run(text_file, tmp_path / "run", "--dtype=float64", "--grad_clip=0.5", "--gradient_accumulation_steps=2")
    tokenizer = CharTokenizer.of(TEXT)
    text, _ = data.split(tokenizer.encode(TEXT), block_size=8)
    config = GPTConfig(block_size=8, vocab_size=len(tokenizer), n_layer=1, n_head=2, n_embd=16)
    model = GPT(config, seed=1337, dtype="float64")
    state = [(p, Tensor(np.zeros(p.shape)), Tensor(np.zeros(p.shape))) for p in model.parameters()]
    for step in range(6):
        x, y = data.random_batch(text, 8, 8, mg.random.key(1337, step))
        grads = mg.grad(model.loss(x, y), model.parameters())
        scale = min(1.0, 0.5 / math.sqrt(sum((g.data ** 2).sum() for g in grads)))
        lr = optim.warmup_cosine(step, 2, 6, 4e-3, 4e-4)
        new = [F.adamw(p, g * scale, m, v, lr, 0.9, 0.99, 1e-8, 0.1 if p.ndim == 2 else 0.0, t=step + 1)
               for (p, m, v), g in zip(state, grads)]
        for (p, _, _), (p_new, _, _) in zip(state, new):
            p.data = p_new
        state = [(p, m.detach(), v.detach()) for (p, _, _), (_, m, v) in zip(state, new)]
    for p, m, v in state:
        assert np.abs(saved[p.name] - p.data).max() < 1e-7          # clip_grad_norm adds 1e-6 to the norm
        assert np.abs(saved["optimizer.m." + p.name] - m.data).max() < 1e-5


def test_a_run_on_a_device_is_the_same(text_file, tmp_path):
    options = ["--dropout=0.1", "--gradient_accumulation_steps=2"]
    on_host = run(text_file, tmp_path / "host", *options)
    assert same_bits(on_host, run(text_file, tmp_path / "device", *options, "--device=fake"))


def test_a_step_never_waits_for_the_device():
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.1), device="fake")
    optimizer = optim.AdamW(model.parameters())
    x, y = data.random_batch(np.arange(11).repeat(3), 8, 6, mg.random.key(0))
    with fake_device.synchronizations() as waits:
        train.accumulate_gradient(model, x, y, 2, seed=0, step=0)
        optim.clip_grad_norm(optimizer.params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert waits == []


def test_a_diverging_run_stops_and_says_so(text_file, tmp_path):
    with pytest.raises(SystemExit, match="the loss is .* at step .*: training diverged; try a smaller --learning_rate"):
        with np.errstate(all="ignore"):
            run(text_file, tmp_path / "run", "--learning_rate=1e30", "--max_iters=20", "--eval_interval=1")
    model, _ = checkpoint.load(tmp_path / "run")                        # the last good one is still there
    assert all(np.isfinite(x).all() for x in model.state_dict().values())


def test_from_the_command_line_to_a_sample(text_file, tmp_path):
    """As a user runs it, with stdout in a log file: it learns, writes every file, speaks, and can be asked again."""
    script = [sys.executable, "-W", "error", str(ROOT / "train.py"), "--dataset=stars.txt", "--out_dir=run", *SHORT,
              "--max-iters", "60", "--learning_rate=1e-2", "--eval-interval=30"]
    where = dict(cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    done = subprocess.run(script, **where)
    assert done.returncode == 0 and done.stderr == "" and "\r" not in done.stdout
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["device", "data", "model", "run", "lines"]
    losses = [float(line.split("validation ")[1].split()[0]) for line in lines if line.startswith("step")]
    assert len(losses) == 3 and losses[2] < losses[1] < losses[0]
    written = {path.name: path for path in (tmp_path / "run").iterdir()}
    assert written.keys() == {"config.json", "checkpoint.safetensors", "loss.png"}
    config = json.loads(written["config.json"].read_text("utf-8"))
    assert config["options"]["max_iters"] == 60 and config["tokenizer"]["vocabulary"] == "".join(sorted(set(TEXT)))
    said = done.stdout.split("A sample, at temperature 0.8:\n")[1].split("\ndone")[0]
    assert len(said) > 500 and set(said) <= set(TEXT)

    ask = [sys.executable, "-W", "error", "-m", "gpt.sample", "--out_dir=run", "--start=the fox", "--max_new_tokens=20"]
    said = [subprocess.run([*ask, f"--seed={seed}"], check=True, **where).stdout for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2] and said[0].startswith("the fox") and len(said[0]) == len("the fox") + 20 + 1


@pytest.mark.parametrize("option, message", [
    ("--out_dir=", "which run?"), ("--out_dir=nowhere", "nowhere holds no checkpoint"), ("--top_p=2", "top_p"),
    ("--start=the Ωwl", "never seen 'Ω'"), ("--temperature=-1", "temperature"),
    ("--tempreature=1", "did you mean --temperature?"),
])
def test_bad_input_to_sampling_ends_with_status_2_and_one_line(text_file, tmp_path, capsys, option, message):
    run(text_file, tmp_path / "run", "--max_iters=3")
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit:
        sample.main([f"--out_dir={tmp_path / 'run'}", option])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and error.startswith("gpt.sample: ") and error.count("\n") == 1 and message in error


# ---- the README ----

def test_the_readme_prints_what_it_says(capsys):
    """Its Python blocks, run one after the other, print the text blocks that follow them."""
    readme = (ROOT / "README.md").read_text("utf-8")
    tour = re.findall(r"```python\n(.*?)```\n```text\n(.*?)```", readme, re.DOTALL)
    names: dict = {}
    for code, output in tour:
        exec(compile(code, "tour.py", "exec"), names)
        assert capsys.readouterr().out == output
    assert len(tour) == readme.count("```python") > 0
