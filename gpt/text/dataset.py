"""A text as tokens in files: the first nine tenths to train on, the last tenth to validate on."""
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gpt import files
from gpt.text import tokenizer as tokenizers
from gpt.text.corpus import describe, load_text
from gpt.text.tokenizer import Tokenizer


@dataclass
class Data:
    """The tokens of a text."""
    name: str                           # as in --dataset: fables, python, shakespeare, or the path of a file
    description: str                    # one line
    tokenizer: Tokenizer
    train: np.ndarray                   # (N,), memory-mapped
    val: np.ndarray                     # (N_val,), memory-mapped
    val_bytes_per_token: float          # mean length of a token of val, in bytes of UTF-8


@dataclass
class Tokenized:
    """A text as tokens in memory, before they are written to the folder of a run."""
    tokenizer: Tokenizer
    parts: dict[str, np.ndarray]        # "train" and "val": tokens (N,), integers
    meta: dict[str, Any]                # the content of meta.json without the SHA-256 of the other files

    def write(self, folder: Path) -> Data:
        """Write tokenizer.json, tokens/train.bin and tokens/val.bin (raw little-endian integers of 2 bytes, or of 4 for
        a vocabulary above 65,536), and tokens/meta.json, so that a resumed run needs no other file."""
        (folder / "tokens").mkdir(parents=True, exist_ok=True)
        tokenizers.save(folder / "tokenizer.json", self.tokenizer)
        digests = {}
        for part, tokens in self.parts.items():
            data = np.ascontiguousarray(tokens, self.meta["dtype"])
            files.write_atomically(folder / "tokens" / f"{part}.bin", data)
            digests[part] = hashlib.sha256(data.data).hexdigest()
        files.write_sealed(folder / "tokens" / "meta.json", self.meta | {"sha256_of": digests})    # last: all are there
        return open_data(folder)


def tokenize(dataset: str, tokenizer: str = "char", vocab_size: int = 1024, seed: int = 1337, block_size: int = 1
             ) -> Tokenized:
    """The tokens of a dataset. ValueError for a text that is missing, or too short for one window of block_size."""
    text = load_text(dataset, seed)
    cut = len(text) * 9 // 10
    # A character that occurs only in the validation part needs a token too; nothing else is learned from that part.
    made = tokenizers.make(tokenizer, text if tokenizer == "char" else text[:cut], vocab_size)
    parts = {"train": made.encode(text[:cut]), "val": made.encode(text[cut:])}
    n_val = len(parts["val"])
    for part, n in (("last tenth, to validate on,", n_val), ("first nine tenths, to train on,", len(parts["train"]))):
        if n < block_size + 1:                  # one token of BPE may stand for many characters
            fits = f"--block_size={n - 1} or " if n > 1 else ""
            raise ValueError(f"the text is too short: its {part} has {n} tokens and a block_size of {block_size} needs "
                             f"{block_size + 1}; use {fits}a text of {10 * (block_size + 1)} tokens or more")
    return Tokenized(made, parts, {
        "name": dataset, "dtype": "<u2" if len(made) <= 2 ** 16 else "<u4",
        "length": {part: len(tokens) for part, tokens in parts.items()},
        "val_bytes_per_token": len(text[cut:].encode()) / n_val,
        "description": f"{describe(dataset)}: {len(parts['train']):,} {made.unit} to train on, {n_val:,} held out; "
                       f"{len(made):,} different"})


def open_data(folder: Path) -> Data:
    """Open the files that Tokenized.write wrote. ValueError if one is missing or damaged."""
    tokenizer, path = tokenizers.load(folder / "tokenizer.json"), folder / "tokens" / "meta.json"
    try:
        meta = files.read_sealed(path, ("name", "dtype", "length", "val_bytes_per_token", "description", "sha256_of"))
        parts = {part: _tokens(path.with_name(f"{part}.bin"), meta, part, len(tokenizer)) for part in ("train", "val")}
        name = str(meta["name"]).encode(errors="replace").decode()      # a name may have bytes that are not text
        return Data(name, str(meta["description"]), tokenizer, parts["train"], parts["val"],
                    float(meta["val_bytes_per_token"]))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokens: {error.filename} is missing: {files.HOW_TO_GO_ON}") from None
    except (KeyError, TypeError) as error:
        raise files.damaged(path, error) from None


def _tokens(path: Path, meta: dict[str, Any], part: str, vocab_size: int) -> np.ndarray:
    """The memory-mapped tokens in a file (N,). ValueError if they are not those that meta.json describes."""
    if meta["dtype"] not in ("<u2", "<u4"):
        raise TypeError(f"unknown dtype {meta['dtype']!r}")
    dtype, length = np.dtype(meta["dtype"]), meta["length"][part]
    with files.open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size != length * dtype.itemsize or not size:
            raise files.damaged(path, f"{path.name} has {size / dtype.itemsize:g} tokens, not {length}")
        if "sha256_of" in meta and hashlib.file_digest(file, "sha256").hexdigest() != meta["sha256_of"][part]:
            raise files.damaged(path, f"its SHA-256 is not the one in {path.with_name('meta.json')}")
        tokens = np.memmap(file, dtype, mode="r")
    if tokens.max() >= vocab_size:
        raise files.damaged(path, f"token {tokens.max()} is outside the vocabulary of {vocab_size}")
    return tokens
