"""The options of train.py, their defaults and presets."""
import dataclasses
import difflib
from pathlib import Path
from typing import Any, Mapping, get_type_hints

from gpt import lab, lora
from gpt.model import GPTConfig
from gpt.model_folder import shape_of
from gpt.run import folder
from gpt.run.command_line import combine, command_line, one_of, option, toml_file
from gpt.run.lr_schedule import SCHEDULES, learning_rate


@dataclasses.dataclass
class Options:
    """Train a GPT: python train.py --name=value ..., or python -m gpt.train"""
    dataset: str = option("fables", "or python, shakespeare, my.txt, pairs.jsonl", "text")
    tokenizer: str = option("char", "or byte, bpe")
    vocab_size: int = option(1024, "tokens of bpe; char and byte have their own")
    sampling: str = option("permutation", "each window once an epoch; or random")
    n_layer: int = option(2, "blocks: few, for a run of a minute", "model")
    n_head: int = option(4, "attention heads in each block")
    n_embd: int = option(64, "width of the residual stream")
    block_size: int = option(64, "longest context: most of a fable")
    dropout: float = option(0.0, "a short run cannot overfit; a long one: 0.2")
    bias: bool = option(True, "")
    tied: bool = option(True, "biases; the head is the table of tokens")
    max_iters: int = option(3200, "steps: these take about a minute", "training")
    batch_size: int = option(12, "windows in a micro-batch")
    gradient_accumulation_steps: int = option(1, "micro-batches in a step, to save memory")
    learning_rate: float = option(8e-3, "for a small model; a larger one: 1e-3")
    min_lr: float = option(0.0, "learning rate at the end of the schedule")
    lr_schedule: str = option("cosine", "or linear, constant, wsd (decay at the end)")
    warmup_iters: int = option(100, "small steps until AdamW's averages are good")
    beta1: float = option(0.9, "")
    beta2: float = option(0.99, "over 10 steps; of squares, over 100 steps")
    weight_decay: float = option(0.1, "on matrices only, not on biases and gains")
    grad_clip: float = option(1.0, "largest norm of the gradient; 0: no limit")
    lora_rank: int = option(0, "train adapters of this rank alone; 0: all")
    lora_alpha: float = option(16.0, "the factor of the adapters is alpha / rank")
    lora_targets: str = option("c_attn,c_proj", "layers that get adapters; also c_fc")
    out_dir: str = option("", "default: runs/<dataset>-001, then -002, ...", "run")
    init_from: str = option("scratch", "or resume; or the FOLDER of a GPT-2 or a run")
    preset: str = option("", "shakespeare-cpu or shakespeare-gpu")
    config: str = option("", "a TOML file of options: n_layer = 4")
    eval_interval: int = option(200, "steps between validations")
    eval_iters: int = option(20, "micro-batches to validate on, the same ones")
    log_interval: int = option(10, "steps between points of the training curve")
    stats_interval: int = option(50, "steps between tensor statistics; 0: none")
    sample_interval: int = option(500, "steps between samples; 0: only at the end")
    checkpoint_interval: int = option(200, "steps between checkpoints")
    keep: int = option(3, "newest checkpoints kept, besides the best")
    recompute: bool = option(False, "blocks run again in backward: less memory")
    step_at: int = option(-1, "write a page of this step, line by line")
    break_: str = option("", "a mistake, to see it: docs/break_it.md")
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
        for name in ("grad_clip", "weight_decay", "stats_interval", "sample_interval", "threads", "seed",
                     "lora_rank"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}")
        if not -1 <= self.step_at < self.max_iters:
            raise ValueError(f"--step_at={self.step_at} must be a step of the run: 0 to {self.max_iters - 1}, or -1")
        for name, choices in (("tokenizer", TOKENIZERS), ("sampling", ("permutation", "random")),
                              ("lr_schedule", SCHEDULES), ("dtype", ("float32", "float64")),
                              ("preset", ("", *PRESETS)), ("break_", ("", *lab.BREAKS))):
            one_of(name, getattr(self, name), choices)
        if not 0 <= self.warmup_iters < self.max_iters:
            raise ValueError(f"--warmup_iters={self.warmup_iters} must be at least 0 and less than --max_iters="
                             f"{self.max_iters}, or the rate never falls; try --warmup_iters={self.max_iters // 10}")
        if not 0.0 <= self.min_lr <= self.learning_rate:
            raise ValueError(f"--min_lr={self.min_lr:g} must be between 0 and --learning_rate={self.learning_rate:g}; "
                             f"try --min_lr={self.learning_rate / 10:g}")
        if not (0.0 <= self.beta1 < 1.0 and 0.0 <= self.beta2 < 1.0):
            raise ValueError(f"--beta1={self.beta1:g} and --beta2={self.beta2:g} must be in [0, 1)")
        shape = self.shape(vocab_size=1)        # ValueError for an impossible shape, before the text is read
        if self.lora_rank and not self.fine_tunes:
            raise ValueError(f"--lora_rank={self.lora_rank} trains adapters for a model that is trained already: give "
                             "its folder, --init_from=FOLDER")
        if self.adapters:
            self.adapters.layers(shape)         # ValueError for a target that the model does not have

    def shape(self, vocab_size: int) -> GPTConfig:
        """The shape of the model for a vocabulary of this size. ValueError for an impossible shape."""
        return GPTConfig(self.block_size, vocab_size, self.n_layer, self.n_head, self.n_embd, self.dropout, self.bias,
                         self.tied)

    def learning_rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        return learning_rate(self.lr_schedule, step, self.warmup_iters, self.max_iters, self.learning_rate, self.min_lr)

    @property
    def adapters(self) -> lora.Adapters | None:
        """The adapters that are trained, and nothing else; None: all weights are. ValueError if they are impossible."""
        return lora.of_options(vars(self))

    @property
    def fine_tunes(self) -> bool:
        """Whether the run starts from the model in a folder, whose tokenizer it keeps."""
        return self.tokenizer == "model"


TOKENIZERS = ("char", "byte", "bpe", "model")           # model: the one in the folder of --init_from

# nanoGPT's character-level runs on Shakespeare: the CPU's from its README, the GPU's from its config folder
SHAKESPEARE = dict(dataset="shakespeare", sampling="random", learning_rate=1e-3, min_lr=1e-4, warmup_iters=100,
                   beta1=0.9, beta2=0.99, weight_decay=0.1, grad_clip=1.0, bias=False, threads=0)
PRESETS: dict[str, dict[str, Any]] = {
    "shakespeare-cpu": SHAKESPEARE | dict(n_layer=4, n_head=4, n_embd=128, block_size=64, batch_size=12,
                                          max_iters=2000, dropout=0.0),
    "shakespeare-gpu": SHAKESPEARE | dict(n_layer=6, n_head=6, n_embd=384, block_size=256, batch_size=64,
                                          max_iters=5000, dropout=0.2, eval_interval=250)}

# What differs where a run starts from a trained model: GPT-2, say, and a text of some pages.
FINE_TUNING: dict[str, Any] = dict(
    learning_rate=3e-5,                 # a hundredth of pretraining's: the weights are good, and are to stay near
    weight_decay=0.01,                  # it pulls weights to 0, not to the trained ones
    dropout=0.1,                        # GPT-2's own; a small text is soon known by heart
    batch_size=1,                       # the activations of one window of 256 tokens take as much memory as the weights
    gradient_accumulation_steps=8,      # 2048 tokens in a step
    max_iters=100,                      # 200,000 tokens: minutes on a CPU
    eval_interval=25, eval_iters=32,    # a validation takes about as long as 2 steps
    log_interval=1,                     # few steps, each of seconds
    stats_interval=0,                   # their copy of the weights takes as much memory as the model
    sample_interval=50,                 # before the first step, too: the model as it was
    checkpoint_interval=25, keep=2)     # each has three times the size of the model
ADAPTERS: dict[str, Any] = dict(
    learning_rate=3e-4)                 # adapters start from 0, and only their product changes the model
CONTEXT = 256                           # tokens, where the model has as many: attention's memory grows with the square

# options that a resumed run must keep: checkpoints and tokens depend on them
FIXED = ("n_layer", "n_head", "n_embd", "block_size", "bias", "tied", "dtype", "dataset", "tokenizer", "vocab_size",
         "lora_rank", "lora_alpha", "lora_targets")


def configure(arguments: list[str]) -> tuple[Options, dict[str, str], list[str]]:
    """The options for a command line; the source of each value; and what changes in a resumed run, in words.

    A value comes from the command line, or else from the TOML file of --config, or else from the --preset, or else
    from the run that is resumed or from FINE_TUNING, or else it is the default; the shape of the model in the folder of
    --init_from comes from there. ValueError names what is wrong.
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
    init_from = given.get("init_from", "scratch")
    if init_from != "resume":
        if init_from != "scratch":
            chosen = {**FINE_TUNING, **{name: x for _, values in layers for name, x in values.items()}}
            fine_tuning = {"warmup_iters": chosen["max_iters"] // 10, **FINE_TUNING}    # AdamW's averages start from 0
            fine_tuning |= ADAPTERS if chosen.get("lora_rank") else {}
            layers = [("fine-tuning", fine_tuning), *layers, (init_from, of_model(init_from, layers))]
        o, sources = combine(Options, layers)
        if o.fine_tunes and init_from == "scratch":
            raise ValueError("--tokenizer=model is that of a model to start from: give its folder, --init_from=FOLDER")
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


def of_model(init_from: str, layers: list[tuple[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """The options that the model in a folder determines: its shape, its tokenizer, and block_size where no layer has
    one. ValueError for a folder without a model, and if a layer has another value."""
    if not Path(init_from).is_dir():
        nearest = difflib.get_close_matches(init_from, ("scratch", "resume"), n=1)
        raise ValueError(f"--init_from must be scratch, resume or the folder of a model, and {init_from!r} is no folder"
                         + (f"; did you mean {nearest[0]}?" if nearest else ""))
    shape = shape_of(Path(init_from))
    fixed = {name: getattr(shape, name) for name in ("vocab_size", "n_layer", "n_head", "n_embd", "bias", "tied")}
    for source, values in layers:
        for name, value in values.items():
            if name == "tokenizer" or name in fixed and value != fixed[name]:
                has = "its own tokenizer" if name == "tokenizer" else f"{name} {fixed[name]}"
                raise ValueError(f"the model in {init_from} has {has}: leave out --{name}={value} ({source})")
        if values.get("block_size", 1) > shape.block_size:
            raise ValueError(f"the model in {init_from} has positions for {shape.block_size} tokens: use --block_size="
                             f"{shape.block_size} or less, got {values['block_size']}")
        if values.get("break_"):
            raise ValueError("--break shows a mistake in a model that is trained from scratch: leave out --init_from")
    fixed |= {"tokenizer": "model"}
    if not any("block_size" in values for _, values in layers):
        fixed["block_size"] = min(CONTEXT, shape.block_size)
    return fixed
