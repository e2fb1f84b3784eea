"""gpt/text: texts, tokenizers, token files, batches, and the losses of reference predictors."""
import functools
import hashlib
import http.server
import io
import json
import math
import socket
import sys
import threading
from collections import Counter, defaultdict

import numpy as np
import pytest
import tqdm
from hypothesis import given, settings, strategies as st

from gpt.text import baselines, batches, corpus, dataset, fables, tokenizer
from gpt.text.batches import Text
from gpt.text.tokenizer import ByteTokenizer, CharTokenizer

TEXT = "".join(f"the naïve {animal} sees {n} ☃\n" for n in range(60) for animal in ("fox", "owl", "hare 🦊"))
KINDS = ["char", "byte", "bpe"]


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "stars.txt"
    path.write_text(TEXT, "utf-8")
    return path


def make(kind, text):
    if kind == "bpe":
        pytest.importorskip("tokenizers")
    return tokenizer.make(kind, text, vocab_size=300)


# ---- texts ----

@pytest.mark.parametrize("raw, text", [
    (b"two\nlines\n", "two\nlines\n"), (b"\xef\xbb\xbfwith a mark", "with a mark"), (b"one\r\ntwo\r\n", "one\ntwo\n"),
    ("naïve ☃ 🦊".encode(), "naïve ☃ 🦊"),
])
def test_utf8_files_are_read_with_and_without_a_byte_order_mark(tmp_path, raw, text):
    (tmp_path / "text").write_bytes(raw)
    assert corpus.load_text(str(tmp_path / "text")) == text


@pytest.mark.parametrize("raw, message", [
    (b"\xef\xbb\xbfcaf\xe9 au lait", "text is not UTF-8 text: byte 0xe9 at offset 6; save it as UTF-8"),
    (b"\x89PNG\r\n", "byte 0x89 at offset 0"), (b"\xff\xfet\0e\0", "byte 0xff at offset 0"),
    ("é\0\1".encode(), "text is not text: byte 0x00 at offset 2, as in binary files"),
    (b"", "text is empty"), (b"\xef\xbb\xbf", "text is empty"),
])
def test_a_file_that_is_not_text_is_rejected_with_the_offset_of_its_first_bad_byte(tmp_path, raw, message):
    (tmp_path / "text").write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        corpus.load_text(str(tmp_path / "text"))


def test_a_missing_file_is_named_with_the_available_datasets():
    with pytest.raises(ValueError, match="missing.txt: No such file; --dataset takes fables, python, shakespeare or"):
        corpus.load_text("missing.txt")


def test_the_python_dataset_is_the_standard_library_without_its_tests():
    text = corpus.load_text("python")
    assert 1_000_000 < len(text) <= corpus.PYTHON_CHARACTERS and text == corpus.python_source()
    assert "import argparse" in text and "import unittest\n\nclass" not in text
    assert len(set(text)) < 500


# ---- Shakespeare, downloaded from a local server ----

PLAY = "BOTTOM:\nI have had a most rare vision.\n" * 5000


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A local server and an empty cache. server.content is its response, server.asked the requested paths."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            self.send_response(200 if server.content else 404)
            self.send_header("Content-Length", str(len(server.content)))
            self.end_headers()
            self.wfile.write(server.content)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.content = [], PLAY.encode()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{server.server_port}/input.txt")
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", hashlib.sha256(PLAY.encode()).hexdigest())
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_shakespeare_is_downloaded_once_and_cached(server, tmp_path):
    assert corpus.load_text("shakespeare") == corpus.load_text("shakespeare") == PLAY
    assert server.asked == ["/input.txt"]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["tinyshakespeare.txt"]


def test_a_download_shows_a_progress_bar_on_a_terminal(server, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(corpus, "tqdm", functools.partial(tqdm.tqdm, file=terminal))
    corpus.load_text("shakespeare")
    assert "input.txt: 100%" in terminal.getvalue() and "195k/195k" in terminal.getvalue()


@pytest.mark.parametrize("content", [b"", PLAY[:-1].encode(), b"<html>please log in</html>"])
def test_a_failed_download_says_where_to_put_the_file_and_writes_nothing(server, tmp_path, content):
    server.content = content
    with pytest.raises(ValueError, match="put it (here )?as .*tinyshakespeare.txt") as error:
        corpus.load_text("shakespeare")
    assert str(tmp_path / "cache" / "tinyshakespeare.txt") in str(error.value) and "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_without_a_network_a_file_put_into_the_cache_is_used(server, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setattr(corpus, "SHAKESPEARE_URL", f"http://127.0.0.1:{port}/input.txt")
    with pytest.raises(ValueError, match="cannot fetch Shakespeare .*put it here as .*tinyshakespeare.txt"):
        corpus.load_text("shakespeare")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tinyshakespeare.txt").write_bytes(PLAY.encode())
    assert corpus.load_text("shakespeare") == PLAY and not server.asked


def test_a_cached_file_with_another_hash_is_rejected(server, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "tinyshakespeare.txt").write_text("to be")
    with pytest.raises(ValueError, match="tinyshakespeare.txt is not .* SHA-256 is .*; delete it to fetch"):
        corpus.load_text("shakespeare")


# ---- tokenizers ----

@pytest.mark.parametrize("kind", KINDS)
def test_decode_inverts_encode_also_after_a_round_trip_through_json(kind):
    made = make(kind, TEXT)
    again = tokenizer.from_json(json.loads(json.dumps(made.to_json())))
    assert len(again) == len(made)
    for text in ("", "the owl", TEXT):
        tokens = made.encode(text)
        assert tokens.ndim == 1 and np.issubdtype(tokens.dtype, np.integer) and made.decode(tokens) == text
        assert np.array_equal(again.encode(text), tokens) and again.decode(tokens) == text
        assert not len(tokens) or 0 <= tokens.min() <= tokens.max() < len(made)


@pytest.mark.parametrize("kind", ["byte", "bpe"])
@given(text=st.text())
@settings(max_examples=50, deadline=None)
def test_byte_and_bpe_tokenizers_encode_every_text(kind, text):
    made = _cached(kind)
    assert made.decode(made.encode(text)) == text


@functools.cache
def _cached(kind):
    return make(kind, TEXT)


@given(st.text(min_size=1))
@settings(max_examples=50, deadline=None)
def test_characters_are_numbered_in_the_order_of_their_code_points(text):
    made = CharTokenizer.of(text)
    tokens = made.encode(text)
    assert tokens.shape == (len(text),) and made.decode(tokens) == text
    assert len(made) == len(set(text)) == tokens.max() + 1 and list(made.vocabulary) == sorted(set(text))


def test_unknown_characters_are_listed():
    with pytest.raises(ValueError, match="no token for 'd' 'é'; its characters are 'abc'"):
        CharTokenizer("abc").encode("aébcd")
    with pytest.raises(ValueError, match=r"no token for '\\udce9'"):  # a byte of the command line that is not UTF-8
        CharTokenizer("abc").encode("a\udce9")


def test_an_incomplete_character_decodes_to_the_replacement_character():
    assert ByteTokenizer().encode("é").tolist() == [0xC3, 0xA9] and ByteTokenizer().decode([0xC3]) == "\ufffd"


def test_bpe_merges_frequent_sequences():
    made = make("bpe", "the cat and the dog and the owl " * 100)
    assert 256 < len(made) <= 300 and len(made.encode("the dog and the owl")) < 8
    with pytest.raises(ValueError, match="--vocab_size=255 is too small: BPE starts from the 256 bytes"):
        tokenizer.make("bpe", TEXT, vocab_size=255)


def test_bpe_without_the_tokenizers_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ValueError, match=r'pip install "minigrad\[bpe\]"'):
        tokenizer.make("bpe", TEXT, vocab_size=300)


def test_an_unknown_kind_of_tokenizer_is_rejected():
    with pytest.raises(ValueError, match="--tokenizer must be char, byte or bpe, got 'word'"):
        tokenizer.make("word", TEXT, vocab_size=300)


# ---- token files ----

@pytest.mark.parametrize("kind", KINDS)
def test_a_prepared_folder_can_be_opened_without_the_source_text(kind, text_file, tmp_path):
    made = make(kind, TEXT[:len(TEXT) * 9 // 10])
    prepared = dataset.tokenize(str(text_file), kind, vocab_size=300).write(tmp_path / "run")
    text_file.unlink()
    opened = dataset.open_data(tmp_path / "run")
    for d in (prepared, opened):
        assert d.name == str(text_file) and d.description.startswith(f"{text_file}: {len(d.train.tokens):,} ")
        assert d.tokenizer.decode(d.train.tokens) + d.tokenizer.decode(d.val.tokens) == TEXT
        assert d.tokenizer.decode(d.train.tokens) == TEXT[:len(TEXT) * 9 // 10] and len(d.tokenizer) == len(made)
        assert d.val_bytes_per_token == len(d.tokenizer.decode(d.val.tokens).encode()) / len(d.val.tokens)
        assert isinstance(d.train.tokens, np.memmap) and d.train.tokens.dtype == d.val.tokens.dtype == np.uint16
        assert not d.train.tokens.flags.writeable
    assert np.array_equal(np.fromfile(tmp_path / "run" / "tokens" / "val.bin", "<u2"), opened.val.tokens)
    assert kind != "byte" or opened.val_bytes_per_token == 1.0


def test_a_vocabulary_above_65536_takes_4_bytes_per_token(tmp_path):
    text = "".join(map(chr, range(0x10000, 0x10000 + 70_000)))
    (tmp_path / "text").write_text(text, "utf-8")
    d = dataset.tokenize(str(tmp_path / "text")).write(tmp_path / "run")
    assert d.val.tokens.dtype == np.uint32 and np.array_equal(d.val.tokens, np.arange(63_000, 70_000))
    assert d.val_bytes_per_token == 4


def test_the_text_of_fables_depends_on_the_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "FABLES_CHARACTERS", 10_000)
    one, same, other = (dataset.tokenize("fables", seed=seed).write(tmp_path / str(i))
                        for i, seed in enumerate((0, 0, 1)))
    assert len(one.train.tokens) == 9000 and len(one.val.tokens) == 1000 and one.name == "fables"
    assert np.array_equal(one.train.tokens, same.train.tokens)
    assert not np.array_equal(one.train.tokens, other.train.tokens)


@pytest.mark.parametrize("text, block_size, fix", [
    ("a few words", 64, "has 2 tokens and a block_size of 64 needs 65; use --block_size=1 or a text of 650 tokens"),
    ("abc", 1, "has 1 tokens and a block_size of 1 needs 2; use a text of 20 tokens"),
    (TEXT, 900, "use --block_size="),
])
def test_a_short_text_is_rejected_before_anything_is_written(tmp_path, text, block_size, fix):
    (tmp_path / "text").write_text(text, "utf-8")
    with pytest.raises(ValueError, match=fix):
        dataset.tokenize(str(tmp_path / "text"), block_size=block_size).write(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file, content, message", [
    ("tokens/val.bin", b"\0\0", r"damaged: val.bin has 1 tokens, not \d+"), ("tokens/val.bin", b"\0", "damaged"),
    ("tokens/train.bin", b"", "damaged"), ("tokens/train.bin", None, "train.bin is missing"),
    ("tokens/meta.json", None, "meta.json is missing"), ("tokens/meta.json", b"{", "damaged"),
    ("tokens/meta.json", b"{}", "damaged"), ("tokenizer.json", None, "tokenizer.json is missing"),
    ("tokenizer.json", b"{}", "tokenizer.json is damaged"), ("tokenizer.json", b'{"type": "word"}', "'word'"),
])
def test_a_missing_or_damaged_file_is_named(text_file, tmp_path, file, content, message):
    d = dataset.tokenize(str(text_file)).write(tmp_path / "run")
    del d                                           # closes the memory-mapped files
    (tmp_path / "run" / file).unlink()
    if content is not None:
        (tmp_path / "run" / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        dataset.open_data(tmp_path / "run")


# ---- batches ----

@pytest.mark.parametrize("sampling", ["permutation", "random"])
@given(size=st.integers(2, 300), block_size=st.integers(1, 40), rows=st.integers(1, 9), step=st.integers(0, 2 ** 40))
@settings(max_examples=50, deadline=None)
def test_targets_are_shifted_by_one_and_a_batch_depends_on_seed_and_step_alone(sampling, size, block_size, rows, step):
    tokens = 1000 + np.arange(size + block_size, dtype=np.uint16)
    x, y = batches.batch(tokens, block_size, rows, 7, step, sampling)
    assert x.shape == y.shape == (rows, block_size) and x.dtype == y.dtype == np.int64
    assert np.array_equal(x, x[:, :1] + np.arange(block_size)) and np.array_equal(y, x + 1)
    assert 1000 <= x.min() and y.max() < 1000 + len(tokens)
    batches.batch(tokens, block_size, rows, 7, step + 1, sampling)                      # has no effect on the next call
    assert np.array_equal(batches.batch(tokens, block_size, rows, 7, step, sampling)[0], x)


@pytest.mark.parametrize("sampling", ["permutation", "random"])
def test_batches_of_other_steps_and_seeds_differ(sampling):
    one, next_step, other_seed = (batches.batch(np.arange(1000), 8, 5, seed, step, sampling)[0].tolist()
                                  for seed, step in ((0, 1), (0, 2), (1, 1)))
    assert one != next_step != other_seed != one


@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 9))
@settings(max_examples=100, deadline=None)
def test_an_epoch_visits_each_window_of_its_grid_once(size, block_size, rows):
    size += block_size
    n = max((size - 1) // block_size - 1, 1)
    steps = -(-3 * n // rows)
    starts = np.concatenate([batches.batch(np.arange(size), block_size, rows, 0, step)[0][:, 0]
                             for step in range(steps)])
    for epoch in starts[:3 * n].reshape(3, n):
        grid = np.sort(epoch)
        assert np.array_equal(grid, grid[0] + block_size * np.arange(n)) and grid[0] < block_size


def test_epochs_differ_in_order_and_cuts_and_cover_all_starts():
    starts = batches.batch(np.arange(101), 10, 9 * 2000, 0, 0)[0][:, 0].reshape(2000, 9)
    assert set(starts[:, 0]) == set(range(90)) and set(starts[:, 0] % 10) == set(range(10))
    assert len(set(map(tuple, np.argsort(starts)))) > 1900


def test_a_batch_is_the_concatenation_of_smaller_batches():
    whole, _ = batches.batch(np.arange(500), 8, 12, 0, 3)
    parts = [batches.batch(np.arange(500), 8, 4, 0, step)[0] for step in (9, 10, 11)]
    assert np.array_equal(whole, np.concatenate(parts))


def test_random_sampling_starts_at_every_possible_token():
    x, _ = batches.batch(np.arange(12), 8, 500, 0, 0, "random")
    assert set(x[:, 0]) == {0, 1, 2, 3}


def test_an_unknown_sampling_or_too_few_tokens_are_rejected():
    with pytest.raises(ValueError, match="--sampling must be permutation or random, got 'shuffled'"):
        batches.batch(np.arange(100), 8, 5, 0, 0, "shuffled")
    for refused in (lambda: batches.batch(np.arange(8), 8, 5, 0, 0), lambda: batches.windows(np.arange(8), 8)):
        with pytest.raises(ValueError, match="8 tokens are too few: a block_size of 8 needs 9"):
            refused()


# ---- validation windows ----

@given(st.integers(9, 200), st.one_of(st.none(), st.integers(1, 30)))
@settings(max_examples=100, deadline=None)
def test_validation_windows_are_spread_evenly_and_no_token_is_a_target_twice(size, n):
    windows = batches.windows(np.arange(size, dtype=np.uint16), 8, n)
    targets = windows[:, 1:].ravel()
    fit = (size - 1) // 8
    assert windows.shape == (fit if n is None else min(n, fit), 9) and windows.dtype == np.int64
    assert np.array_equal(windows, windows[:, :1] + np.arange(9)) and len(set(targets)) == len(targets)
    assert windows[0, 0] == 0 and (len(windows) == 1 or windows[-1, -1] == size - 1)


@given(st.integers(100, 500), st.integers(1, 8), st.integers(0, 5), st.sampled_from(["permutation", "random"]))
@settings(max_examples=15, deadline=None)
def test_no_training_token_is_in_a_validation_window(tmp_path_factory, size, block_size, seed, sampling):
    """In a text whose characters are all different."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text").write_text("".join(map(chr, range(0x4E00, 0x4E00 + size))), "utf-8")
    d = dataset.tokenize(str(folder / "text"), block_size=block_size).write(folder)
    trained = {token for step in range(20) for part in d.train.batch(block_size, 16, seed, step, sampling)
               for token in part.ravel()}
    assert trained.isdisjoint(batches.windows(d.val.tokens, block_size).ravel())
    assert len(d.val.tokens) == math.ceil(size / 10)


# ---- reference predictors ----

def counted_by_hand(tokens, windows, V, max_order):
    """Witten and Bell's smoothing as a recursion over contexts, with dictionaries."""
    followers = defaultdict(Counter)
    for n in range(1, max_order + 1):
        for i in range(len(tokens) - n + 1):
            followers[n, tuple(tokens[i:i + n - 1])][tokens[i + n - 1]] += 1

    def p(token, context):
        lower = p(token, context[1:]) if context else 1.0 / V
        seen = followers[len(context) + 1, context]
        return (seen[token] + len(seen) * lower) / (sum(seen.values()) + len(seen)) if seen else lower

    return [np.mean([-math.log(p(w[t], tuple(w[max(t - n + 1, 0):t]))) for w in windows for t in range(1, len(w))])
            for n in range(1, max_order + 1)]


@given(st.integers(1, 4).flatmap(lambda V: st.tuples(
    st.just(V), st.lists(st.integers(0, V - 1), min_size=4, max_size=40),
    st.lists(st.lists(st.integers(0, V - 1), min_size=5, max_size=5), min_size=1, max_size=4))))
@settings(max_examples=100, deadline=None)
def test_ngram_losses_equal_those_counted_with_dictionaries(case):
    V, tokens, windows = case
    assert np.allclose(baselines.ngram_losses(np.array(tokens), np.array(windows), V, max_order=3),
                       counted_by_hand(tokens, windows, V, max_order=3), rtol=1e-12)


def test_bigrams_predict_an_alternating_text_that_unigrams_cannot():
    tokens = np.tile([0, 1], 5000)
    one, two = baselines.ngram_losses(tokens, tokens[:90].reshape(10, 9), 2, max_order=2)
    assert one == pytest.approx(math.log(2), abs=1e-3) and two < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_reference_lines_of_a_text_are_counted_in_its_training_tokens(kind, text_file, tmp_path):
    made = make(kind, TEXT[:len(TEXT) * 9 // 10])
    d = dataset.tokenize(str(text_file), kind, vocab_size=300).write(tmp_path / "run")
    windows = batches.windows(d.val.tokens, 8)
    lines = baselines.reference_lines(d, d.val.windows(8))
    V = len(d.tokenizer)
    assert list(lines) == ["ln V", "1-gram", "2-gram", "3-gram", "4-gram", "5-gram"] and V == len(made)
    assert lines["ln V"] == math.log(V)
    by_hand = counted_by_hand(d.train.tokens.tolist(), windows.tolist(), V, 5)
    assert np.allclose(list(lines.values())[1:], by_hand, rtol=1e-12)


@pytest.mark.parametrize("V, orders", [(2, 5), (5000, 5), (50_000, 3), (100_000, 3)])
def test_only_orders_whose_codes_fit_64_bits_are_counted(V, orders):
    made = CharTokenizer("".join(map(chr, range(0xE000, 0xE000 + V))))
    tokens = np.arange(1000) * 97 % V
    d = dataset.Data("a text", "", made, Text(tokens), Text(tokens), 1.0)
    assert list(baselines.reference_lines(d, d.val.windows(8)))[-1] == f"{orders}-gram"
    with pytest.raises(ValueError, match="do not fit 64 bits"):
        baselines.ngram_losses(tokens, tokens[None, :70], V, max_order=63)


def test_a_training_part_of_too_few_tokens_is_rejected(tmp_path):
    """BPE makes one token of nine tenths of the text."""
    pytest.importorskip("tokenizers")
    (tmp_path / "a.txt").write_text("a" * 9000 + "éßüöä" * 200, "utf-8")
    with pytest.raises(ValueError, match="its first nine tenths, to train on, has 1 tokens and a block_size of 8"):
        dataset.tokenize(str(tmp_path / "a.txt"), "bpe", 300, block_size=8)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_reference_lines_of_short_windows_have_as_many_orders_as_tokens(length):
    tokens = np.arange(40) % 3
    data = dataset.Data("stars.txt", "", CharTokenizer("abc"), Text(tokens), Text(tokens), 1.0)
    lines = baselines.reference_lines(data, batches.pairs(tokens[:36].reshape(-1, length)))
    assert list(lines) == ["ln V", *(f"{n}-gram" for n in range(1, length + 1))]


@pytest.mark.parametrize("kind", KINDS)
def test_reference_lines_of_the_fables_are_exact(kind, tmp_path):
    """With one token per character: six n-grams, the best possible loss below them, and the entropy rate below that.
    With others the n-grams are counted, and the entropy rate is multiplied by the characters per token."""
    make(kind, TEXT)
    d = dataset.tokenize("fables", kind, vocab_size=300).write(tmp_path)
    lines = baselines.reference_lines(d, d.val.windows(64, 200))
    rate = fables.source().entropy_rate()
    exact = kind != "bpe"
    assert list(lines) == (["ln V"] + [f"{n}-gram" for n in range(1, 7 if exact else 6)]
                           + ["best possible"] * exact + ["entropy rate"])
    assert lines["ln V"] == math.log(len(d.tokenizer)) and lines["entropy rate"] == rate * d.val_bytes_per_token
    assert all(type(loss) is float for loss in lines.values())
    if exact:
        assert list(lines.values()) == sorted(lines.values(), reverse=True)
        assert d.val_bytes_per_token == 1.0 and lines["3-gram"] == fables.source().ngram_losses()[2]
    else:
        assert min(lines.values()) == lines["entropy rate"]
