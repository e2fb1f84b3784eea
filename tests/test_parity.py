"""python -m gpt.parity: minigrad beside transformers, or beside itself where transformers is not installed. Planted
mistakes are found and named."""
import importlib.util
import json
import math
import sys

import numpy as np
import pytest

import minigrad as mg

from gpt.model import GPT, GPTConfig
from gpt.parity import __main__ as command, sides
from gpt.parity.differences import Difference, measure
from gpt.parity.tokens import STATES, random_tokens

SHAPE = dict(n_layer=2, n_head=2, n_embd=16)


@pytest.fixture
def composed(tmp_path, monkeypatch):
    """A folder of a GPT-2, where transformers is not installed."""
    monkeypatch.setattr(command, "reference", lambda: "composed")
    GPT(GPTConfig(block_size=12, vocab_size=31, **SHAPE)).save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def of_transformers(tmp_path, request):
    """A folder of a GPT-2 that transformers made."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_positions=12, vocab_size=31, **SHAPE, tie_word_embeddings=request.param, initializer_range=0.2,
        bos_token_id=None, eos_token_id=None)).save_pretrained(tmp_path)
    return tmp_path


def run(capsys, folder, *arguments):
    """The exit status, what is printed, and the figures."""
    status = command.main([str(folder), "--block_size=8", "--steps=3", "--threads=1", f"--out={folder / 'parity.png'}",
                           f"--json={folder / 'parity.json'}", *arguments])
    return status, capsys.readouterr().out, json.loads((folder / "parity.json").read_text())


# ---- what holds ------------------------------------------------------------------------------------------------------

def test_a_gpt2_of_transformers_is_within_the_bounds(of_transformers, capsys):
    status, out, found = run(capsys, of_transformers)
    assert status == 0 and found["ok"] and found["reference"] == "transformers"
    assert found["verdict"].startswith("parity with transformers: ") and out.endswith(f"{found['verdict']}\n")
    assert (of_transformers / "parity.png").read_bytes().startswith(b"\x89PNG")
    assert list(found["curves"]) == ["transformers", "kernels"]
    assert max(d["norm"] for d in found["differences"] if d["dtype"] == "float64" and d["what"] == "gradients") < 1e-12


def test_without_transformers_kernels_and_plain_ops_are_compared_with_composed_forms(composed, capsys):
    status, out, found = run(capsys, composed)
    assert status == 0 and found["reference"] == "composed"
    assert "transformers or PyTorch is not" in out and "mg.unfused" in out
    assert list(found["curves"]) == ["composed", "kernels", "plain"]
    assert all(len(losses) == 3 for losses in found["curves"].values())
    # every layer and every gradient, in both dtypes, with kernels and without
    names = [name for name, _ in GPT.from_pretrained(composed).named_parameters()]
    expected = {"outputs": ["embeddings", "h.0", "h.1", "ln_f", "logits", "loss"],
                **dict.fromkeys(["gradients", "AdamW", "whole step"], names)}
    for dtype in ("float32", "float64"):
        for side in ("kernels", "plain"):
            for what, arrays in expected.items():
                assert [d["name"] for d in found["differences"]
                        if (d["dtype"], d["side"], d["what"]) == (dtype, side, what)] == arrays
    assert f"{sum(p.size for p in GPT.from_pretrained(composed).parameters()):,} parameters" in found["verdict"]
    assert max(map(len, out.splitlines())) <= 110


def test_the_outputs_are_those_of_the_model(composed):
    side = sides.MinigradSide(composed, "float64", "plain")
    x = np.arange(10).reshape(2, 5)
    found = side.outputs(x)
    with mg.plain(), mg.no_grad():
        embeddings = side.model.wte(x) + side.model.wpe(np.arange(5))
        assert np.array_equal(found["embeddings"], embeddings.numpy())
        assert np.array_equal(found["h.0"], side.model.h[0](embeddings, None).numpy())
        assert np.array_equal(found["ln_f"], side.model.hidden(x).numpy())
        assert np.array_equal(found["logits"], side.model(x)[0].numpy())


def test_the_tokens_of_a_text_are_those_of_the_folders_tokenizer(of_transformers, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate("the fox sees a star and then".split())}
    encoder = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="the"))
    encoder.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    encoder.save(str(of_transformers / "tokenizer.json"))
    (of_transformers / "text.txt").write_text("the fox sees a star and then a fox " * 5)
    status, out, found = run(capsys, of_transformers, f"--text={of_transformers / 'text.txt'}")
    assert status == 0 and "text.txt" in out and "random" not in out


# ---- planted mistakes ------------------------------------------------------------------------------------------------

def wrong_gradient(side):
    """The gradient of one bias is 0.1 % too large."""
    dict(side.model.named_parameters())["h.1.mlp.c_fc.bias"].register_hook(lambda g: 1.001 * g)


def wrong_layer(side):
    """A layer norm with another epsilon."""
    side.model.h[1].ln_2.eps = 1e-6


def wrong_epsilon(side):
    """AdamW with another epsilon."""
    for group in side.optimizer.groups:
        group["eps"] = 1e-7


MISTAKES = {"gradients": wrong_gradient, "outputs": wrong_layer, "AdamW": wrong_epsilon}


def plant(monkeypatch, mistake, *names):
    """Plant a mistake in these sides of minigrad, and draw no picture: it takes longer than all else."""
    monkeypatch.setattr(command, "plot", lambda *_: None)
    original = sides.MinigradSide.__init__

    def init(self, folder, dtype, name):
        original(self, folder, dtype, name)
        if name in names:
            mistake(self)

    monkeypatch.setattr(sides.MinigradSide, "__init__", init)


def high(found, what):
    """(dtype, side, name) of what is above its bound."""
    return {(d["dtype"], d["side"], d["name"]) for d in found["differences"] if d["what"] == what and not d["ok"]}


def each(*names):
    return {(dtype, side, name) for dtype in ("float32", "float64") for side in ("kernels", "plain") for name in names}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_is_found_beside_transformers(what, of_transformers, monkeypatch, capsys):
    plant(monkeypatch, MISTAKES[what], "kernels", "plain")
    status, out, found = run(capsys, of_transformers, "--steps=0")
    assert status == 1 and not found["ok"] and found["verdict"].startswith("ABOVE THE BOUNDS: ")
    assert found["curves"] == {}
    if what == "gradients":
        assert high(found, "gradients") == each("h.1.mlp.c_fc.bias") and not high(found, "outputs")
        assert "gradient of h.1.mlp.c_fc.bias (float64, kernels: 1.0e-03 > 1e-09)" in out
    elif what == "outputs":
        assert ({name for dtype, _, name in high(found, "outputs") if dtype == "float64"}
                == {"h.1", "ln_f", "logits", "loss"})
    else:
        assert high(found, "AdamW") and not high(found, "gradients") and not high(found, "outputs")
        assert "weight after AdamW with equal gradients of " in found["verdict"]
    assert not high(found, "AdamW") or what == "AdamW"


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_of_the_kernels_is_found_without_transformers(what, composed, monkeypatch, capsys):
    plant(monkeypatch, MISTAKES[what], "kernels")
    status, out, found = run(capsys, composed, "--steps=0")
    assert status == 1 and "kernels" in found["verdict"] and "plain" not in found["verdict"]
    assert high(found, what) and all(d["ok"] for d in found["differences"] if d["side"] == "plain")


def test_curves_that_part_are_above_the_bound(composed, monkeypatch, capsys):
    original = sides.MinigradSide.train
    monkeypatch.setattr(sides.MinigradSide, "train",
                        lambda self, x, y: original(self, x, y) + 0.1 * (self.mode is sides.MODES["plain"]))
    monkeypatch.setattr(command, "plot", lambda *_: None)
    status, out, found = run(capsys, composed)
    assert status == 1 and "loss of plain at step" in found["verdict"]
    assert found["distances"]["plain"][0] == pytest.approx(0.1, abs=1e-3)


# ---- measures and tokens ---------------------------------------------------------------------------------------------

def test_the_measures_of_a_difference():
    assert measure(np.array([3.0, 4.5]), np.array([3.0, 4.0])) == pytest.approx((0.5, 0.125, 0.1))
    assert measure(np.zeros(3), np.zeros(3)) == (0.0, 0.0, 0.0)
    assert measure(np.ones(1), np.zeros(1)) == (1.0, math.inf, math.inf)


def test_a_difference_that_is_not_a_number_is_above_every_bound():
    nan = measure(np.array([math.nan, 1.0]), np.ones(2))
    assert not Difference("float32", "kernels", "outputs", "h.0", *nan).ok


def test_each_random_token_is_followed_by_one_of_two():
    tokens = random_tokens(50257, 5000, seed=3)
    followers = {a: set(tokens[1:][tokens[:-1] == a]) for a in set(tokens)}
    assert 2 < len(followers) <= STATES and max(map(len, followers.values())) <= 2
    assert np.array_equal(tokens[:100], random_tokens(50257, 100, seed=3))
    assert set(random_tokens(5, 100, seed=0)) <= set(range(5))


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_transformers_or_pytorch_the_reference_is_the_composed_forms(missing, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
        found = sides.reference()
    assert found == "composed"


# ---- bad input -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("arguments, reason", [
    ([], "give a folder"), (["nowhere"], "nowhere is no folder"), (["FOLDER", "--block_size=13"], "12 positions"),
    (["FOLDER", "--block_size=1"], "--block_size=1"), (["FOLDER", "--out=parity.svg"], ".png"),
    (["FOLDER", "--json=FOLDER"], "is a folder"), (["FOLDER", "--threads=0"], "--threads"),
    (["FOLDER", "--block_size=8", "--out=FOLDER/none/a.png"], "none/a.png"),
    (["FOLDER", "--block_size=8", "--text=FOLDER/none.txt"], "tokenizer"), (["FOLDER", "--steps=-1"], "--steps=-1")])
def test_bad_input_is_one_line_and_status_2(arguments, reason, composed, capsys):
    with pytest.raises(SystemExit) as exit:
        command.main([argument.replace("FOLDER", str(composed)) for argument in arguments])
    said = capsys.readouterr()
    assert exit.value.code == 2 and not said.out
    assert said.err.count("\n") == 1 and said.err.startswith("gpt.parity: ") and reason in said.err


def test_a_text_that_is_too_short_is_refused(of_transformers, capsys):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")).save(
        str(of_transformers / "tokenizer.json"))
    (of_transformers / "text.txt").write_text("a")
    with pytest.raises(SystemExit) as exit:
        command.main([str(of_transformers), "--block_size=8", f"--text={of_transformers / 'text.txt'}"])
    assert exit.value.code == 2 and "has 1 token, and " in capsys.readouterr().err


def test_a_transformers_that_does_not_load_is_one_line(composed, monkeypatch, capsys):
    monkeypatch.setattr(command, "reference", sides.reference)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "gpt.parity.transformers_side", raising=False)
    with pytest.raises(SystemExit) as exit:
        command.main([str(composed), "--block_size=8", f"--out={composed / 'parity.png'}"])
    said = capsys.readouterr()
    assert exit.value.code == 2 and not said.out
    assert said.err.startswith("gpt.parity: transformers is installed but does not load (")
    assert said.err.count("\n") == 1


def test_a_folder_that_transformers_cannot_read_is_refused_in_one_line(of_transformers, monkeypatch, capsys):
    import transformers

    def fail(*_, **__):
        raise RuntimeError("no such thing\nmore")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", fail)
    with pytest.raises(SystemExit) as exit:
        command.main([str(of_transformers), "--block_size=8", f"--out={of_transformers / 'parity.png'}"])
    assert exit.value.code == 2 and "transformers cannot read" in capsys.readouterr().err
