"""How fast whole training steps are on this machine, beside its own matrix products, the textbook ops, or PyTorch.

    python -m gpt.bench                                     ours alone, in the shape of the preset `cpu`
    python -m gpt.bench --vs=torch --preset=gpu8            in turn with PyTorch, after both gave the same numbers
    python -m gpt.bench --preset=gen --vs=torch             tokens drawn one by one instead, with a key-value cache
    python -m gpt.bench --scaling=scaling.png               time per token against each size of the model

A step is forward, backward, clipping and AdamW on a fresh random batch, in float32. All sides are timed in one process,
in turn, with a pause before each, and medians are quoted: other programs disturb them alike.
"""
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

import minigrad as mg
from minigrad import device, optim
from minigrad.kernels import pool
from minigrad.ops.op import Op

from gpt import blas
from gpt.run.command_line import bad_input_exits, one_of, option, parse
from gpt.model import GPT, GPTConfig, KVCache
from gpt.run.machine import matmul_peak
from gpt.run.report import print_report as say
from gpt.run.plot import BLUE, GREY, ORANGE

Run = Callable[[], Any]
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
PAUSE = 0.02                                    # seconds: threads of the side before have stopped spinning
WARM_UP, FEWEST, WATCHED = 3, 5, 5              # steps not timed, timed at least, and timed op by op
UNSTEADY = 1.5                                  # times, from the 10th to the 90th of 100: not a quiet machine
TOLERANCE = 1e-4                                # relative, between two sides in float32
ADAMW: dict[str, Any] = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8)      # lr and eps are our defaults
WEIGHT_DECAY, CLIP = 0.1, 1.0


class Preset(NamedTuple):
    shape: GPTConfig
    batch_size: int
    generates: bool = False                     # draws tokens instead of training

    @property
    def tokens(self) -> int:
        """How many a step reads, or draws after a first one."""
        return self.batch_size * (self.shape.block_size - self.generates)


PRESETS = {                                     # block_size, vocab_size, n_layer, n_head, n_embd; batch_size
    "cpu": Preset(GPTConfig(64, 65, 4, 4, 128), 12),            # nanoGPT's for a laptop
    "gpu8": Preset(GPTConfig(256, 65, 6, 6, 384), 8),           # its small one for a GPU, with fewer rows
    "wide": Preset(GPTConfig(256, 8192, 6, 8, 512), 4),
    "gpt2": Preset(GPTConfig(256, 50257, 12, 12, 768), 1),
    "gen": Preset(GPTConfig(256, 65, 4, 4, 128), 1, generates=True)}
SIZES = {"n_embd": (64, 128, 256, 512), "n_layer": (1, 2, 4, 8), "block_size": (32, 64, 128, 256)}
BATCH_SIZES = (3, 6, 12, 24)                    # --scaling goes through these
COLORS = {"minigrad": ORANGE, "textbook": BLUE, "PyTorch": BLUE, "torch.compile": "#202020", "floor": GREY}


@dataclasses.dataclass
class Options:
    """Time training steps: python -m gpt.bench --name=value ..."""
    preset: str = option("cpu", f"or {', '.join(list(PRESETS)[1:])}", "what")
    vs: str = option("", "torch, or plain: our textbook ops; else alone")
    compile: bool = option(False, "with --vs=torch: torch.compile as well")
    scaling: str = option("", "a PNG: time per token against each size")
    seconds: float = option(10.0, f"for each side, and at least {FEWEST} steps", "how")
    steps: int = option(0, "this many instead")
    threads: int = option(min(2, len(CORES)), "of each side, on as many cores")
    device: str = option("cpu", "or auto, cuda, cuda:N")
    json: str = option("", "a file for all numbers, and the machine's")

    def __post_init__(self) -> None:
        one_of("preset", self.preset, PRESETS)
        one_of("vs", self.vs, ("", "plain", "torch"))
        if not 1 <= self.threads <= len(CORES):
            raise ValueError(f"--threads must be at least 1 and at most {len(CORES)}, the cores there are, got "
                             f"{self.threads}")
        if self.steps < 0 or self.seconds < 0.0:
            raise ValueError(f"--steps={self.steps} and --seconds={self.seconds:g} must not be negative")
        if self.vs == "torch" and importlib.util.find_spec("torch") is None:
            raise ValueError('--vs=torch needs PyTorch: pip install "minigrad[bench]"')
        if self.scaling and (not self.scaling.endswith(".png") or PRESETS[self.preset].generates):
            raise ValueError("--scaling=FILE.png needs a name that ends in .png, and a preset that trains: "
                             f"got {self.scaling}, {self.preset}")
        if self.compile and (self.vs != "torch" or PRESETS[self.preset].generates):
            raise ValueError("--compile is for training, beside --vs=torch")


# ---- the sides: gpt.bench_torch has the other one, with the same methods ---------------------------------------------

class Ours:
    """A GPT of minigrad and its optimizer."""

    def __init__(self, p: Preset, place: str, plain: bool = False) -> None:
        self.model = GPT(p.shape, device=place)
        self.optimizer = self.model.configure_optimizer(WEIGHT_DECAY, ADAMW["betas"])
        self.mode = mg.plain if plain else lambda: pool.one_blas_thread     # as train.py has it

    def learn(self, x: np.ndarray, y: np.ndarray) -> float:
        """Forward and backward; the loss."""
        with self.mode():
            loss = self.model.loss(x, y)
            loss.backward()
        return loss.item()

    def update(self) -> None:
        with self.mode():
            optim.clip_grad_norm(self.optimizer.params, CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()
        wait(self.optimizer.params[0].data)

    def generate(self, x: np.ndarray) -> None:
        """Draw tokens after the first of each row, until block_size is reached."""
        with self.mode():
            self.model.generate(x[:, :1], self.model.config.block_size - 1)

    def read(self, x: np.ndarray) -> np.ndarray:
        """The logits (B, V) after x (B, T), read token by token."""
        cache = KVCache()
        with self.mode():
            return [self.model.next_logits(x[:, :t + 1], cache) for t in range(x.shape[1])][-1]

    def load(self, weights: dict[str, np.ndarray]) -> None:
        self.model.load_state_dict(weights)

    def gradients(self) -> dict[str, np.ndarray]:
        return {name: device.host(w.grad) for name, w in self.model.named_parameters()}

    def device_memory(self) -> int:
        """The most bytes held on a device."""
        return self.optimizer.params[0].xp.get_default_memory_pool().total_bytes()


def names(o: Options) -> list[str]:
    """Who is timed."""
    return ["minigrad", *{"": [], "plain": ["textbook"], "torch": ["PyTorch", "torch.compile"][:1 + o.compile]}[o.vs]]


def side(name: str, p: Preset, place: str) -> Any:
    """One of them."""
    if name in ("PyTorch", "torch.compile"):
        from gpt.bench_torch import Theirs
        return Theirs(p, place, ADAMW, WEIGHT_DECAY, CLIP, pool.threads(), name == "torch.compile")
    return Ours(p, place, plain=name == "textbook")


def stages(s: Any, p: Preset, x: np.ndarray, y: np.ndarray) -> list[Run]:
    """What is timed, in this order."""
    return [partial(s.generate, x)] if p.generates else [partial(s.learn, x, y), s.update]


def batches(p: Preset) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random inputs and targets (B, T), without end."""
    rng = np.random.default_rng(0)
    while True:
        x, y = rng.integers(0, p.shape.vocab_size, (2, p.batch_size, p.shape.block_size))
        yield x, y


def wait(result: Any) -> None:
    """Until threads, or a device, have computed what they were told to."""
    pool.wait()
    for array in result if isinstance(result, tuple) else (result,):
        if device.is_array(array):
            device.host(array[(slice(1),) * array.ndim + (...,)])


def check(ours: Any, other: Any, p: Preset) -> dict[str, float]:
    """Relative differences between two sides that have not stepped yet: what they compute from the same weights and
    batches."""
    def apart(a: Any, b: Any) -> float:
        return float(np.abs(np.subtract(a, b)).max() / np.abs(b).max())

    other.load(ours.model.state_dict())
    stream = batches(p)
    x, y = next(stream)
    if p.generates:
        return {"logits": apart(ours.read(x), other.read(x))}
    found = {"loss": apart(ours.learn(x, y), other.learn(x, y))}
    theirs = other.gradients()
    found["gradients"] = max(apart(g, theirs[name]) for name, g in ours.gradients().items())
    for x, y in islice(stream, 3):
        ours.update()
        other.update()
        found["loss after 3 steps"] = apart(ours.learn(x, y), other.learn(x, y))
    ours.update()
    other.update()
    return found


# ---- what a machine can do at best ----------------------------------------------------------------------------------

def linears(shape: GPTConfig) -> list[tuple[int, int]]:
    """(in, out) of all linear layers, the head's too."""
    C = shape.n_embd
    return [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] * shape.n_layer + [(C, shape.vocab_size)]


def floor_flops(p: Preset) -> int:
    """Floating-point operations of those layers in a step: a product forward, and two backward unless it draws."""
    return 2 * p.tokens * sum(n * m for n, m in linears(p.shape)) * (1 if p.generates else 3)


def step_flops(p: Preset) -> int:
    """And with attention's: two products forward, four backward, of which the mask leaves half."""
    return floor_flops(p) + 2 * p.tokens * p.shape.n_layer * p.shape.n_embd * p.shape.block_size * (
        1 if p.generates else 3)


def floor(p: Preset, place: str, parts: int) -> Run:
    """The matrix products of all linear layers of a step and nothing else, each in `parts` on as many threads, which do
    not wait for each other: for each layer y = x @ w, then backward dx = dy @ w.T and dw = x.T @ dy, into arrays that
    exist."""
    rng, N = np.random.default_rng(0), p.tokens

    def array(*shape: int) -> Any:
        return device.put(rng.random(shape, dtype=np.float32), place)

    @cache
    def passing(what: str, width: int) -> Any:  # like outputs and their gradients, which do not stay
        return array(N, width)

    def jobs(a: Any, b: Any, out: Any) -> list[Run]:
        return [partial(device.xp(a).matmul, a[rows], b, out=out[rows]) for rows in pool.cuts(len(a), parts)]

    forward, backward = [], []
    for n, m in linears(p.shape):
        x, w, dw, y = array(N, n), array(n, m), array(n, m), passing("y", m)
        forward.append(jobs(x, w, y))
        backward += [jobs(x.T, y, dw), jobs(y, w.T, passing("dx", n))]
    products = [partial(pool.do, part) for part in zip(*forward, *backward[::-1], strict=True)]

    def run() -> None:
        pool.run(products)
        wait(dw)
    return run


# ---- measuring ------------------------------------------------------------------------------------------------------

@contextlib.contextmanager
def on_threads(n: int) -> Iterator[None]:
    """Inside, this process keeps to n cores, with n threads of BLAS, or of our kernels."""
    def pin(cores: Any) -> None:
        if hasattr(os, "sched_setaffinity"):
            for task in os.listdir("/proc/self/task"):      # BLAS's threads exist already
                os.sched_setaffinity(int(task), cores)

    threads, cores = pool.threads(), os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else CORES
    pool.set_threads(n)
    pin(CORES[:n])
    try:
        with threadpool_limits(n, user_api="blas"):
            yield
    finally:
        pin(cores)
        pool.set_threads(threads)


def in_turn(p: Preset, sides: dict[str, Any], best: Run | None, seconds: float, steps: int) -> dict[str, np.ndarray]:
    """Seconds of each step of each side, and of the floor, one after the other, round after round."""
    times: dict[str, list[float]] = {name: [] for name in [*sides, *(["floor"] if best else [])]}
    end = np.inf
    for rounds, (x, y) in enumerate(batches(p)):
        if rounds == WARM_UP:
            end = time.perf_counter() + seconds * len(times)
        if rounds >= WARM_UP + (steps or FEWEST) and (steps or time.perf_counter() > end):
            break
        for name, t in times.items():
            runs = [best] if best and name == "floor" else stages(sides[name], p, x, y)
            time.sleep(PAUSE)
            start = time.perf_counter()
            for run in runs:
                run()
            t.append(time.perf_counter() - start)
    return {name: np.array(t[WARM_UP:]) for name, t in times.items()}


@contextlib.contextmanager
def watched(kind: type) -> Iterator[dict[str, list[float]]]:
    """Inside, every op notes its calls and the seconds of its forwards and backwards: each has a kernel, for arrays of
    this kind, that is what would have run, with a watch."""
    spent: dict[str, list[float]] = {}

    def timed(op: type[Op], kernel: type[Op], method: str, column: int) -> Any:
        def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            if column == 1:
                self.actual = kernel if getattr(args[0], "size", kernel.least) >= kernel.least else op
                self.fresh, self.adds = self.actual.fresh, self.actual.adds
            result = getattr(self.actual, method)(self, *args, **kwargs)
            wait(result)
            row = spent.setdefault(op.name, [0, 0.0, 0.0])
            row[0] += column == 1
            row[column] += time.perf_counter() - start
            return result
        return run

    before = {op: op.kernels for op in mg.OPS.values()}
    for op in before:
        kernel = op.kernels.get(kind, op)
        methods = {m: timed(op, kernel, m, column) for column, m in enumerate(("forward", "backward"), 1)}
        op.kernels = {kind: type(kernel.__name__, (kernel,), {**methods, "least": 0}, register=False)}
    try:
        yield spent
    finally:
        for op, kernels in before.items():
            op.kernels = kernels


def by_op(ours: Ours, p: Preset) -> list[dict[str, Any]]:
    """Milliseconds of a mean step by op, then what is no op; their sum is the step's time."""
    seconds = [0.0, 0.0]                        # of the two stages
    with watched(type(ours.optimizer.params[0].data)) as spent:
        for x, y in islice(batches(p), WATCHED):
            for i, stage in enumerate(stages(ours, p, x, y)):
                start = time.perf_counter()
                stage()
                seconds[i] += time.perf_counter() - start
    table = sorted(spent.items(), key=lambda item: -item[1][1] - item[1][2])
    rest = seconds[0] - sum(forward + backward for _, (_, forward, backward) in table)
    table += [("clipping and AdamW", [WATCHED, seconds[1], 0.0]), ("tape and all else", [WATCHED, rest, 0.0])]
    return [{"op": name, "calls": calls // WATCHED, "forward_ms": 1e3 * forward / WATCHED,
             "backward_ms": 1e3 * backward / WATCHED, "share": (forward + backward) / sum(seconds)}
            for name, (calls, forward, backward) in table]


def peak_memory(name: str, p: Preset, place: str, threads: int) -> int | None:
    """Bytes at most that a side adds to a process that has imported all it needs. Run it in a new process: what a
    process has ever used does not go down. None where it cannot be known."""
    with on_threads(threads):
        tiny = Preset(GPTConfig(2, 3, 1, 1, 8), 1, p.generates)     # first, for what it imports and starts
        for each in (tiny, p):
            before, s = peak_rss(), side(name, each, place)
            for x, y in islice(batches(each), 3):
                for stage in stages(s, each, x, y):
                    stage()
        if place != "cpu":
            return s.device_memory()
        after = peak_rss()
    return None if before is None or after is None else after - before


def peak_rss() -> int | None:
    """The most bytes of memory that this process has had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", text_of("/proc/self/status"))
    if found:                                   # on Linux getrusage also counts the process that started this one
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def text_of(path: str) -> str:
    """What a file of the system says; nothing where there is none."""
    return Path(path).read_text("utf-8") if Path(path).exists() else ""


def machine(o: Options, place: str) -> dict[str, Any]:
    """What the numbers depend on."""
    model = re.search(r"model name\s*: (.+)", text_of("/proc/cpuinfo"))
    found = {"cpu": model[1] if model else platform.processor() or platform.machine(), "cores": len(CORES),
             "threads": o.threads, "device": place, "python": platform.python_version(), "numpy": np.__version__,
             "blas": blas.describe()}
    if o.vs == "torch":
        found["torch"] = importlib.import_module("torch").__version__
    return found


# ---- the report -----------------------------------------------------------------------------------------------------

def agreeing(o: Options, p: Preset, place: str) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """The sides, and how far each differs from ours. Ends the program with status 1 where that is no rounding."""
    sides, differences = {name: side(name, p, place) for name in names(o)}, {}
    for name in names(o)[1:]:
        try:
            found = check(side("minigrad", p, place), sides[name], p)
        except RuntimeError as error:           # there is no compiler, or it does not know this machine
            if name != "torch.compile":
                raise
            say("note", f"torch.compile does not work here: {str(error).strip().splitlines()[0]}")
            del sides[name]
            continue
        text = ", ".join(f"{what} {value:.0e}" for what, value in found.items())
        if not max(found.values()) < TOLERANCE:
            sys.exit(f"gpt.bench: minigrad and {name} do not compute the same: relative differences {text}; rounding "
                     f"explains {TOLERANCE:.0e}. Nothing was timed")
        say("same", f"as {name} from the same weights and batches; relative differences: {text}")
        differences[name] = found
    return sides, differences


def compare(o: Options, p: Preset, place: str) -> dict[str, Any]:
    """Check, time and describe all sides; print it, and return all numbers."""
    m, c = machine(o, place), p.shape
    say("what", f"{o.preset}: {c.n_layer} layers, {c.n_head} heads, {c.n_embd} wide, block {c.block_size}, vocabulary "
        f"{c.vocab_size}, batch {p.batch_size}; a step {'draws' if p.generates else 'trains on'} {p.tokens} tokens")
    say("machine", f"{m['cpu']}, {o.threads} of {m['cores']} cores, {place}, Python {m['python']}, NumPy {m['numpy']}, "
        f"{m['blas']}{', PyTorch ' + m['torch'] if o.vs == 'torch' else ''}")
    memory = {}
    for name in names(o)[:2]:                   # what torch.compile needs to compile would hide what it runs in
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            memory[name] = fresh.submit(peak_memory, name, p, place, o.threads).result()
    sides, differences = agreeing(o, p, place)

    best = None if p.generates else floor(p, place, o.threads if place == "cpu" else 1)
    peaks = [matmul_peak(place, "float32") for _ in range(5)]
    times = in_turn(p, sides, best, o.seconds, o.steps)
    if best:
        peaks.append(floor_flops(p) / float(min(times["floor"])))
    peak = max(peaks)
    say("timed", f"{len(times['minigrad'])} steps of each, in turn; a matrix product reaches {peak / 1e9:.0f} GFLOP/s")
    print(f"\n{'':14} ms/step    p10 - p90     tokens/s  GFLOP/s  of peak  of floor    memory")
    rows = {}
    for name, t in times.items():
        p10, ms, p90 = (1e3 * np.quantile(t, (0.1, 0.5, 0.9))).tolist()
        rate = 1e3 / ms * (floor_flops(p) if name == "floor" else step_flops(p))
        of_floor, used = 1e3 * float(np.median(times["floor"])) / ms if best else None, memory.get(name)
        rows[name] = {"ms": ms, "p10_ms": p10, "p90_ms": p90, "tokens_per_s": 1e3 / ms * p.tokens, "gflops": rate / 1e9,
                      "of_peak": rate / peak, "of_floor": of_floor, "memory_bytes": used, "all_ms": (1e3 * t).tolist()}
        print(f"{name:14} {ms:7.1f} {p10:7.1f} - {p90:<7.1f} {1e3 / ms * p.tokens:9,.0f} {rate / 1e9:8.1f} "
              f"{rate / peak:8.1%} {'' if of_floor is None else f'{of_floor:.1%}':>9} "
              f"{'' if used is None else f'{used / 1e6:.0f} MB':>9}")
    ratios = {}
    for name in differences:
        low, middle, high = np.quantile(times["minigrad"] / times[name], (0.1, 0.5, 0.9)).tolist()
        of_medians = rows["minigrad"]["ms"] / rows[name]["ms"]
        ratios[name] = {"of_medians": of_medians, "of_pairs": middle, "p10": low, "p90": high}
        print(f"minigrad takes {of_medians:.3f} of the time of {name}; pair by pair {middle:.3f} "
              f"({low:.3f} - {high:.3f})")
    if any(row["p90_ms"] > UNSTEADY * row["p10_ms"] for row in rows.values()):
        print("The times vary much: other programs are running, and slow some sides more than others. Run it again.")

    ops = by_op(sides["minigrad"], p)
    watching = sum(row["forward_ms"] + row["backward_ms"] for row in ops) / rows["minigrad"]["ms"] - 1.0
    print(f"\n{'op':20} calls   forward  backward   share     ms in a step, which took {watching:+.0%} while watched")
    for row in ops:
        print(f"{row['op']:20} {row['calls']:5} {row['forward_ms']:9.2f} {row['backward_ms']:9.2f} {row['share']:7.1%}")
    return {"preset": o.preset, "shape": dataclasses.asdict(c), "batch_size": p.batch_size, "machine": m,
            "peak_gflops": peak / 1e9, "sides": rows, "differences": differences, "ratios": ratios, "ops": ops,
            "watching": watching}


def scale(o: Options, p: Preset, place: str) -> dict[str, Any]:
    """Microseconds per token around a preset, one size changed at a time: a row per point, printed."""
    points = [(size, n, p._replace(shape=dataclasses.replace(p.shape, **{size: n})), o.threads)     # type: ignore
              for size, values in SIZES.items() for n in values]
    points += [("batch_size", n, p._replace(batch_size=n), o.threads) for n in BATCH_SIZES]
    points += [("threads", n, p, n) for n in range(1, o.threads + 1)]
    rows = []
    print(f"microseconds per token   {'  '.join(f'{name:>13}' for name in [*names(o), 'floor'])}")
    for size, n, q, threads in points:
        with on_threads(threads):
            sides = {name: side(name, q, place) for name in names(o)}
            times = in_turn(q, sides, floor(q, place, threads if place == "cpu" else 1), o.seconds / 10, o.steps)
        us = {name: 1e6 * float(np.median(t)) / q.tokens for name, t in times.items()}
        rows.append({"size": size, "value": n, "us_per_token": us})
        print(f"{size:>12} {n:>8}     {'  '.join(f'{t:13.2f}' for t in us.values())}", flush=True)
    return {"preset": o.preset, "machine": machine(o, place), "scaling": rows}


def draw(path: Path, title: str, rows: list[dict[str, Any]]) -> None:
    """A panel for each size, both axes logarithmic."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    figure = Figure(figsize=(2.4 * len(sizes), 3.2), layout="constrained")
    figure.suptitle(title, fontsize=10)
    panels = figure.subplots(1, len(sizes), sharey=True)
    for axes, size in zip(panels, sizes):
        points = [row for row in rows if row["size"] == size]
        values = [row["value"] for row in points]
        for name in points[0]["us_per_token"]:
            axes.plot(values, [row["us_per_token"][name] for row in points], "o-", markersize=4, color=COLORS[name],
                      label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(values, [str(n) for n in values])
        axes.set_xlabel(size)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda us, _: f"{us:g}")
        axes.minorticks_off()
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("microseconds per token")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=110)


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.bench"):
        o = parse(Options, arguments)
        place = device.resolve(o.device)
        if o.vs == "torch" and place != "cpu" and not importlib.import_module("torch").cuda.is_available():
            raise ValueError(f"--device={o.device} with --vs=torch needs a PyTorch for CUDA: this one has none")
        for path in filter(None, (o.scaling, o.json)):
            Path(path).touch()                  # sooner than at the end
    p = PRESETS[o.preset]
    with on_threads(o.threads):
        found = scale(o, p, place) if o.scaling else compare(o, p, place)
    if o.scaling:
        draw(Path(o.scaling), f"training around the preset {o.preset}", found["scaling"])
    if o.json:
        Path(o.json).write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
