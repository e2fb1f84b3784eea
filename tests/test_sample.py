"""gpt.sample: streamed text, the table of candidates, stop strings, and errors of the command line."""
import io
import json
import re
import sys

import numpy as np
import pytest
from gpt2_folder import VOCAB_SIZE, edit_json, write_folder
from hypothesis import given, settings, strategies as st

from gpt import model_folder, sample
from gpt.decoding import penalized, probabilities
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint
from gpt.text.tokenizer import ByteTokenizer, CharTokenizer, of_folder

CHARS = CharTokenizer("\n abcdefgh")


def tiny_gpt(vocab_size, seed=0):
    """Weights large enough for logits that differ clearly."""
    model = GPT(GPTConfig(block_size=12, vocab_size=vocab_size, n_layer=1, n_head=2, n_embd=8, tied=False))
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.data = p.data + rng.normal(0.0, 0.3, size=p.shape)
    return model


@pytest.fixture
def generate(monkeypatch, capsys):
    """A function: options -> the output of gpt.sample for a run with a tiny model, which is its attribute `model`."""
    model = tiny_gpt(len(CHARS))
    monkeypatch.setattr(checkpoint, "load_model", lambda out_dir, device: (model, CHARS))

    def generate(*options):
        sample.main(["--out_dir=run", "--device=cpu", *options])
        return capsys.readouterr().out

    generate.model = model
    return generate


# ---- from tokens to text ----

@given(st.text(st.sampled_from("aé€🦊\ufffd"), max_size=8), st.lists(st.integers(0, 255), max_size=3))
@settings(max_examples=100, deadline=None)
def test_pieces_of_byte_tokens_are_complete_characters(text, broken):
    """One token per byte, characters of 1 to 4 bytes, and at the end bytes that are not UTF-8."""
    tokens = [*text.encode(), *broken]
    pieces = list(sample.text_of(tokens, ByteTokenizer()))
    assert "".join(pieces) == ByteTokenizer().decode(tokens)
    if not broken:
        assert set("".join(pieces)) <= set(text)


def test_each_character_token_gives_its_piece_immediately():
    pieces = sample.text_of(iter(CHARS.encode("abc")), CHARS)
    assert [next(pieces) for _ in range(3)] == ["a", "b", "c"]


@given(text=st.text("ab", max_size=12), stop=st.text("ab", max_size=4))
@settings(max_examples=300, deadline=None)
def test_text_ends_before_the_stop_string_without_a_prefix_of_it(text, stop):
    read = []
    tokens = (read.append(token) or token for token in CHARS.encode(text))
    pieces = list(sample.text_of(tokens, CHARS, stop))
    end = text.index(stop) if stop and stop in text else len(text)
    assert "".join(pieces) == text[:end]
    assert len(read) == (end + len(stop) if end < len(text) else len(text))     # and reads no more tokens


def test_text_that_cannot_be_part_of_the_stop_string_is_not_held_back():
    pieces = sample.text_of(iter(CHARS.encode("aabcab")), CHARS, stop="abc")
    assert next(pieces) == "" and next(pieces) == "a"           # "aa": the first a is not part of "abc"
    assert list(pieces) == ["", ""]                             # "aab", "aabc"


def test_an_empty_start_is_a_newline_or_token_0():
    assert sample.prompt(CHARS, "").tolist() == [[0]]
    assert sample.prompt(CharTokenizer("xyz"), "").tolist() == [[0]]
    assert sample.prompt(ByteTokenizer(), "").tolist() == [[10]]
    with pytest.raises(ValueError, match="no token for 'X' 'Ω'"):
        sample.prompt(CHARS, "aXbΩ")


# ---- the table of candidates ----

OPTIONS = [dict(), dict(temperature=0.0), dict(temperature=2.0, top_k=3), dict(top_p=0.7),
           dict(top_k=4, top_p=0.5, repetition_penalty=1.5)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_candidates_list_probabilities_and_what_each_filter_removed(options, seed):
    """Most likely first; for each the probability it is sampled with, or the filter that removed it. Counts equal those
    by brute force."""
    rng = np.random.default_rng(seed)
    logits, seen = rng.normal(0.0, 2.0, size=10).astype("float32"), np.array([1, 2, 2])
    o = sample.Options(**options)
    z = penalized(logits[None], seen[None], o.repetition_penalty)[0]
    order = np.argsort(-z)
    own, final = probabilities(logits), probabilities(z, o.temperature, o.top_k or None, o.top_p)
    drawn = int(final.argmax())
    lines = sample.candidates(logits, seen, drawn, CHARS, o).splitlines()
    rows = [line for line in lines if "removed" not in line]
    assert len(rows) == sample.CANDIDATES and max(map(len, lines)) <= 80
    for token, line in zip(order, rows):
        assert line.startswith(f"{'>' if token == drawn else ' '} {CHARS.decode([token])!r} ")
        assert f" {own[token]:6.1%} " in line
        assert line.count("█") == (round(30 * own[token]) if final[token] else 0)
        assert line.count("░") == (0 if final[token] else round(30 * own[token]))
        assert line.endswith(f" {final[token]:.1%}" if final[token] else ("top_k", "top_p", "temperature 0"))
    counts = dict(re.findall(r"(top_k|top_p|temperature 0) removed (\d+) of", "\n".join(lines)))
    if o.temperature == 0.0:
        assert counts == {"temperature 0": "9"}
    else:
        k = 10 - o.top_k if o.top_k else 0
        p = 10 - k - np.count_nonzero(final)
        assert counts == {name: str(n) for name, n in (("top_k", k), ("top_p", p)) if n}


def test_candidates_include_the_drawn_token_even_if_unlikely():
    logits = -np.arange(10.0)
    rows = sample.candidates(logits, np.array([0]), 9, CHARS, sample.Options()).splitlines()
    assert len(rows) == sample.CANDIDATES + 1 and rows[-1].startswith("> 'h'")


def test_show_probs_prints_a_table_per_token_and_then_the_same_text(generate):
    plain = generate("--start=abc", "--max_new_tokens=15", "--top_k=4")
    shown = generate("--start=abc", "--max_new_tokens=15", "--top_k=4", "--show_probs=true")
    assert shown.endswith("\n\n" + plain) and max(map(len, shown.splitlines())) <= 80
    drawn = re.findall(r"^> ('.*?') ", shown, re.MULTILINE)
    assert "".join(json.loads(token.replace("'", '"')) for token in drawn) == plain[3:-1]


# ---- the command ----

def test_it_prints_the_start_and_its_continuation(generate):
    output = generate("--start=abc", "--max_new_tokens=20", "--seed=3", "--temperature=1.5", "--top_k=5", "--top_p=0.9",
                      "--repetition_penalty=1.1")
    tokens = generate.model.generate(CHARS.encode("abc")[None], 20, 1.5, 5, 0.9, seed=3, repetition_penalty=1.1)
    assert output == CHARS.decode(tokens[0]) + "\n"


def test_each_token_is_printed_before_the_next_one_is_computed(generate, monkeypatch):
    """Flushed: when the model computes the logits of a token, stdout has the text of the tokens before."""
    screen, lengths, next_logits = io.BytesIO(), [], generate.model.next_logits
    monkeypatch.setattr(generate.model, "next_logits",
                        lambda *args: lengths.append(len(screen.getvalue())) or next_logits(*args))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(screen))
    generate("--start=ab", "--max_new_tokens=5")
    assert lengths == [2, 3, 4, 5, 6]


def test_sample_i_has_seed_plus_i(generate):
    separator = "-" * 40 + "\n"
    three = generate("--num_samples=3", "--max_new_tokens=20", "--seed=5").split(separator)
    assert len(set(three)) == 3
    assert three == [generate("--max_new_tokens=20", f"--seed={seed}") for seed in (5, 6, 7)]


def test_beam_search_does_not_depend_on_the_seed(generate):
    output = [generate("--start=abc", "--beam=3", "--max_new_tokens=8", f"--seed={seed}") for seed in (0, 1)]
    expected = CHARS.decode(generate.model.generate(CHARS.encode("abc")[None], 8, beam=3)[0]) + "\n"
    assert output == [expected, expected]


def test_the_stop_option_ends_the_text(generate):
    whole = generate("--start=abc", "--max_new_tokens=30")[:-1]
    stop = whole[10:12]
    assert generate("--start=abc", "--max_new_tokens=30", f"--stop={stop}") == whole[:whole.index(stop, 3)] + "\n"


def test_the_start_may_be_read_from_a_file(generate, tmp_path):
    (tmp_path / "start.txt").write_bytes("\ufeffabc\r\nab".encode())
    assert generate(f"--start=FILE:{tmp_path / 'start.txt'}", "--max_new_tokens=0") == "abc\nab\n"


@pytest.mark.parametrize("options, message", [
    (["--out_dir="], "which model? Give --model=FOLDER, the folder of a GPT-2 or a run"),
    (["--model=other"], "--model=other and --out_dir=run are two models: give one of them"),
    (["--start=aXbΩ"], "no token for 'X' 'Ω'"),
    (["--start=FILE:nowhere.txt"], "nowhere.txt: No such file"),
    (["--temperature=-1"], "temperature must be 0 (greedy) or more, got -1.0"),
    (["--temperature=hot"], "--temperature expects a number, got 'hot'"),
    (["--top_k=-1"], "--top_k must be at least 0, got -1"), (["--top_p=2"], "top_p must be in (0, 1], got 2.0"),
    (["--repetition_penalty=0"], "repetition_penalty must be positive, 1 for none, got 0.0"),
    (["--num_samples=0"], "--num_samples must be at least 1, got 0"),
    (["--max_new_tokens=-5"], "--max_new_tokens must be at least 0, got -5"),
    (["--seed=-1"], "--seed must be at least 0"), (["--beam=-1"], "--beam must be at least 0"),
    (["--beam=2", "--num_samples=2"], "--beam does not sample: leave out --num_samples"),
    (["--tempreature=1"], "did you mean --temperature?"), (["--device=gpu"], "unknown device 'gpu'"),
])
def test_bad_input_exits_with_status_2_and_one_line(generate, capsys, options, message):
    with pytest.raises(SystemExit) as exit:
        generate(*options)
    output = capsys.readouterr()
    assert exit.value.code == 2 and output.out == ""
    assert output.err.startswith("gpt.sample: ") and output.err.count("\n") == 1 and message in output.err


# ---- a GPT-2 ----

def sampled(capsys, folder, *options):
    sample.main([f"--model={folder}", "--device=cpu", "--seed=1", *options])
    return capsys.readouterr().out


def test_a_gpt2_continues_a_text_as_its_tokens_are_decoded(tmp_path, capsys):
    """Random tokens are often parts of characters: nothing is printed twice or lost."""
    pytest.importorskip("tokenizers")
    model, tokenizer = model_folder.load(write_folder(tmp_path))
    expected = model.generate(tokenizer.encode("the fox")[None], 60, temperature=2.0, seed=1)[0]
    expected = expected[:[*expected, 0].index(0)]
    output = sampled(capsys, tmp_path, "--start=the fox", "--max_new_tokens=60", "--temperature=2")
    assert output == tokenizer.decode(expected) + "\n" and "\ufffd" in output


def draws(monkeypatch, *tokens):
    """The model draws these tokens."""
    monkeypatch.setattr(GPT, "stream", lambda self, idx, *_: iter(np.array([[token] for token in tokens])))


def test_a_sample_ends_at_endoftext_which_is_not_printed(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tokenizers")
    fox, owl = (of_folder(write_folder(tmp_path)).encode(text).tolist() for text in ("fox", "owl"))
    draws(monkeypatch, *fox, 0, *owl)
    assert sampled(capsys, tmp_path, "--start=the ") == "the fox\n"
    shown = sampled(capsys, tmp_path, "--start=the ", "--show_probs")
    assert shown.count("drawn with") == 1 and shown.count("\n> ") == len(fox) + 1 and "> '<|endoftext" in shown
    assert shown.endswith("\n\nthe fox\n")


def test_an_empty_start_is_endoftext_where_there_is_one_which_is_not_printed(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tokenizers")
    tokenizer = of_folder(write_folder(tmp_path))
    assert sample.prompt(tokenizer, "").tolist() == [[0]]
    draws(monkeypatch, *tokenizer.encode("the fox"))
    assert sampled(capsys, tmp_path) == "the fox\n"


def test_endoftext_within_the_start_is_the_token_and_is_printed(tmp_path, capsys):
    pytest.importorskip("tokenizers")
    assert 0 in sample.prompt(of_folder(write_folder(tmp_path)), "one<|endoftext|>two")
    assert sampled(capsys, tmp_path, "--start=one<|endoftext|>two", "--max_new_tokens=0") == "one<|endoftext|>two\n"


@pytest.mark.parametrize("options", [[], ["--show_probs"], ["--beam=2"], ["--stop=x"]])
def test_a_row_of_the_table_without_a_token_may_be_drawn_and_has_no_text(tmp_path, capsys, options):
    pytest.importorskip("tokenizers")
    model = model_folder.load_model(write_folder(tmp_path, vocab_size=384))
    model.wte.weight.data[VOCAB_SIZE:] = 10.0                           # and the input of the head sums to 16
    model.ln_f.bias.data = np.ones(16)
    model.save_pretrained(tmp_path)
    assert sampled(capsys, tmp_path, "--start=the fox", "--max_new_tokens=4", *options).endswith("the fox\n")


@pytest.mark.parametrize("change, message", [
    (lambda folder: (folder / "tokenizer.json").unlink(), "has no tokenizer: expected tokenizer.json, or vocab.json"),
    (lambda folder: edit_json(folder / "config.json", model_type="llama"), "model_type is 'llama', but this GPT has"),
    (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
])
def test_what_is_no_folder_of_a_gpt2_exits_with_status_2_and_one_line(tmp_path, capsys, change, message):
    pytest.importorskip("tokenizers")
    change(write_folder(tmp_path))
    with pytest.raises(SystemExit) as exit:
        sampled(capsys, tmp_path)
    output = capsys.readouterr()
    assert exit.value.code == 2 and output.out == "" and output.err.count("\n") == 1 and message in output.err


def test_help_fits_an_80_column_terminal(capsys):
    with pytest.raises(SystemExit):
        sample.main(["--help"])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
