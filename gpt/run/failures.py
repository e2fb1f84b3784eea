"""What ends a run early: divergence, no memory, a full disk. Each exits with one message: what happened, what to do."""
import contextlib
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import minigrad as mg

from gpt.model import GPT
from gpt.run import checkpoint
from gpt.run.command_line import train_name
from gpt.run.options import Options


def exit_diverged(model: GPT, o: Options, out_dir: Path, step: int, loss: float, repeat: Callable[[], Any]) -> NoReturn:
    """Exit with a message that names the op which computed the first value that is not finite. repeat: computes the
    gradient of the step again; the weights have not changed since."""
    model.zero_grad()
    try:
        with mg.detect_nan():
            repeat()
        where = "all values are finite, but the loss is 100 or more, or the norm of the gradient overflows"
    except FloatingPointError as error:
        where = str(error)
    sys.exit(f"{train_name()}: training diverged: the loss is {loss:.4g} at step {step}; {where}. "
             f"{checkpoint.last_intact(out_dir)}; try --learning_rate={o.learning_rate / 3:.1g}"
             f"{'' if o.grad_clip else ' or --grad_clip=1'}")


@contextlib.contextmanager
def failures_exit(o: Options, out_dir: Path) -> Iterator[None]:
    """Turn MemoryError and OSError into one line on stderr, which names the checkpoint to resume from, and exit status
    2."""
    try:
        yield
    except MemoryError:
        micro_steps = o.gradient_accumulation_steps
        sys.stderr.write(f"{train_name()}: out of memory: halve --batch_size={o.batch_size} and double "
                         f"--gradient_accumulation_steps={micro_steps}: the same run in less memory\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"{train_name()}: cannot write {error.filename or out_dir}: {error.strerror}. "
                         f"{checkpoint.last_intact(out_dir)}; --init_from=resume --out_dir={out_dir} resumes from it\n")
        sys.exit(2)
