"""Pairs of a prompt and a completion: reading, rows, epochs, files, losses."""
import json
import math

import numpy as np
import pytest
from gpt2_folder import write_folder
from hypothesis import given, settings, strategies as st

import minigrad as mg
import train
from gpt.model import GPT, GPTConfig
from gpt.run.evaluate import evaluate
from gpt.text import baselines, dataset
from gpt.text.batches import Text, trimmed
from gpt.text.pairs import Pairs, end_tokens, read_pairs
from gpt.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer
from minigrad import functional as F
from minigrad.parallel import GradientSum, World

SUMS = [(f"{a}+{b}=", f"{a + b}" + "!" * (a % 3)) for a in range(9) for b in range(9)]


def write(path, pairs):
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs), "utf-8")
    return str(path)


def lengths_of(rows):
    return Pairs(np.arange(sum(map(sum, rows))), np.array(rows))


# ---- files ----

def test_pairs_are_read_from_lines_of_json_with_blank_lines_and_other_keys(tmp_path):
    path = tmp_path / "pairs.jsonl"
    text = '\ufeff{"prompt": "a", "completion": " b\\n☃"}\r\n\n{"id": 7, "completion": "c", "prompt": ""}'
    path.write_bytes(text.encode())
    assert read_pairs(path) == [("a", " b\n☃"), ("", "c")]


@pytest.mark.parametrize("line, message", [
    ('{"prompt": "a"', r"no JSON \(Expecting ',' delimiter, column 15\): expected {\"prompt\": "),
    ('["a", "b"]', "expected {name: value, ...}, got a list"), ("[" * 100_000, "it is nested too deeply"),
    ('{"prompt": "a"}', "no 'completion'; expected {\"prompt\": "),
    ('{"promt": "a", "completion": "b"}', "no 'prompt'; is 'promt' misspelled?"),
    ('{"prompt": "a", "completion": ""}', "the completion is empty: there is nothing to learn"),
    ('{"prompt": "a", "completion": "b", "prompt": "c"}', "'prompt' is there twice"),
    ('{"prompt": 3, "completion": "b"}', "'prompt' must be a string, got 3"),
    ('{"prompt": "a", "completion": null}', "'completion' must be a string, got None"),
    ('{"prompt": "a", "completion": "\\ud83d"}', "'completion' has half of a surrogate pair"),
])
def test_a_line_that_is_no_pair_is_named_by_its_number(tmp_path, line, message):
    (tmp_path / "pairs.jsonl").write_text(f'{{"prompt": "a", "completion": "b"}}\n\n{line}\n')
    with pytest.raises(ValueError, match=f"pairs.jsonl, line 3: {message}".replace("?", r"\?")):
        read_pairs(tmp_path / "pairs.jsonl")


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_pairs_are_refused(tmp_path, n):
    with pytest.raises(ValueError, match=f"pairs.jsonl has {n} pairs?: give at least 2"):
        dataset.tokenize(write(tmp_path / "pairs.jsonl", SUMS[:n]))


@pytest.mark.parametrize("kind", ["char", "byte", "bpe"])
def test_pairs_from_files_are_those_of_the_jsonl_each_once_a_tenth_of_them_held_out(tmp_path, kind):
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    dataset.tokenize(write(tmp_path / "sums.jsonl", SUMS), kind, 300, block_size=20).write(tmp_path / "run")
    (tmp_path / "sums.jsonl").unlink()
    d = dataset.open_data(tmp_path / "run")
    assert (len(d.train.lengths), len(d.val.lengths)) == (73, 8)
    assert isinstance(d.val.tokens, np.memmap) and ": 73 pairs to train on, 8 held out" in d.description
    found = []
    for part in (d.train, d.val):
        x, y = part.windows(20)
        for tokens, targets, prompt in zip(x, y, part.prompts(len(x))):
            assert np.array_equal(tokens[:len(prompt)], prompt)
            found.append((d.tokenizer.decode(prompt), d.tokenizer.decode(targets[targets != -100])))
    assert sorted(found) == sorted((p, c + "\n") for p, c in SUMS)
    counted = d.val.windows(20)[1]
    counted = counted[counted != -100]
    assert d.val_bytes_per_token == len(d.tokenizer.decode(counted).encode()) / len(counted)


def test_pairs_are_held_out_by_the_seed(tmp_path):
    path = write(tmp_path / "sums.jsonl", SUMS)
    one, same, other = (dataset.tokenize(path, "byte", seed=seed).parts["val"].tokens.tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_a_completion_ends_with_the_token_of_the_end_or_a_newline_and_an_empty_prompt_begins_with_it(tmp_path):
    pytest.importorskip("tokenizers")
    write_folder(tmp_path / "gpt2")
    path = write(tmp_path / "a.jsonl", [("", "fox"), ("the", "fox")])
    d = dataset.tokenize(path, "model", 330, model=tmp_path / "gpt2")
    for part in d.parts.values():
        prompt = part.lengths[0, 0]
        assert part.tokens[-1] == d.tokenizer.end_of_text == 0 and part.tokens[prompt:-1].tolist() == (
            d.tokenizer.encode("fox").tolist())
        assert part.tokens[0] == 0 or part.tokens[:prompt].tolist() == d.tokenizer.encode("the").tolist()
    assert Pairs.of([("", "b")], ByteTokenizer()).tokens.tolist() == [10, 98, 10]
    without = CharTokenizer("ab")
    assert end_tokens(without) == [] and Pairs.of([("a", "b")], without).tokens.tolist() == [0, 1]
    with pytest.raises(ValueError, match="a pair has an empty prompt, and the tokenizer has neither"):
        Pairs.of([("", "b")], without)


# ---- rows ----

def test_only_targets_of_the_completion_count_and_rows_are_padded_to_the_longest():
    x, y = lengths_of([(2, 2), (3, 4), (1, 1)]).rows(np.array([0, 1, 2]), 10)
    assert x.tolist() == [[0, 1, 2, 3, 0, 0], [4, 5, 6, 7, 8, 9], [11, 12, 0, 0, 0, 0]]
    assert y.tolist() == [[-100, 2, 3, -100, -100, -100], [-100, -100, 7, 8, 9, 10], [12] + [-100] * 5]


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 10))
@settings(max_examples=200, deadline=None)
def test_a_long_row_loses_the_start_of_its_prompt_and_then_the_end_of_its_completion(prompt, completion, block_size):
    x, y = lengths_of([(prompt, completion)]).rows(slice(None), block_size)
    counted = y[y != -100]
    assert np.array_equal(counted, prompt + np.arange(min(completion, block_size)))
    kept = min(prompt, max(block_size + 1 - completion, 1))
    size = min(kept + len(counted), block_size + 1) - 1
    assert np.array_equal(x[0, :size], prompt - kept + np.arange(size)) and x.shape[1] <= block_size


def test_how_many_pairs_are_cropped_stands_in_the_description(tmp_path):
    path = write(tmp_path / "a.jsonl", [("p" * 9, "c")] * 3 + [("p", "c")])
    short, long = (dataset.tokenize(path, block_size=size).meta["description"] for size in (8, 10))
    assert short.endswith("; 3 are longer than --block_size=8 and cropped") and "cropped" not in long


@given(st.integers(1, 30), st.integers(1, 9), st.integers(0, 2 ** 40))
@settings(max_examples=50, deadline=None)
def test_an_epoch_visits_each_pair_once_and_a_batch_depends_on_seed_and_step_alone(n, rows, first):
    pairs, first = lengths_of([(2, 1)] * n), first * n              # the first step of an epoch
    visits = np.concatenate([pairs.batch(8, rows, 7, first + step)[0][:, 0] for step in range(n)])
    for epoch in visits.reshape(rows, n):
        assert sorted(epoch) == [3 * i for i in range(n)]
    assert np.array_equal(pairs.batch(8, rows, 7, first)[0][:, 0], visits[:rows])


def test_epochs_and_seeds_have_other_orders_and_random_sampling_draws_any_pair():
    pairs = lengths_of([(2, 1)] * 50)
    orders = [pairs.batch(8, 50, seed, step)[0][:, 0].tolist() for seed, step in ((0, 0), (0, 1), (1, 0))]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    drawn = pairs.batch(8, 2000, 0, 0, "random")[0][:, 0]
    assert set(drawn) == {3 * i for i in range(50)} and len(set(drawn[:50])) < 50


def test_the_rows_of_each_process_are_padded_to_the_longest_row_of_the_step():
    pairs = lengths_of([(1, 1 + i) for i in range(8)])
    x, y = pairs.batch(20, 8, 0, 3)
    for part in (slice(0, 2), slice(2, 8)):
        for whole, mine in zip((x, y), pairs.batch(20, 8, 0, 3, part=part)):
            assert np.array_equal(whole[part], mine)


def test_padding_is_trimmed_and_a_batch_without_counted_targets_keeps_a_column():
    x, y = lengths_of([(2, 2), (3, 4), (1, 1)]).rows(slice(None), 10)
    short = trimmed(x[::2], y[::2])
    assert short[0].tolist() == [[0, 1, 2], [11, 12, 0]] and short[1].tolist() == [[-100, 2, 3], [12, -100, -100]]
    assert [a.shape for a in trimmed(x, np.full_like(y, -100))] == [(3, 1)] * 2


# ---- losses ----

def uneven():
    """A model, and x, y of 6 pairs with 1 to 9 targets, padded."""
    model = GPT(GPTConfig(block_size=12, vocab_size=64, n_layer=2, n_head=2, n_embd=8), dtype="float64")
    return model, *lengths_of([(3, 9), (1, 1), (5, 2), (2, 6), (1, 1), (4, 3)]).rows(slice(None), 12)


def test_the_gradient_of_a_step_equals_that_of_one_batch_also_with_uneven_completions():
    model, x, y = uneven()
    expected = mg.grad(model.loss(x, y), model.parameters())
    for micro_steps in (1, 2, 3, 6):
        model.zero_grad()
        sums = GradientSum(list(model.parameters()), micro_steps, World())
        train.accumulate_gradient(model, sums, x, y, 0, 0)
        assert sums.total()[0].item() == pytest.approx(model.loss(x, y).item(), abs=1e-12)
        for p, g in zip(model.parameters(), expected):
            assert np.abs(p.grad - g.data).max() < 1e-12


def test_a_prompt_and_padding_have_no_loss_and_padding_changes_nothing():
    model, x, y = uneven()
    losses = []
    for tokens, targets in zip(x, y):
        counted = np.flatnonzero(targets != -100)
        logits = model(tokens[None, :counted[-1] + 1])[0][0]
        losses += [F.cross_entropy(logits[i], targets[i]).item() for i in counted]
    assert model.loss(x, y).item() == pytest.approx(np.mean(losses), abs=1e-12)


@pytest.mark.parametrize("batch_size", [1, 4, 6])
def test_the_validation_loss_is_the_mean_over_counted_targets_with_the_error_of_a_ratio(batch_size):
    model, x, y = uneven()
    loss, error = evaluate(model, (x, y), batch_size)
    counts = (y != -100).sum(axis=1)
    means = np.array([model.loss(x[i:i + 1], y[i:i + 1]).item() for i in range(6)])
    assert loss == pytest.approx(model.loss(x, y).item(), abs=1e-12)
    residuals = counts * (means - loss)             # Cochran 1977, 2.46, for a sample that is a small part of all
    assert error == pytest.approx(math.sqrt((residuals ** 2).sum() / 5 / 6) / counts.mean(), abs=1e-12)


def test_n_grams_are_measured_on_the_counted_targets():
    """After a letter comes the same one or an h, each half of the time; after two comes an h."""
    rows = np.array([[i % 7, i % 7, 7] for i in range(70)])
    part = Pairs(rows.ravel(), np.array([[1, 2]] * 70))
    data = dataset.Data("pairs.jsonl", "", CharTokenizer("abcdefgh"), part, part, 1.0)
    lines = baselines.reference_lines(data, part.windows(8))
    assert list(lines) == ["ln V", "1-gram", "2-gram", "3-gram"]
    assert lines["2-gram"] == pytest.approx(math.log(2), abs=0.3)
    assert lines["3-gram"] < 0.5 < lines["2-gram"] < lines["1-gram"]


def test_a_text_is_windows_in_which_every_target_counts():
    text = Text(np.arange(100))
    x, y = text.windows(8, 4)
    assert x.shape == y.shape == (4, 8) and np.array_equal(y, x + 1) and text.row_length(8) == 8
    assert [a.tolist() for a in trimmed(x, y)] == [x.tolist(), y.tolist()]


def test_bpe_is_learned_from_prompts_and_completions(tmp_path):
    pytest.importorskip("tokenizers")
    made = dataset.tokenize(write(tmp_path / "a.jsonl", [("walrus", "tusk")] * 20), "bpe", 300).tokenizer
    assert isinstance(made, BPETokenizer) and len(made.encode("walrus")) == len(made.encode("tusk")) == 1
