"""A training run: opened from its options, interrupted for validation, samples and checkpoints, reported at its end."""
import contextlib
import dataclasses
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np

import minigrad as mg
from minigrad import device
from minigrad.step.page import write

from gpt.model import GPT
from gpt.run import checkpoint, folder, plot
from gpt.run.command_line import train_command
from gpt.run.estimates import activation_bytes, flops_per_token
from gpt.run.evaluate import evaluate, samples
from gpt.run.failures import exit_diverged, failures_exit
from gpt.run.machine import allowed_cores, environment, matmul_peak
from gpt.run.options import Options
from gpt.run.progress import Progress
from gpt.run.report import print_model, print_report
from gpt.run.signals import stop_signals
from gpt.run.tensor_stats import tensor_stats
from gpt.step import training_step
from gpt.text.baselines import reference_lines
from gpt.text.batches import windows
from gpt.text.dataset import open_data, prepare
from gpt.text.fables import share_grammatical


class Run:
    """A model, its optimizer, its data and its folder, and everything that happens between the training steps.

    None of it changes what is learned: the weights after a step depend on the options that train.py's loop reads.
    """

    def __init__(self, o: Options, sources: dict[str, str], changes: list[str]) -> None:
        """Start or resume the run that `configure` describes, and print its header. ValueError or OSError for options
        that do not fit the machine, the text or the folder."""
        self.began = time.perf_counter()
        self.options, resumed = o, o.init_from == "resume"

        self.device = device.resolve(o.device)
        mg.set_num_threads(o.threads or len(allowed_cores()))
        machine = environment(self.device)
        print_report("device", f"{self.device}, {machine['threads']} threads, NumPy {machine['numpy']}, "
                     f"{machine['blas']}, {o.dtype}, seed {o.seed}")

        self.out_dir = folder.choose(o.out_dir, o.dataset, resumed)
        self.data = open_data(self.out_dir) if resumed else prepare(
            self.out_dir, o.dataset, o.tokenizer, o.vocab_size, o.seed, o.block_size)
        self.val_windows = windows(self.data.val, o.block_size, o.eval_iters * o.batch_size)        # (W, T + 1)
        print_report("data", self.data.description)

        shape = o.shape(len(self.data.tokenizer))
        self.model = GPT(shape, o.seed, self.device, o.dtype)
        self.optimizer = self.model.configure_optimizer(o.weight_decay, (o.beta1, o.beta2))
        self.n_parameters = sum(p.size for p in self.optimizer.params)
        self.peak = matmul_peak(self.device, o.dtype)
        print_model(o, self.n_parameters, activation_bytes(shape, o.batch_size, np.dtype(o.dtype).itemsize))

        self.resumed_at = checkpoint.resume(self.out_dir, self.model, self.optimizer) if resumed else None
        self.first_step = self.resumed_at or 0
        if self.first_step > o.max_iters:
            raise ValueError(f"{self.out_dir} is at step {self.first_step} already: --max_iters={o.max_iters} must be "
                             "at least that")
        if resumed:
            was = json.loads((self.out_dir / "env.json").read_text("utf-8"))
            changes = changes + [f"{name} {was.get(name)!r} -> {now!r}" for name, now in machine.items()
                                 if was.get(name) != now]
            for change in changes:
                print_report("note", f"{change} from here on")
        else:
            folder.write_atomically(self.out_dir / "env.json", json.dumps(machine, indent=2).encode())
        folder.write_config(self.out_dir, dataclasses.asdict(o) | {"init_from": "scratch"}, sources, shape)
        self.rows = o.batch_size * o.gradient_accumulation_steps
        span = f"{o.max_iters - self.first_step} of {o.max_iters}" if self.first_step else f"{o.max_iters}"
        print_report("run", f"{span} steps of {self.rows} x {o.block_size} tokens, into {self.out_dir}; Ctrl-C saves, "
                     "stops")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the training loop and the report: the first Ctrl-C or SIGTERM lets `steps` end after a checkpoint, and
        a lack of memory or disk space exits with one line. NumPy does not warn: the loop checks its numbers itself."""
        with failures_exit(self.options, self.out_dir), stop_signals() as self.stopped, np.errstate(all="ignore"):
            yield

    # ---- between the steps ----

    def steps(self) -> Iterator[int]:
        """The steps that are left to train, from the first to max_iters - 1. Before each one, and after the last:
        validates, samples and saves as often as the options say. Saves and ends after a Ctrl-C or SIGTERM."""
        o = self.options
        self.lines = reference_lines(self.data, self.val_windows)
        self.best_possible = self.lines.get("best possible", math.nan)
        print_report("lines", " | ".join(f"{label} {loss:.3f}" for label, loss in self.lines.items()) +
                     f" nats per {self._unit()}")
        self.progress = Progress(self.first_step, o.max_iters, flops_per_token(self.model.config, self.n_parameters),
                                 self.peak)
        for step in range(self.first_step, o.max_iters + 1):
            with self.progress.pause():
                last = step == o.max_iters or bool(self.stopped)    # read once: a signal may come at any moment
                if step != self.resumed_at:                         # where it resumed, this was done before it saved
                    self._validate_sample_save(step, last)
                if step == o.step_at and not last:
                    self._write_page(step)
            if last:
                break
            yield step
            self.progress.bar.update()
        self.progress.bar.close()
        self.last_step = step

    def _validate_sample_save(self, step: int, last: bool) -> None:
        """Do what is due at this step. last: nothing is trained after it, so it has a checkpoint."""
        o, val_loss = self.options, None
        if step % o.eval_interval == 0 or step == o.max_iters:
            val_loss, error = evaluate(self.model, self.val_windows, o.batch_size)
            folder.append(self.out_dir / "metrics.jsonl", {"step": step, "val_loss": val_loss, "val_se": error})
            best = self.best_possible           # NaN if unknown
            over_best = f", {100 * (val_loss / best - 1):.1f} % over best" if best > 0.0 else ""
            self.progress.bar.write(
                f"step {step:6} of {o.max_iters} | val {val_loss:.3f} ± {error or math.nan:.3f}{over_best} | "
                f"ppl {math.exp(min(val_loss, 99.0)):.2f} | {time.perf_counter() - self.began:.0f} s")
        if o.sample_interval and step % o.sample_interval == 0 and step < o.max_iters:
            folder.append_samples(self.out_dir, f"step {step}", samples(self.model, self.data, 1, 300, o.seed))
        if step % o.checkpoint_interval == 0 or last:
            checkpoint.save(self.out_dir, self.model, self.optimizer, step, val_loss, o.keep)

    def _write_page(self, step: int) -> None:
        """Write a page of the forward and backward of this step, line by line: --step_at."""
        page = self.out_dir / f"step-{step}.html"
        write(training_step(self.model, self.optimizer, self.data, vars(self.options), step), page)
        self.progress.bar.write(f"step {step:6} of {self.options.max_iters} | line by line in {page}")
        self.model.zero_grad()

    # ---- within a step ----

    @contextlib.contextmanager
    def tensor_stats(self, step: int) -> Iterator[None]:
        """Around the optimizer's step: append the norms of each tensor to stats.jsonl, every stats_interval steps."""
        due = self.options.stats_interval > 0 and step % self.options.stats_interval == 0
        before = [p.data.copy() for p in self.model.parameters()] if due else []
        yield
        if due:
            folder.append(self.out_dir / "stats.jsonl", *tensor_stats(step, self.model.parameters(), before))

    def stop_diverged(self, step: int, loss: float, repeat: Callable[[], Any]) -> NoReturn:
        """Exit with a message that names the first value which is not finite. repeat: computes the gradient again."""
        exit_diverged(self.model, self.options, self.out_dir, step, loss, repeat)

    def log(self, step: int, loss: float, norm: float) -> None:
        """Append a row to metrics.jsonl and update the progress bar, every log_interval steps. norm: of the gradient,
        before clipping."""
        o = self.options
        if step % o.log_interval:
            return
        lr = o.learning_rate_at(step)
        steps = min(o.log_interval, step - self.first_step + 1)
        speed = self.progress.speed(steps * self.rows * o.block_size)
        folder.append(self.out_dir / "metrics.jsonl", {"step": step, "train_loss": loss, "lr": lr, "grad_norm": norm,
                                                       "tokens_per_s": round(speed)})
        self.progress.show(step, loss, lr, norm, speed)

    # ---- after the last step ----

    def report(self) -> None:
        """Draw the run, generate samples, validate on all of the validation text, and print the results and the next
        commands. Of a run that was stopped: print how to resume it, and exit with the signal's status."""
        o, out_dir, name = self.options, self.out_dir, Path(self.options.dataset).stem
        if self.stopped:
            print(f"stopped at step {self.last_step}, which is saved; go on with\n        {train_command()} "
                  f"--init_from=resume --out_dir={out_dir}")
            sys.exit(128 + self.stopped[0])

        metrics, stats = (folder.read_rows(out_dir / file) for file in ("metrics.jsonl", "stats.jsonl"))
        plot.draw(out_dir, o, f"A GPT of {self.n_parameters:,} parameters learns {name}", metrics, stats, self.lines,
                  self._unit())
        texts = samples(self.model, self.data, 8, 400, o.seed)
        folder.append_samples(out_dir, f"step {o.max_iters}, the end", texts)
        print(f"\nSamples, at temperature 0.8:\n{texts[0].strip()}\n")
        self._print_validation(texts)
        evaluated = [row for row in metrics if "val_loss" in row]
        lowest = min(evaluated, key=lambda row: row["val_loss"])
        if lowest is not evaluated[-1]:
            print_report("note", f"validation was best at step {lowest['step']}: {lowest['val_loss']:.3f}")
        print_report("done", f"in {time.perf_counter() - self.began:.0f} s; look at {out_dir / 'loss.png'}")
        print(f"next    python -m gpt.sample --out_dir={out_dir}\n"
              f"        {train_command()} --init_from=resume --out_dir={out_dir} --max_iters={2 * o.max_iters}\n"
              f"        {train_command()} --dataset={'python' if name != 'python' else 'my.txt'}")

    def _print_validation(self, texts: list[str]) -> None:
        """Validate on every token of the validation text, and print the loss beside the best possible one, and the
        share of grammatical fables in the samples."""
        all_windows = windows(self.data.val, self.options.block_size)                               # (W, T + 1)
        val_loss, error = evaluate(self.model, all_windows, self.options.batch_size)
        folder.append(self.out_dir / "metrics.jsonl", {"step": self.options.max_iters, "full_val_loss": val_loss,
                                                       "full_val_se": error})
        print_report("val", f"{val_loss:.4f} ± {error or math.nan:.4f} nats, perplexity {math.exp(val_loss):.3f}, "
                     f"{val_loss / math.log(2) / self.data.val_bytes_per_token:.3f} bits per byte, on all "
                     f"{all_windows[:, 1:].size:,} held-out tokens")
        if self.best_possible > 0.0:
            best = reference_lines(self.data, all_windows)["best possible"]
            right, complete = (sum(counts) for counts in zip(*map(share_grammatical, texts)))
            above = 100.0 * (val_loss / best - 1.0)
            print_report("best", f"{best:.4f} is the best possible loss on them: val lies {above:.1f} % above")
            print_report("grammar", f"{right} of {complete} fables in the samples are grammatical")

    def _unit(self) -> str:
        """Singular noun for a token."""
        return self.data.tokenizer.unit.removesuffix("s")
