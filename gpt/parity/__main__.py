"""Whether minigrad computes what transformers computes, on a GPT-2 of yours: python -m gpt.parity FOLDER

    python -m gpt.parity gpt2                               random tokens
    python -m gpt.parity gpt2 --text=my.txt                 the tokens of a text, by the tokenizer of the folder
    python -m gpt.parity gpt2 --steps=0 --json=parity.json  without training; all figures in a file

From the same weights and tokens, in float32 and float64, with kernels and without: outputs of all layers, logits, loss,
the gradient of every parameter, the weights after a step of AdamW. Then both are trained on the same batches in
float32. Exits with status 1 if a difference is above its bound, which the table shows. Where transformers or PyTorch is
not installed, minigrad is compared with itself: kernels and the textbook ops, each with the primitives that fused ops
are composed of.
"""
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad.command import end_on_signals
from minigrad.device import library
from minigrad.words import plural

from gpt.bench.machine import describe, in_words, on_threads
from gpt.parity.curves import BOUND, Curves, distance, train
from gpt.parity.differences import DTYPES, SIDES, Difference, compare
from gpt.parity.options import Options
from gpt.parity.plot import plot
from gpt.parity.sides import reference
from gpt.parity.table import print_table, worst
from gpt.parity.tokens import read_tokens
from gpt.pretrained import read_config
from gpt.run.command_line import bad_input_exits, parse
from gpt.run.report import print_report
from gpt.text.batches import pairs, windows


def main(arguments: list[str]) -> int:
    """0 if all differences are within their bounds, 1 if not."""
    with bad_input_exits("gpt.parity"):
        if arguments and not arguments[0].startswith("-"):
            arguments = [f"--model={arguments[0]}", *arguments[1:]]
        o = parse(Options, arguments)
        folder, other = Path(o.model), reference()
        config = read_config(folder)
        if o.block_size > config["block_size"]:
            raise ValueError(f"--block_size={o.block_size} is more than the {config['block_size']} positions of "
                             f"{folder}: use a smaller one")
        tokens = read_tokens(o, config["vocab_size"])
        for path in filter(None, (o.out, o.json)):
            Path(path).touch()                  # an error now rather than at the end
        with on_threads(o.threads):
            return run(o, folder, other, tokens)


def run(o: Options, folder: Path, other: str, tokens: np.ndarray) -> int:
    """Compare, train, and report: the status."""
    x, y = pairs(windows(tokens, o.block_size, o.batch_size))
    with switch(plain=False):
        machine = describe(o.threads, "cpu", other == "transformers")
    print_report("model", f"{folder}")
    print_report("beside", DESCRIBED[other])
    print_report("tokens", o.text or f"random, from the seed {o.seed}: of {STATES} different ones, each is followed by "
                 "one of two; --text=FILE takes those of a text")
    print_report("batch", f"{plural(len(x), 'row')} of {o.block_size} tokens")
    print_report("machine", in_words(machine))
    found: list[Difference] = []
    trained = list(dict.fromkeys([other, "kernels", *["plain"] * (other == "composed")]))
    curves: Curves = {}
    with bar(len(DTYPES) * (1 + len(SIDES)), "one step") as progress:
        for dtype in DTYPES:
            found += compare(folder, other, dtype, x, y, progress)
    for dtype in DTYPES:
        print_table(found, dtype)
