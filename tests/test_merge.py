"""gpt.merge: the folder that it writes, for our commands and for transformers."""
import json

import numpy as np
import pytest
import safetensors.numpy
from gpt2_folder import TEXTS, write_folder
from test_lora import close, future_warnings

import minigrad as mg
from gpt import lora, merge, model_folder
from gpt.model import GPT, GPTConfig
from gpt.text import tokenizer

IDX = np.random.default_rng(0).integers(0, 256, (2, 9))


def logits(model):
    with mg.no_grad():
        return model(IDX)[0].numpy()


@pytest.fixture
def byte_model(tmp_path):
    """A folder of a GPT-2 with a tokenizer of bytes, and one with trained adapters beside it."""
    model = GPT(GPTConfig(block_size=9, vocab_size=256, n_layer=2, n_head=2, n_embd=16))
    model.save_pretrained(tmp_path / "model")
    tokenizer.to_folder(tmp_path / "model", tokenizer.ByteTokenizer())
    lora.add_adapters(model, 2, 4.0, ["c_attn", "c_fc"])
    for name, p in model.named_parameters():
        if name.endswith("lora_B"):
            p.data = np.random.default_rng(1).normal(0.0, 0.3, p.shape)
    lora.save_adapters(tmp_path / "adapters", model)
    return tmp_path, model


def test_a_model_and_adapters_are_merged_into_a_folder_with_their_logits_and_tokenizer(byte_model, capsys):
    folder, model = byte_model
    merge.main([f"--model={folder / 'model'}", f"--adapters={folder / 'adapters'}", f"--out={folder / 'out'}"])
    assert f"python -m gpt.sample --model={folder / 'out'}" in capsys.readouterr().out
    whole, encoding = model_folder.load(folder / "out")
    assert whole.adapters is None and close(logits(whole), logits(model), 1e-6)
    assert isinstance(encoding, tokenizer.ByteTokenizer)
    assert "transformer.h.0.attn.c_attn.weight" in safetensors.numpy.load_file(folder / "out" / "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json", "tokenizer.json"])
def test_a_folder_that_holds_a_model_is_not_written_over(byte_model, capsys, name):
    folder, _ = byte_model
    (folder / "out").mkdir()
    (folder / "out" / name).write_text("mine")
    with pytest.raises(SystemExit) as exit:
        merge.main([f"--model={folder / 'model'}", f"--out={folder / 'out'}"])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and "holds a model already" in error and error.count("\n") == 1
    assert [path.name for path in (folder / "out").iterdir()] == [name]


def test_a_folder_of_adapters_gets_no_model_as_transformers_would_add_them_again(byte_model, capsys):
    folder, _ = byte_model
    with pytest.raises(SystemExit) as exit:
        merge.main([f"--model={folder / 'model'}", f"--adapters={folder / 'adapters'}", f"--out={folder / 'adapters'}"])
    assert exit.value.code == 2 and "holds adapters already" in capsys.readouterr().err
    assert not (folder / "adapters" / "config.json").exists()


@pytest.mark.parametrize("options, words", [
    ([], "--model=FOLDER --out=FOLDER"), (["--model=nowhere"], "--out=FOLDER"),
    (["--model=nowhere", "--out=new"], "nowhere"),
    (["--model=model", "--out=new", "--adapters=model"], "adapter_config.json cannot be read"),
    (["--model=adapters", "--out=new"], "--model=MODEL --adapters=adapters")])
def test_what_cannot_be_merged_is_refused_in_one_line_and_nothing_is_written(byte_model, monkeypatch, capsys, options,
                                                                             words):
    monkeypatch.chdir(byte_model[0])
    with pytest.raises(SystemExit) as exit:
        merge.main(options)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error and error.count("\n") == 1
    assert not (byte_model[0] / "new").exists()


@future_warnings
def test_transformers_reads_the_folder_with_its_tokenizer(tmp_path, capsys):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    write_folder(tmp_path / "gpt2")
    merge.main([f"--model={tmp_path / 'gpt2'}", f"--out={tmp_path / 'out'}"])
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        assert close(theirs(torch.tensor(IDX)).logits.numpy(), logits(GPT.from_pretrained(tmp_path / "gpt2")), 1e-5)
    ours, auto = tokenizer.of_folder(tmp_path / "gpt2"), transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    for text in TEXTS:
        assert auto.encode(text) == ours.encode(text).tolist()
        assert auto.decode(auto.encode(text)) == text
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["bos_token_id"] == config["eos_token_id"] == auto.eos_token_id == ours.end_of_text == 0
