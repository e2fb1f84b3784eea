"""GPT-2 in the files of Hugging Face's transformers: config.json and model.safetensors, in one file or in shards.

The tensors have the names and shapes of gpt.model.GPT, with the prefix `transformer.` on all but the head's. A folder
may come from anywhere: settings, and names, shapes and dtypes of all tensors are checked before a model is built and a
tensor is read. Symbolic links are followed, because those in Hugging Face's cache lead out of the folder.
"""
import json
import os
import reprlib
import shlex
from pathlib import Path
from typing import Any, Mapping, NamedTuple

import numpy as np
import safetensors

from gpt.files import json_object, open_regular, safetensors_parts, write_atomically

CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREFIX = "transformer."
LARGEST_JSON = 1_000_000                            # bytes; the header of GPT-2 XL has 60,000
NAMED = 20                                          # names listed in an error
PART = 2 ** 20                                      # elements that are read and checked at a time
# Accepted values of settings that this model does not have. The first is the default where config.json has none.
FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
}
SIZES = {"block_size": "n_positions", "vocab_size": "vocab_size", "n_layer": "n_layer", "n_head": "n_head",
         "n_embd": "n_embd"}                        # our name -> theirs
# Dtypes of safetensors that are read. The uint16 of bfloat16 are the upper halves of float32.
DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}


# ---- config.json ----

def read_config(folder: Path) -> dict[str, Any]:
    """The arguments of GPTConfig from config.json. ValueError if it is missing, damaged, or no GPT-2's."""
    path = folder / CONFIG
    found = _json(path, _read(path))
    if "options" in found:
        raise ValueError(f"{folder} is the folder of a run: write its model as a GPT-2 first, with python -m gpt.merge "
                         f"--model={shlex.quote(str(folder))} --out=FOLDER")
    found.setdefault("n_positions", found.get("n_ctx"))             # the old name
    for name, values in FIXED.items():
        value = found.get(name, values[0])
        if not any(type(value) is type(v) and value == v for v in values):
            raise ValueError(f"{path}: {name} is {reprlib.repr(value)}, but this GPT has "
                             f"{' or '.join(map(repr, values))} only")
    missing = [name for name in SIZES.values() if found.get(name) is None]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: is it of a GPT-2?")
    for name in SIZES.values():
        if type(found[name]) is not int or found[name] < 1:         # True is an int, too
            raise ValueError(f"{path}: {name} must be a whole number of at least 1, got {reprlib.repr(found[name])}")
    n_embd, n_head, tied = found["n_embd"], found["n_head"], found.get("tie_word_embeddings", True)
    if n_embd % n_head:
        raise ValueError(f"{path}: n_embd {reprlib.repr(n_embd)} must be divisible by n_head {reprlib.repr(n_head)}")
    if not isinstance(tied, bool):
        raise ValueError(f"{path}: tie_word_embeddings must be true or false, got {reprlib.repr(tied)}")
    n_inner = found.get("n_inner")
    if n_inner is not None and not (type(n_inner) is int and n_inner == 4 * n_embd):
        raise ValueError(f"{path}: n_inner is {reprlib.repr(n_inner)}, but this GPT's MLP is 4 n_embd wide only")
    return {**{ours: found[theirs] for ours, theirs in SIZES.items()}, "tied": tied}


def shapes(config: Any) -> dict[str, tuple[int, ...]]:
    """Name -> shape of all tensors of a GPT-2 of this GPTConfig, without the prefix. It always has biases."""
    C, V = config.n_embd, config.vocab_size
    block = {"ln_1": (C,), "attn.c_attn": (C, 3 * C), "attn.c_proj": (C, C), "ln_2": (C,), "mlp.c_fc": (C, 4 * C),
             "mlp.c_proj": (4 * C, C)}
    layers = {f"h.{i}.{name}": shape for i in range(config.n_layer) for name, shape in block.items()} | {"ln_f": (C,)}
    return {"wte.weight": (V, C), "wpe.weight": (config.block_size, C),
            **{f"{name}.weight": shape for name, shape in layers.items()},
            **{f"{name}.bias": shape[-1:] for name, shape in layers.items()},
            **({} if config.tied else {"lm_head.weight": (V, C)})}


def misfits(found: Mapping[str, tuple[int, ...]], config: Any) -> str:
    """How names and shapes of tensors differ from those of a GPT-2 of this GPTConfig, in words; "" if they do not."""
    if config.n_layer > len(found):             # its names might not fit into memory
        return f"n_layer is {reprlib.repr(config.n_layer)}, but there are {len(found)} tensors in all"
    return differences(found, shapes(config))


def differences(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """How names and shapes of tensors differ from those that are expected, in words; "" if they do not."""
    different = [f"{name} has shape {found[name]}, expected {shape}" for name, shape in expected.items()
                 if name in found and found[name] != shape]
    parts = [(sorted(expected.keys() - found.keys()), "missing: ", ", "),
             (sorted(found.keys() - expected.keys()), "unexpected: ", ", "), (different, "", "; ")]
    return "; ".join(head + _listed(texts, separator) for texts, head, separator in parts if texts)


def _listed(texts: list[str], separator: str) -> str:
    more = f" and {len(texts) - NAMED} more" if len(texts) > NAMED else ""
    return separator.join(map(_shown, texts[:NAMED])) + more


def _shown(text: str) -> str:
    """A text from a file in a form that fits into a message of one line."""
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= 200 else f"{text[:200]}..."


# ---- tensors ----

class Stored(NamedTuple):
    """A tensor in a file."""
    path: Path
    name: str                                   # in the file
    dtype: str                                  # of safetensors: "F32"
    shape: tuple[int, ...]
    offset: int                                 # of its first byte in the file


def find_tensors(folder: Path, config: Any) -> dict[str, Stored]:
    """Where the tensors of a GPT-2 of this GPTConfig are, from the headers of the files: name -> Stored, without the
    prefix, causal masks and the copy of a tied head. ValueError names a file that is missing or damaged, a tensor whose
    dtype is not read, and the tensors that are missing, unexpected or of another shape."""
    masks = (".attn.bias", ".attn.masked_bias")
    found: dict[str, Stored] = {}
    for path in _files(folder):
        n_head, tensors = read_header(path)
        if n_head not in (None, str(config.n_head)):                # the one size that no shape shows
            raise ValueError(f"{path} was saved for n_head {reprlib.repr(n_head)}, but {CONFIG} has {config.n_head}: "
                             "they are of two models")
        for tensor in tensors:
            name = tensor.name.removeprefix(PREFIX)
            if name.endswith(masks) or (config.tied and name == "lm_head.weight"):
                continue
            if name in found:
                raise ValueError(f"{path} holds {_shown(name)}, which {found[name].path} holds already")
            if tensor.dtype not in DTYPES:
                raise ValueError(f"{path}: {_shown(name)} has dtype {tensor.dtype}, but only {', '.join(DTYPES)} are "
                                 "read: save it as float32")
            found[name] = tensor
    problems = misfits({name: tensor.shape for name, tensor in found.items()}, config)
    if problems:
        raise ValueError(f"{folder}: these tensors do not fit {CONFIG}: {problems}")
    return found


def read_into(out: np.ndarray, tensor: Stored) -> None:
    """Read a tensor into a contiguous array of its shape and a floating dtype, in parts: a dtype like the file's needs
    no other memory. ValueError if it holds NaN, infinity, or a number too large for the dtype."""
    stored = np.dtype(DTYPES[tensor.dtype])
    flat = out.reshape(-1)
    with open_regular(tensor.path) as file:
        file.seek(tensor.offset)
        for start in range(0, out.size, PART):
            part = flat[start:start + PART]
            read: Any = part if stored == out.dtype else np.empty(part.size, stored)
            if file.readinto(read) != read.nbytes:
                raise ValueError(f"{tensor.path} has become shorter while it was read")
            if tensor.dtype == "BF16":
                read = (read.astype(np.uint32) << 16).view(np.float32)
            if read is not part:
                with np.errstate(over="ignore"):
                    part[:] = read
            if not np.isfinite(part).all():
                raise ValueError(f"{tensor.path}: {tensor.name} holds NaN, infinity, or a number too large for "
                                 f"{out.dtype}")


def read_parameter(p: Any, tensor: Stored) -> None:
    """Read a tensor into a parameter of its shape, on the host straight into its memory. ValueError as read_into."""
    array = p.data if p.device == "cpu" else np.empty(p.shape, p.dtype)
    read_into(array, tensor)
    if array is not p.data:
        p.data = array


def _files(folder: Path) -> list[Path]:
    """The files with the tensors: model.safetensors, or else the shards that its index names."""
    index = folder / INDEX
    if (folder / TENSORS).exists():
        return [folder / TENSORS]
    if not index.exists():
        pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        hint = "copy it there" if not pickled else (
            f"{pickled[0]} is a pickle, which is not read: convert it with transformers, "
            "GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder, safe_serialization=True)")
        raise ValueError(f"{folder / TENSORS} is missing; {hint}")
    names = _json(index, _read(index)).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} is damaged: expected weight_map, an object of tensors and their files")
    for name in names.values():
        if not (isinstance(name, str) and name.endswith(".safetensors") and name == os.path.basename(name)
                and name.isprintable()):
            raise ValueError(f"{index} names the file {reprlib.repr(name)}: expected the name of a .safetensors file "
                             "in this folder")
    return [folder / name for name in sorted(set(names.values()))]


def read_header(path: Path) -> tuple[Any, list[Stored]]:
    """The n_head that `write` stored in a file, None if another program wrote it, and the tensors that its header
    describes. ValueError unless the file is exactly as long as they are."""
    start = _read(path, 8)
    size = int.from_bytes(start, "little")
    if size > LARGEST_JSON:
        raise ValueError(f"{path} is damaged: its header would have {size} bytes")
    try:
        with safetensors.safe_open(path, "numpy"):                  # checks names, shapes and offsets, maps the file
            header = _json(path, _read(path, 8 + size)[8:])
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {_shown(str(error))}") from None
    n_head = (header.pop("__metadata__", None) or {}).get("n_head")
    if not all(isinstance(x, dict) for x in header.values()):       # safetensors accepts a list for an object
        raise ValueError(f"{path} is damaged: expected an object for each tensor")
    return n_head, [Stored(path, name, x["dtype"], tuple(x["shape"]), 8 + size + x["data_offsets"][0])
                    for name, x in header.items()]


# ---- writing ----

def write(folder: Path, config: Any, state: Mapping[str, np.ndarray], end_of_text: int | None = None) -> None:
    """Write config.json and model.safetensors for the state_dict of a GPT; biases that it does not have are zeros.
    end_of_text: the token that begins and ends a text. A failure leaves the files that were there before. ValueError
    for a model with other tensors than GPT-2's, or with one that is not finite; OSError for files that cannot be
    written."""
    tensors = dict(state)
    if not config.bias:
        tensors |= {name.removesuffix("weight") + "bias": np.zeros(x.shape[-1], x.dtype) for name, x in tensors.items()
                    if name.startswith(("h.", "ln_f."))}
    problems = misfits({name: x.shape for name, x in tensors.items()}, config)
    if problems:
        raise ValueError(f"{folder} would not hold a GPT-2: {problems}")
    for name, x in tensors.items():
        if not np.isfinite(x).all():
            raise ValueError(f"{name} holds NaN or infinity: {folder} was not written")
    described = {
        "architectures": ["GPT2LMHeadModel"], **{name: values[0] for name, values in FIXED.items()},
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()}, "tie_word_embeddings": config.tied,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        "bos_token_id": end_of_text, "eos_token_id": end_of_text,   # without them, transformers assumes 50256
    }
    named = {name if name == "lm_head.weight" else PREFIX + name: x for name, x in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / TENSORS, *safetensors_parts(named, {"format": "pt", "n_head": str(config.n_head)}))
    write_atomically(folder / CONFIG, (json.dumps(described, indent=2) + "\n").encode())


# ---- files ----

def _read(path: Path, most: int = LARGEST_JSON + 1) -> bytes:
    """The first bytes of a file. ValueError for a file that is missing, is not regular, or cannot be read."""
    try:
        with open_regular(path) as file:
            return file.read(most)
    except OSError as error:
        if not os.path.isdir(path.parent):
            raise ValueError(f"{path.parent} is no folder: nothing is downloaded, give a folder with {CONFIG} and "
                             f"{TENSORS}") from None
        if isinstance(error, FileNotFoundError) and (path.parent / "adapter_config.json").exists():
            raise ValueError(f"{path} is missing: {path.parent} holds adapters alone; add them to their model, with "
                             f"python -m gpt.merge --model=MODEL --adapters={shlex.quote(str(path.parent))} "
                             "--out=FOLDER") from None
        if isinstance(error, FileNotFoundError):
            raise ValueError(f"{path} is missing: the folder of a GPT-2 holds {CONFIG} and {TENSORS}, or its shards"
                             ) from None
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _json(path: Path, data: bytes) -> dict[str, Any]:
    """The JSON object in these bytes of a file. ValueError for anything else, NaN, and a name that occurs twice."""
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    if len(data) > LARGEST_JSON:
        raise ValueError(f"{path} is longer than {LARGEST_JSON} bytes: is it of a GPT-2?")
    try:
        return json_object(data.decode("utf-8"), parse_constant=refuse)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
