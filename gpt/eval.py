"""Measure how well a model predicts a text: python -m gpt.eval --model=FOLDER --dataset=my.txt

    my.txt          loss, perplexity and bits per byte of a UTF-8 text, read by windows that overlap
    pairs.jsonl     {"prompt": ..., "completion": ...} per line: the loss of the completions, given their prompts
    lambada.jsonl   {"text": ...} per line: how often the model predicts the last word of a text (Paperno et al. 2016)

A window has the tokens that the model can read at once. The next window begins --stride tokens later, and only the
targets that no window before it has had are counted: each then has at least block_size - stride tokens of context,
except those at the start of the text. A small stride gives each token more context, and takes longer.
"""
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple, Sequence

import numpy as np
from tqdm import tqdm

import minigrad as mg
from minigrad import device, functional as F
from minigrad.command import end_on_signals
from minigrad.words import plural

from gpt import files, model_folder
from gpt.model import GPT
from gpt.run.command_line import bad_input_exits, option, parse
from gpt.run.report import print_report
from gpt.text.corpus import read_text
from gpt.text.tokenizer import Tokenizer

ROWS = 256                              # targets whose logits are computed at once: 51 MB of GPT-2's


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


def continuations(pairs: Iterable[tuple[str, str]], tokenizer: Tokenizer, block_size: int) -> list[Row]:
    """A row for each pair of a text and its continuation, whose tokens are counted. A row of more than block_size
    tokens has the last of them."""
    rows = []
    for text, continuation in pairs:
        tokens = tokenizer.encode(text + continuation)
        first = min(max(len(tokenizer.encode(text)), 1), len(tokens) - 1)               # nothing predicts token 0
        counted = len(tokens) - first
        rows.append(Row(tokens[-block_size:], min(counted, block_size - 1)))
    return rows


def last_words(path: Path) -> Iterator[tuple[str, str]]:
    """Each text of a .jsonl file, cut before its last word. ValueError names the line of a text that has not two words,
    and of what is no {"text": ...}."""
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            text = files.json_object(line).get("text")
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        if not isinstance(text, str) or len(text.split()) < 2:
            raise ValueError(f'{path}, line {number}: expected {{"text": a text of at least two words}}')
        text = text.rstrip()
        word = text.split()[-1]
        before = text[:-len(word)].rstrip()
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


def mean_loss(measured: Sequence[Measured]) -> tuple[float, float]:
    """The mean loss of all counted targets in nats, and its standard error, NaN for one row: that of a ratio of sums,
    as the rows, and not the tokens within one, are taken as independent (Cochran 1977, section 2.11)."""
    losses, counts = (np.array([getattr(row, name) for row in measured], np.float64) for name in ("loss", "counted"))
    mean, n = losses.sum() / counts.sum(), len(measured)
    spread = np.square(losses - mean * counts).sum()
    return float(mean), math.sqrt(n / (n - 1) * spread) / float(counts.sum()) if n > 1 else math.nan


def report(rows: Sequence[Row], model: GPT, unit: str) -> list[Measured]:
    """Measure rows with a progress bar, and print the loss, the perplexity and the speed."""
    began, measured = time.perf_counter(), []
    with tqdm(total=sum(row.counted for row in rows), unit=" tokens", disable=None, leave=False) as bar:
        for row in measure(model, rows):
            measured.append(row)
            bar.update(row.counted)
    seconds = time.perf_counter() - began
    loss, error = mean_loss(measured)
    print_report("loss", f"{loss:.4f} ± {error:.4f} nats per {unit}, over {bar.total:,}")
    perplexity = math.exp(min(loss, 700.0))
    print_report("ppl", f"{perplexity:.3f} ± {perplexity * error:.3f}")
    print_report("speed", f"{bar.total / seconds:,.0f} tokens/s, {seconds:.1f} s")
    return measured


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.eval"):
        o = parse(Options, arguments)
        model, tokenizer = model_folder.load(Path(o.model), device.resolve(o.device))
        unit, longest = tokenizer.unit.removesuffix("s"), model.config.block_size
        if o.block_size > longest:
            raise ValueError(f"--block_size={o.block_size} is more than the {longest} tokens that this model can read")
        block_size, path = o.block_size or longest, Path(o.dataset)
        parameters = sum(p.size for p in model.parameters())
        print_report("model", f"{o.model}: {parameters:,} parameters, vocabulary {model.config.vocab_size:,}, "
                     f"context {longest:,}")
        if path.suffix != ".jsonl":
            text = read_text(path)
            tokens = tokenizer.encode(text)
            stride = o.stride or block_size // 2
            rows = sliding_windows(tokens, block_size, stride)
            print_report("text", f"{path}: {len(tokens):,} {tokenizer.unit}, {len(text.encode()):,} bytes; "
                         f"{plural(len(rows), 'window')} of {block_size:,}, stride {stride:,}")
            nats = sum(row.loss for row in report(rows, model, unit))
            predicted = len(text.encode()) - len(tokenizer.decode(tokens[:1]).encode())
            print_report("bytes", f"{nats / math.log(2) / predicted:.4f} bits per byte")
            return
        texts = list(last_words(path))
        if not texts:
            raise ValueError(f"{path} has no texts: one per line is expected, {{\"text\": ...}}")
        rows = continuations(texts, tokenizer, block_size)
        print_report("texts", f"{path}: {plural(len(rows), 'last word')}, {sum(row.counted for row in rows):,} "
                     f"{tokenizer.unit}")
        right = [row.right for row in report(rows, model, unit)]
        share, n = sum(right) / len(right), len(right)
        error = math.sqrt(share * (1.0 - share) / (n - 1)) if n > 1 else math.nan
        print_report("last", f"{sum(right):,} of {plural(n, 'last word')} are predicted: {100 * share:.1f} ± "
                     f"{100 * error:.1f} %")


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
