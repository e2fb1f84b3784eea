"""A text as tokens in files: the first nine tenths to train on, the last tenth to validate on."""
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

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


def prepare(folder: Path, dataset: str, tokenizer: str = "char", vocab_size: int = 1024, seed: int = 1337,
            block_size: int = 1) -> Data:
    """Tokenize a dataset into the folder of a run, so that a resumed run needs no other file: tokenizer.json,
    tokens/train.bin and tokens/val.bin (raw little-endian integers of 2 bytes, or of 4 for a vocabulary above 65,536),
    tokens/meta.json.

    ValueError for a text that is missing, or too short for one window of block_size; then nothing is written.
    """
    text = load_text(dataset, seed)
    cut = len(text) * 9 // 10
    # A character that occurs only in the validation part needs a token too; nothing else is learned from that part.
    made = tokenizers.make(tokenizer, text if tokenizer == "char" else text[:cut], vocab_size)
    parts = {"train": made.encode(text[:cut]), "val": made.encode(text[cut:])}
    n_val = len(parts["val"])
    if n_val < block_size + 1:
        fits = f"--block_size={n_val - 1} or " if n_val > 1 else ""
        raise ValueError(f"the text is too short: its last tenth, to validate on, has {n_val} tokens and a "
                         f"block_size of {block_size} needs {block_size + 1}; use {fits}a text of "
                         f"{10 * (block_size + 1)} tokens or more")

    dtype = "<u2" if len(made) <= 2 ** 16 else "<u4"
    meta = {"name": dataset, "dtype": dtype, "length": {part: len(tokens) for part, tokens in parts.items()},
            "val_bytes_per_token": len(text[cut:].encode()) / n_val,
            "description": f"{describe(dataset)}: {len(parts['train']):,} {made.unit} to train on, {n_val:,} "
                           f"held out; {len(made):,} different"}
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(made.to_json()), "utf-8")
    for part, tokens in parts.items():
        tokens.astype(dtype).tofile(folder / "tokens" / f"{part}.bin")
    (folder / "tokens" / "meta.json").write_text(json.dumps(meta, indent=2), "utf-8")   # last: the files are complete
    return open_data(folder)


def open_data(folder: Path) -> Data:
    """Open the files that `prepare` wrote. ValueError if one is missing or damaged."""
    tokens, tokenizer = folder / "tokens", tokenizers.load(folder / "tokenizer.json")
    try:
        meta = json.loads((tokens / "meta.json").read_text("utf-8"))
        parts = {}
        for part in ("train", "val"):
            parts[part] = np.memmap(tokens / f"{part}.bin", dtype=meta["dtype"], mode="r")
            if len(parts[part]) != meta["length"][part]:
                raise ValueError(f"{part}.bin has {len(parts[part])} tokens, not {meta['length'][part]}")
        return Data(meta["name"], meta["description"], tokenizer, parts["train"], parts["val"],
                    meta["val_bytes_per_token"])
    except FileNotFoundError as error:
        raise ValueError(f"{folder} holds no tokens: {error.filename} is missing") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the tokens in {tokens} are damaged: {error}") from None
