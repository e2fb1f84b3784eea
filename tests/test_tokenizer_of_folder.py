"""The tokenizer in the folder of a model: GPT-2's files and those of a run, equal to transformers' on unusual texts."""
import json
import sys

import numpy as np
import pytest
from gpt2_folder import TEXTS, VOCAB_SIZE, edit_json, train_tokenizer, write_tokenizer

from gpt.text import tokenizer
from gpt.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, of_folder

LAYOUTS = ["tokenizer.json", "vocab.json"]


# ---- encoding and decoding ----

@pytest.mark.parametrize("layout", LAYOUTS)
def test_unusual_texts_are_encoded_and_decoded_as_by_the_library(tmp_path, layout):
    pytest.importorskip("tokenizers")
    ours, library = of_folder(write_tokenizer(tmp_path, layout)), train_tokenizer()
    assert len(ours) == VOCAB_SIZE and ours.end_of_text == 0
    for text in TEXTS:
        tokens = ours.encode(text)
        assert tokens.dtype == np.int32 and tokens.tolist() == library.encode(text).ids
        assert ours.decode(tokens) == text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_equal_those_of_transformers(tmp_path, layout):
    transformers = pytest.importorskip("transformers")
    ours = of_folder(write_tokenizer(tmp_path, layout))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    for kind in (transformers.GPT2Tokenizer, transformers.AutoTokenizer):
        theirs = kind.from_pretrained(tmp_path)
        for text in TEXTS:
            assert ours.encode(text).tolist() == theirs(text)["input_ids"], text
            assert ours.encode(text, special=False).tolist() == theirs(text, split_special_tokens=True)["input_ids"]
            assert ours.decode(ours.encode(text)) == theirs.decode(theirs(text)["input_ids"])


def test_files_that_transformers_saves_give_the_same_tokens(tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.GPT2Tokenizer.from_pretrained(write_tokenizer(tmp_path, "vocab.json"))
    theirs.save_pretrained(tmp_path / "saved")
    ours = of_folder(tmp_path / "saved")
    assert [ours.encode(text).tolist() for text in TEXTS] == [theirs(text)["input_ids"] for text in TEXTS]


def test_the_name_of_a_special_token_is_the_token_or_plain_text(tmp_path):
    pytest.importorskip("tokenizers")
    made = of_folder(write_tokenizer(tmp_path))
    assert made.encode("<|endoftext|>").tolist() == [0]
    plain = made.encode("<|endoftext|>", special=False)
    assert 0 not in plain and made.decode(plain) == "<|endoftext|>"
    assert made.encode("<|endoftext|>").tolist() == [0]                 # the choice of the call before has no effect


def test_a_byte_of_the_command_line_that_is_no_text_is_refused_as_by_other_tokenizers(tmp_path):
    pytest.importorskip("tokenizers")
    for made in (of_folder(write_tokenizer(tmp_path)), ByteTokenizer()):
        with pytest.raises(ValueError, match="surrogates not allowed"):
            made.encode("a\udce9")


def test_a_number_without_a_token_has_no_text(tmp_path):
    """The table of embeddings may have more rows than there are tokens."""
    pytest.importorskip("tokenizers")
    made = of_folder(write_tokenizer(tmp_path))
    assert made.decode([VOCAB_SIZE]) == "" and made.decode([*made.encode("fox"), VOCAB_SIZE + 5]) == "fox"


def test_a_limit_on_the_length_in_tokenizer_json_is_not_applied(tmp_path):
    pytest.importorskip("tokenizers")
    library = train_tokenizer()
    library.enable_truncation(3)
    library.enable_padding(length=50)
    library.save(str(tmp_path / "tokenizer.json"))
    assert of_folder(tmp_path).decode(of_folder(tmp_path).encode(TEXTS[2])) == TEXTS[2]


def test_a_run_keeps_the_special_tokens_of_the_tokenizer_it_was_given(tmp_path):
    pytest.importorskip("tokenizers")
    given = of_folder(write_tokenizer(tmp_path / "gpt2", "vocab.json"))
    tokenizer.save(tmp_path / "tokenizer.json", given)
    for kept in (tokenizer.load(tmp_path / "tokenizer.json"), of_folder(tmp_path)):
        assert kept.end_of_text == 0 and len(kept) == VOCAB_SIZE
        assert all(np.array_equal(kept.encode(text), given.encode(text)) for text in TEXTS)


def test_a_tokenizer_json_of_a_run_is_read_whatever_its_kind(tmp_path):
    for made in (CharTokenizer("abc"), ByteTokenizer()):
        tokenizer.save(tmp_path / "tokenizer.json", made)
        assert type(of_folder(tmp_path)) is type(made) and of_folder(tmp_path).end_of_text is None
        assert of_folder(tmp_path).encode("cab").tolist() == made.encode("cab").tolist()


def test_a_bpe_that_is_learned_from_a_text_has_no_special_token():
    pytest.importorskip("tokenizers")
    assert BPETokenizer.of(100 * "a<|endoftext|>b", 300).end_of_text is None


# ---- errors ----

def refused(folder):
    with pytest.raises(ValueError) as raised:
        of_folder(folder)
    message = str(raised.value)
    assert message.isprintable() and str(folder) in message and len(message) < 500
    return message


def test_a_folder_without_a_tokenizer_names_the_files_that_are_looked_for(tmp_path):
    assert refused(tmp_path) == f"{tmp_path} has no tokenizer: expected tokenizer.json, or vocab.json and merges.txt"
    (tmp_path / "vocab.json").write_text("{}")
    assert "has no tokenizer" in refused(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": 3}', '{"version": "1.0"}', '{"type": "word"}', "\udc80",
                                     '{"type": "char"}', "[" * 100_000, '{"a\\nb": 1}'], ids=lambda x: x[:20])
def test_a_damaged_tokenizer_json_is_named(tmp_path, content):
    pytest.importorskip("tokenizers")
    (tmp_path / "tokenizer.json").write_bytes(content.encode(errors="surrogateescape"))
    assert "tokenizer.json is damaged: " in refused(tmp_path)


@pytest.mark.parametrize("name, content", [
    ("vocab.json", "[1]"), ("vocab.json", "{"), ("vocab.json", "\udc80"), ("merges.txt", "a b c\n"),
    ("merges.txt", "a"), ("merges.txt", "no-such-token a\n"), ("merges.txt", "\udc80"), ("merges.txt", "\n \n"),
])
def test_a_damaged_vocabulary_or_list_of_merges_is_named(tmp_path, name, content):
    pytest.importorskip("tokenizers")
    (write_tokenizer(tmp_path, "vocab.json") / name).write_bytes(content.encode(errors="surrogateescape"))
    assert f"{name} is damaged: " in refused(tmp_path)


def test_a_list_of_merges_whose_end_is_missing_is_named(tmp_path, monkeypatch):
    """Without it, texts would have other tokens than those that the model was trained on."""
    pytest.importorskip("tokenizers")
    monkeypatch.setattr(tokenizer, "PADDING", 20)
    path = write_tokenizer(tmp_path, "vocab.json") / "merges.txt"
    of_folder(tmp_path)
    path.write_text("".join(path.read_text("utf-8").splitlines(keepends=True)[:-25]), "utf-8")
    assert "have no merge: is the end of the file missing?" in refused(tmp_path)


def test_a_vocabulary_whose_values_are_no_numbers_is_refused(tmp_path):
    pytest.importorskip("tokenizers")
    edit_json(write_tokenizer(tmp_path, "vocab.json") / "vocab.json", a="a")
    assert "is damaged: " in refused(tmp_path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_the_tokenizers_library_the_error_says_what_to_install(tmp_path, monkeypatch, layout):
    pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path, layout)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert refused(tmp_path) == (f'{tmp_path / layout} needs the tokenizers library: pip install "minigrad[bpe]"')


@pytest.mark.parametrize("vocab_size, fits", [(3, True), (130, True), (131, False), (2, False), (1, False)])
def test_a_model_has_a_row_for_each_token_and_fewer_than_128_more(tmp_path, vocab_size, fits):
    if fits:
        tokenizer.check_fits(CharTokenizer("abc"), vocab_size, tmp_path)
    else:
        with pytest.raises(ValueError, match=f"has 3 tokens, and the model {vocab_size}: they are of two models"):
            tokenizer.check_fits(CharTokenizer("abc"), vocab_size, tmp_path)
