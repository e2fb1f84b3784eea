"""Measure how well a model predicts a text: python -m gpt.eval --model=FOLDER --dataset=my.txt

    my.txt          loss, perplexity and bits per byte of a UTF-8 text, read by windows that overlap
    pairs.jsonl     {"prompt": ..., "completion": ...} per line: the loss of the completions, given their prompts
    lambada.jsonl   {"text": ...} per line: how often the model predicts the last word of a text (Paperno et al. 2016,
                    "The LAMBADA dataset")

A window has the tokens that the model can read at once. The next window begins --stride tokens later, and only the
targets that no window before it has had are counted: each then has at least block_size - stride tokens of context,
except those at the start of the text. A small stride gives each token more context, and takes longer.
"""
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import numpy as np
from tqdm import tqdm

import minigrad as mg
from minigrad import device, functional as F
from minigrad.command import end_on_signals
from minigrad.words import plural

from gpt import model_folder
from gpt.model import GPT
from gpt.run.command_line import bad_input_exits, option, parse
from gpt.run.evaluate import mean_loss
from gpt.run.report import print_report
from gpt.text.batches import IGNORED, trimmed
from gpt.text.corpus import read_text
from gpt.text.pairs import Pairs, json_lines, read_pairs
from gpt.text.tokenizer import Tokenizer

FORM = '{"text": "..."}'
ROWS = 256                              # pairs that are read, and targets whose logits are computed, at once


@dataclass
class Options:
    """Measure a model on a text: python -m gpt.eval --name=value ..."""
    model: str = option("", "a folder with GPT-2's weights, or of a run: needed")
    dataset: str = option("", "a UTF-8 text, or a .jsonl of pairs or texts: needed")
    stride: int = option(0, "tokens from window to window; 0: half a window")
    block_size: int = option(0, "tokens of a window; 0: all that the model can read")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        for name, what in (("model", "a folder with a model"), ("dataset", "a file to measure on")):
            if not getattr(self, name):
                raise ValueError(f"--{name} is missing: give {what}")
        if self.stride < 0 or self.block_size < 0 or self.block_size == 1:
            raise ValueError(f"--stride={self.stride} must not be negative, and --block_size={self.block_size} must be "
                             "0, or 2 or more")


class Row(NamedTuple):
    """Tokens that the model reads at once, the last `counted` of which are its targets."""
    tokens: np.ndarray                  # (T,)
    counted: int


class Measured(NamedTuple):
    """What the model predicted of one row."""
    loss: float                         # the sum over the counted targets, in nats
    counted: int
    right: bool                         # whether each of them was the most likely token


# ---- rows ----

def sliding_windows(tokens: np.ndarray, block_size: int, stride: int) -> list[Row]:
    """Windows of at most block_size tokens, each `stride` after the one before it. Every token of the text (N,) but the
    first is counted once, in the first window that has it. ValueError for fewer than two tokens, and unless
    1 <= stride < block_size."""
    if len(tokens) < 2:
        raise ValueError(f"the text has {plural(len(tokens), 'token')}: a model predicts each from those before it, so "
                         "at least two are needed")
    if not 1 <= stride < block_size:
        raise ValueError(f"--stride={stride} must be at least 1 and below the {block_size} tokens of a window")
    rows, begun, end = [], 0, 1
    while end < len(tokens):
        before, end = end, min(begun + block_size, len(tokens))
        rows.append(Row(tokens[begun:end], end - before))
        begun += stride
    return rows


def rows_of(pairs: Pairs, block_size: int) -> list[Row]:
    """A row for each pair; the tokens of its completion are counted."""
    rows = []
    for start in range(0, len(pairs.lengths), ROWS):
        x, y = pairs.rows(slice(start, start + ROWS), block_size - 1)                   # (ROWS, T)
        for i in range(len(x)):
            row, targets = trimmed(x[i:i + 1], y[i:i + 1])
            rows.append(Row(np.append(row[0], targets[0, -1]), int((targets != IGNORED).sum())))
    return rows


def last_words(path: Path) -> Iterator[tuple[str, str]]:
    """Each text of a .jsonl file, cut before its last word. ValueError names the line of a text that has not two words,
    and of what is no {"text": ...}."""
    for number, row in json_lines(path, FORM):
        text = row.get("text")
        if not isinstance(text, str) or len(text.split()) < 2:
            raise ValueError(f'{path}, line {number}: expected {FORM}, a text of at least two words')
        text = text.rstrip()
        before = text[:-len(text.split()[-1])].rstrip()
        yield before, text[len(before):]


# ---- measures ----

def measure(model: GPT, rows: Sequence[Row]) -> Iterator[Measured]:
    """What the model predicts of each row, without dropout."""
    model.eval()
    for row in rows:
        with mg.no_grad():
            x = model.hidden(row.tokens[None, :-1])[0, -row.counted:]                   # (counted, C)
            targets = row.tokens[-row.counted:]
            loss, right = 0.0, True
            for start in range(0, row.counted, ROWS):
                y = targets[start:start + ROWS]
                logits = model.lm_head(x[start:start + ROWS])                           # (n, V)
                losses = F.cross_entropy(logits, y, reduction="none").numpy()           # (n,)
                loss += float(losses.sum(dtype=np.float64))
                right = right and bool((logits.numpy().argmax(axis=-1) == y).all())
        yield Measured(loss, row.counted, right)


def report(model: GPT, rows: Sequence[Row], unit: str) -> list[Measured]:
    """Measure rows with a progress bar, and print the loss, the perplexity and the speed."""
    began, measured = time.perf_counter(), []
    with tqdm(total=sum(row.counted for row in rows), unit=" tokens", disable=None, leave=False) as bar:
        for row in measure(model, rows):
            measured.append(row)
            bar.update(row.counted)
    seconds = time.perf_counter() - began
    loss, error = mean_loss(np.array([row.loss for row in measured]), np.array([row.counted for row in measured]))
    perplexity = math.exp(min(loss, 700.0))
    errors = ["", ""] if error is None else [f" ± {error:.4f}", f" ± {perplexity * error:.3f}"]     # one row has none
    print_report("loss", f"{loss:.4f}{errors[0]} nats per {unit}, over {bar.total:,}")
    print_report("ppl", f"{perplexity:.3f}{errors[1]}")
    print_report("speed", f"{bar.total / seconds:,.0f} tokens/s, {seconds:.1f} s")
    return measured


def on_text(model: GPT, tokenizer: Tokenizer, path: Path, block_size: int, stride: int) -> None:
    """Print what `report` prints, and bits per byte, of a text read by sliding windows."""
    text = read_text(path)
    tokens = tokenizer.encode(text)
    rows = sliding_windows(tokens, block_size, stride)
    print_report("text", f"{path}: {len(tokens):,} {tokenizer.unit}, {len(text.encode()):,} bytes; "
                 f"{plural(len(rows), 'window')} of {block_size:,}, stride {stride:,}")
    nats = sum(row.loss for row in report(model, rows, tokenizer.unit.removesuffix("s")))
    predicted = len(text.encode()) - len(tokenizer.decode(tokens[:1]).encode())
    print_report("bytes", f"{nats / math.log(2) / predicted:.4f} bits per byte")


def on_pairs(model: GPT, tokenizer: Tokenizer, path: Path, block_size: int) -> None:
    """Print what `report` prints of the completions of pairs; of texts of their last words, and how many are right."""
    _, first = next(json_lines(path, FORM), (0, None))
    if first is None:
        raise ValueError(f"{path} has no lines: expected one {FORM} per text, or pairs of prompt and completion")
    kind = "last word" if "text" in first else "completion"
    pairs = list(last_words(path)) if "text" in first else read_pairs(path)
    rows = rows_of(Pairs.of(pairs, tokenizer, ended=kind == "completion"), block_size)
    print_report("text", f"{path}: {plural(len(rows), kind)}, {sum(row.counted for row in rows):,} {tokenizer.unit}")
    right = [row.right for row in report(model, rows, tokenizer.unit.removesuffix("s"))]
    share, n = sum(right) / len(right), len(right)
    error = f" ± {100 * math.sqrt(share * (1.0 - share) / (n - 1)):.1f}" if n > 1 else ""
    print_report("right", f"{sum(right):,} of {plural(n, kind)}, {100 * share:.1f}{error} %: each of its tokens is the "
                 "most likely one")


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.eval"):
        o = parse(Options, arguments)
        model, tokenizer = model_folder.load(o.model, device.resolve(o.device))
        longest = model.config.block_size
        if o.block_size > longest:
            raise ValueError(f"--block_size={o.block_size} is more than the {longest} tokens that this model can read")
        block_size, path = o.block_size or longest, Path(o.dataset)
        print_report("model", f"{o.model}: {sum(p.size for p in model.parameters()):,} parameters, vocabulary "
                     f"{model.config.vocab_size:,}, context {longest:,}")
        if path.suffix == ".jsonl":
            on_pairs(model, tokenizer, path, block_size)
        else:
            on_text(model, tokenizer, path, block_size, o.stride or block_size // 2)


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
