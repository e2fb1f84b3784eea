"""What ends a run early: divergence, no memory, a full disk. Each exits with one message: what happened, what to do."""
import contextlib
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np

import minigrad as mg

from gpt import lab
from gpt.model import GPT
from gpt.run import checkpoint, folder
from gpt.run.command_line import train_name
from gpt.run.estimates import activation_bytes, parameter_count
from gpt.run.machine import memory
from gpt.run.options import Options


def exit_diverged(model: GPT, o: Options, out_dir: Path, step: int, what: str, repeat: Callable[[], Any]) -> NoReturn:
    """Exit with a message that says what showed the divergence, "the loss is nan", and names the op which computed the
    first value that is not finite. repeat: computes it again; the weights have not changed since."""
    model.zero_grad()
    try:
        with mg.detect_nan():
            repeat()
        where = "all values are finite, but the loss is 100 or more, or the norm of the gradient overflows"
    except FloatingPointError as error:
        where = str(error)
    sys.exit(f"{train_name()}: training diverged: {what} at step {step}; {where}. "
             f"{checkpoint.last_intact(out_dir)}; try --learning_rate={o.learning_rate / 3:.1g}"
             f"{'' if o.grad_clip else ' or --grad_clip=1'}")


def check_memory(o: Options) -> None:
    """ValueError if a training step on the CPU takes more memory than there is: an estimate, made before the text is
    read and anything large is allocated."""
    shape = o.shape(o.vocab_size if o.tokenizer == "bpe" else 256)
    itemsize = np.dtype(o.dtype).itemsize
    rows = o.batch_size * o.gradient_accumulation_steps
    weights = 4 * parameter_count(shape) * itemsize                                 # with gradients and two moments
    activations = activation_bytes(shape, o.batch_size, itemsize) + 3 * 8 * rows * (o.block_size + 1)
    if weights + activations > memory():
        raise ValueError(f"out of memory: training takes about {(weights + activations) / 1e9:,.1f} GB, "
                         f"{weights / 1e9:,.1f} for the model and {activations / 1e9:,.1f} for a batch, and there are "
                         f"{memory() / 1e9:,.1f}: {use_less(o)}")


def use_less(o: Options) -> str:
    """How to train in less memory, in words: the options that are above their defaults, the highest ratio first."""
    ratios = {f"--{name}={getattr(o, name)}": getattr(o, name) / getattr(Options, name) for name in
              ("n_embd", "n_layer", "block_size", "batch_size", "vocab_size", "gradient_accumulation_steps")}
    above = sorted((name for name in ratios if ratios[name] > 1.0), key=lambda name: -ratios[name])
    return f"lower {' or '.join(above[:3] or ratios)}"


@contextlib.contextmanager
def failures_exit(o: Options, out_dir: Path) -> Iterator[None]:
    """Turn MemoryError and OSError into one line on stderr, which says how to go on, and exit status 2."""
    try:
        yield
    except MemoryError:
        fix = (f"halve --batch_size={o.batch_size} and double --gradient_accumulation_steps="
               f"{o.gradient_accumulation_steps}: the same run in less memory" if o.batch_size > 1 else use_less(o))
        print(f"{train_name()}: out of memory: {fix}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if (out_dir / "config.json").exists():
            state = (f"{checkpoint.last_intact(out_dir)}; --init_from=resume {folder.out_dir_option(out_dir)}"
                     f"{lab.option(o.break_)} resumes from it")
        else:
            state = f"{out_dir} was moved, or files in it deleted, while the training ran"
        print(f"{train_name()}: cannot write {error.filename or out_dir}: {error.strerror or error}. {state}",
              file=sys.stderr)
        sys.exit(2)
