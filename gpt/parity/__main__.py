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
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from minigrad.command import end_on_signals
from minigrad.modes import switch
from minigrad.words import plural

from gpt import pretrained
from gpt.bench.machine import describe, in_words, on_threads
from gpt.model import GPTConfig
from gpt.parity.curves import train
from gpt.parity.differences import DTYPES, SIDES, Difference, compare
from gpt.parity.hyperparameters import CLIP
from gpt.parity.options import Options
from gpt.parity.plot import plot
from gpt.parity.report import REFERENCES, distances, figures, print_tables, verdict
from gpt.parity.sides import reference
from gpt.parity.tokens import read_tokens
from gpt.run.command_line import bad_input_exits, parse
from gpt.run.report import print_report
from gpt.text.batches import pairs, windows


def main(arguments: list[str]) -> int:
    """0 if all differences are within their bounds, 1 if not."""
    with bad_input_exits("gpt.parity"):
        if arguments and not arguments[0].startswith("-"):
            arguments = [f"--model={arguments[0]}", *arguments[1:]]
        o = parse(Options, arguments)
        config = GPTConfig(**pretrained.read_config(Path(o.model)))
        if o.block_size > config.block_size:
            raise ValueError(f"--block_size={o.block_size} is more than the {config.block_size} positions of "
                             f"{o.model}: use a smaller one")
        tokens = read_tokens(o, config.vocab_size)
        for path in filter(None, (o.out, o.json)):
            Path(path).touch()                  # an error now rather than at the end
        with on_threads(o.threads), switch(plain=False):
            return report(o, config, tokens, reference())


def report(o: Options, config: GPTConfig, tokens: np.ndarray, other: str) -> int:
    """Compare one step with the reference `other`, train, print, and draw: the exit status."""
    machine = describe(o.threads, "cpu", with_torch=other == "transformers")
    parameters = sum(math.prod(shape) for shape in pretrained.shapes(config).values())
    print_report("model", f"{o.model}: {plural(config.n_layer, 'layer')}, {plural(config.n_head, 'head')}, "
                 f"{config.n_embd} wide, vocabulary {config.vocab_size}: {parameters:,} parameters")
    print_report("beside", REFERENCES[other])
    print_report("tokens", f"{o.text}: {len(tokens)}" if o.text else
                 f"random, from seed {o.seed}: {len(set(tokens))} different ones, each followed by one of two; "
                 "--text=FILE takes those of a text")
    print_report("batch", f"{plural(o.batch_size, 'row')} of {o.block_size} tokens")
    print_report("machine", in_words(machine))
    x, y = pairs(windows(tokens, o.block_size, o.batch_size))
    found: list[Difference] = []
    with bar(len(DTYPES) * (1 + len(SIDES)), "one step") as progress:
        for dtype in DTYPES:
            found += compare(Path(o.model), other, dtype, x, y, progress)
    print_tables(found)
    names = [other, "kernels"] + ["plain"] * (other == "composed") if o.steps else []
    with bar(len(names) * o.steps, "training") as progress:
        curves = train(Path(o.model), names, tokens, o.block_size, o.batch_size, o.steps, o.seed, progress)
    print()
    for name, (gap, step) in distances(curves, other).items():
        losses = curves[name]
        print_report("trained", f"{plural(o.steps, 'step')} in float32, clipped to a norm of {CLIP:g}: the loss of "
                     f"{name} falls from {losses[0]:.4f} to {losses[-1]:.4f}; largest distance from {other} {gap:.1e} "
                     f"nats, at step {step}")
    line, ok = verdict(found, curves, other, parameters)
    print(line)
    plot(Path(o.out), f"{o.model}: minigrad beside {other}", other, found, curves)
    if o.json:
        Path(o.json).write_text(json.dumps({
            "model": o.model, "parameters": parameters, "reference": other, "machine": machine, "ok": ok,
            "verdict": line, "differences": figures(found), "curves": curves,
            "distances": distances(curves, other)}, indent=1), "utf-8")
    return 0 if ok else 1


def bar(total: int, what: str) -> Any:
    """A progress bar on a terminal, which vanishes at its end."""
    return tqdm(total=total, desc=what, disable=None, dynamic_ncols=True, leave=False)


if __name__ == "__main__":
    end_on_signals()
    sys.exit(main(sys.argv[1:]))
