"""A dataset as tokens in files: a part to train on, and a tenth that is held out to validate on."""
import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import numpy as np

from minigrad.random import bits, key
from minigrad.words import plural

from gpt import files
from gpt.text import tokenizer as tokenizers
from gpt.text.batches import IGNORED, Text
from gpt.text.corpus import describe, load_text
from gpt.text.pairs import Pairs, read_pairs
from gpt.text.tokenizer import Tokenizer

# The files of a part of the data: name of its array -> what its file is named after.
FILES = {"tokens": "{part}.bin", "lengths": "{part}_lengths.bin"}


@dataclass
class Data:
    """The tokens of a dataset."""
    name: str                           # as in --dataset: fables, python, shakespeare, or the path of a file
    description: str                    # one line
    tokenizer: Tokenizer
    train: Text | Pairs                 # of memory-mapped arrays
    val: Text | Pairs
    val_bytes_per_token: float          # mean length of a target of val, in bytes of UTF-8


@dataclass
class Tokenized:
    """A dataset as tokens in memory, before they are written to the folder of a run."""
    tokenizer: Tokenizer
    parts: dict[str, Text | Pairs]      # "train" and "val"
    meta: dict[str, Any]                # the content of meta.json without lengths and SHA-256 of the other files

    def write(self, folder: Path) -> Data:
        """Write tokenizer.json, tokens/train.bin and tokens/val.bin (raw little-endian integers of 2 bytes, or of 4 for
        a vocabulary above 65,536), of pairs also their lengths (4 bytes), and tokens/meta.json, so that a resumed run
        needs no other file."""
        (folder / "tokens").mkdir(parents=True, exist_ok=True)
        tokenizers.save(folder / "tokenizer.json", self.tokenizer)
        sizes, digests = {}, {}
        for part, content in self.parts.items():
            for name, array in vars(content).items():
                path = folder / "tokens" / FILES[name].format(part=part)
                data = np.ascontiguousarray(array, self.meta["dtype"] if name == "tokens" else "<u4")
                files.write_atomically(path, data)
                sizes[path.stem], digests[path.stem] = data.size, hashlib.sha256(data.data).hexdigest()
        files.write_sealed(folder / "tokens" / "meta.json",         # last: all are there
                           self.meta | {"length": sizes, "sha256_of": digests})
        return open_data(folder)


def tokenize(dataset: str, tokenizer: str = "char", vocab_size: int = 1024, seed: int = 1337, block_size: int = 1,
             model: str = "") -> Tokenized:
    """The tokens of a dataset: of pairs for a .jsonl file, of a text otherwise. tokenizer: char, byte, bpe, or "model"
    for the tokenizer in the folder `model`, of a model with vocab_size tokens. ValueError for a text that is missing,
    or too short for one window of block_size, and for a line of a .jsonl file that is no pair."""
    def learned(whole: str, part: str) -> Tokenizer:
        if tokenizer == "model":
            made = tokenizers.of_folder(Path(model))
            tokenizers.check_fits(made, vocab_size, Path(model))
            return made
        # A character that occurs only in the validation part needs a token too; nothing else is learned from that part.
        return tokenizers.make(tokenizer, whole if tokenizer == "char" else part, vocab_size)

    if dataset.endswith(".jsonl") and Path(dataset).is_file():
        return _tokenize_pairs(dataset, learned, seed, block_size)
    return _tokenize_text(dataset, learned, seed, block_size)


def _tokenize_text(dataset: str, learned: Callable[[str, str], Tokenizer], seed: int, block_size: int) -> Tokenized:
    text = load_text(dataset, seed)
    cut = len(text) * 9 // 10
    made = learned(text, text[:cut])
    train, val = made.encode(text[:cut]), made.encode(text[cut:])
    for part, n in (("last tenth, to validate on,", len(val)), ("first nine tenths, to train on,", len(train))):
        if n < block_size + 1:                  # one token of BPE may stand for many characters
            fits = f"--block_size={n - 1} or " if n > 1 else ""
            raise ValueError(f"the text is too short: its {part} has {n} tokens and a block_size of {block_size} needs "
                             f"{block_size + 1}; use {fits}a text of {10 * (block_size + 1)} tokens or more")
    return _tokenized(dataset, made, Text(train), Text(val), len(text[cut:].encode()) / len(val),
                      f"{describe(dataset)}: {len(train):,} {made.unit} to train on, {len(val):,} held out; "
                      f"{len(made):,} different")


def _tokenize_pairs(dataset: str, learned: Callable[[str, str], Tokenizer], seed: int, block_size: int) -> Tokenized:
    found = read_pairs(Path(dataset))
    if len(found) < 2:
        raise ValueError(f"{dataset} has {plural(len(found), 'pair')}: give at least 2, one to train on and one to "
                         "validate on")
    order = np.argsort(bits(key(seed).fold("held out"), (len(found),)), kind="stable").tolist()         # (P,)
    n_val = max(len(found) // 10, 1)
    val, train = [found[i] for i in order[:n_val]], [found[i] for i in order[n_val:]]
    made = learned(*("".join(f"{prompt}\n{completion}\n" for prompt, completion in part) for part in (found, train)))
    pairs = [Pairs.of(part, made) for part in (train, val)]
    y = pairs[1].windows(block_size)[1]
    targets = y[(y != IGNORED) & (y != (-1 if made.end_of_text is None else made.end_of_text))]
    longer = sum(int((part.lengths.sum(axis=1) > block_size + 1).sum()) for part in pairs)
    return _tokenized(dataset, made, pairs[0], pairs[1], len(made.decode(targets).encode()) / (y != IGNORED).sum(),
                      f"{describe(dataset)}: {len(train):,} pairs to train on, {n_val:,} held out, "
                      f"{pairs[0].row_length(block_size):.0f} {made.unit} long on average" +
                      (f"; {longer:,} are longer than --block_size={block_size} and cropped" if longer else ""))


def _tokenized(dataset: str, tokenizer: Tokenizer, train: Text | Pairs, val: Text | Pairs, val_bytes_per_token: float,
               description: str) -> Tokenized:
    return Tokenized(tokenizer, {"train": train, "val": val}, {
        "name": dataset, "dtype": "<u2" if len(tokenizer) <= 2 ** 16 else "<u4",
        "val_bytes_per_token": val_bytes_per_token, "description": description})


def open_data(folder: Path) -> Data:
    """Open the files that Tokenized.write wrote. ValueError if one is missing or damaged."""
    tokenizer, path = tokenizers.load(folder / "tokenizer.json"), folder / "tokens" / "meta.json"
    try:
        meta = files.read_sealed(path, ("name", "dtype", "length", "val_bytes_per_token", "description", "sha256_of"))
        if meta["dtype"] not in ("<u2", "<u4"):
            raise TypeError(f"unknown dtype {meta['dtype']!r}")
        kind = Pairs if "train_lengths" in meta["length"] else Text
        train, val = (kind(*(_array(path.with_name(FILES[field.name].format(part=part)), meta, len(tokenizer))
                             for field in dataclasses.fields(kind))) for part in ("train", "val"))
        name = str(meta["name"]).encode(errors="replace").decode()      # a name may have bytes that are not text
        return Data(name, str(meta["description"]), tokenizer, train, val, float(meta["val_bytes_per_token"]))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokens: {error.filename} is missing: {files.HOW_TO_GO_ON}") from None
    except (KeyError, TypeError) as error:
        raise files.damaged(path, error) from None


def _array(path: Path, meta: dict[str, Any], vocab_size: int) -> np.ndarray:
    """The memory-mapped array in a file: tokens (N,), or lengths of pairs (P, 2). ValueError if it is not the one that
    meta.json describes."""
    lengths = path.stem.endswith("_lengths")
    dtype, length = np.dtype("<u4" if lengths else meta["dtype"]), meta["length"][path.stem]
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != length * dtype.itemsize or not size:
            raise files.damaged(path, f"{path.name} has {size / dtype.itemsize:g} tokens, not {length}")
        if "sha256_of" in meta and hashlib.file_digest(file, "sha256").hexdigest() != meta["sha256_of"][path.stem]:
            raise files.damaged(path, f"its SHA-256 is not the one in {path.with_name('meta.json')}")
        array = np.memmap(file, dtype, mode="r")
    if lengths:
        return array.reshape(-1, 2)
    if array.max() >= vocab_size:
        raise files.damaged(path, f"token {array.max()} is outside the vocabulary of {vocab_size}")
    return array
