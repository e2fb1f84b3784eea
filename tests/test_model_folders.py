"""Folders of a GPT-2 from anywhere: damaged, made up, with sizes of any number. Each is read, or refused with one line
before memory is taken. A save_pretrained that fails leaves the files that were there."""
import contextlib
import errno
import json
import os
import shutil
import signal
import tracemalloc

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings, strategies as st
from test_gpt import gpt2_weights, tiny_gpt, write_gpt2

from gpt import files
from gpt.model import GPT
from minigrad import nn

SHARD = "model-00002-of-00003.safetensors"


def short(value):
    return repr(value)[:20]


@contextlib.contextmanager
def refused(*words):
    """Inside, a ValueError is raised: one short line with these words; without waiting, with little memory."""
    def stop(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(20)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as raised:
            yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    message = str(raised.value)
    assert type(raised.value) is ValueError and message.isprintable() and len(message) < 3000 and peak < 50e6
    assert all(word in message for word in words), message


def edit_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def edit_index(folder, name):
    """The first tensor of the index is in a file of this name."""
    index = folder / "model.safetensors.index.json"
    found = json.loads(index.read_text())
    found["weight_map"]["transformer.wte.weight"] = name
    index.write_text(json.dumps(found))


def write_header(path, header, data=b"", size=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if size is None else size).to_bytes(8, "little") + text + data)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


# ---- config.json ----

@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
@pytest.mark.parametrize("value", [10 ** 8, 10 ** 9, 10 ** 12, 10 ** 4000, -1, 0, 2.0, 1e300, "2", True, None, [], {},
                                   [[2] * 1000]], ids=short)
def test_a_size_that_is_no_size_or_not_that_of_the_tensors_is_refused(tmp_path, name, value):
    edit_config(write_gpt2(tmp_path), **{name: value})
    with refused(str(tmp_path)):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["vocab_size", "n_positions", "n_embd", "n_layer", "n_head"])
def test_a_missing_size_is_named(tmp_path, name):
    config = json.loads((write_gpt2(tmp_path) / "config.json").read_text())
    del config[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with refused(f"config.json has no {name}"):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("name, values", [
    ("tie_word_embeddings", ["false", "true", 1, 0, None, []]), ("model_type", ["gpt3", None, 2, ["gpt2"]]),
    ("activation_function", ["gelu", None, 1, {}]), ("scale_attn_weights", [False, "true", 1, None]),
    ("layer_norm_epsilon", [-1e-5, 1e300, "1e-5", None, True, 0]), ("n_inner", ["24", 24.0, True, -24, 10 ** 12]),
    ("add_cross_attention", [True, 0, ""]), ("scale_attn_by_inverse_layer_idx", [True, 0, "x" * 100_000]),
])
def test_a_setting_of_another_value_or_type_is_named(tmp_path, name, values):
    write_gpt2(tmp_path)
    for value in values:
        edit_config(tmp_path, **{name: value})
        with refused("config.json", name):
            GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("text", [
    b"", b"\0", b"null", b"3", b'"gpt2"', b"[]", b"{", b"{} {}", b"{'a': 1}", b"\xff\xfe{}", b"\xef\xbb\xbf{}",
    b"[" * 100_000, b'{"a":' * 100_000, b'{"n_layer": ' + b"[" * 900 + b"]" * 900 + b"}", b'{"n_layer": NaN}',
    b'{"layer_norm_epsilon": Infinity}', b'{"n_layer": 1, "n_layer": 2}', b'{"n_layer": ' + b"9" * 5000 + b"}",
    b'{"a\\nb": 1, "a\\nb": 2}', b" " * 2_000_000,
], ids=short)
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json"])
def test_a_json_file_with_anything_else_than_one_object_is_refused(tmp_path, file, text):
    (write_gpt2(tmp_path, shards=3) / file).write_bytes(text)
    with refused(file):
        GPT.from_pretrained(tmp_path)


# ---- files ----

def not_ordinary(path, kind):
    path.unlink()
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to({"an endless device": "/dev/zero", "a link to itself": path.name}[kind])


@pytest.mark.parametrize("kind", ["a named pipe", "a folder", "an endless device", "a link to itself"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors.index.json", SHARD])
def test_what_is_no_ordinary_file_is_named_and_not_waited_for(tmp_path, file, kind):
    not_ordinary(write_gpt2(tmp_path, shards=3) / file, kind)
    with refused("model.safetensors" if kind == "a link to itself" and file.endswith(".index.json") else file):
        GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", [
    "../model.safetensors", "/etc/passwd", "/model.safetensors", "a/b.safetensors", "", ".", "..", "a\0.safetensors",
    "a\n.safetensors", "\ud800.safetensors", "config.json", "missing.safetensors", "x" * 300 + ".safetensors",
    "x" * 100_000, None, 3, ["a.safetensors"], {},
], ids=short)
def test_a_shard_outside_the_folder_or_with_another_name_than_safetensors_is_refused(tmp_path, name):
    folder = tmp_path / "model"
    folder.mkdir()
    edit_index(write_gpt2(folder, shards=3), name)
    shutil.copy(folder / SHARD, tmp_path / "model.safetensors")
    with refused(str(folder)):
        GPT.from_pretrained(folder)


@pytest.mark.parametrize("weight_map", [None, [], {}, "a.safetensors", [SHARD]])
def test_an_index_without_files_is_refused(tmp_path, weight_map):
    index = write_gpt2(tmp_path, shards=3) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with refused("model.safetensors.index.json", "weight_map"):
        GPT.from_pretrained(tmp_path)


def test_links_to_other_folders_are_followed_as_in_the_cache_of_hugging_face(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    for folder in (blobs, snapshot):
        folder.mkdir(parents=True)
    for path in list(write_gpt2(blobs, shards=3).iterdir()):
        (snapshot / path.name).symlink_to(os.path.relpath(path, snapshot))
    assert np.allclose(GPT.from_pretrained(snapshot).wpe.weight.data, gpt2_weights()["wpe.weight"], rtol=1e-6)


def test_what_is_no_folder_of_a_model_is_named(tmp_path):
    with refused("nowhere is no folder: nothing is downloaded"):
        GPT.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with refused("file is no folder"):
        GPT.from_pretrained(tmp_path / "file")
    with refused("xxx is no folder"):
        GPT.from_pretrained(2000 * "x")
    (tmp_path / "empty").mkdir()
    with refused("config.json is missing"):
        GPT.from_pretrained(tmp_path / "empty")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"options": {}, "model": {}}')
    with refused("run is the folder of a run: write its model as a GPT-2 first, with python -m gpt.merge"):
        GPT.from_pretrained(tmp_path / "run")


def test_a_file_that_must_not_be_read_is_named(tmp_path, monkeypatch):
    write_gpt2(tmp_path)

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with refused("config.json cannot be read: Permission denied"):
        GPT.from_pretrained(tmp_path)


# ---- headers ----

@pytest.mark.parametrize("header, data, size", [
    (b"", b"", 2 ** 63), (b"{}", b"", 99_000_000), (b"{}", b"", 3), (b"[" * 100_000, b"", None), (b"[]", b"", None),
    (b"{\xff}", b"", None), ({"a": entry()}, b"0" * 7, None), ({"a": entry()}, b"0" * 9, None),
    ({"a": entry(), "b": entry()}, b"0" * 8, None), ({"a": entry(), "b": entry(offsets=(12, 20))}, b"0" * 20, None),
    ({"a": entry(shape=(3,))}, b"0" * 8, None), ({"a": entry(shape=(2 ** 62, 8))}, b"0" * 8, None),
    ({"a": entry(shape=(-2,))}, b"0" * 8, None), ({"a": entry(shape=(2.0,))}, b"0" * 8, None),
    ({"a": entry(shape=None)}, b"0" * 8, None), ({"a": entry(offsets=(8, 0))}, b"0" * 8, None),
    ({"a": entry(offsets=(0, 2 ** 70))}, b"0" * 8, None), ({"a": entry(dtype="F33")}, b"0" * 8, None),
    ({"a": {"dtype": "F32"}}, b"", None), ({"a": ["F32", [2], [0, 8]]}, b"0" * 8, None),
    ({"a": 3}, b"", None), ({"__metadata__": {"a": 1}}, b"", None),
    (b'{"a": %b, "a": %b}' % (2 * (json.dumps(entry()).encode(),)), b"0" * 8, None),
], ids=short)
def test_a_damaged_header_is_refused(tmp_path, header, data, size):
    write_header(write_gpt2(tmp_path) / "model.safetensors", header, data, size)
    with refused("model.safetensors is damaged"):
        GPT.from_pretrained(tmp_path)


def test_a_short_file_is_refused_at_any_length(tmp_path):
    path = write_gpt2(tmp_path) / "model.safetensors"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with refused("model.safetensors is damaged"):
            GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64, bool, np.complex64])
def test_weights_of_a_dtype_that_is_not_floating_are_named(tmp_path, dtype):
    write_gpt2(tmp_path, change=lambda t: {**t, "transformer.ln_f.bias": np.zeros(6, dtype)})
    with refused("model.safetensors: ln_f.bias has dtype", "F16, BF16, F32, F64"):
        GPT.from_pretrained(tmp_path)


def test_a_name_that_is_in_two_shards_or_with_and_without_the_prefix_is_refused(tmp_path):
    write_gpt2(tmp_path, change=lambda t: {**t, "ln_f.bias": np.zeros(6)})
    with refused("ln_f.bias", "holds already"):
        GPT.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_gpt2(tmp_path, shards=3)
    shutil.copy(tmp_path / SHARD, tmp_path / "copy.safetensors")
    edit_index(tmp_path, "copy.safetensors")
    with refused("holds already"):
        GPT.from_pretrained(tmp_path)


def test_many_and_long_and_unprintable_names_of_tensors_stay_one_line(tmp_path):
    write_gpt2(tmp_path, change=lambda t: {**t, "a\n\x1b[31m": np.zeros(1), "x" * 10_000: np.zeros(1),
                                           **{f"y{i}": np.zeros(1) for i in range(2000)}})
    with refused("unexpected: 'a\\n\\x1b[31m', ", "and 1982 more"):
        GPT.from_pretrained(tmp_path)


def test_a_model_that_does_not_fit_into_memory_is_named(tmp_path, monkeypatch):
    def out_of_memory(*_, **__):
        raise MemoryError("Unable to allocate 447. GiB")

    write_gpt2(tmp_path)
    monkeypatch.setattr(GPT, "__init__", out_of_memory)
    with refused(f"{tmp_path} does not fit into memory: Unable to allocate 447. GiB"):
        GPT.from_pretrained(tmp_path)


# ---- values ----

@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_tensor_that_is_not_finite_in_the_models_dtype_is_named(tmp_path, value):
    def spoil(tensors):
        tensors["transformer.h.1.ln_2.bias"][3] = value
        return tensors

    write_gpt2(tmp_path, change=spoil)
    with refused("model.safetensors: transformer.h.1.ln_2.bias holds NaN, infinity, or a number too large for float32"):
        GPT.from_pretrained(tmp_path)
    if value == 1e300:
        assert GPT.from_pretrained(tmp_path, dtype="float64").h[1].ln_2.bias.data[3] == value


def test_bfloat16_is_read(tmp_path):
    """A bfloat16 is the upper half of a float32."""
    weights = {name: (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
               for name, x in gpt2_weights().items() if name != "lm_head.weight"}
    data = safetensors.numpy.save(weights).replace(b'"U16"', b'"BF16"')
    size = int.from_bytes(data[:8], "little")
    grown = data.count(b'"BF16"')
    (write_gpt2(tmp_path) / "model.safetensors").write_bytes((size + grown).to_bytes(8, "little") + data[8:])
    model = GPT.from_pretrained(tmp_path)
    for name, x in model.state_dict().items():
        assert np.allclose(x, gpt2_weights()[name], rtol=2 ** -7, atol=0.0)
        assert not (x.view(np.uint32) & 0xFFFF).any()


# ---- random damage ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) |
    st.sampled_from([0, 1, 2, 3, 6, 7, 10 ** 9, 10 ** 12, -1, "2", "gpt2", "F16", "BF16", "../x", SHARD]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=5)


def replace_value(draw, found):
    """Replace, add or remove one value, anywhere in a JSON value."""
    key = draw(st.sampled_from([*(found if isinstance(found, dict) else range(len(found)))]))
    if isinstance(found[key], (dict, list)) and found[key] and draw(st.integers(0, 3)):
        replace_value(draw, found[key])
    elif draw(st.booleans()):
        found[key] = draw(JSON)
    else:
        del found[key]


def damage_json(draw, data):
    found = json.loads(data)
    replace_value(draw, found)
    return json.dumps(found).encode()


def damage_bytes(draw, data):
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 3000)))
        kind = draw(st.sampled_from(["flip", "cut", "insert"]))
        if kind == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del data[at:at + draw(st.integers(1, 2000))]
        elif kind == "insert":
            data[at:at] = draw(st.binary(max_size=9))
    return bytes(data)


def damage_header(draw, data):
    size = int.from_bytes(data[:8], "little")
    header = damage_json(draw, data[8:8 + size])
    return len(header).to_bytes(8, "little") + header + data[8 + size:]


@given(st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_folder_with_any_damage_is_read_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damaged")
    try:
        write_gpt2(folder, tied=data.draw(st.booleans()), shards=data.draw(st.sampled_from([1, 3])))
        for path in data.draw(st.lists(st.sampled_from(sorted(folder.iterdir())), min_size=1, max_size=2, unique=True)):
            own = [damage_json] if path.suffix == ".json" else [damage_header]
            path.write_bytes(data.draw(st.sampled_from([damage_bytes, *own]))(data.draw, path.read_bytes()))
        try:
            GPT.from_pretrained(folder)
        except ValueError as error:
            assert type(error) is ValueError and str(error).isprintable() and str(folder) in str(error)
    finally:
        shutil.rmtree(folder)


# ---- save_pretrained ----

def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("call", ["write", "replace"])
def test_a_full_disk_leaves_the_model_that_was_there(tmp_path, monkeypatch, call):
    tiny_gpt().save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("other files stay")
    before = contents(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, {"write": "fsync", "replace": "replace"}[call], full)
    with pytest.raises(OSError, match=f"No space left on device: '{tmp_path / 'model.safetensors'}'"):
        tiny_gpt(seed=1).save_pretrained(tmp_path)
    assert contents(tmp_path) == before


def test_files_of_two_models_that_differ_in_their_heads_alone_are_refused(tmp_path):
    """As a kill between the two files leaves them: no shape shows the number of heads."""
    tiny_gpt(n_head=2).save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_bytes()
    tiny_gpt(n_head=4).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_bytes(config)
    with pytest.raises(ValueError, match="was saved for n_head '4', but config.json has 2"):
        GPT.from_pretrained(tmp_path)


def test_saving_over_a_link_leaves_the_file_it_leads_to(tmp_path):
    (tmp_path / "blob").write_bytes(b"another model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to("../blob")
    tiny_gpt().save_pretrained(tmp_path / "model")
    assert (tmp_path / "blob").read_bytes() == b"another model"
    GPT.from_pretrained(tmp_path / "model")


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=str(folder)):
            tiny_gpt().save_pretrained(folder)
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(OSError, match="model.safetensors"):
        tiny_gpt().save_pretrained(tmp_path)


def test_a_model_that_is_no_gpt2_or_not_finite_is_not_saved(tmp_path):
    model = tiny_gpt()
    model.h[0].attn.extra = nn.Linear(8, 1)
    with pytest.raises(ValueError, match="unexpected: h.0.attn.extra.bias, h.0.attn.extra.weight"):
        model.save_pretrained(tmp_path / "new")
    model = tiny_gpt()
    model.ln_f.bias.data = np.full(8, np.nan)
    with pytest.raises(ValueError, match="ln_f.bias holds NaN or infinity"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_parameter_whose_memory_is_transposed_is_saved_by_its_values(tmp_path):
    model = tiny_gpt()
    model.wpe.weight = nn.Parameter(np.arange(48.0, dtype=np.float32).reshape(8, 6).T)
    model.save_pretrained(tmp_path)
    assert np.array_equal(GPT.from_pretrained(tmp_path).wpe.weight.data, model.wpe.weight.data)
