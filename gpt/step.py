"""Step through one training step of a run: python -m gpt.step --out_dir=runs/fables-001 --out=step.html"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.command import end_on_signals
from minigrad.step import Record, record
from minigrad.step.terminal import show

from gpt.model import GPT, GPTConfig
from gpt.run import checkpoint, folder
from gpt.run.command_line import bad_input_exits, option, parse
from gpt.run.options import Options as RunOptions
from gpt.text import fables
from gpt.text.batches import batch
from gpt.text.dataset import Data, open_data
from gpt.text.tokenizer import CharTokenizer, Tokenizer

MAX_TOKENS = 16                                 # of the recorded row: they fit on a screen


@dataclass
class Options:
    """Step through one training step of a run: python -m gpt.step --name=value ..."""
    out_dir: str = option("", "the folder of a run: needed")
    at: int = option(-1, "the step of a checkpoint; -1: the newest")
    prompt: str = option("", "train on this text, not on the step's batch")
    out: str = option("", "write this page instead: step.html")


def training_step(model: GPT, optimizer: optim.Optimizer, data: Data, options: Mapping[str, Any], step: int,
                  prompt: str = "") -> Record:
    """Record a training step of a run: its weights, moments, learning rate and dropout, on the first row of its batch,
    or on a prompt, cropped to at most 16 tokens. The weights stay as they are; `.grad` is that of the crop afterwards.

    options: those of the run, as in config.json. ValueError for a prompt of fewer than two tokens.
    """
    lr = RunOptions(**options).learning_rate_at(step)
    for group in optimizer.groups:
        group["lr"] = lr
    if prompt:
        tokens, uncropped = np.asarray(data.tokenizer.encode(prompt), dtype=np.int64), "the prompt"
        if len(tokens) < 2:
            raise ValueError(f"--prompt={prompt!r} is one token: give at least two, one to read and one to predict")
    else:
        rows = options["batch_size"] * options["gradient_accumulation_steps"]
        x, y = batch(data.train, options["block_size"], rows, options["seed"], step, options["sampling"])
        tokens = np.append(x[0], y[0, -1])
        uncropped = f"row 1 of the batch of {rows} x {options['block_size']} tokens"
    T = cropped_length(model.config, len(tokens) - 1)
    x, y = tokens[None, :T], tokens[None, 1:T + 1]                                              # (1, T)
    _, loss = model(x, y, key=mg.random.key(options["seed"], step))     # not model.loss: it has no logits to show
    return record(loss, tokens=[visible(token, data.tokenizer) for token in x[0]], optimizer=optimizer,
                  max_norm=options["grad_clip"] or None, title=f"training step {step} on {data.name}",
                  notes=[f"cropped to {T} tokens, those of {uncropped}: loss and gradients are those of the crop"])


def cropped_length(shape: GPTConfig, available: int) -> int:
    """How many tokens to record: if possible a length that no other axis has, so that axes of that length are axes of
    tokens, to be labelled as such."""
    C = shape.n_embd
    taken = {shape.vocab_size, C, 3 * C, 4 * C, shape.n_head, C // shape.n_head, shape.block_size}
    longest = min(available, MAX_TOKENS, shape.block_size)
    return next((T for T in range(longest, 1, -1) if T not in taken), longest)


def visible(token: int, tokenizer: Tokenizer) -> str:
    """The text of a token with visible characters for spaces and control characters."""
    return repr(tokenizer.decode([token]))[1:-1].replace(" ", "␣")


def load(out_dir: Path, at: int) -> tuple[GPT, optim.Optimizer, Data, dict[str, Any], int]:
    """A run at one of its checkpoints: model, optimizer, data, options, step. at: the step of the checkpoint; -1 for
    the newest one before max_iters, the end of training, or else for that of max_iters. ValueError names what is
    missing or damaged."""
    options, _, shape = folder.read_config(out_dir)
    paths = {checkpoint.step_of(path): path for path in checkpoint.newest_first(out_dir)}
    if paths and at != -1 and at not in paths:
        raise ValueError(f"{out_dir} has no checkpoint of step {at}; it has {', '.join(map(str, sorted(paths)))}")
    model = GPT(shape, dtype=options["dtype"])
    optimizer = model.configure_optimizer(options["weight_decay"], (options["beta1"], options["beta2"]))
    steps = [at] if at in paths else sorted(paths, key=lambda step: (step < options["max_iters"], step), reverse=True)
    record = checkpoint.restore(model, optimizer, [paths[step] for step in steps])
    if record is None:
        raise checkpoint.missing(out_dir)
    return model, optimizer, open_data(out_dir), options, record["step"]


def example() -> Record:
    """The record of a training step of a small GPT on fables: the example `gpt` of python -m minigrad.step."""
    text = fables.text(4000, seed=0)
    tokenizer = CharTokenizer.of(text)
    tokens = tokenizer.encode(text)
    data = Data("fables", "", tokenizer, tokens, tokens, 1.0)
    options = dict(batch_size=4, gradient_accumulation_steps=1, block_size=24, seed=1, sampling="random",
                   lr_schedule="constant", warmup_iters=0, max_iters=100, learning_rate=5e-3, min_lr=0.0, grad_clip=1.0)
    model = GPT(GPTConfig(24, len(tokenizer), n_layer=2, n_head=4, n_embd=32), seed=0, dtype="float64")
    optimizer = model.configure_optimizer(0.1, (0.9, 0.99))
    for step in range(8):
        for group in optimizer.groups:
            group["lr"] = options["learning_rate"]
        x, y = batch(tokens, 24, 4, 1, step, "random")                                          # (4, 24)
        model.loss(x, y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return training_step(model, optimizer, data, options, 8)


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.step"):
        o = parse(Options, arguments)
        show(training_step(*load(folder.existing(o.out_dir), o.at), o.prompt), o.out)


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
