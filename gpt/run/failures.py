"""What ends a run early: divergence, no memory, a full disk. Each exits with one message: what happened, what to do."""
import contextlib
import math
import sys
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np

import minigrad as mg
from minigrad import device
from minigrad.cuda import lacks_memory
from minigrad.parallel import World

from gpt import lab
from gpt.model import GPT
from gpt.run import checkpoint, folder
from gpt.run.command_line import train_name
from gpt.run.estimates import activation_bytes, parameter_count, trained_count, weight_bytes
from gpt.run.machine import memory
from gpt.run.options import Options


def exit_diverged(model: GPT, o: Options, out_dir: Path, step: int, what: str, repeat: Callable[[], Any] | None,
                  world: World) -> NoReturn:
    """Exit every process with a message that says what showed the divergence, "the loss is nan", and names the op which
    computed the first value that is not finite. repeat: computes it again; None if the loss was read from a device
    later, and the weights of this step have changed since."""
    model.zero_grad()
    found = ""
    where = (f"losses are read from the device every --log_interval={o.log_interval} steps, and the weights have "
             "changed since: with --log_interval=1 this message also says where it began")
    if repeat:
        where = "all values are finite, but the loss is 100 or more, or the norm of the gradient overflows"
        try:
            with mg.detect_nan():
                repeat()
        except FloatingPointError as error:
            found = str(error)
    where = next(filter(None, world.gather(found)), where)      # the first rank has the first micro-batches
    intact = world.share(lambda: checkpoint.last_intact(out_dir))
    world.exit(f"{train_name()}: training diverged: {what} at step {step}; {where}. "
               f"{intact}; try --learning_rate={o.learning_rate / 3:.1g}"
               f"{'' if o.grad_clip else ' or --grad_clip=1'}")


def check_memory(o: Options, processes: int = 1) -> None:
    """ValueError if a training step on the CPU takes more memory than there is: an estimate, made before the text is
    read and anything large is allocated. processes: how many train on this machine."""
    shape = o.shape(256 if o.tokenizer in ("char", "byte") else o.vocab_size)
    itemsize = np.dtype(o.dtype).itemsize
    rows = o.batch_size * o.gradient_accumulation_steps
    trained = trained_count(shape, o.adapters)
    n_parameters = parameter_count(shape) + trained * bool(o.adapters)
    micro_steps = math.ceil(o.gradient_accumulation_steps / processes)
    weights = processes * sum(weight_bytes(n_parameters, trained, itemsize, micro_steps))
    activations = (processes * activation_bytes(shape, o.batch_size, itemsize, o.recompute)
                   + 3 * 8 * rows * (o.block_size + 1))
    if weights + activations > memory():
        here = f" in {processes} processes on a machine" if processes > 1 else ""
        raise ValueError(f"out of memory: training{here} takes about {(weights + activations) / 1e9:,.1f} GB, "
                         f"{weights / 1e9:,.1f} for the model and {activations / 1e9:,.1f} for a batch, and there are "
                         f"{memory() / 1e9:,.1f}: {use_less(o)}")


def use_less(o: Options) -> str:
    """How to train in less memory, in words: the options that are above their defaults, the highest ratio first. The
    shape of a model that was trained before stays."""
    names = () if o.fine_tunes else ("n_embd", "n_layer", "vocab_size")
    ratios = {f"--{name}={getattr(o, name)}": getattr(o, name) / getattr(Options, name)
              for name in (*names, "block_size", "batch_size", "gradient_accumulation_steps")}
    above = sorted((name for name in ratios if ratios[name] > 1.0), key=lambda name: -ratios[name])
    recompute = ", or use --recompute" if o.fine_tunes and not o.recompute else ""
    return f"lower {' or '.join(above[:3] or ratios)}{recompute}"


def lack_of_memory(error: Exception, device_name: str) -> str:
    """The message of an error that says that memory is full, and how much memory a device has. To be called before the
    arrays of the computation that failed are freed."""
    what, memory = str(error).rstrip("."), device.library(device_name).memory()
    if memory is None:
        return what
    free, held, used = (f"{n / 1e6:,.0f} MB" for n in memory)
    return f"{what}; {device_name} has {free} free, and this process holds {held}, of which {used} are in use"


def free_arrays(error: BaseException) -> None:
    """Free the arrays of the functions that an exception has left: their variables live as long as it does."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


@contextlib.contextmanager
def failures_exit(o: Options, out_dir: Path, device_name: str, save: Callable[[], None], world: World
                  ) -> Iterator[None]:
    """Turn a lack of memory and OSError into one line on stderr, which says how to go on, and exit status 2. save:
    saves a checkpoint, if it can; it is called after a lack of memory."""
    def resumable() -> str:
        state = checkpoint.last_intact(out_dir) if world.rank == 0 else "Checkpoints stay as they are"
        return (f"{state}; --init_from=resume {folder.out_dir_option(out_dir)}"
                f"{lab.option(o.break_)} resumes the run")

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not lacks_memory(error):
            raise
        what = lack_of_memory(error, device_name)
        free_arrays(error)
        save()
        fix = (f"halve --batch_size={o.batch_size} and double --gradient_accumulation_steps="
               f"{o.gradient_accumulation_steps}: the same run in less memory" if o.batch_size > 1 else use_less(o))
        print(f"{train_name()}: out of memory: {what}{': ' if what else ''}{fix}. {resumable()}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if world.rank > 0 or (out_dir / "config.json").exists():
            state = resumable()
        else:
            state = f"{out_dir} was moved, or files in it deleted, while the training ran"
        print(f"{train_name()}: cannot write {error.filename or out_dir}: {error.strerror or error}. {state}",
              file=sys.stderr)
        sys.exit(2)
