"""Train a character-level GPT, draw its loss curve, and let it speak.

    python train.py                     learns to write Python from the standard library: a minute or two on a laptop
    python train.py --dataset=my.txt    any UTF-8 text
    python train.py --help              all options
"""
import dataclasses
import itertools
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
from tqdm import tqdm

import minigrad as mg
from minigrad import device, functional as F, optim

from gpt import checkpoint
from gpt.config import bad_input_exits, option, parse
from gpt.corpus import load_text, ngram_losses
from gpt.data import fixed_windows, pairs, random_batch, split
from gpt.model import GPT, GPTConfig
from gpt.plot import loss_curve
from gpt.sample import continue_text
from gpt.tokenizer import CharTokenizer


@dataclasses.dataclass
class Options:
    """Train a character-level GPT: python train.py --name=value ..."""
    dataset: str = option("python", "python: standard library; or a UTF-8 file")
    out_dir: str = option("", "default: runs/<dataset>-001, then -002, ...")
    n_layer: int = option(2, "blocks: few, so that a minute is enough")
    n_head: int = option(4, "attention heads in each block")
    n_embd: int = option(96, "width of the residual stream")
    block_size: int = option(64, "longest context: a line or two of code")
    dropout: float = option(0.0, "a short run cannot overfit; a long one: 0.2")
    bias: bool = option(True, "in every Linear and LayerNorm, as in GPT-2")
    batch_size: int = option(12, "windows in a micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step, to save memory")
    max_iters: int = option(2400, "steps: these take about 70 s on one core")
    learning_rate: float = option(4e-3, "for a small model; a larger one wants 1e-3")
    min_lr: float = option(4e-4, "where the cosine ends: a tenth of it")
    warmup_iters: int = option(100, "small steps while AdamW's averages form")
    beta1: float = option(0.9, "averages gradients over about 10 steps")
    beta2: float = option(0.99, "and their squares over 100: runs are short")
    weight_decay: float = option(0.1, "on matrices only, not on biases and gains")
    grad_clip: float = option(1.0, "longest gradient; 0: no limit")
    eval_interval: int = option(200, "steps between validations; each one saves")
    eval_iters: int = option(40, "micro-batches to validate on, the same ones")
    log_interval: int = option(10, "steps between points of the training curve")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    dtype: str = option("float32", "float32 or float64")
    threads: int = option(1, "of BLAS; more for wide models; 0: every core")
    seed: int = option(1337, "decides weights, batches and the sample")

    def __post_init__(self) -> None:
        for name in ("batch_size", "gradient_accumulation_steps", "max_iters", "eval_interval", "eval_iters",
                     "log_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("grad_clip", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}")
        if not 0 <= self.warmup_iters < self.max_iters:
            raise ValueError(f"--warmup_iters={self.warmup_iters} must be 0 or more and less than --max_iters="
                             f"{self.max_iters}, or the rate never falls; try --warmup_iters={self.max_iters // 10}")
        if not 0.0 <= self.min_lr <= self.learning_rate:
            raise ValueError(f"--min_lr={self.min_lr:g} must be between 0 and --learning_rate={self.learning_rate:g}; "
                             f"try --min_lr={self.learning_rate / 10:g}")
        if self.dtype not in ("float32", "float64"):
            raise ValueError(f"--dtype must be float32 or float64, got {self.dtype!r}")


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


def evaluate(model: GPT, windows: np.ndarray, batch_size: int) -> tuple[float, float]:
    """Mean loss over windows (W, T + 1), and its standard error, from how far the windows' own means differ."""
    model.eval()
    means = []
    with mg.no_grad():
        for start in range(0, len(windows), batch_size):
            x, y = pairs(windows[start:start + batch_size])
            logits, _ = model(x)                                                                    # (B, T, V)
            means.append(F.cross_entropy(logits, y, reduction="none").mean(axis=1).numpy())         # (B,)
    model.train()
    losses = np.concatenate(means).astype(np.float64)                                               # (W,)
    return losses.mean(), losses.std(ddof=1) / math.sqrt(len(losses)) if len(losses) > 1 else math.nan


def stop_if_diverged(loss: float, step: int) -> None:
    """End the program where nothing can be learned any more: a loss that is not finite, or worse than any guess."""
    if not loss < 100.0:
        sys.exit(f"train.py: the loss is {loss:.4g} at step {step}: training diverged; try a smaller --learning_rate")


def main(arguments: list[str]) -> None:
    began = time.perf_counter()
    with bad_input_exits("train.py"):
        o = parse(Options, arguments)

        # the machine
        place = device.resolve(o.device)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threadpool_limits(o.threads or cores, user_api="blas")
        blas = [f"{pool['internal_api']} {pool['version']}, threads {pool['num_threads']}"
                for pool in threadpool_info() if pool["user_api"] == "blas"]
        print(f"device  {place} | NumPy {np.__version__} | {'; '.join(blas) or 'unknown BLAS'} | {o.dtype} | "
              f"seed {o.seed}")

        # the text, as tokens
        text = load_text(o.dataset)
        tokenizer = CharTokenizer.of(text)
        train_tokens, val_tokens = split(tokenizer.encode(text), o.block_size)
        val_windows = fixed_windows(val_tokens, o.block_size, o.eval_iters * o.batch_size)
        print(f"data    {o.dataset}: {len(train_tokens):,} characters to train on, {len(val_tokens):,} held out, "
              f"{len(tokenizer)} different")

        # the model and its optimizer
        config = GPTConfig(o.block_size, len(tokenizer), o.n_layer, o.n_head, o.n_embd, o.dropout, o.bias)
        model = GPT(config, o.seed, place, o.dtype)
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        optimizer = optim.AdamW([{"params": matrices, "weight_decay": o.weight_decay},
                                 {"params": vectors, "weight_decay": 0.0}], betas=(o.beta1, o.beta2))
        size = f"{sum(p.size for p in optimizer.params):,} parameters"
        print(f"model   GPT-2's: {o.n_layer} layers, {o.n_head} heads, {o.n_embd} wide, context {o.block_size}: {size}")

        # where it goes
        name = Path(o.dataset).stem
        numbered = (Path("runs", f"{name}-{i:03}") for i in itertools.count(1))
        out_dir = Path(o.out_dir) if o.out_dir else next(folder for folder in numbered if not folder.exists())
        checkpoint.create_run(out_dir, dataclasses.asdict(o), config, tokenizer)
        rows = o.batch_size * o.gradient_accumulation_steps
        print(f"run     {o.max_iters} steps of {rows} x {o.block_size} characters, into {out_dir}")

    # what can be had without a model: the curve should fall below it
    one, two = ngram_losses(train_tokens, val_windows, len(tokenizer), max_order=2)
    lines = {"ln V": math.log(len(tokenizer)), "1-gram count": one, "2-gram count": two}
    print("lines   " + " | ".join(f"{label} {loss:.3f}" for label, loss in lines.items()) + "  nats per character")

    train_curve: list[tuple[int, float]] = []
    val_curve: list[tuple[int, float, float]] = []
    bar = tqdm(total=o.max_iters, disable=None, dynamic_ncols=True, unit=" steps")   # no bar where there is no terminal
    for step in range(o.max_iters + 1):
        if step % o.eval_interval == 0 or step == o.max_iters:
            val_loss, error = evaluate(model, val_windows, o.batch_size)
            stop_if_diverged(val_loss, step)
            val_curve.append((step, val_loss, error))
            checkpoint.save(out_dir, model, optimizer, step)
            bar.write(f"step {step:6} of {o.max_iters} | validation {val_loss:.3f} ± {error:.3f} | "
                      f"perplexity {math.exp(val_loss):6.2f} | {time.perf_counter() - began:4.0f} s")
        if step == o.max_iters:
            break

        lr = optim.warmup_cosine(step, o.warmup_iters, o.max_iters, o.learning_rate, o.min_lr)
        for group in optimizer.groups:
            group["lr"] = lr
        x, y = random_batch(train_tokens, o.block_size, rows, mg.random.key(o.seed, step))          # (rows, T)
        loss = accumulate_gradient(model, x, y, o.gradient_accumulation_steps, o.seed, step)
        if o.grad_clip:
            optim.clip_grad_norm(optimizer.params, o.grad_clip)
        optimizer.step()
        optimizer.zero_grad()

        if step % o.log_interval == 0:
            stop_if_diverged(loss.item(), step)
            train_curve.append((step, loss.item()))
            bar.set_postfix_str(f"loss {loss.item():.3f}, lr {lr:.1e}")
        bar.update()
    bar.close()

    # what came of it
    loss_curve(out_dir / "loss.png", f"A GPT of {size} learns to write {name}", train_curve, val_curve, lines)
    print(f"\nA sample, at temperature 0.8:\n{continue_text(model, tokenizer, max_new_tokens=600, seed=o.seed)}\n")
    files = ", ".join(sorted(file.name for file in out_dir.iterdir()))
    print(f"done    in {time.perf_counter() - began:.0f} s: {files} in {out_dir}")
    print(f'next    python -m gpt.sample --out_dir={out_dir} --start="import "')


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True, errors="replace")   # type: ignore[union-attr]  # a log shows each line
    main(sys.argv[1:])
