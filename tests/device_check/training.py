"""Training on the device: the same losses as on the host, the same bits each time, no waits, no memory left."""
import csv
import gc
import hashlib
import itertools
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any, Callable

import cupy
import cupyx
import numpy as np

import train
import minigrad as mg
from minigrad import Tensor, device, functional as F, optim

from gpt.bench.presets import ADAMW, CLIP, PRESETS, WEIGHT_DECAY, random_batches
from gpt.model import GPT, GPTConfig
from gpt.run import folder
from gpt.run.run import opened

from .commands import last_line, run as run_command
from .found import Found
from .runner import ROOT

STEPS = 100                                     # that are compared: later, rounding errors have grown
CLOSE = 1e-5                                    # relative difference of two losses
TOKENS = 12 * 64                                # of a step of the default run
REPEATS = 20
# all of 12 rows a step: with 48, two orders of summation on the CPU differ by 6e-3 after 100 steps
SETTINGS = {"default": [], "dropout": ["--dropout=0.1"],
            "accumulation": ["--batch_size=3", "--gradient_accumulation_steps=4"]}
QUIET = ["--log_interval=1", "--stats_interval=0", "--sample_interval=0", "--eval_iters=1", "--eval_interval=100000"]
SMALL = GPTConfig(64, 40, 2, 4, 64, dropout=0.1)        # the default run's
SHAPES = {"default": (SMALL, 12), "gpu8": (PRESETS["gpu8"].shape, PRESETS["gpu8"].batch_size)}      # and rows


# ---- losses ----

def losses(found: Found) -> None:
    with open(found.out / "losses.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["setting", "step", "cpu", "cuda", "relative difference"])
        for name, options in SETTINGS.items():
            cpu, cuda = (trained(device_name, options) for device_name in ("cpu", "cuda"))
            differences = [abs(a["train_loss"] - b["train_loss"]) / abs(a["train_loss"]) for a, b in zip(cpu, cuda)]
            norms = [abs(a["grad_norm"] - b["grad_norm"]) / abs(a["grad_norm"]) for a, b in zip(cpu, cuda)]
            rows.writerows([name, a["step"], a["train_loss"], b["train_loss"], f"{difference:.2e}"]
                           for a, b, difference in zip(cpu, cuda, differences))
            file.flush()
            largest = max(differences)
            found.number(name, {"largest relative difference": largest, "at step": differences.index(largest),
                                "last": differences[-1], "of the gradient's norm": max(norms)})
            ms = {side: found.spread(f"{name}: a step on {side}", (
                1e3 * TOKENS / row["tokens_per_s"] for row in metrics[5:]), "ms")
                for side, metrics in (("cpu", cpu), ("cuda", cuda))}
            found.answer(f"{name}: they differ by at most {largest:.1e}, at step {differences.index(largest)} of "
                         f"{len(differences)}; norms of the gradient by {max(norms):.1e}; a step takes "
                         f"{ms['cpu']:.1f} ms on the CPU, {ms['cuda']:.1f} on the GPU",
                         largest <= CLOSE and len(differences) == STEPS)


def trained(device_name: str, options: list[str]) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl for the first STEPS steps of the default run with these options."""
    with tempfile.TemporaryDirectory() as out:
        # The learning rate rises for all these steps, whatever --max_iters: they are those of the default run.
        with opened([f"--device={device_name}", f"--out_dir={out}/run", f"--max_iters={STEPS + 1}",
                     f"--checkpoint_interval={STEPS + 1}", *QUIET, *options]) as run:
            train.train(run)
        rows = [row for row in folder.read_rows(Path(out, "run", "metrics.jsonl")) if "train_loss" in row]
    return rows[:STEPS]


# ---- repeats ----

def repeats(found: Found) -> None:
    for name, (shape, rows) in SHAPES.items():
        training = Training(shape, rows)
        same_bits(found, f"loss and gradients of a step of {name}, dropout {shape.dropout}", training.gradients)

    rng = np.random.default_rng(0)
    table, weights = rng.normal(size=(7, 384)).astype("float32"), rng.normal(size=(4096, 384)).astype("float32")
    index = rng.integers(0, 7, 4096)
    want = np.zeros(table.shape)
    np.add.at(want, index, weights.astype("float64"))
    for name, look in (("embedding", F.embedding), ("getitem", lambda t, i: t[i])):
        def gradient(look: Any = look) -> list[Any]:
            t = Tensor(table, True, device="cuda")
            (look(t, index) * Tensor(weights, device="cuda")).sum().backward()
            return [t.grad]

        same_bits(found, f"the gradient of {name}, each row used 585 times", gradient)
        error = float(np.abs(device.host(gradient()[0]) - want).max() / np.abs(want).max())
        found.answer(f"the gradient of {name} is exact to {error:.1e}", error < 1e-5)

    with tempfile.TemporaryDirectory() as out:
        with opened(["--device=cuda", f"--out_dir={out}/run", "--dropout=0.1", "--max_iters=20", "--warmup_iters=5",
                     "--checkpoint_interval=10", *QUIET]) as run:
            train.train(run)
        status, output = run_command(found, "gpt.verify", f"{out}/run", "--steps=10")
    found.answer(f"gpt.verify, a run that is killed and resumed: {last_line(output)}", status == 0)


def same_bits(found: Found, what: str, compute: Callable[[], list[Any]]) -> None:
    """Answer whether the arrays that compute() returns have the same bits each time."""
    digests = {hashlib.sha256(b"".join(device.host(a).tobytes() for a in compute())).hexdigest()
               for _ in range(REPEATS)}
    found.answer(f"{what}: " + (f"the same bits in all {REPEATS} repeats" if len(digests) == 1 else
                                f"{len(digests)} different results in {REPEATS} repeats"), len(digests) == 1)


class Training:
    """A model, its optimizer and one batch on the host, and what a training step does with them."""

    def __init__(self, shape: GPTConfig, rows: int, micro_steps: int = 1) -> None:
        self.model = GPT(shape, device="cuda")
        self.optimizer = self.model.configure_optimizer(WEIGHT_DECAY, ADAMW["betas"])
        self.batch = next(random_batches(PRESETS["gpu8"]._replace(shape=shape, batch_size=rows)))
        self.micro_steps = micro_steps

    def gradients(self) -> list[Any]:
        """The arrays of the loss and of all gradients."""
        self.optimizer.zero_grad()
        loss = self.accumulate(0)
        return [loss.data, *(p.grad for p in self.optimizer.params)]

    def accumulate(self, step: int) -> Any:
        """Forward and backward of each micro-batch; the last loss, a 0-d Tensor."""
        for micro in range(self.micro_steps):
            loss = self.model.loss(*self.batch, key=mg.random.key(0, step, micro))
            loss.backward()
        return loss.detach()

    def step(self) -> Any:
        """A whole training step, which reads nothing on the host; its loss, a 0-d Tensor."""
        loss = self.accumulate(0)
        optim.clip_grad_norm(self.optimizer.params, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss


# ---- waits and memory ----

def waits(found: Found) -> None:
    warnings.filterwarnings("ignore", message="cupyx.allow_synchronize will be removed")
    for (name, (shape, rows)), micro_steps in itertools.product(SHAPES.items(), (1, 2)):
        training = Training(shape, rows, micro_steps)
        training.step()                         # compiles kernels
        try:
            with cupyx.allow_synchronize(False):
                training.step()
        except cupyx.DeviceSynchronized as error:
            frames = [f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
                      for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
            traceback.print_exc()
            found.answer(f"{name}, micro-batches {micro_steps}: a step waits in {frames[-1]}", False)
        else:
            found.answer(f"{name}, micro-batches {micro_steps}: no step waits", True)
        del training

    pool = cupy.get_default_memory_pool()
    for name, (shape, rows) in SHAPES.items():
        used = [used_bytes(pool)]
        for _ in range(2):
            train_two_steps(shape, rows)
            used.append(used_bytes(pool))
        found.number(f"{name}: bytes used before, after, and after another time", used)
        found.number(f"{name}: bytes that the pool holds", pool.total_bytes())
        found.answer(f"{name}: the pool's used bytes are {used[0]:,} before a training, {used[1]:,} after, {used[2]:,} "
                     f"after another one; it holds {pool.total_bytes() / 2 ** 20:.0f} MiB", len(set(used)) == 1)


def train_two_steps(shape: GPTConfig, rows: int) -> None:
    training = Training(shape, rows)
    for _ in range(2):
        training.step()


def used_bytes(pool: Any) -> int:
    gc.collect()
    device.synchronize()
    return pool.used_bytes()
