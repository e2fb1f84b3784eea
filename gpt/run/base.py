"""base.safetensors of a run that trains adapters: the frozen weights, written once, at the start of the run, with their
SHA-256 in the header of the file. Checkpoints hold the adapters."""
import hashlib
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import safetensors

from minigrad.device import host

from gpt import files, pretrained
from gpt.model import GPT, GPTConfig

NAME = "base.safetensors"


def write(out_dir: Path, model: GPT) -> None:
    """Write the frozen weights of a model. OSError if that is not possible."""
    tensors = {name: host(p.data) for name, p in model.named_parameters() if not p.requires_grad}
    files.write_atomically(out_dir / NAME, *files.safetensors_parts(tensors, {"sha256": sha256(tensors)}))


def load(out_dir: Path, shape: GPTConfig, device: str, dtype: str) -> GPT:
    """The model of a run with its frozen weights, without adapters. ValueError if the file is missing or damaged, and
    for one of another model."""
    path = out_dir / NAME
    if not path.exists():
        raise ValueError(f"{path} is missing, with the frozen weights of this run; {files.HOW_TO_GO_ON}")
    _, stored = pretrained.read_header(path)
    model = GPT(shape, None, device, dtype)
    own = dict(model.named_parameters())
    problems = pretrained.differences({tensor.name: tensor.shape for tensor in stored},
                                      {name: p.shape for name, p in own.items()})
    if problems or any(pretrained.DTYPES.get(tensor.dtype) != np.dtype(dtype).str for tensor in stored):
        raise files.damaged(path, problems or f"its tensors are not of dtype {dtype}")
    for tensor in stored:
        pretrained.read_parameter(own[tensor.name], tensor)
    with safetensors.safe_open(path, "numpy") as file:
        if (file.metadata() or {}).get("sha256") != sha256({name: host(p.data) for name, p in own.items()}):
            raise files.damaged(path, "its content does not have the SHA-256 that is in it")
    return model


def sha256(tensors: Mapping[str, Any]) -> str:
    """The SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).data)
    return digest.hexdigest()
