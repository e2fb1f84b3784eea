"""Train a GPT, draw its loss curve, and let it speak.

    python train.py                     learns a small language whose best possible loss is known: about a minute
    python train.py --dataset=my.txt    any UTF-8 text; python, shakespeare: see --help for all options
    python train.py --init_from=resume --out_dir=RUN        goes on where a run stopped, bit for bit
"""
import dataclasses
import itertools
import json
import math
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any, Mapping

from gpt import blas                    # first: it has a say in what NumPy loads

import numpy as np
from tqdm import tqdm

import minigrad as mg
from minigrad import device, functional as F, optim
from minigrad.kernels import pool
from minigrad.step.page import write

from gpt import checkpoint
from gpt.config import bad_input_exits, combine, command_line, one_of, option, toml_file
from gpt.corpus import reference_lines
from gpt.data import Data, batch, open_data, pairs, prepare, windows
from gpt.fables import share_grammatical
from gpt.model import GPT, GPTConfig
from gpt.monitor import (activation_bytes, append, matmul_peak, note_samples, read_rows, say, stop_signals,
                         tensor_stats, trouble_exits)
from gpt.plot import loss_curve, lr_curve, stats_maps
from gpt.schedule import SCHEDULES, decay_start, learning_rate
from gpt.step import training_step


@dataclasses.dataclass
class Options:
    """Train a GPT: python train.py --name=value ..."""
    dataset: str = option("fables", "or python, shakespeare, a UTF-8 file", "text")
    tokenizer: str = option("char", "or byte, bpe")
    vocab_size: int = option(1024, "tokens of bpe; the others have their own")
    sampling: str = option("permutation", "each window once an epoch; or random")
    n_layer: int = option(2, "blocks: few, so that a minute is enough", "model")
    n_head: int = option(4, "attention heads in each block")
    n_embd: int = option(64, "width of the residual stream")
    block_size: int = option(64, "longest context: most of a fable")
    dropout: float = option(0.0, "a short run cannot overfit; a long one: 0.2")
    bias: bool = option(True, "in every Linear and LayerNorm, as in GPT-2")
    tied: bool = option(True, "the head is the token table, as in GPT-2")
    max_iters: int = option(3200, "steps: these take about a minute", "training")
    batch_size: int = option(12, "windows in a micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step, to save memory")
    learning_rate: float = option(8e-3, "for a small model; a larger one wants 1e-3")
    min_lr: float = option(0.0, "where the schedule ends")
    lr_schedule: str = option("cosine", "or linear, constant, wsd (decay at the end)")
    warmup_iters: int = option(100, "small steps while AdamW's averages form")
    beta1: float = option(0.9, "averages gradients over about 10 steps")
    beta2: float = option(0.99, "and their squares over 100: runs are short")
    weight_decay: float = option(0.1, "on matrices only, not on biases and gains")
    grad_clip: float = option(1.0, "longest gradient; 0: no limit")
    out_dir: str = option("", "default: runs/<dataset>-001, then -002, ...", "run")
    init_from: str = option("scratch", "or resume: go on with the run in out_dir")
    eval_interval: int = option(200, "steps between validations")
    eval_iters: int = option(20, "micro-batches to validate on, the same ones")
    log_interval: int = option(10, "steps between points of the training curve")
    stats_interval: int = option(50, "between notes on each tensor; 0: never")
    sample_interval: int = option(500, "between samples; 0: only at the end")
    checkpoint_interval: int = option(200, "between checkpoints; the end has one")
    keep: int = option(3, "checkpoints kept, besides the best one")
    step_at: int = option(-1, "the step to write a page of, line by line")
    device: str = option("auto", "auto, cpu, cuda or cuda:N", "machine")
    dtype: str = option("float32", "float32 or float64")
    threads: int = option(2, "that kernels run on; 0: every core")
    seed: int = option(1337, "decides text, weights, batches and samples")
    preset: str = option("", "shakespeare-cpu or shakespeare-gpu", "many at once")
    config: str = option("", "a TOML file of options: n_layer = 4")

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "max_iters", "eval_interval", "eval_iters",
                     "log_interval", "checkpoint_interval", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("grad_clip", "weight_decay", "stats_interval", "sample_interval", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}")
        if not -1 <= self.step_at < self.max_iters:
            raise ValueError(f"--step_at={self.step_at} must be a step of the run: 0 to {self.max_iters - 1}, or -1")
        for name, choices in (("tokenizer", ("char", "byte", "bpe")), ("sampling", ("permutation", "random")),
                              ("lr_schedule", SCHEDULES), ("init_from", ("scratch", "resume")),
                              ("dtype", ("float32", "float64")), ("preset", ("", *PRESETS))):
            one_of(name, getattr(self, name), choices)
        if not 0 <= self.warmup_iters < self.max_iters:
            raise ValueError(f"--warmup_iters={self.warmup_iters} must be 0 or more and less than --max_iters="
                             f"{self.max_iters}, or the rate never falls; try --warmup_iters={self.max_iters // 10}")
        if not 0.0 <= self.min_lr <= self.learning_rate:
            raise ValueError(f"--min_lr={self.min_lr:g} must be between 0 and --learning_rate={self.learning_rate:g}; "
                             f"try --min_lr={self.learning_rate / 10:g}")
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ValueError(f"--beta1={self.beta1:g} and --beta2={self.beta2:g} must be in [0, 1)")
        self.shape(1)                           # a shape that no GPT has is refused before any work

    def shape(self, vocab_size: int) -> GPTConfig:
        """The model's shape for so many tokens. ValueError if no GPT has it."""
        return GPTConfig(self.block_size, vocab_size, self.n_layer, self.n_head, self.n_embd, self.dropout, self.bias,
                         self.tied)


# nanoGPT's character-level runs on Shakespeare: the first from its README, the other from its config folder
SHAKESPEARE = dict(dataset="shakespeare", sampling="random", learning_rate=1e-3, min_lr=1e-4, warmup_iters=100,
                   beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0, bias=False, threads=0)
PRESETS: dict[str, dict[str, Any]] = {
    "shakespeare-cpu": SHAKESPEARE | dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12,
                                          max_iters=2000, dropout=0.0),
    "shakespeare-gpu": SHAKESPEARE | dict(n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                                          max_iters=5000, dropout=0.2, eval_interval=250)}

# what a checkpoint cannot do without; everything else may change when a run goes on
FIXED = ("n_layer", "n_head", "n_embd", "block_size", "bias", "tied", "dtype", "dataset", "tokenizer", "vocab_size")


def configure(arguments: list[str]) -> tuple[Options, dict[str, str], list[str]]:
    """The options of a command line, where each value came from, and what changes in a run that is resumed."""
    given = command_line(Options, arguments)
    layers: list[tuple[str, Mapping[str, Any]]] = [("command line", given)]
    if "config" in given:
        layers.insert(0, (given["config"], toml_file(Options, Path(given["config"]))))
    preset = next((values["preset"] for _, values in reversed(layers) if "preset" in values), "")
    one_of("preset", preset, ("", *PRESETS))
    if preset:
        layers.insert(0, (f"preset {preset}", PRESETS[preset]))
    if given.get("init_from") != "resume":
        return *combine(Options, layers), []

    if "out_dir" not in given:
        raise ValueError("--init_from=resume needs the folder of the run: --out_dir=runs/...")
    saved, origins, _ = checkpoint.read_config(Path(given["out_dir"]))
    o, sources = combine(Options, [("the run", saved), *layers])
    changes = {name: f"{name} {was!r} -> {getattr(o, name)!r}" for name, was in saved.items()
               if getattr(o, name) != was and name not in ("out_dir", "init_from", "preset", "config")}
    refused = [change for name, change in changes.items() if name in FIXED]
    if refused:
        raise ValueError(f"{o.out_dir} cannot go on as another model or text ({'; '.join(refused)}): leave these out, "
                         "or train from scratch in another --out_dir")
    origins = {name: sources[name] if name in changes else origins.get(name, sources[name]) for name in sources}
    return o, origins, list(changes.values())


def accumulate_gradient(model: GPT, x: np.ndarray, y: np.ndarray, micro_steps: int, seed: int, step: int) -> Any:
    """Add the gradient of the mean loss over all counted targets of a batch x, y (rows, T), taken in micro_steps parts.
    Returns that loss. Each part weighs by its counted targets: a mean of the parts' means would be another loss where
    some targets are masked (-100)."""
    counted = max(int((y != -100).sum()), 1)
    total: Any = 0.0
    for micro, (x_part, y_part) in enumerate(zip(np.split(x, micro_steps), np.split(y, micro_steps))):
        weight = int((y_part != -100).sum()) / counted
        loss = model.loss(x_part, y_part, key=mg.random.key(seed, step, micro)) * weight
        loss.backward()
        total = loss.detach() + total           # on a device nothing waits for it
    return total


def evaluate(model: GPT, windows: np.ndarray, batch_size: int) -> tuple[float, float | None]:
    """Mean loss over windows (W, T + 1), and its standard error, from how far the windows' own means differ; None for
    one window."""
    model.eval()
    means = []
    with mg.no_grad():
        for start in range(0, len(windows), batch_size):
            x, y = pairs(windows[start:start + batch_size])                                         # (B, T)
            logits, _ = model(x)                                                                    # (B, T, V)
            means.append(F.cross_entropy(logits, y, reduction="none").mean(axis=1).numpy())         # (B,)
    model.train()
    losses = np.concatenate(means).astype(np.float64)                                               # (W,)
    return float(losses.mean()), float(losses.std(ddof=1)) / math.sqrt(len(losses)) if len(losses) > 1 else None


def samples(model: GPT, data: Data, rows: int, length: int, seed: int) -> list[str]:
    """What the model makes of a new line, a few times over: a function of its arguments alone."""
    try:
        start = np.asarray(data.tokenizer.encode("\n"))
    except ValueError:                          # a text of one line
        start = np.asarray(data.val[:1])
    idx = model.generate(np.tile(start, (rows, 1)), length, temperature=0.8, seed=seed)             # (rows, 1 + length)
    return [data.tokenizer.decode(row) for row in idx]


def stop_diverged(model: GPT, x: np.ndarray, y: np.ndarray, o: Options, step: int, loss: float, out_dir: Path) -> None:
    """End the program where nothing can be learned any more, and say which op made the first value that is not finite:
    the weights have not moved yet, so the step can be taken again."""
    model.zero_grad()
    try:
        with mg.detect_nan():
            accumulate_gradient(model, x, y, o.gradient_accumulation_steps, o.seed, step)
        where = "all values are finite, but it is worse than any guess, or its gradient too long"
    except FloatingPointError as error:
        where = str(error)
    sys.exit(f"train.py: training diverged: the loss is {loss:.4g} at step {step}; {where}. "
             f"{checkpoint.last_good(out_dir)}; try --learning_rate={o.learning_rate / 3:.1g}"
             f"{'' if o.grad_clip else ' or --grad_clip=1'}")


def main(arguments: list[str]) -> None:
    with pool.one_blas_thread:                  # kernels have threads of their own
        run(arguments)


def run(arguments: list[str]) -> None:
    began = time.perf_counter()
    with bad_input_exits("train.py"):
        o, sources, changes = configure(arguments)
        resumed = o.init_from == "resume"

        # the machine
        place = device.resolve(o.device)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        pool.set_threads(o.threads or cores)
        products = blas.describe()
        say("device", f"{place}, {pool.threads()} threads, NumPy {np.__version__}, {products}, {o.dtype}, "
            f"seed {o.seed}")

        # the text, as tokens
        name = Path(o.dataset).stem
        numbered = (Path("runs", f"{name}-{i:03}") for i in itertools.count(1))
        out_dir = Path(o.out_dir) if o.out_dir else next(folder for folder in numbered if not folder.exists())
        if not resumed and (out_dir / "config.json").exists():
            raise ValueError(f"{out_dir} holds a run already: --init_from=resume goes on with it; or choose another "
                             "--out_dir")
        data = open_data(out_dir) if resumed else prepare(
            out_dir, o.dataset, o.tokenizer, o.vocab_size, o.seed, o.block_size)
        val_windows = windows(data.val, o.block_size, o.eval_iters * o.batch_size)                  # (W, T + 1)
        say("data", data.description)

        # the model and its optimizer
        shape = o.shape(len(data.tokenizer))
        model = GPT(shape, o.seed, place, o.dtype)
        optimizer = model.configure_optimizer(o.weight_decay, (o.beta1, o.beta2))
        n_parameters = sum(p.size for p in optimizer.params)
        itemsize = np.dtype(o.dtype).itemsize
        weights, activations = n_parameters * itemsize / 1e6, activation_bytes(shape, o.batch_size, itemsize) / 1e6
        peak = matmul_peak(place, o.dtype)
        flops_per_token = 6 * n_parameters + 12 * o.n_layer * o.n_embd * o.block_size   # as in PaLM, appendix B
        say("model", f"GPT-2's: {o.n_layer} layers, {o.n_head} heads, {o.n_embd} wide, context {o.block_size}: "
            f"{n_parameters:,} parameters")
        say("memory", f"about {4 * weights + activations:.0f} MB: weights {weights:.1f}, gradients {weights:.1f}, "
            f"moments {2 * weights:.1f}, activations {activations:.0f}")

        # where it goes
        environment = {"python": platform.python_version(), "platform": platform.platform(), "numpy": np.__version__,
                       "blas": products, "device": place, "threads": pool.threads()}
        looked_at = checkpoint.resume(out_dir, model, optimizer) if resumed else None   # the step of the checkpoint
        start = looked_at or 0
        if start > o.max_iters:
            raise ValueError(f"{out_dir} is at step {start} already: --max_iters={o.max_iters} lies behind it")
        if resumed:
            was = json.loads((out_dir / "env.json").read_text("utf-8"))
            changes += [f"{what} {was.get(what)!r} -> {now!r}" for what, now in environment.items()
                        if was.get(what) != now]
            for change in changes:
                say("note", f"{change} from here on")
        else:
            checkpoint.write_whole(out_dir / "env.json", json.dumps(environment, indent=2).encode())
        checkpoint.write_config(out_dir, dataclasses.asdict(o) | {"init_from": "scratch"}, sources, shape)
        rows = o.batch_size * o.gradient_accumulation_steps
        span = f"{o.max_iters - start} of {o.max_iters}" if start else f"{o.max_iters}"
        say("run", f"{span} steps of {rows} x {o.block_size} tokens, into {out_dir}; Ctrl-C saves, stops")

    with (trouble_exits(out_dir, o.batch_size, o.gradient_accumulation_steps), stop_signals() as stopped,
          np.errstate(all="ignore")):           # the loop looks for itself
        # what can be had without a model: the curve should fall below what counting predicts, never below the best
        lines = reference_lines(data, val_windows)
        best, unit = lines.get("best possible", math.nan), data.tokenizer.unit.removesuffix("s")
        say("lines", " | ".join(f"{label} {loss:.3f}" for label, loss in lines.items()) + f" nats per {unit}")

        bar = tqdm(total=o.max_iters, initial=start, disable=None, dynamic_ncols=True, leave=False,
                   bar_format="{desc}{remaining}", desc="started")
        mark = time.perf_counter()              # from when the speed is measured; looking does not count
        for step in range(start, o.max_iters + 1):
            # look: none of this changes what is learned. A resumed run had looked before it saved.
            paused, looked, ended = time.perf_counter(), step == looked_at, step == o.max_iters
            last, val_loss = ended or bool(stopped), None       # asked once: a signal may come at any moment
            if (step % o.eval_interval == 0 or ended) and not looked:
                val_loss, error = evaluate(model, val_windows, o.batch_size)
                append(out_dir / "metrics.jsonl", {"step": step, "val_loss": val_loss, "val_se": error})
                over_best = f", {100 * (val_loss / best - 1):.1f} % over best" if best > 0.0 else ""
                bar.write(f"step {step:6} of {o.max_iters} | val {val_loss:.3f} ± {error or math.nan:.3f}{over_best} | "
                          f"ppl {math.exp(min(val_loss, 99.0)):.2f} | {time.perf_counter() - began:.0f} s")
            if o.sample_interval and step % o.sample_interval == 0 and not ended and not looked:
                note_samples(out_dir, f"step {step}", samples(model, data, 1, 300, o.seed))
            if (step % o.checkpoint_interval == 0 or last) and not looked:
                checkpoint.save(out_dir, model, optimizer, step, val_loss, o.keep)
            if last:
                break
            if step == o.step_at:
                page = out_dir / f"step-{step}.html"
                write(training_step(model, optimizer, data, vars(o), step), page)
                bar.write(f"step {step:6} of {o.max_iters} | line by line in {page}")
                model.zero_grad()
            mark += time.perf_counter() - paused

            # learn
            lr = learning_rate(o.lr_schedule, step, o.warmup_iters, o.max_iters, o.learning_rate, o.min_lr)
            for group in optimizer.groups:
                group["lr"] = lr
            x, y = batch(data.train, o.block_size, rows, o.seed, step, o.sampling)                  # (rows, T)
            loss = accumulate_gradient(model, x, y, o.gradient_accumulation_steps, o.seed, step).item()
            norm = optim.clip_grad_norm(optimizer.params, o.grad_clip or math.inf).item()
            if not (loss < 100.0 and norm < math.inf):
                stop_diverged(model, x, y, o, step, loss, out_dir)
            noting = o.stats_interval > 0 and step % o.stats_interval == 0
            before = [p.data.copy() for p in model.parameters()] if noting else []
            optimizer.step()
            if noting:
                append(out_dir / "stats.jsonl", *tensor_stats(step, model.parameters(), before))
            optimizer.zero_grad()

            # note
            if step % o.log_interval == 0:
                now, steps = time.perf_counter(), min(o.log_interval, step - start + 1)
                speed, mark = steps * rows * o.block_size / (now - mark), now
                append(out_dir / "metrics.jsonl", {"step": step, "train_loss": loss, "lr": lr, "grad_norm": norm,
                                                   "tokens_per_s": round(speed)})
                bar.set_description_str(
                    f"{step}/{o.max_iters} loss {loss:.3f} ppl {math.exp(loss):.2f} lr {lr:.1e} |g| {norm:.2f} "
                    f"{speed / 1e3:.1f}k tok/s {speed * flops_per_token / peak:.0%} peak ", refresh=False)
            bar.update()
        bar.close()
        if stopped:
            print(f"stopped at step {step}, which is saved; go on with\n        python train.py --init_from=resume "
                  f"--out_dir={out_dir}")
            sys.exit(128 + stopped[0])

        # what came of it
        metrics = read_rows(out_dir / "metrics.jsonl")
        loss_curve(out_dir / "loss.png", f"A GPT of {n_parameters:,} parameters learns {name}", metrics, lines, unit)
        lr_curve(out_dir / "lr.png", metrics, o.warmup_iters, decay_start(o.lr_schedule, o.warmup_iters, o.max_iters),
                 o.max_iters)
        stats = read_rows(out_dir / "stats.jsonl")
        if stats:
            stats_maps(out_dir / "stats.png", stats)
        said = samples(model, data, 8, 400, o.seed)
        note_samples(out_dir, f"step {o.max_iters}, the end", said)
        print(f"\nSamples, at temperature 0.8:\n{said[0].strip()}\n")

        all_windows = windows(data.val, o.block_size)           # (W, T + 1), every token of the validation text
        val_loss, error = evaluate(model, all_windows, o.batch_size)
        append(out_dir / "metrics.jsonl", {"step": o.max_iters, "full_val_loss": val_loss, "full_val_se": error})
        say("val", f"{val_loss:.4f} ± {error or math.nan:.4f} nats, perplexity {math.exp(val_loss):.3f}, "
            f"{val_loss / math.log(2) / data.val_bytes_per_token:.3f} bits per byte, on all "
            f"{all_windows[:, 1:].size:,} held-out tokens")
        if best > 0.0:
            best = reference_lines(data, all_windows)["best possible"]
            right, whole = (sum(counts) for counts in zip(*map(share_grammatical, said)))
            above = 100.0 * (val_loss / best - 1.0)
            say("best", f"{best:.4f} is the best possible loss on them: val lies {above:.1f} % above")
            say("grammar", f"{right} of {whole} fables in the samples are grammatical")
        evaluated = [row for row in metrics if "val_loss" in row]
        lowest = min(evaluated, key=lambda row: row["val_loss"])
        if lowest is not evaluated[-1]:
            say("note", f"validation was best at step {lowest['step']}: {lowest['val_loss']:.3f}")
        say("done", f"in {time.perf_counter() - began:.0f} s; look at {out_dir / 'loss.png'}")
        print(f"next    python -m gpt.sample --out_dir={out_dir}\n"
              f"        python train.py --init_from=resume --out_dir={out_dir} --max_iters={2 * o.max_iters}\n"
              f"        python train.py --dataset={'python' if name != 'python' else 'my.txt'}")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")   # type: ignore[union-attr]  # a log shows each line
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:                   # before the first step
        sys.exit(128 + signal.SIGINT)
