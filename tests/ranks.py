"""What each process of tests/test_mpirun.py does after one start: runs of train.py, a training loop of its own, and the
sharing of a large array. python ranks.py TASKS: JSON, a list of [name of a function below, keyword arguments]."""
import gpt  # noqa: F401  (before NumPy: it configures BLAS)

import contextlib
import gc
import json
import signal
import sys
import time
from pathlib import Path
from unittest import mock

import numpy as np

import minigrad as mg
import train
from gpt.model import GPT, GPTConfig
from gpt.run import machine, plot, run as run_module
from minigrad import optim
from minigrad.parallel import GradientSum, World, gradient_sum, world as processes

accumulate_gradient, samples = train.accumulate_gradient, run_module.samples
ARRAY = np.random.default_rng(0).integers(0, 1 << 16, (100, 31), np.uint16)


def short_samples(model, data, rows, length, seed):
    return samples(model, data, rows, 20, seed)


def run(options, stop=None, cut=None):
    """A run of train.py. What takes long and does not depend on the processes is left out or made small: plots,
    samples, the product that measures the machine.

    stop: [rank, step]: this rank gets a signal while it computes this step. cut: a step before which rank 0 makes a
    file "at-the-step" and waits for a file "cut"; from then on, the patience is 3 seconds.
    """
    def before(model, sums, x, y, seed, step):
        if [sums.world.rank, step] == stop:
            signal.raise_signal(signal.SIGTERM)
        if step == cut:
            sums.world.patience = 3.0
            if sums.world.rank == 0:
                Path("at-the-step").touch()
                while not Path("cut").exists():
                    time.sleep(0.02)
        accumulate_gradient(model, sums, x, y, seed, step)

    with contextlib.ExitStack() as patches:
        for name in ("loss_curve", "lr_curve", "stats_maps"):
            patches.enter_context(mock.patch.object(plot, name, lambda *_: None))
        patches.enter_context(mock.patch.object(run_module, "samples", short_samples))
        patches.enter_context(mock.patch.object(machine, "PEAK_SIZE", 32))
        patches.enter_context(mock.patch.object(train, "accumulate_gradient", before))
        try:
            train.main(options)
            assert stop is None
        except SystemExit as end:
            assert stop and end.code == 128 + signal.SIGTERM


def masked(G, dtype):
    """A training loop with targets that do not count (-100), and with dropout. One micro-batch has no counted target
    and others few; one step has none at all. Most buckets of gradients leave before the backward has ended. Writes the
    losses and the weights of each rank."""
    mg.set_num_threads(1)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 11, (2, 5, 2 * G, 8))            # steps, rows, tokens
    y[rng.random(y.shape) < rng.random((5, 2 * G, 1))] = -100
    y[:, 2:4] = y[3] = -100                                 # micro-batch 1; step 3
    model = GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=1, n_head=2, n_embd=8, dropout=0.2), dtype=dtype)
    optimizer, losses = optim.AdamW(model.parameters(), lr=0.01), []
    with World() as world, mock.patch.object(gradient_sum, "BUCKET", 100):
        sums = GradientSum(optimizer.params, G, world)
        mine = slice(2 * sums.mine.start, 2 * sums.mine.stop)
        for step in range(5):
            train.accumulate_gradient(model, sums, x[step, mine], y[step, mine], 0, step)
            losses.append(sums.total()[0])
            optim.clip_grad_norm(optimizer.params, 0.5, world)
            optimizer.step()
            optimizer.zero_grad()
        np.savez(f"masked-{G}-{dtype}-{world.rank}.npz", *losses, *[p.numpy() for p in optimizer.params])


def share(limit, bucket):
    """An array of rank 0, above SHARED_BYTES if limit is small. Writes what each rank has, and has after rank 0 has
    changed a number of its own."""
    with World() as world, mock.patch.multiple(processes, SHARED_BYTES=limit, BUCKET=bucket):
        got = world.share_array(ARRAY if world.rank == 0 else None)
        gc.collect()
        before = got.copy()
        world.gather(None)
        if world.rank == 0:
            got[7, 5] += 1
        world.gather(None)
        np.savez(f"share-{limit}-{world.rank}.npz", before, got)


if __name__ == "__main__":
    for name, arguments in json.loads(sys.argv[1]):
        globals()[name](**arguments)
