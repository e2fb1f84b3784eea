"""Train a GPT, draw its loss curve, and generate samples.

    python train.py                     a small generated language whose best possible loss is known: about a minute
    python train.py --dataset=my.txt    any UTF-8 text; python, shakespeare: see --help for all options
    python train.py --init_from=gpt2/ --dataset=pairs.jsonl         trains on from a model, on {"prompt", "completion"}
    python train.py --init_from=resume --out_dir=RUN        continues a run where it stopped, bit for bit
    mpirun -n 4 python train.py --gradient_accumulation_steps=8     several processes share the micro-batches of a step

The loop is here; the options and what happens around the steps are in gpt/run/, the model is gpt/model.py.
"""
import io
import math
import signal
import sys

if __name__ == "__main__":
    on_ctrl_c = signal.signal(signal.SIGINT, signal.SIG_DFL)        # during the imports, Ctrl-C prints no traceback

from gpt.model import GPT               # before NumPy: importing gpt sets environment variables that OpenBLAS reads
from gpt.run.run import Run, opened
from gpt.text.batches import IGNORED, trimmed

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.parallel import GradientSum


def train(run: Run) -> None:
    """Train the model of a run, from its first step to its last."""
    o, model, optimizer = run.options, run.model, run.optimizer
    sums = GradientSum(optimizer.params, o.gradient_accumulation_steps, run.world)
    rows = o.gradient_accumulation_steps * o.batch_size
    mine = slice(sums.mine.start * o.batch_size, sums.mine.stop * o.batch_size)         # those of this process
    for step in run.steps():                # before each step: validates, samples, saves when due; Ctrl-C ends the loop
        for group in optimizer.groups:
            group["lr"] = o.learning_rate_at(step)
        x, y = run.data.train.batch(o.block_size, rows, o.seed, step, o.sampling, mine)     # (rows of mine, T)
        accumulate_gradient(model, sums, x, y, o.seed, step)
        loss, run.stopping = sums.total(stop=bool(run.stopped))
        norm = optim.clip_grad_norm(optimizer.params, o.grad_clip or math.inf, run.world)
        run.check(step, loss, norm, lambda: accumulate_gradient(model, sums, x, y, o.seed, step))
        with run.update(step):
            optimizer.step()
        optimizer.zero_grad()
        run.log(step)


def accumulate_gradient(model: GPT, sums: GradientSum, x: np.ndarray, y: np.ndarray, seed: int, step: int) -> None:
    """Add the gradient of the mean loss over all counted targets of a step to sums, micro-batch by micro-batch. x, y
    (rows, T): the rows of this process.

    Each micro-batch is weighted by its share of the counted targets of all processes: the mean of the micro-batches'
    means is another loss where some targets are masked (-100).
    """
    counted = max(sum(sums.world.gather(int((y != IGNORED).sum()))), 1)
    for micro, x_part, y_part in zip(sums.mine, np.split(x, len(sums.mine)), np.split(y, len(sums.mine))):
        weight = int((y_part != IGNORED).sum()) / counted
        loss = model.loss(*trimmed(x_part, y_part), key=mg.random.key(seed, step, micro)) * weight
        sums.backward(micro, loss)              # loss.backward(); takes the gradients, and reads no number


def main(arguments: list[str]) -> None:
    with opened(arguments) as run:
        train(run)
        run.report()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, on_ctrl_c)
    if isinstance(sys.stdout, io.TextIOWrapper):            # another type in a notebook, None if it is closed
        sys.stdout.reconfigure(line_buffering=True)         # a log shows each line at once
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:                   # before the first step
        sys.exit(128 + signal.SIGINT)
