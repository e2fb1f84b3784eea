"""Several processes against threads: --ranks=2 times steps of 2 ranks x 1 thread and of 1 rank x 2 threads in turn.

Each run is one process, or several by mpirun, which train on the same rows in every step. From the time of a step and
the size of the gradient follows the bandwidth of a network on which more machines pay: docs/parallel.md.
"""
import dataclasses
import json
import runpy
import subprocess
import sys
import time
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import optim
from minigrad.parallel import GradientSum, World
from minigrad.words import plural

from gpt.bench import machine
from gpt.bench.options import Options
from gpt.bench.presets import CLIP, Preset, random_batches
from gpt.bench.report import UNSTEADY, VARIES
from gpt.bench.sides import MinigradSide
from gpt.bench.timing import MIN_STEPS, WARM_UP
from gpt.model import GPTConfig
from gpt.run.command_line import TRAIN
from gpt.run.processes import started_by_mpirun
from gpt.run.report import print_report

ROUNDS = 5                                      # runs of each side


def compare_ranks(o: Options, p: Preset, device: str) -> dict[str, Any]:
    """Time both sides in turn and print a report; its figures, as --json writes them. ValueError if a run fails."""
    m, K = machine.describe(o.threads, device, False), o.ranks
    labels = {n: f"{n} x {plural(o.threads // n, 'thread')}" for n in (1, K)}
    print_report("what", f"{o.preset}: a step of {p.batch_size} rows, by {' and by '.join(labels.values())}; "
                 f"{ROUNDS} runs of each, in turn")
    print_report("machine", machine.in_words(m))
    runs: dict[int, list[dict[str, Any]]] = {n: [] for n in labels}
    for _ in range(ROUNDS):
        for n in runs:
            runs[n].append(timed_run(p, n, o))
    ms = {n: np.array([1e3 * np.median(run["step"]) for run in found]) for n, found in runs.items()}
    ratios = ms[K] / ms[1]
    step, wait, exchange = (np.concatenate([run[part] for run in runs[K]]) for part in ("step", "wait", "exchange"))
    waiting, share = float(np.median(wait / step)), float(np.median(exchange / step))
    C, S = 1e-3 * float(np.median(ms[1])), runs[1][0]["gradient_bytes"]
    sent, B = 2 * (K - 1) / K * S, 2 * S / C

    print(f"\n{'':14} ms/step     runs")
    for n, label in labels.items():
        print(f"{label:14} {np.median(ms[n]):7.1f}     {ms[n].min():.1f} - {ms[n].max():.1f}")
    print(f"{K} processes take {np.median(ratios):.3f} of the time of 1 ({ratios.min():.3f} - {ratios.max():.3f})")
    if any(t.max() > UNSTEADY * t.min() for t in ms.values()):
        print(VARIES)
    print()
    print_report("sum", f"{share:.1%} of a step of {K} processes is the exchange of gradients, for which each sends "
                 f"{sent / 1e6:.2f} MB; {waiting:.1%} is the wait for the slowest before it")
    print_report("network", f"more machines pay if C > 2 S / B, whatever their number. C = {C:.3g} s is a step of one "
                 f"machine, S = {S / 1e6:.2f} MB its gradient: B must be above 2 S / C = {B / 1e6:.0f} MB/s each way, "
                 f"{8 * B / 1e9:.2f} Gb/s")
    return {"preset": o.preset, "machine": m, "ranks": K, "ms": {str(n): t.tolist() for n, t in ms.items()},
            "ratio": float(np.median(ratios)), "exchange": share, "wait": waiting, "sent_bytes": sent,
            "gradient_bytes": S, "bandwidth": B}


def timed_run(p: Preset, ranks: int, o: Options) -> dict[str, Any]:
    """What `measure` prints in so many processes, all on the same cores. ValueError if they fail."""
    job = {"shape": dataclasses.asdict(p.shape), "rows": p.batch_size, "threads": o.threads, "steps": o.steps,
           "seconds": o.seconds / ROUNDS}
    ended = subprocess.run(started_by_mpirun(ranks, [sys.executable, "-m", "gpt.bench.ranks", json.dumps(job)]),
                           stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if ended.returncode:
        raise ValueError(f"a run of {ranks} processes failed:\n{ended.stderr.strip()}")
    return dict(json.loads(ended.stdout.splitlines()[-1]))


def measure(shape: dict[str, Any], rows: int, threads: int, steps: int, seconds: float) -> None:
    """Train on the share of this process of each step's rows, and print, on rank 0, the seconds of each step and of two
    of its parts: the wait for the others after the backward, and the exchange of gradients."""
    with World() as world, machine.on_threads(threads):
        mg.set_num_threads(threads // world.size)
        # not by import: the current folder may have another train.py
        accumulate_gradient = runpy.run_path(str(TRAIN))["accumulate_gradient"]
        p, K = Preset(GPTConfig(**shape), rows), world.size
        side = MinigradSide(p, "cpu")
        params = side.optimizer.params
        sums = GradientSum(params, K, world)
        mine = slice(rows // K * world.rank, rows // K * (world.rank + 1))
        times, end, stop = [], np.inf, False
        for step, (x, y) in enumerate(random_batches(p)):
            if stop:
                break
            if step == WARM_UP:
                end = time.perf_counter() + seconds
            enough = step + 1 >= WARM_UP + (steps or MIN_STEPS) and (steps > 0 or time.perf_counter() > end)
            start = time.perf_counter()
            accumulate_gradient(side.model, sums, x[mine], y[mine], 0, step)
            computed = time.perf_counter()
            world.gather(None)
            met = time.perf_counter()
            stop = sums.total(enough)[1]
            exchanged = time.perf_counter()
            optim.clip_grad_norm(params, CLIP, world)
            side.optimizer.step()
            side.optimizer.zero_grad()
            times.append((time.perf_counter() - start, met - computed, exchanged - met))
        whole, wait, exchange = zip(*times[WARM_UP:])
        print(json.dumps({"step": whole, "wait": wait, "exchange": exchange,
                          "gradient_bytes": sum(w.data.nbytes for w in params)}))


if __name__ == "__main__":
    measure(**json.loads(sys.argv[1]))
