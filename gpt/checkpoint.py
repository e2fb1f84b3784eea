"""A run on disk: config.json (its options, the model's shape, the tokenizer) and checkpoint.safetensors (the weights
under GPT-2's names, the optimizer's moments, the step)."""
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import safetensors
import safetensors.numpy

from minigrad import optim

from gpt.model import GPT, GPTConfig
from gpt.tokenizer import CharTokenizer

CONFIG, CHECKPOINT = "config.json", "checkpoint.safetensors"


def create_run(out_dir: Path, options: dict[str, Any], model_config: GPTConfig, tokenizer: CharTokenizer) -> None:
    """Make the folder of a run and write its config.json. ValueError if a run is there already."""
    if (out_dir / CONFIG).exists():
        raise ValueError(f"{out_dir} holds a run already: choose another --out_dir, or delete it")
    out_dir.mkdir(parents=True, exist_ok=True)
    config = {"options": options, "model": dataclasses.asdict(model_config),
              "tokenizer": {"type": "char", "vocabulary": tokenizer.vocabulary}}
    write_whole(out_dir / CONFIG, json.dumps(config, indent=2).encode())


def save(out_dir: Path, model: GPT, optimizer: optim.Optimizer, step: int) -> None:
    """Write the checkpoint of a run after `step` updates, in place of the one before."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors, state = model.state_dict(), optimizer.state_dict()
    for moment in optimizer.moments:
        tensors |= {f"optimizer.{moment}.{names[id(p)]}": x for p, x in zip(optimizer.params, state[moment])}
    write_whole(out_dir / CHECKPOINT, safetensors.numpy.save(tensors, metadata={"step": str(step)}))


def load(out_dir: Path, device: str = "cpu") -> tuple[GPT, CharTokenizer]:
    """The model and the tokenizer of a run. ValueError says which file is missing or damaged."""
    try:
        config = json.loads((out_dir / CONFIG).read_text("utf-8"))
        tensors = safetensors.numpy.load((out_dir / CHECKPOINT).read_bytes())
        model = GPT(GPTConfig(**config["model"]), device=device, dtype=config["options"]["dtype"])
        model.load_state_dict({name: x for name, x in tensors.items() if not name.startswith("optimizer.")})
        return model, CharTokenizer(config["tokenizer"]["vocabulary"])
    except FileNotFoundError as error:
        raise ValueError(f"{out_dir} holds no checkpoint: {error.filename} is missing; train first, with "
                         f"python train.py --out_dir={out_dir}") from None
    except (KeyError, TypeError, json.JSONDecodeError, safetensors.SafetensorError) as error:
        raise ValueError(f"the run in {out_dir} is damaged: {error}") from None


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
