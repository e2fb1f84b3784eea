"""The options of train.py, their defaults and presets."""
import dataclasses
import textwrap
from pathlib import Path
from typing import Any, Mapping, get_type_hints

from gpt import lab
from gpt.model import GPTConfig
from gpt.run import folder
from gpt.run.command_line import combine, command_line, one_of, option, toml_file
from gpt.run.lr_schedule import SCHEDULES, learning_rate


@dataclasses.dataclass
class Options:
    """Train a GPT: python train.py --name=value ..., or python -m gpt.train"""
    dataset: str = option("fables", "or python, shakespeare, a UTF-8 file", "text")
    tokenizer: str = option("char", "or byte, bpe")
    vocab_size: int = option(1024, "tokens of bpe; char and byte have their own")
    sampling: str = option("permutation", "each window once an epoch; or random")
    n_layer: int = option(2, "blocks: few, for a run of a minute", "model")
    n_head: int = option(4, "attention heads in each block")
    n_embd: int = option(64, "width of the residual stream")
    block_size: int = option(64, "longest context: most of a fable")
    dropout: float = option(0.0, "a short run cannot overfit; a long one: 0.2")
    bias: bool = option(True, "in every Linear and LayerNorm, as in GPT-2")
    tied: bool = option(True, "the head is the token table, as in GPT-2")
    max_iters: int = option(3200, "steps: these take about a minute", "training")
    batch_size: int = option(12, "windows in a micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step, to save memory")
    learning_rate: float = option(8e-3, "for a small model; a larger one: 1e-3")
    min_lr: float = option(0.0, "learning rate at the end of the schedule")
    lr_schedule: str = option("cosine", "or linear, constant, wsd (decay at the end)")
    warmup_iters: int = option(100, "small steps until AdamW's averages are good")
    beta1: float = option(0.9, "averages gradients over about 10 steps")
    beta2: float = option(0.99, "and their squares over 100: runs are short")
    weight_decay: float = option(0.1, "on matrices only, not on biases and gains")
    grad_clip: float = option(1.0, "largest norm of the gradient; 0: no limit")
    out_dir: str = option("", "default: runs/<dataset>-001, then -002, ...", "run")
    init_from: str = option("scratch", "or resume: continue the run in out_dir")
    preset: str = option("", "shakespeare-cpu or shakespeare-gpu")
    config: str = option("", "a TOML file of options: n_layer = 4")
    eval_interval: int = option(200, "steps between validations")
    eval_iters: int = option(20, "micro-batches to validate on, the same ones")
    log_interval: int = option(10, "steps between points of the training curve")
    stats_interval: int = option(50, "steps between tensor statistics; 0: none")
    sample_interval: int = option(500, "steps between samples; 0: only at the end")
    checkpoint_interval: int = option(200, "steps between checkpoints")
    keep: int = option(3, "newest checkpoints kept, besides the best")
    step_at: int = option(-1, "write a page of this step, line by line")
    break_: str = option("", "a mistake, to see what it does: one of\n" + textwrap.fill(
        ", ".join(lab.BREAKS), 80, initial_indent=" " * 2, subsequent_indent=" " * 2, break_on_hyphens=False))
    device: str = option("auto", "auto, cpu, cuda or cuda:N", "machine")
    dtype: str = option("float32", "float32 or float64")
    threads: int = option(2, "of the matrix products; 0: every core")
    patience: int = option(600, "seconds to wait for the other processes")
    seed: int = option(1337, "of text, weights, batches and samples")

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self)).items():       # values from a config.json may be of any type
            value = getattr(self, name)
            if not (type(value) is kind or kind is float and type(value) is int):
                raise ValueError(f"--{name} must be of type {kind.__name__}, got {value!r:.60}")
        for name in ("batch_size", "gradient_accumulation_steps", "max_iters", "eval_interval", "eval_iters",
                     "log_interval", "checkpoint_interval", "keep", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 1, got {getattr(self, name)}")
        for name in ("grad_clip", "weight_decay", "stats_interval", "sample_interval", "threads", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}")
        if not -1 <= self.step_at < self.max_iters:
            raise ValueError(f"--step_at={self.step_at} must be a step of the run: 0 to {self.max_iters - 1}, or -1")
        for name, choices in (("tokenizer", ("char", "byte", "bpe")), ("sampling", ("permutation", "random")),
                              ("lr_schedule", SCHEDULES), ("init_from", ("scratch", "resume")),
                              ("dtype", ("float32", "float64")), ("preset", ("", *PRESETS)),
                              ("break_", ("", *lab.BREAKS))):
            one_of(name, getattr(self, name), choices)
        if not 0 <= self.warmup_iters < self.max_iters:
            raise ValueError(f"--warmup_iters={self.warmup_iters} must be at least 0 and less than --max_iters="
                             f"{self.max_iters}, or the rate never falls; try --warmup_iters={self.max_iters // 10}")
        if not 0.0 <= self.min_lr <= self.learning_rate:
            raise ValueError(f"--min_lr={self.min_lr:g} must be between 0 and --learning_rate={self.learning_rate:g}; "
                             f"try --min_lr={self.learning_rate / 10:g}")
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ValueError(f"--beta1={self.beta1:g} and --beta2={self.beta2:g} must be in [0, 1)")
        self.shape(vocab_size=1)                # ValueError for an impossible shape, before the text is read

    def shape(self, vocab_size: int) -> GPTConfig:
        """The shape of the model for a vocabulary of this size. ValueError for an impossible shape."""
        return GPTConfig(self.block_size, vocab_size, self.n_layer, self.n_head, self.n_embd, self.dropout, self.bias,
                         self.tied)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(self.lr_schedule, step, self.warmup_iters, self.max_iters, self.learning_rate, self.min_lr)


# nanoGPT's character-level runs on Shakespeare: the CPU's from its README, the GPU's from its config folder
SHAKESPEARE = dict(dataset="shakespeare", sampling="random", learning_rate=1e-3, min_lr=1e-4, warmup_iters=100,
                   beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0, bias=False, threads=0)
PRESETS: dict[str, dict[str, Any]] = {
    "shakespeare-cpu": SHAKESPEARE | dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12,
                                          max_iters=2000, dropout=0.0),
    "shakespeare-gpu": SHAKESPEARE | dict(n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                                          max_iters=5000, dropout=0.2, eval_interval=250)}

# options that a resumed run must keep: checkpoints and tokens depend on them
FIXED = ("n_layer", "n_head", "n_embd", "block_size", "bias", "tied", "dtype", "dataset", "tokenizer", "vocab_size")


def configure(arguments: list[str]) -> tuple[Options, dict[str, str], list[str]]:
    """The options for a command line; the source of each value; and what changes in a resumed run, in words.

    A value comes from the command line, or else from the TOML file of --config, or else from the --preset, or else
    from the run that is resumed, or else it is the default. ValueError names what is wrong.
    """
    given = command_line(Options, arguments)
    layers: list[tuple[str, Mapping[str, Any]]] = [("command line", given)]
    if "config" in given:
        layers.insert(0, (given["config"], toml_file(Options, Path(given["config"]))))
        given = {**layers[0][1], **given}
    preset = given.get("preset", "")
    one_of("preset", preset, ("", *PRESETS))
    if preset:
        layers.insert(0, (f"preset {preset}", PRESETS[preset]))
    if given.get("init_from") != "resume":
        o, sources = combine(Options, layers)
        changed = lab.changed_options(o.break_, vars(o))
        return dataclasses.replace(o, **changed), sources | dict.fromkeys(changed, f"break {o.break_}"), []

    if "out_dir" not in given:
        raise ValueError("--init_from=resume needs the folder of the run: --out_dir=runs/...")
    saved, origins, _ = folder.read_config(Path(given["out_dir"]))
    unknown = saved.keys() - get_type_hints(Options).keys()
    if unknown:
        raise ValueError(f"{given['out_dir']}/config.json has an unknown option {min(unknown)}: resume the run with "
                         "the version of minigrad that it was started with")
    lab.check_resumable(given["out_dir"], saved.get("break_", ""), given.get("break_", ""))
    o, sources = combine(Options, [("the run", saved), *layers])
    changes = {name: f"{name} {was!r} -> {getattr(o, name)!r}" for name, was in saved.items()
               if getattr(o, name) != was and name not in ("out_dir", "init_from", "preset", "config")}
    refused = [change for name, change in changes.items() if name in FIXED]
    if refused:
        raise ValueError(f"{o.out_dir} cannot be resumed with another model or text ({'; '.join(refused)}): leave "
                         "these out, or train from scratch in another --out_dir")
    origins = {name: sources[name] if name in changes else origins.get(name, sources[name]) for name in sources}
    return o, origins, list(changes.values())
