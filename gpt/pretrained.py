"""GPT-2 in the files of Hugging Face's transformers: config.json and model.safetensors, in one file or in shards.

The tensors have the names and shapes of gpt.model.GPT, with the prefix `transformer.` on all but the head's.
"""
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

CONFIG, TENSORS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PREFIX = "transformer."
# Accepted values of settings that this model does not have. The first is the default where config.json has none.
FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",), "activation_function": ("gelu_new", "gelu_pytorch_tanh"), "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,), "scale_attn_by_inverse_layer_idx": (False,), "add_cross_attention": (False,),
}
SIZES = {"block_size": "n_positions", "vocab_size": "vocab_size", "n_layer": "n_layer", "n_head": "n_head",
         "n_embd": "n_embd"}                        # our name -> theirs


def read_config(folder: Path) -> dict[str, Any]:
    """The arguments of GPTConfig from config.json. ValueError if it is missing, damaged, or no GPT-2's."""
    path = folder / CONFIG
    found = _json(path)
    found.setdefault("n_positions", found.get("n_ctx"))             # the old name
    for name, values in FIXED.items():
        value = found.get(name, values[0])
        if value not in values:
            raise ValueError(f"{path}: {name} is {value!r}, but this GPT has {' or '.join(map(repr, values))} only")
    missing = [name for name in SIZES.values() if found.get(name) is None]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}: is it of a GPT-2?")
    if found.get("n_inner") not in (None, 4 * found["n_embd"]):
        raise ValueError(f"{path}: n_inner is {found['n_inner']}, but this GPT's MLP is 4 n_embd wide only")
    return {**{ours: found[theirs] for ours, theirs in SIZES.items()}, "tied": found.get("tie_word_embeddings", True)}


def read_tensors(folder: Path, tied: bool) -> dict[str, np.ndarray]:
    """All tensors of the model under the names of GPT, without the prefix, causal masks and the copy of a tied head.
    ValueError names a file that is missing or damaged."""
    files = [TENSORS]
    if not (folder / TENSORS).exists() and (folder / INDEX).exists():
        files = sorted(set(_json(folder / INDEX).get("weight_map", {}).values()))
    found: dict[str, np.ndarray] = {}
    for file in files:
        try:
            found |= safetensors.numpy.load_file(folder / file)
        except FileNotFoundError:
            pickled = any(folder.glob("pytorch_model*.bin"))
            hint = "a pickle is not read: save it again with safe_serialization=True" if pickled else "copy it there"
            raise ValueError(f"{folder / file} is missing; {hint}") from None
        except safetensors.SafetensorError as error:
            raise ValueError(f"{folder / file} is damaged: {error}") from None
        except (AttributeError, KeyError, TypeError) as error:      # bfloat16, 8-bit floats
            raise ValueError(f"{folder / file} holds a dtype that NumPy lacks ({error}): save it as float32") from None
    ours = {name.removeprefix(PREFIX): x for name, x in found.items()}
    masks = (".attn.bias", ".attn.masked_bias")
    return {name: x for name, x in ours.items() if not name.endswith(masks) and not (tied and name == "lm_head.weight")}


def write(folder: Path, config: Any, state: dict[str, np.ndarray]) -> None:
    """Write config.json and model.safetensors for the state_dict of a GPT; biases that it does not have are zeros."""
    tensors = {name if name == "lm_head.weight" else PREFIX + name: x for name, x in state.items()}
    if not config.bias:
        tensors |= {name.removesuffix("weight") + "bias": np.zeros(x.shape[-1], x.dtype) for name, x in tensors.items()
                    if name.startswith(PREFIX + "h.") or name.startswith(PREFIX + "ln_f.")}
    described = {
        "architectures": ["GPT2LMHeadModel"], **{name: values[0] for name, values in FIXED.items()},
        **{theirs: getattr(config, ours) for ours, theirs in SIZES.items()}, "tie_word_embeddings": config.tied,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),          # None: otherwise transformers assumes 50256
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    safetensors.numpy.save_file(tensors, folder / TENSORS, metadata={"format": "pt"})


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} is missing: the folder of a GPT-2 holds {CONFIG} and {TENSORS}") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: expected {{name: value, ...}}, got a {type(found).__name__}")
    return found
