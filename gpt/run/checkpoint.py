"""Checkpoints of a run.

    checkpoints/step_000200.safetensors weights under GPT-2's names, the optimizer's moments (optimizer.m.wte.weight)
    checkpoints/step_000200.json        step, validation loss, lengths of the logs, and the SHA-256 of all of these

The JSON is written last and makes a checkpoint valid. Files that do not match the SHA-256 are not used.
"""
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import safetensors.numpy

from minigrad import optim

from gpt.model import GPT
from gpt.run import folder
from gpt.run.command_line import train_command
from gpt.text import tokenizer


# ---- saving ----

def save(out_dir: Path, model: GPT, optimizer: optim.Optimizer, step: int, val_loss: float | None = None,
         keep: int = 3) -> None:
    """Write the checkpoint after `step` updates, then delete all but the newest `keep` and the one with the lowest
    val_loss. A crash at any moment leaves all earlier checkpoints intact, and so does a full disk, an OSError."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors, state = model.state_dict(), optimizer.state_dict()
    for moment in optimizer.moments:
        tensors |= {f"optimizer.{moment}.{names[id(p)]}": x for p, x in zip(optimizer.params, state[moment])}
    # safetensors writes the memory as it is, in whatever order an array has
    data = safetensors.numpy.save({name: np.asarray(x, order="C") for name, x in tensors.items()})
    record: dict[str, Any] = {"step": step, "val_loss": val_loss, "logs": {}}
    for log in folder.LOGS:
        if (out_dir / log).exists():
            with open(out_dir / log, "rb+") as file:
                os.fsync(file.fileno())
                record["logs"][log] = file.seek(0, os.SEEK_END)
    record["sha256"] = _sha256(data, record)
    path = out_dir / "checkpoints" / f"step_{step:06}"
    path.parent.mkdir(exist_ok=True)
    folder.write_atomically(path.with_suffix(".safetensors"), data)
    folder.write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2).encode())

    paths = newest_first(out_dir)
    best = min(paths, key=_val_loss)            # the newest of equals
    for path in paths[keep:]:
        if path != best:
            path.unlink()                       # first: without its JSON a checkpoint is not valid
            path.with_suffix(".safetensors").unlink(missing_ok=True)


def _sha256(data: bytes, record: Mapping[str, Any]) -> str:
    """The SHA-256 of the tensors' file and of the record without its SHA-256."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(data + json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ---- loading ----

def newest_first(out_dir: Path) -> list[Path]:
    """The JSON files of a run's checkpoints, the highest step first."""
    return sorted(out_dir.glob("checkpoints/step_*.json"), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a checkpoint, from its file name."""
    return int(path.stem.removeprefix("step_"))


def _record(path: Path) -> dict[str, Any] | None:
    """The content of the JSON of a checkpoint; None if it is damaged."""
    try:
        record = json.loads(path.read_bytes())
        return record if {"step", "val_loss", "logs", "sha256"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _val_loss(path: Path) -> float:
    """The validation loss of the checkpoint with this JSON; infinite if it has none."""
    loss = (_record(path) or {}).get("val_loss")
    return loss if isinstance(loss, float) else math.inf


def _first_intact(paths: list[Path]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(record, tensors) of the first intact checkpoint; those before it are named on stderr. None if there are no
    checkpoints, ValueError if all are damaged."""
    for path in paths:
        record, tensors = _record(path), path.with_suffix(".safetensors")
        data = tensors.read_bytes() if tensors.exists() else b""
        if record and record["sha256"] == _sha256(data, record):
            return record, safetensors.numpy.load(data)
        print(f"note    the checkpoint {tensors} is damaged and is not used", file=sys.stderr)
    if paths:
        raise ValueError(f"all checkpoints in {paths[0].parent} are damaged: train again in another --out_dir")
    return None


def resume(out_dir: Path, model: GPT, optimizer: optim.Optimizer) -> int | None:
    """Load the newest intact checkpoint into a model and its optimizer, and truncate the logs to their lengths at that
    checkpoint  ->  its step. None if there are no checkpoints: the run starts from step 0, and is the same run."""
    record = restore(model, optimizer, newest_first(out_dir)) or {"step": None, "logs": {}}
    for log in folder.LOGS:
        if (out_dir / log).exists():
            size = record["logs"].get(log, 0)
            os.truncate(out_dir / log, min(size, (out_dir / log).stat().st_size))
    return record["step"]


def restore(model: GPT, optimizer: optim.Optimizer, paths: list[Path]) -> dict[str, Any] | None:
    """Load the first intact one of these checkpoints into a model and its optimizer  ->  the content of its JSON. None
    if there are no checkpoints, ValueError if all are damaged."""
    found = _first_intact(paths)
    if found is None:
        return None
    record, tensors = found
    model.load_state_dict(weights(tensors))
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer.load_state_dict({"t": [record["step"]] * len(optimizer.params)} | {
        moment: [tensors[f"optimizer.{moment}.{names[id(p)]}"] for p in optimizer.params]
        for moment in optimizer.moments})
    return record


def missing(out_dir: Path) -> ValueError:
    """The error for a run without a checkpoint."""
    return ValueError(f"{out_dir} holds no checkpoint yet: train first, with {train_command()} --out_dir={out_dir}")


def load_model(out_dir: Path, device: str = "cpu") -> tuple[GPT, tokenizer.Tokenizer]:
    """The model of a run at its checkpoint with the lowest validation loss, and its tokenizer. ValueError names what is
    missing or damaged."""
    options, _, shape = folder.read_config(out_dir)
    found = _first_intact(sorted(newest_first(out_dir), key=_val_loss))
    if found is None:
        raise missing(out_dir)
    model = GPT(shape, device=device, dtype=options["dtype"])
    model.load_state_dict(weights(found[1]))
    return model, tokenizer.load(out_dir / "tokenizer.json")


def last_intact(out_dir: Path) -> str:
    """A sentence for error messages: the step of the newest intact checkpoint."""
    found = _first_intact(newest_first(out_dir))
    return f"The checkpoint of step {found[0]['step']} is intact" if found else "Nothing was saved yet"


def weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The weights among the tensors of a checkpoint."""
    return {name: x for name, x in tensors.items() if not name.startswith("optimizer.")}
