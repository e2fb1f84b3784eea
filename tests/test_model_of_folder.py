"""gpt.model_folder: a model and its tokenizer from the folder of a GPT-2 or of a run, and what is refused."""
import dataclasses
import json
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from gpt2_folder import VOCAB_SIZE, edit_json, write_folder
from test_gpt import tiny_gpt

from gpt import model_folder, pretrained
from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder
from gpt.run.options import Options
from gpt.text import tokenizer
from gpt.text.tokenizer import BPETokenizer, CharTokenizer

IDX = np.arange(6).reshape(2, 3) % 5


def write_run(path, dtype="float32", **config):
    """Write a run of a tiny GPT with one checkpoint; returns its model."""
    path.mkdir()
    model = tiny_gpt(dtype=dtype, **config)
    options = dataclasses.asdict(Options(dtype=dtype))
    folder.write_config(path, options, dict.fromkeys(options, "default"), model.config)
    tokenizer.save(path / "tokenizer.json", CharTokenizer("\n abcdefghijklmnopqrstuvwxyz"[:model.config.vocab_size]))
    checkpoint.save(path, model, model.configure_optimizer(0.1, (0.9, 0.99)), 3, 1.5)
    return model


# ---- a GPT-2 ----

@pytest.mark.parametrize("layout", ["tokenizer.json", "vocab.json"])
def test_a_gpt2_is_read_with_its_tokenizer(tmp_path, layout):
    pytest.importorskip("tokenizers")
    model, encoding = model_folder.load(write_folder(tmp_path, layout))
    assert isinstance(encoding, BPETokenizer) and len(encoding) == model.config.vocab_size == VOCAB_SIZE
    assert np.array_equal(model(IDX)[0].numpy(), GPT.from_pretrained(tmp_path)(IDX)[0].numpy())


def test_a_table_of_embeddings_padded_to_a_multiple_of_64_fits_and_one_of_another_tokenizer_does_not(tmp_path):
    pytest.importorskip("tokenizers")
    model, encoding = model_folder.load(write_folder(tmp_path, vocab_size=384))
    assert (model.config.vocab_size, len(encoding)) == (384, VOCAB_SIZE)
    for vocab_size in (VOCAB_SIZE - 1, 500):
        write_folder(tmp_path, vocab_size=vocab_size)
        with pytest.raises(ValueError, match=f"has {VOCAB_SIZE} tokens, and the model {vocab_size}: they are of two"):
            model_folder.load(tmp_path)


def test_another_architecture_is_refused_before_its_tokenizer_is_read(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 5}))
    for read in (model_folder.load, model_folder.load_model):
        with pytest.raises(ValueError, match="config.json: model_type is 'llama', but this GPT has 'gpt2' only"):
            read(tmp_path)


@pytest.mark.parametrize("content, message", [(None, "is missing: the folder of a GPT-2 holds"), ("{", "is damaged")])
def test_a_folder_without_a_readable_config_is_refused(tmp_path, content, message):
    if content:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"config.json {message}"):
        model_folder.load(tmp_path)


def test_a_model_without_a_tokenizer_can_be_read_alone(tmp_path):
    tiny_gpt().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has no tokenizer: expected tokenizer.json, or"):
        model_folder.load(tmp_path)
    assert np.array_equal(model_folder.load_model(tmp_path)(IDX)[0].numpy(), tiny_gpt()(IDX)[0].numpy())


def test_a_model_of_ours_with_the_tokenizer_of_its_run_is_read(tmp_path):
    model = write_run(tmp_path / "run")
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path / "tokenizer.json", tokenizer.load(tmp_path / "run" / "tokenizer.json"))
    read, encoding = model_folder.load(tmp_path)
    assert isinstance(encoding, CharTokenizer) and len(encoding) == read.config.vocab_size


@pytest.mark.parametrize("stored", ["float16", "float32", "float64"])
def test_weights_are_read_into_the_models_memory_in_parts(tmp_path, monkeypatch, stored):
    """Beyond the parameters of 2 MB, a part of 4,000 numbers is in memory at a time."""
    monkeypatch.setattr(pretrained, "PART", 4000)
    whole = GPT(GPTConfig(8, 2000, 1, 1, 256), dtype="float64" if stored == "float64" else "float32")
    whole.save_pretrained(tmp_path)
    if stored == "float16":
        path = tmp_path / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        safetensors.numpy.save_file({name: x.astype(stored) for name, x in tensors.items()}, path)
    GPT.from_pretrained(tmp_path)                                       # imports what it needs
    tracemalloc.start()
    read = GPT.from_pretrained(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < sum(x.nbytes for x in read.state_dict().values()) + 400_000
    for name, x in whole.state_dict().items():
        assert np.array_equal(read.state_dict()[name], x.astype("float16" if stored == "float16" else "float32"))


# ---- a run ----

def test_a_run_is_read_at_its_best_checkpoint_in_its_dtype(tmp_path):
    model = write_run(tmp_path / "run", dtype="float64")
    read, encoding = model_folder.load(str(tmp_path / "run"))
    assert isinstance(encoding, CharTokenizer) and read.wte.weight.dtype == np.float64
    assert np.array_equal(read(IDX)[0].numpy(), model(IDX)[0].numpy())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_the_model_of_a_run_is_read_in_another_dtype(tmp_path, tied, bias):
    model = write_run(tmp_path / "run", tied=tied, bias=bias)
    read = model_folder.load_model(tmp_path / "run", dtype="float64")
    assert read.wte.weight.dtype == np.float64 and read.config == model.config
    assert all(np.array_equal(x, model.state_dict()[name]) for name, x in read.state_dict().items())


def test_a_damaged_run_is_named_by_its_own_error(tmp_path):
    write_run(tmp_path / "run")
    edit_json(tmp_path / "run" / "config.json", model={})
    with pytest.raises(ValueError, match="config.json is damaged: its content does not have the SHA-256"):
        model_folder.load(tmp_path / "run")


# ---- a shorter context, dropout ----

@pytest.mark.parametrize("kind", ["run", "gpt2"])
def test_a_smaller_block_size_keeps_the_first_positions_and_the_logits(tmp_path, kind):
    whole = write_run(tmp_path / "run")
    whole.save_pretrained(tmp_path / "gpt2")
    read = model_folder.load_model(tmp_path / kind, block_size=4, dropout=0.25)
    assert read.config == dataclasses.replace(whole.config, block_size=4, dropout=0.25)
    assert np.array_equal(read.wpe.weight.data, whole.wpe.weight.data[:4])
    assert read.drop.p == read.h[0].attn.dropout == 0.25
    assert np.array_equal(read.eval()(IDX)[0].numpy(), whole(IDX)[0].numpy())
    with pytest.raises(ValueError, match=f"block_size 7 is too large: the model in .*{kind} has 6 positions"):
        model_folder.load_model(tmp_path / kind, block_size=7)
    with pytest.raises(ValueError, match="block_size must be a whole number of at least 1, got 0"):
        model_folder.load_model(tmp_path / kind, block_size=0)


@pytest.mark.parametrize("options, message", [
    (("a", "b"), "--model=a and --out_dir=b are two models: give one of them"),
    (("", ""), "which model.*Give --model=FOLDER"), (("nowhere", ""), "nowhere is no folder: nothing is downloaded"),
    (("", "nowhere"), "nowhere holds no run: train first"),
])
def test_a_command_is_given_one_folder(options, message):
    with pytest.raises(ValueError, match=message):
        model_folder.load_given(*options)
