"""gpt.eval: loss, perplexity and bits per byte by sliding windows, the loss of completions, and last words."""
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from gpt import eval as gpt_eval, model_folder
from gpt.eval import last_words, measure, rows_of, sliding_windows
from gpt.model import GPT, GPTConfig
from gpt.run.evaluate import mean_loss
from gpt.text.pairs import Pairs
from gpt.text.tokenizer import ByteTokenizer, CharTokenizer

CHARS = CharTokenizer("\n .abcdefgh")


@pytest.fixture(scope="module")
def model():
    """Weights large enough that the losses of tokens differ clearly."""
    made = GPT(GPTConfig(block_size=12, vocab_size=len(CHARS), n_layer=1, n_head=2, n_embd=8, dropout=0.5))
    rng = np.random.default_rng(0)
    for p in made.parameters():
        p.data = p.data + rng.normal(0.0, 0.3, size=p.shape)
    return made.eval()


@pytest.fixture
def evaluate(model, monkeypatch, capsys, tmp_path):
    """A function: content of a file, its name, options -> the output of gpt.eval for it."""
    def evaluate(content, name, *options, tokenizer=CHARS):
        path = tmp_path / name
        path.write_text(content, "utf-8")
        monkeypatch.setattr(model_folder, "load", lambda folder, device: (model, tokenizer))
        gpt_eval.main(["--model=folder", f"--dataset={path}", "--device=cpu", *options])
        return capsys.readouterr().out
    return evaluate


def text_of(n, seed=1):
    return CHARS.decode(np.random.default_rng(seed).integers(0, len(CHARS), n))


def losses_one_by_one(model, tokens):
    """The loss of each token but the first, given all those before it in the window."""
    logits = model(tokens[None, :-1])[0].numpy()[0].astype(np.float64)
    return np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(tokens) - 1), tokens[1:]]


# ---- windows --------------------------------------------------------------------------------------------------------

@given(n=st.integers(2, 60), block_size=st.integers(2, 12), data=st.data())
def test_each_token_but_the_first_is_counted_once_with_at_least_block_size_minus_stride_of_context(n, block_size, data):
    stride = data.draw(st.integers(1, block_size - 1))
    tokens = np.arange(n)
    rows = sliding_windows(tokens, block_size, stride)
    counted = [token for row in rows for token in row.tokens[-row.counted:]]
    assert counted == list(range(1, n))
    for row in rows:
        assert 2 <= len(row.tokens) <= block_size
        for i in range(len(row.tokens) - row.counted, len(row.tokens)):
            assert i >= min(block_size - stride, row.tokens[i])


def test_a_text_that_fits_one_window_has_the_loss_of_the_model(model):
    tokens = CHARS.encode(text_of(12))
    measured, = measure(model, sliding_windows(tokens, 12, 6))
    assert measured.counted == 11
    assert measured.loss == pytest.approx(losses_one_by_one(model, tokens).sum(), rel=1e-5)


def test_overlapping_windows_give_the_losses_of_their_last_tokens(model):
    tokens = CHARS.encode(text_of(30))
    measured = list(measure(model, sliding_windows(tokens, 12, 5)))
    starts = (0, 11), (5, 5), (10, 5), (15, 5), (20, 3)
    expected = [losses_one_by_one(model, tokens[start:start + 12])[-new:].sum() for start, new in starts]
    np.testing.assert_allclose([row.loss for row in measured], expected, rtol=1e-5)


def test_targets_whose_logits_are_computed_in_parts_have_the_same_loss(model, monkeypatch):
    rows = sliding_windows(CHARS.encode(text_of(30)), 12, 5)
    whole = list(measure(model, rows))
    monkeypatch.setattr(gpt_eval, "ROWS", 2)
    parts = list(measure(model, rows))
    np.testing.assert_allclose([row.loss for row in parts], [row.loss for row in whole], rtol=1e-6)
    assert [row.right for row in parts] == [row.right for row in whole]


@pytest.mark.parametrize("stride", [4, 8, 15])
def test_the_loss_is_that_of_the_recipe_of_transformers(stride, tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    other = transformers.GPT2LMHeadModel(transformers.GPT2Config(
        n_positions=16, vocab_size=40, n_layer=2, n_head=2, n_embd=16, initializer_range=0.3)).eval()
    other.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 40, 101)
    end, nats, counted = 0, 0.0, 0
    for begin in range(0, len(tokens), stride):
        before, end = end, min(begin + 16, len(tokens))
        ids = torch.tensor(tokens[None, begin:end])
        labels = ids.clone()
        labels[:, :before - end] = -100
        n = int((labels[:, 1:] != -100).sum())          # the labels are shifted: the first has no prediction
        nats, counted = nats + other(ids, labels=labels).loss.item() * n, counted + n
        if end == len(tokens):
            break
    measured = list(measure(GPT.from_pretrained(tmp_path), sliding_windows(tokens, 16, stride)))
    loss, _ = mean_loss(np.array([row.loss for row in measured]), np.array([row.counted for row in measured]))
    assert counted == 100
    assert loss == pytest.approx(nats / counted, rel=1e-5)


# ---- means ----------------------------------------------------------------------------------------------------------

def test_the_mean_weighs_every_target_equally_and_its_error_is_that_of_a_ratio():
    loss, error = mean_loss(np.array([6.0, 4.0, 2.0]), np.array([2, 4, 2]))
    assert loss == pytest.approx(12.0 / 8.0)
    assert error == pytest.approx(math.sqrt(3 / 2 * ((6 - 3) ** 2 + (4 - 6) ** 2 + (2 - 3) ** 2)) / 8)


def test_the_error_is_that_of_the_mean_of_the_windows_where_all_have_the_same_number_of_targets():
    losses = np.random.default_rng(0).normal(3.0, 1.0, 20)
    _, error = mean_loss(5 * losses, np.full(20, 5))
    assert error == pytest.approx(losses.std(ddof=1) / math.sqrt(20))


def test_one_window_has_no_standard_error():
    assert mean_loss(np.array([6.0]), np.array([2])) == (3.0, None)


# ---- completions and last words -------------------------------------------------------------------------------------

def test_only_the_tokens_of_a_completion_are_counted_and_a_long_prompt_is_cropped():
    first, cropped = rows_of(Pairs.of([("abc", "de"), ("a" * 20, "bcd")], CHARS, ended=False), 8)
    assert (CHARS.decode(first.tokens), first.counted) == ("abcde", 2)
    assert (CHARS.decode(cropped.tokens), cropped.counted) == ("aaaaabcd", 3)


def test_a_completion_longer_than_the_context_is_counted_as_far_as_the_model_can_read():
    row, = rows_of(Pairs.of([("a", "bcdefgh" * 3)], CHARS, ended=False), 8)
    assert (len(row.tokens), row.counted) == (8, 7)


def test_a_row_is_right_where_each_of_its_targets_is_the_most_likely_token(model):
    start = CHARS.encode("abc")
    greedy = model.generate(start[None], 3, temperature=0.0)[0]
    other = greedy.copy()
    other[4] = (other[4] + 1) % len(CHARS)
    rows = [gpt_eval.Row(greedy, 3), gpt_eval.Row(other, 3)]
    assert [row.right for row in measure(model, rows)] == [True, False]


def test_the_last_word_of_a_text_keeps_the_space_before_it(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text('{"text": "a bad  cab.\\n"}\n\n{"text": "he"}'.replace("he", "h e"))
    assert list(last_words(path)) == [("a bad", "  cab."), ("h", " e")]


# ---- the command ----------------------------------------------------------------------------------------------------

def test_the_command_prints_loss_perplexity_and_bits_per_byte_of_a_text(evaluate, model):
    text = text_of(12)
    out = evaluate(text, "text.txt")
    losses = losses_one_by_one(model, CHARS.encode(text))
    expected = [losses.mean(), math.exp(losses.mean()), losses.sum() / math.log(2) / 11]
    found = [re.search(pattern, out)[1] for pattern in ("loss    (.*) ±", "ppl     (.*) ±", "bytes   (.*) bits")]
    assert [float(number) for number in found] == pytest.approx(expected, rel=1e-4)


def test_bits_per_byte_do_not_count_the_bytes_of_the_first_token(evaluate):
    class Pairs(ByteTokenizer):                         # any two bytes are one token of few
        def encode(self, text):
            return super().encode(text)[::2] % len(CHARS)

        def decode(self, tokens):
            return "xy" * len(tokens)
    out = evaluate("xy" * 5, "text.txt", tokenizer=Pairs())
    nats = 4 * float(re.search("loss    (.*) ±", out)[1])
    assert float(re.search("bytes   (.*) bits", out)[1]) == pytest.approx(nats / math.log(2) / 8, rel=1e-3)


def test_the_command_prints_how_often_the_last_word_is_predicted(evaluate, model):
    greedy = (CHARS.decode(model.generate(CHARS.encode(text_of(6, seed))[None], 3, temperature=0.0)[0])
              for seed in range(1000))
    predicted = next(text for text in greedy if re.fullmatch(r".*[.a-h] [.a-h]{2}", text))
    wrong = predicted[:-1] + ("a" if predicted[-1] == "b" else "b")
    lines = [{"text": predicted}, {"text": wrong}, {"text": wrong}]
    out = evaluate("\n".join(map(json.dumps, lines)), "texts.jsonl")
    assert re.search(r"right   1 of 3 last words, 33.3 ± 33.3 %", out), out


def test_the_command_prints_the_loss_of_completions_with_the_newline_that_ends_them(evaluate, model):
    pairs = [{"prompt": "abc", "completion": "de"}, {"prompt": "h", "completion": "gf."}]
    out = evaluate("\n".join(map(json.dumps, pairs)), "pairs.jsonl")
    losses = [*losses_one_by_one(model, CHARS.encode("abcde\n"))[-3:],
              *losses_one_by_one(model, CHARS.encode("hgf.\n"))[-4:]]
    assert float(re.search("loss    (.*) ±", out)[1]) == pytest.approx(np.mean(losses), abs=1e-4)
    assert "of 2 completions" in out


def test_one_pair_is_measured(evaluate):
    assert "of 1 completion" in evaluate('{"prompt": "a", "completion": "b"}', "t.jsonl")


@pytest.mark.parametrize("options, message", [
    ([], "--model is missing: give a folder with a model"),
    (["--model=x"], "--dataset is missing: give a file to measure on"),
    (["--model=x", "--dataset=y", "--stride=-1"], "--stride=-1 must not be negative"),
    (["--model=x", "--dataset=y", "--block_size=1"], "--block_size=1 must be 0, or 2 or more"),
])
def test_a_wrong_option_exits_with_one_line(options, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpt_eval.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content, name, options, message", [
    ("a", "t.txt", [], "the text has 1 token"),
    ("abcd", "t.txt", ["--stride=12"], "--stride=12 must be at least 1 and below the 12 tokens of a window"),
    ("abcd", "t.txt", ["--block_size=13"], "--block_size=13 is more than the 12 tokens that this model can read"),
    ("abcdxyz", "t.txt", [], "no token for 'x' 'y' 'z'"),
    ('{"text": "one"}', "t.jsonl", [], 't.jsonl, line 1: expected {"text": "..."}, a text of at least two words'),
    ('{"text": "a b"}\n{"text": 3}', "t.jsonl", [], "t.jsonl, line 2: expected"),
    ('{"text": "a b"}\nhello', "t.jsonl", [], "t.jsonl, line 2: "),
    ("", "t.jsonl", [], "t.jsonl has no lines"), ("{}", "t.jsonl", [], "t.jsonl, line 1: no 'prompt'"),
    ('{"prompt": "a", "completion": "b"}\n{"prompt": "a"}', "t.jsonl", [], "t.jsonl, line 2: no 'completion'"),
])
def test_bad_input_exits_with_one_line(content, name, options, message, evaluate, capsys):
    with pytest.raises(SystemExit, match="2"):
        evaluate(content, name, *options)
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
