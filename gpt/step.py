"""Step through one training step of a model: python -m gpt.step --model=runs/fables-001 --out=step.html"""
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

from gpt import lab, model_folder
from gpt.model import GPT
from gpt.run import checkpoint, folder
from gpt.run.command_line import bad_input_exits, command_line, option
from gpt.run.estimates import parameter_count
from gpt.run.machine import memory
from gpt.run.options import Options as RunOptions, configure
from gpt.text.batches import IGNORED, Text, trimmed
from gpt.text.dataset import Data, open_data
from gpt.text.tokenizer import Tokenizer

MAX_TOKENS = 16                                 # of the recorded row: they fit on a screen
BYTES = 40                                      # for each weight, of a record and one op's checks: 5 GB for GPT-2
SENTENCE = "The owl lent the fox a lamp, and the fox gave it back."      # that a GPT-2 is trained on


@dataclass
class Options:
    """Step through one training step of a model: python -m gpt.step --name=value ..."""
    model: str = option("", "the folder of a GPT-2 or of a run")
    out_dir: str = option("", "the folder of a run; this or --model")
    at: int = option(-1, "a run's checkpoint, by its step; -1: the newest")
    prompt: str = option("", "train on this text; default: a run's batch")
    out: str = option("", "write a page instead, for a browser: step.html")


def training_step(model: GPT, optimizer: optim.Optimizer, data: Data, options: Mapping[str, Any], step: int,
                  prompt: str | None = None) -> Record:
    """Record a training step of a run: its weights, moments, learning rate and dropout, on the first row of its batch,
    or on a prompt, cropped to at most 16 tokens. The weights stay as they are; `.grad` is that of the crop afterwards.

    options: those of the run, as in config.json. ValueError for a prompt of fewer than two tokens, or with a character
    that the tokenizer does not know.
    """
    mistake = options.get("break_", "")
    notes = [lab.description(mistake)] if mistake else []
    lr = RunOptions(**options).learning_rate_at(step)
    if lr == 0.0 < options["learning_rate"]:        # at the end of most schedules
        lr = 0.1 * options["learning_rate"]
        notes.append(f"the learning rate of step {step} is 0, which changes no weight: the optimizer's update is shown "
                     f"with {lr:g}, a tenth of the run's largest")
    for group in optimizer.groups:
        group["lr"] = lr

    if prompt is not None:
        tokens = np.asarray(data.tokenizer.encode(prompt), dtype=np.int64)
        if len(tokens) < 2:
            raise ValueError(f"--prompt={prompt!r} has {len(tokens)} token{'s' * (len(tokens) != 1)}: give at least "
                             "two, one to read and one to predict")
        x, y = tokens[None, :-1], tokens[None, 1:]
    else:
        rows = options["batch_size"] * options["gradient_accumulation_steps"]
        x, y = data.train.batch(options["block_size"], rows, options["seed"], step, options["sampling"])
        batch = f"row 1 of the batch of {rows} x {x.shape[1]} tokens"
        x, y = trimmed(x[:1], y[:1])                                                            # (1, row)
    size = x.shape[1]
    T = min(size, MAX_TOKENS, model.config.block_size)
    first = int(np.clip(np.argmax(y[0] != IGNORED) - T // 2, 0, size - T))      # above 0 in a pair with a long prompt
    which = (f"tokens {first + 1} to {first + T}, around the start of its completion" if first else
             f"the first {T} tokens")
    why = "more do not fit on a screen" if T < model.config.block_size else f"the model's context is {T} tokens"
    if prompt is None:
        notes.append(batch + (f", and of it {which}, as {why}" if T < size else "") +
                     ": loss and gradients are those of these tokens alone")
    elif T < size:
        notes.append(f"the prompt has {size + 1} tokens: the first {T} are read, as {why}, and each predicts the "
                     "next; to see another part, give that part as --prompt")

    x, y = x[:, first:first + T], y[:, first:first + T]                                         # (1, T)
    recompute, model.recompute = model.recompute, False                 # its ops are shown, not each block as one
    try:
        _, loss = model(x, y, key=mg.random.key(options["seed"], step))     # not model.loss: it has no logits to show
    finally:
        model.recompute = recompute
    return record(loss, tokens=[visible(token, data.tokenizer) for token in x[0]],
                  vocabulary=[visible(token, data.tokenizer) for token in range(model.config.vocab_size)],
                  optimizer=optimizer, max_norm=options["grad_clip"] or None,
                  title=f"training step {step} on {data.name}", notes=notes)


def visible(token: int, tokenizer: Tokenizer) -> str:
    """The text of a token with visible characters for spaces and control characters."""
    return repr(tokenizer.decode([token]))[1:-1].replace(" ", "␣")


def load(out_dir: Path, at: int) -> tuple[GPT, optim.Optimizer, Data, dict[str, Any], int]:
    """A run at one of its checkpoints: model, optimizer, data, options, step. at: the step of the checkpoint, or -1 for
    the newest. ValueError names what is missing or damaged."""
    options, _, shape = folder.read_config(out_dir)
    paths = {checkpoint.step_of(path): path for path in checkpoint.newest_first(out_dir)}
    if paths and at != -1 and at not in paths:
        raise ValueError(f"{out_dir} has no checkpoint of step {at}; it has {', '.join(map(str, sorted(paths)))}")
    model = checkpoint.untrained(out_dir, options, shape)
    optimizer = model.configure_optimizer(options["weight_decay"], (options["beta1"], options["beta2"]))
    record = checkpoint.restore(model, optimizer, [paths[at]] if at in paths else list(paths.values()))
    if record is None:
        raise checkpoint.missing(out_dir)
    return model, optimizer, open_data(out_dir), options, record["step"]


def pretrained(folder: Path) -> tuple[GPT, optim.Optimizer, Data, dict[str, Any], int]:
    """The same of the first step of fine-tuning a GPT-2, without warmup and dropout. The data are a sentence."""
    model, tokenizer = model_folder.load(folder)
    options, _, _ = configure([f"--init_from={folder}", "--warmup_iters=0", "--lr_schedule=constant", "--dropout=0"])
    optimizer = model.configure_optimizer(options.weight_decay, (options.beta1, options.beta2))
    sentence = Text(tokenizer.encode(SENTENCE))
    return model, optimizer, Data(f"a text, from the weights in {folder}", "", tokenizer, sentence, sentence, 1.0
                                  ), vars(options), 0


def check_memory(model: GPT) -> None:
    """ValueError if there is less memory than the record of a training step takes: an estimate."""
    needed = BYTES * parameter_count(model.config)
    if needed > memory():
        raise ValueError(f"out of memory: the record of a step takes about {needed / 1e9:,.1f} GB, and there are "
                         f"{memory() / 1e9:,.1f}: step through a smaller model")


def example() -> Record:
    """The record of a training step of a small trained GPT, which gpt/example.py makes: the example `gpt` of
    python -m minigrad.step."""
    from gpt import example
    return training_step(*example.load(), vars(example.OPTIONS), example.OPTIONS.max_iters, example.PROMPT)


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.step"):
        given = command_line(Options, arguments)
        o = Options(**given)
        path = model_folder.given(o.model, o.out_dir)
        prompt = o.prompt if "prompt" in given else None
        if o.out_dir or model_folder.is_run(path):
            start = load(path, o.at)
        elif o.at != -1:
            raise ValueError(f"{path} has no checkpoints, as it is no run: leave out --at={o.at}")
        else:
            start, prompt = pretrained(path), SENTENCE if prompt is None else prompt
        check_memory(start[0])
        show(training_step(*start, prompt=prompt), o.out)


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
