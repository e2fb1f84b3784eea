"""A training run: opened from its options, interrupted for validation, samples and checkpoints, reported at its end."""
import contextlib
import dataclasses
import hashlib
import math
import shlex
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, NoReturn

import numpy as np

import minigrad as mg
from minigrad import device
from minigrad.parallel import World
from minigrad.step.page import html
from minigrad.words import plural

from gpt import files, lab, lora
from gpt.model import GPT
from gpt.model_folder import load_model, shape_of
from gpt.run import base, checkpoint, folder, plot
from gpt.run.command_line import bad_input_exits, train_command, train_name
from gpt.run.estimates import activation_bytes, flops_per_token
from gpt.run.evaluate import evaluate, samples
from gpt.run.failures import check_memory, exit_diverged, failures_exit, lack_of_memory, use_less
from gpt.run.machine import allowed_cores, device_of, environment, matmul_peak
from gpt.run.options import Options
from gpt.run.processes import (agreed_options, compile_loops, device_of_rank, notes_on_processes, processes,
                               share_text)
from gpt.run.progress import Progress
from gpt.run.report import print_model, print_report
from gpt.run.signals import exit_on_sigterm, stop_signals
from gpt.run.streams import streams_may_fail
from gpt.run.tensor_stats import tensor_stats
from gpt.step import training_step
from gpt.text.baselines import reference_lines
from gpt.text.batches import IGNORED
from gpt.text.dataset import Data, open_data, tokenize
from gpt.text.fables import share_grammatical


@contextlib.contextmanager
def opened(arguments: list[str]) -> Iterator["Run"]:
    """The run that a command line describes, started or resumed, for the training loop and the report inside.

    Its folder is locked until the end. What goes wrong exits with one line and no traceback: status 1 for a divergence,
    2 for bad input and a lack of memory or disk space. The first Ctrl-C, SIGTERM or SIGHUP lets `steps` end after a
    checkpoint. NumPy does not warn: the loop checks its numbers itself.
    """
    with streams_may_fail(), contextlib.ExitStack() as claims:
        with bad_input_exits(train_name()):
            world = claims.enter_context(World())
            if world.size > 1:
                exit_on_sigterm()
            o, sources, changes = agreed_options(world, arguments)
            claims.enter_context(lab.lines_say(o.break_))
            run = Run(o, sources, changes, claims, world)
        with (failures_exit(run.options, run.out_dir, run.device, run.save_interrupted, world),
              stop_signals() as run.stopped, np.errstate(all="ignore")):
            try:
                yield run
            except SystemExit as end:           # Python prints its message in the main thread only
                if isinstance(end.code, str) and threading.current_thread() is not threading.main_thread():
                    print(end.code, file=sys.stderr)
                raise


class Run:
    """A model, its optimizer, its data and its folder, and everything that happens between the training steps.

    None of it changes what is learned: the weights after a step depend on the options that train.py's loop reads. Of
    several processes, only rank 0 reads and writes files: what it reads, and an error that ends it, reaches the others
    by world.share.
    """

    stopped: list[int]                  # holds the signal that this process got, or nothing
    stopping = False                    # whether one of several processes had got a signal at the last step
    updates: int | None                 # that the weights have had; None while the step of the last is not finished

    def __init__(self, o: Options, sources: dict[str, str], changes: list[str], claims: contextlib.ExitStack,
                 world: World) -> None:
        """Start or resume the run that `configure` describes, and print its header. ValueError or OSError for options
        that do not fit the machine, the text or the folder. claims: keeps the folder locked."""
        self.began = time.perf_counter()
        self.options, self.world, resumed = o, world, o.init_from == "resume"
        if resumed:
            self.out_dir = world.share(lambda: claims.enter_context(folder.claimed(Path(o.out_dir))))
        elif o.out_dir:
            world.share(lambda: folder.check_unused(Path(o.out_dir)))       # before the text is read, which may be long

        if o.break_:
            print_report("lab", f"{lab.BREAKS[o.break_]}; the validation is that of a whole run")
        self.device = world.each(lambda: device_of_rank(o.device, world))
        mg.set_num_threads(o.threads or len(allowed_cores()))
        machine = environment(self.device)
        world.agree(executor=machine["executor"].partition(" ")[0])      # else AdamW rounds differently
        print_report("device", f"{device_of(machine)}, {processes(world)}{plural(machine['threads'], 'thread')}"
                     f"{' each' if world.size > 1 else ''}, {machine['executor']}, NumPy {machine['numpy']}, "
                     f"{machine['blas']}, {o.dtype}, seed {o.seed}")
        for note in notes_on_processes(world, machine, o, sources):
            print_report("note", note)

        if self.device == "cpu":
            compile_loops(world, o.dtype)
            world.each(lambda: check_memory(o, world.local_size))

        self.init_from = world.share(lambda: folder.read_config(self.out_dir)[0]["init_from"]
                                     if resumed else o.init_from)

        def trained_before() -> GPT | None:
            """The model that the run starts from, read before the folder is made. None: there is none, or a checkpoint
            has its weights."""
            if not o.fine_tunes or world.rank > 0:
                return None
            if resumed and o.adapters:
                return base.load(self.out_dir, o.shape(o.vocab_size), self.device, o.dtype)
            if resumed and checkpoint.newest_first(self.out_dir):
                return None
            return load_model(self.init_from, self.device, o.dtype, o.block_size, o.dropout)
        pretrained = world.each(trained_before)

        def open_text() -> tuple[Path, Data]:
            if resumed:
                return self.out_dir, open_data(self.out_dir)
            text = tokenize(o.dataset, o.tokenizer, o.vocab_size, o.seed, o.block_size, o.init_from)
            out_dir = claims.enter_context(folder.claimed(folder.make(o.out_dir, o.dataset), new=True))
            return out_dir, text.write(out_dir)
        self.out_dir, self.data = share_text(world, open_text)
        self.val_windows = self.data.val.windows(o.block_size, o.eval_iters * o.batch_size)         # x, y (W, T)
        print_report("data", self.data.description)

        shape = o.shape(o.vocab_size if o.fine_tunes else len(self.data.tokenizer))
        try:
            self.model = pretrained or lab.make(o.break_, shape, None if o.fine_tunes else o.seed, self.device,
                                                o.dtype)
            self.model.recompute = o.recompute
            if o.adapters:
                lora.add_adapters(self.model, o.lora_rank, o.lora_alpha, o.adapters.targets, o.seed)
            self.optimizer = self.model.configure_optimizer(o.weight_decay, (o.beta1, o.beta2))
        except MemoryError as error:
            raise MemoryError(f"{lack_of_memory(error, self.device)}; {use_less(o)}") from None
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.n_parameters = sum(p.size for p in self.model.parameters())
        self.n_trained = sum(p.size for p in self.trained)
        self.peak = sum(world.gather(matmul_peak(self.device, o.dtype)))
        print_model(o, self.n_parameters, self.n_trained,
                    activation_bytes(shape, o.batch_size, np.dtype(o.dtype).itemsize, o.recompute), world.size)
        if pretrained and not resumed and (whole := shape_of(Path(o.init_from)).block_size) > o.block_size:
            print_report("note", f"the model in {o.init_from} can read {whole} tokens; this run keeps its first "
                         f"{o.block_size} positions, and --block_size={whole} would keep all")

        self.resumed_at = world.share(lambda: checkpoint.resume(self.out_dir, self.model, self.optimizer, o.max_iters)
                                      if resumed else None)
        if world.size > 1:
            self.model.load_state_dict(world.share(self.model.state_dict))
            self.optimizer.load_state_dict(world.share(self.optimizer.state_dict))
        self.saved_at, self.first_step = self.resumed_at, self.resumed_at or 0
        self.updates = self.first_step
        self.unread: list[tuple[int, Any, Any]] = []        # step, loss and norm of its gradient, 0-d arrays

        def write_settings() -> None:
            if resumed:
                for change in changes + folder.changes_of_environment(self.out_dir, machine):
                    print_report("note", f"{change} from here on")
            else:
                folder.write_environment(self.out_dir, machine)
                if o.adapters:
                    base.write(self.out_dir, self.model)
            folder.write_config(self.out_dir, dataclasses.asdict(o) | {"init_from": self.init_from}, sources, shape)
        world.share(write_settings)
        self.rows = o.batch_size * o.gradient_accumulation_steps
        span = f"{o.max_iters - self.first_step} of {o.max_iters}" if self.first_step else f"{o.max_iters}"
        self.row_length = self.data.train.row_length(o.block_size)
        print_report("run", f"{span} steps of {self.rows} x {self.row_length:.0f} tokens, into {self.out_dir}; Ctrl-C "
                     "saves, stops")

    # ---- between the steps ----

    def steps(self) -> Iterator[int]:
        """The steps that are left to train, from the first to max_iters - 1. Before each one, and after the last:
        validates, samples and saves as often as the options say. Saves and ends after a Ctrl-C or SIGTERM."""
        o = self.options
        self.lines = self.world.share(lambda: self._reference_lines())
        self.best_possible = self.lines.get("best possible", math.nan)
        if self.lines:
            print_report("lines", " | ".join(f"{label} {loss:.3f}" for label, loss in self.lines.items()) +
                         f" nats per {self._unit()}")
        flops = flops_per_token(self.model.config, self.n_parameters, self.n_trained)
        self.progress = Progress(self.first_step, o.max_iters, flops, self.peak, self.best_possible)
        for step in range(self.first_step, o.max_iters + 1):
            stop = self.stopping if self.world.size > 1 else bool(self.stopped)     # once: a signal may come any time
            last = step == o.max_iters or stop
            if due := self._due(step, last):
                self._read_losses()             # before the pause: a device may still compute the steps before this one
                with self.progress.pause():
                    self._validate_sample_save(step, due)
            if last:
                break
            yield step
            self.updates = step + 1
            self.progress.bar.update()
        self.progress.bar.close()
        self.last_step = step

    def _reference_lines(self) -> dict[str, float]:
        """The losses of other predictors on the validation windows. Of a run that starts from a trained model: none at
        first, as a count of the text's n-grams is far above; later that model's."""
        if not self.options.fine_tunes:
            return reference_lines(self.data, self.val_windows)
        return {"before": row["val_loss"] for row in folder.read_rows(self.out_dir / "metrics.jsonl")
                if "val_loss" in row and row["step"] == 0}

    def _due(self, step: int, last: bool) -> set[str]:
        """What is to be done before this step: "validation", "sample", "checkpoint", "page". last: nothing is trained
        after it, so it has a checkpoint."""
        o = self.options
        due = {"validation": step % o.eval_interval == 0 or step == o.max_iters,
               "sample": o.sample_interval > 0 and step % o.sample_interval == 0 and step < o.max_iters,
               "checkpoint": step % o.checkpoint_interval == 0 or last}
        if step == self.resumed_at:             # these were done before it saved
            due = {}
        due["page"] = step == o.step_at and not last
        return {what for what, is_due in due.items() if is_due}

    def _validate_sample_save(self, step: int, due: set[str]) -> None:
        """Do what `_due` says."""
        o, val_loss = self.options, None
        self.updates = None                     # a run that resumes at this step does not validate and sample again
        if "validation" in due:
            val_loss, error = evaluate(self.model, self.val_windows, o.batch_size, self.world)
            if not val_loss < 100.0:            # true for NaN, too
                self._exit_diverged(step, f"the validation loss is {val_loss:.4g}")
            self._append("metrics.jsonl", {"step": step, "val_loss": val_loss, "val_se": error})
            self.progress.validated(step, val_loss)
            best = self.best_possible           # NaN if unknown
            over_best = f", {100 * (val_loss / best - 1):.1f} % over best" if best > 0.0 else ""
            self.progress.bar.write(
                f"step {step:6} of {o.max_iters} | val {val_loss:.3f} ± {error or math.nan:.3f}{over_best} | "
                f"ppl {math.exp(val_loss):.2f} | {time.perf_counter() - self.began:.0f} s")
        if "sample" in due:
            self._append_samples(f"step {step}", self._samples(step, 1, 300))
        self.updates = step
        if "checkpoint" in due:
            self._check_equal(step)
            try:
                self.world.share(lambda: self._save(step, val_loss))
            except FloatingPointError as error:
                self._exit_diverged(step, str(error))
            self.saved_at = step
        if "page" in due:
            self.world.share(lambda: self._write_page(step))

    def _append(self, log: str, *rows: dict[str, Any]) -> None:
        self.world.share(lambda: folder.append(self.out_dir / log, *rows))

    def _append_samples(self, title: str, texts: list[str]) -> None:
        self.world.share(lambda: folder.append_samples(self.out_dir, title, texts))

    def _save(self, step: int, val_loss: float | None) -> None:
        """Write a checkpoint."""
        (self.out_dir / "config.json").stat()           # OSError if it was deleted: nothing could be resumed
        checkpoint.save(self.out_dir, self.model, self.optimizer, step, val_loss, self.options.keep, self.init_from)

    def _check_equal(self, step: int) -> None:
        """Exit if a process has other weights than rank 0. Machines with other processors may round differently."""
        if self.world.size > 1:
            digest = hashlib.sha256()
            for p in self.trained:
                digest.update(np.ascontiguousarray(p.numpy()).data)
            try:
                self.world.agree(**{f"weights at step {step}, of SHA-256": digest.hexdigest()[:16]})
            except ValueError as error:
                intact = self.world.share(lambda: checkpoint.last_intact(self.out_dir))
                self.world.exit(f"{train_name()}: {error}. Train on machines of one kind. {intact}")

    def _samples(self, step: int, rows: int, length: int) -> list[str]:
        """Texts of about `length` bytes that the model generates."""
        tokens = math.ceil(length / self.data.val_bytes_per_token)
        try:
            return self.world.share(lambda: samples(self.model, self.data, rows, tokens, self.options.seed))
        except ValueError as error:             # the logits are not finite
            self._exit_diverged(step, str(error).partition(":")[0])

    def _write_page(self, step: int) -> None:
        """Write a page of the forward and backward of this step, line by line: --step_at."""
        page = self.out_dir / f"step-{step}.html"
        record = training_step(self.model, self.optimizer, self.data, vars(self.options), step)
        files.write_atomically(page, html(record).encode())
        self.progress.bar.write(f"step {step:6} of {self.options.max_iters} | line by line in {page}: open it in a "
                                f"browser, {page.resolve().as_uri()}")
        self.model.zero_grad()

    # ---- within a step ----

    def check(self, step: int, loss: Any, norm: Any, repeat: Callable[[], Any]) -> None:
        """Exit if the loss of a step, or the norm of its gradient before clipping, 0-d arrays, show that training has
        diverged. repeat: computes this gradient again.

        To read a number from a device is to wait for the device. The numbers of its steps are read together: every
        log_interval steps, and before a validation, a sample, a checkpoint or a page.
        """
        self.unread.append((step, loss, norm))
        if self.device == "cpu" or step % self.options.log_interval == 0:
            self._read_losses(repeat)

    def _read_losses(self, repeat: Callable[[], Any] | None = None) -> None:
        """Read the numbers of the steps since the last call, in one copy, and exit at the first that shows a
        divergence. repeat: computes the gradient of the last of these steps again; None if its weights have changed."""
        if not self.unread:
            return
        xp, last = device.xp(self.unread[0][1]), self.unread[-1][0]
        numbers = device.host(xp.stack([number for _, *both in self.unread for number in both])).reshape(-1, 2)
        for (step, _, _), (loss, norm) in zip(self.unread, numbers.tolist()):
            if not (loss < 100.0 and norm < math.inf):          # true for NaN, too
                if not loss < 100.0:
                    # it has these weights: a resume would end here again
                    self.world.share(lambda: checkpoint.discard(self.out_dir, step))
                exit_diverged(self.model, self.options, self.out_dir, step, f"the loss is {loss:.4g}",
                              repeat if step == last else None, self.world)
        self.unread, self.loss, self.norm = [], loss, norm

    @contextlib.contextmanager
    def update(self, step: int) -> Iterator[None]:
        """Around the optimizer's step: append the norms of each tensor to stats.jsonl, every stats_interval steps."""
        due = self.options.stats_interval > 0 and step % self.options.stats_interval == 0
        before = [p.data.copy() for p in self.trained] if due else []
        self.updates = None
        yield
        if due:
            self._append("stats.jsonl", *tensor_stats(step, self.trained, before))

    def _exit_diverged(self, step: int, what: str) -> NoReturn:
        """Exit after a divergence that is noticed between the steps."""
        exit_diverged(self.model, self.options, self.out_dir, step, what,
                      lambda: evaluate(self.model, self.val_windows, self.options.batch_size), self.world)

    def log(self, step: int) -> None:
        """Append a row to metrics.jsonl and update the progress bar, every log_interval steps."""
        o = self.options
        if step % o.log_interval:
            return
        lr = o.learning_rate_at(step)
        steps = min(o.log_interval, step - self.first_step + 1)
        speed = self.progress.speed(round(steps * self.rows * self.row_length))
        self._append("metrics.jsonl", {"step": step, "train_loss": self.loss, "lr": lr, "grad_norm": self.norm,
                                       "tokens_per_s": round(speed)})
        self.progress.show(step, self.loss, lr, self.norm, speed)

    # ---- when a step fails ----

    def save_interrupted(self) -> None:
        """Save the weights as they are, after an error within a step. Does nothing where they cannot be saved; after an
        error within the optimizer's step, which may have changed some of them; and after one within a validation, a
        sample or a log, which a run that resumes at this step would not repeat."""
        if self.world.rank > 0:
            return
        self.model.zero_grad()
        with contextlib.suppress(MemoryError, RuntimeError, OSError, FloatingPointError):
            if self.world.size == 1:            # to exit after a divergence takes all processes
                self._read_losses()
            if self.updates not in (None, self.saved_at):
                checkpoint.save(self.out_dir, self.model, self.optimizer, self.updates, keep=self.options.keep,
                                base_model=self.init_from)

    # ---- after the last step ----

    def report(self) -> None:
        """Draw the run, generate samples, validate on all of the validation text, and print the results and the next
        commands. Of a run that was stopped: print how to resume it, and exit with the signal's status."""
        o, out_dir, name = self.options, self.out_dir, Path(self.options.dataset).stem
        signals = [number for stopped in self.world.gather(self.stopped) for number in stopped]
        if signals:
            print(f"stopped at step {self.last_step}, which is saved; go on with\n        {train_command()} "
                  f"--init_from=resume {folder.out_dir_option(out_dir)}{lab.option(o.break_)}")
            self.world.exit(128 + signals[0])

        evaluated = self.world.share(self._draw)
        texts = self._samples(o.max_iters, 2 if o.fine_tunes else 8, 400)
        self._append_samples(f"step {o.max_iters}, the end", texts)
        print(f"\nSamples, at temperature 0.8:\n{texts[0].strip()}\n")
        self._print_validation(texts)
        lowest = min(evaluated, key=lambda row: row["val_loss"], default=None)
        if lowest and lowest is not evaluated[-1]:
            print_report("note", f"validation was best at step {lowest['step']}: {lowest['val_loss']:.3f}")
        other = (f"--init_from={shlex.quote(self.init_from)} --dataset=my.txt" if o.fine_tunes else
                 f"--dataset={'python' if name != 'python' else 'my.txt'}")
        print_report("done", f"in {time.perf_counter() - self.began:.0f} s; look at {out_dir / 'loss.png'}")
        option = folder.out_dir_option(out_dir)
        print(f"next    python -m gpt.sample {option}\n"
              f"        {train_command()} --init_from=resume {option} --max_iters={2 * o.max_iters}"
              f"{lab.option(o.break_)}")
        print(f"        python -m gpt.merge --model={shlex.quote(str(out_dir))} --out=tuned" if o.adapters else
              f"        {train_command()} {other}")

    def _draw(self) -> list[dict[str, Any]]:
        """Draw the run  ->  the rows of its log with validation losses."""
        o, name = self.options, Path(self.options.dataset).stem
        metrics, stats = (folder.read_rows(self.out_dir / file) for file in ("metrics.jsonl", "stats.jsonl"))
        evaluated = [row for row in metrics if "val_loss" in row]
        if evaluated:                           # empty if metrics.jsonl was damaged
            try:
                what = (f"BROKEN, {o.break_}: a GPT" if o.break_ else
                        f"{Path(self.init_from).name}, a GPT" if o.fine_tunes else "A GPT")
                learns = "is fine-tuned on" if o.fine_tunes else "learns"
                lines = self._reference_lines() if o.fine_tunes else self.lines
                plot.draw(self.out_dir, o, f"{what} of {self.n_parameters:,} parameters {learns} {name}", metrics,
                          stats, lines, self._unit())
            except (ImportError, ValueError) as error:      # MPLBACKEND=unknown
                print_report("note", f"no plots: {error}")
        return evaluated

    def _print_validation(self, texts: list[str]) -> None:
        """Validate on every token of the validation text, and print the loss beside the best possible one, and the
        share of grammatical fables in the samples."""
        all_windows = self.data.val.windows(self.options.block_size)                                # x, y (W, T)
        val_loss, error = evaluate(self.model, all_windows, self.options.batch_size, self.world)
        self._append("metrics.jsonl", {"step": self.options.max_iters, "full_val_loss": val_loss, "full_val_se": error})
        print_report("val", f"{val_loss:.4f} ± {error or math.nan:.4f} nats, perplexity "
                     f"{math.exp(min(val_loss, 99.0)):.3f}, "
                     f"{val_loss / math.log(2) / self.data.val_bytes_per_token:.3f} bits per byte, on all "
                     f"{(all_windows[1] != IGNORED).sum():,} held-out tokens")
        if self.best_possible > 0.0:
            best = self.world.share(lambda: reference_lines(self.data, all_windows)["best possible"])
            right, complete = (sum(counts) for counts in zip(*map(share_grammatical, texts)))
            above = 100.0 * (val_loss / best - 1.0)
            print_report("best", f"{best:.4f} is the best possible loss on them: val lies {above:.1f} % above")
            print_report("grammar", f"{right} of {complete} fables in the samples are grammatical")

    def _unit(self) -> str:
        """Singular noun for a token."""
        return self.data.tokenizer.unit.removesuffix("s")
