"""Low-rank adapters, LoRA (Hu et al. 2021, "LoRA: Low-rank adaptation of large language models"): the weights of a GPT
are frozen, and the product of two small matrices, which are trained, is added to some of them.

The files of adapters are those of the library PEFT: adapter_config.json, and adapter_model.safetensors, whose matrices
are transposed, lora_A.weight (rank, n_in) and lora_B.weight (n_out, rank).
"""
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterable, Mapping

import numpy as np
import safetensors.numpy

from minigrad import Tensor, functional as F, nn

from gpt import files, pretrained
from gpt.model import GPT, GPTConfig

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model.transformer."            # of PEFT's names
# Accepted values of settings of PEFT that these adapters do not have; None also stands for a setting that is not there.
FIXED: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None), "lora_bias": (False, None), "init_lora_weights": (True, False, "gaussian", None),
    **{f"use_{kind}": (False, None) for kind in ("dora", "rslora", "qalora", "bdlora")},
    **{name: (None, {}, []) for name in (
        "rank_pattern", "alpha_pattern", "modules_to_save", "exclude_modules", "layers_to_transform",
        "layer_replication", "target_parameters", "trainable_token_indices", "alora_invocation_tokens")},
}


@dataclass(frozen=True)
class Adapters:
    """Which adapters a GPT has: of which rank, with which factor alpha / rank, on which layers.

    targets: names of Linear layers, or their ends after a dot, as in PEFT: c_attn, attn.c_proj, h.0.mlp.c_fc.
    ValueError for a rank, an alpha or targets that are out of range.
    """
    rank: int
    alpha: float
    targets: frozenset[str]

    def __post_init__(self) -> None:
        if type(self.rank) is not int or self.rank < 1:
            raise ValueError(f"the rank of adapters must be a whole number of at least 1, got {self.rank!r:.60}")
        if type(self.alpha) not in (int, float) or not 0.0 < self.alpha < math.inf:
            raise ValueError(f"the alpha of adapters must be a number above 0, got {self.alpha!r:.60}")
        if not self.targets:
            raise ValueError("adapters need targets, the layers that get them, such as c_attn")

    def layers(self, config: GPTConfig) -> dict[str, tuple[int, int]]:
        """Name -> (n_in, n_out) of the Linear layers of a GPT of this shape that get adapters, in the order of the
        model. ValueError names a target that no layer fits, and those there are."""
        linear = {name.removesuffix(".weight"): shape for name, shape in pretrained.shapes(config).items()
                  if name.startswith("h.") and len(shape) == 2}
        for target in sorted(self.targets):
            if not any(_fits(name, target) for name in linear):
                ends = dict.fromkeys(end for name in linear for end in (name.split(".", 2)[2], name.rpartition(".")[2]))
                raise ValueError(f"no layer of this GPT is called {target!r:.60}: the targets of adapters are "
                                 f"{', '.join(sorted(ends))}, or one layer, such as {next(iter(linear))}")
        return {name: (shape[0], shape[1]) for name, shape in linear.items()
                if any(_fits(name, target) for target in self.targets)}

    def shapes(self, config: GPTConfig) -> dict[str, tuple[int, int]]:
        """Name -> shape of the adapters of a GPT of this shape: h.0.attn.c_attn.lora_A (n_in, rank), .lora_B (rank,
        n_out). ValueError as for `layers`."""
        return {f"{name}.{which}": shape for name, (n_in, n_out) in self.layers(config).items()
                for which, shape in (("lora_A", (n_in, self.rank)), ("lora_B", (self.rank, n_out)))}


def _fits(name: str, target: str) -> bool:
    return f".{pretrained.PREFIX}{name}".endswith(f".{target}")


class AdaptedLinear(nn.Linear):
    """x (..., n_in)  ->  x @ weight + bias + (x @ lora_A) scale @ lora_B, with scale = alpha / rank, lora_A (n_in,
    rank) and lora_B (rank, n_out). weight and bias are those of a Linear. lora_A is drawn uniformly from +-1 /
    sqrt(n_in), as in PEFT, and lora_B is 0: at first the result is that of the Linear, bit for bit."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, rng: np.random.Generator) -> None:
        weight = linear.weight
        n_in, n_out = weight.shape
        bound, where = 1.0 / math.sqrt(n_in), {"dtype": weight.dtype, "device": weight.device}
        self.weight, self.bias = weight, linear.bias
        self.lora_A = nn.Parameter(rng.uniform(-bound, bound, (n_in, rank)), **where)
        self.lora_B = nn.Parameter(np.zeros((rank, n_out)), **where)
        self.scale = alpha / rank

    def forward(self, x: Any) -> Tensor:
        y = F.linear(x, self.weight, self.bias)                         # (..., n_out)
        low = F.linear(x, self.lora_A) * self.scale                     # (..., rank): few numbers to scale
        return y + F.linear(low, self.lora_B)


def add_adapters(model: GPT, rank: int, alpha: float, targets: Iterable[str], seed: int = 0) -> None:
    """Give the target layers of a GPT adapters, and freeze all other parameters: requires_grad = False, so they have
    neither gradients nor moments. Rank 0: no adapters, and the model stays as it is.

    The initial adapters depend on the seed alone. ValueError for a model that has adapters already, and for arguments
    that `Adapters` does not accept; then the model is unchanged.
    """
    if rank == 0:
        return
    if model.adapters is not None:
        raise ValueError("this model has adapters already: load the model again to give it others")
    adapters = Adapters(rank, alpha, frozenset(targets))
    layers = adapters.layers(model.config)
    modules: dict[str, Any] = dict(model.named_modules())
    rng = np.random.default_rng(seed)
    for p in model.parameters():
        p.requires_grad = False
        p.zero_grad()
    for path in layers:
        parent, _, name = path.rpartition(".")
        setattr(modules[parent], name, AdaptedLinear(modules[path], rank, alpha, rng))
    model.adapters = adapters


def merged(model: GPT) -> dict[str, np.ndarray]:
    """The state_dict of a GPT without adapters that computes the same: weight + lora_A @ lora_B alpha / rank, computed
    in float64 and rounded once, under the names of the weights."""
    state = {name: p.numpy() for name, p in model.named_parameters() if not name.endswith((".lora_A", ".lora_B"))}
    for path, module in model.named_modules():
        if isinstance(module, AdaptedLinear):
            weight = state[f"{path}.weight"]
            A, B = (p.numpy().astype(np.float64) for p in (module.lora_A, module.lora_B))
            state[f"{path}.weight"] = (weight + module.scale * (A @ B)).astype(weight.dtype)
    return state


def of_options(options: Mapping[str, Any]) -> Adapters | None:
    """The adapters of a run with these options, lora_rank, lora_alpha and lora_targets, separated by commas; None for
    rank 0, and for the runs of earlier versions, which have no such options. ValueError as for Adapters."""
    if not options.get("lora_rank", 0):
        return None
    targets = frozenset(target.strip() for target in options["lora_targets"].split(","))
    return Adapters(options["lora_rank"], options["lora_alpha"], targets)


# ---- PEFT's files ----

def save_adapters(folder: Path, model: GPT, base: str = "") -> None:
    """Write the adapters of a model for PEFT: adapter_config.json and adapter_model.safetensors. base: the folder of
    the model that they were trained on. OSError for files that cannot be written."""
    adapters: Adapters = model.adapters
    tensors = {f"{PREFIX}{name}.weight": np.ascontiguousarray(p.numpy().T)
               for name, p in model.named_parameters() if p.requires_grad}
    alpha = int(adapters.alpha) if float(adapters.alpha).is_integer() else adapters.alpha
    described = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base or None,
                 "r": adapters.rank, "lora_alpha": alpha, "target_modules": sorted(adapters.targets),
                 "lora_dropout": 0.0, "bias": "none", "init_lora_weights": True, "inference_mode": True,
                 "fan_in_fan_out": True}        # GPT-2's weights are (n_in, n_out)
    folder.mkdir(parents=True, exist_ok=True)
    files.write_atomically(folder / TENSORS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    files.write_atomically(folder / CONFIG, (json.dumps(described, indent=2) + "\n").encode())


def load_adapters(folder: Path, model: GPT) -> None:
    """Read the adapters of a folder that PEFT or save_adapters has written into a model, which gets them if it has
    none. ValueError, and an unchanged model, if a file is missing or damaged, if the adapters have a setting that is
    not supported, and if they do not fit the model or the adapters that it has."""
    folder = Path(folder)
    adapters = read_config(folder)
    if model.adapters not in (None, adapters):
        raise ValueError(f"{folder / CONFIG} has {_described(adapters)}, and the model {_described(model.adapters)}: "
                         "load them into a model without adapters")
    try:
        shapes = {f"{PREFIX}{name}.weight": shape[::-1] for name, shape in adapters.shapes(model.config).items()}
    except ValueError as error:
        raise ValueError(f"{folder / CONFIG} is of another model: {error}") from None
    if not (folder / TENSORS).exists():
        raise ValueError(f"{folder / TENSORS} is missing: the folder of adapters holds {CONFIG} and {TENSORS}")
    _, stored = pretrained.read_header(folder / TENSORS)
    for tensor in stored:
        if tensor.dtype not in pretrained.DTYPES:
            raise ValueError(f"{tensor.path} has tensors of dtype {tensor.dtype}, but only "
                             f"{', '.join(pretrained.DTYPES)} are read")
    if problems := pretrained.differences({tensor.name: tensor.shape for tensor in stored}, shapes):
        raise ValueError(f"{folder / TENSORS} does not fit {CONFIG} and the model: {problems}")
    tensors = {tensor.name: np.empty(tensor.shape, model.wte.weight.dtype) for tensor in stored}
    for tensor in stored:
        pretrained.read_into(tensors[tensor.name], tensor)
    if model.adapters is None:
        add_adapters(model, adapters.rank, adapters.alpha, adapters.targets)
    for name, p in model.named_parameters():
        if p.requires_grad:
            p.data = tensors[f"{PREFIX}{name}.weight"].T


def read_config(folder: Path) -> Adapters:
    """What adapter_config.json says. ValueError if it is missing, damaged or has a setting that is not supported."""
    path = folder / CONFIG
    try:
        found = files.read_json(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): the folder of adapters holds {CONFIG} and "
                         f"{TENSORS}") from None
    if found.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type is {found.get('peft_type')!r:.60}, but only LORA is supported")
    for name, value in found.items():
        if name in FIXED and value not in FIXED[name] or name.endswith("_config") and value:
            raise ValueError(f"{path}: {name} is {value!r:.60}, which is not supported")
    targets = found.get("target_modules")
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise ValueError(f"{path}: target_modules must be a list of layers, got {targets!r:.60}")
    try:
        return Adapters(found.get("r", 0), found.get("lora_alpha", 0), frozenset(targets))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _described(adapters: Adapters) -> str:
    return f"rank {adapters.rank}, alpha {adapters.alpha:g} on {', '.join(sorted(adapters.targets))}"
