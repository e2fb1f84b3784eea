"""A run on disk.

    config.json                         every option and where its value came from, and the model's shape
    checkpoints/step_000200.safetensors weights under GPT-2's names, the optimizer's moments (optimizer.m.wte.weight)
    checkpoints/step_000200.json        the step, its validation loss, how long the logs were, and a SHA-256 of all that

The JSON is written last and makes a checkpoint count; what does not match its SHA-256 is not used.
"""
import contextlib
import dataclasses
import hashlib
import json
import math
import os
import sys
from pathlib import Path
from typing import Any, Mapping

import safetensors.numpy

from minigrad import optim

from gpt import tokenizer
from gpt.model import GPT, GPTConfig

LOGS = ("metrics.jsonl", "stats.jsonl", "samples.md")


# ---- config.json ----

def write_config(out_dir: Path, options: Mapping[str, Any], sources: Mapping[str, str], shape: GPTConfig) -> None:
    """Write config.json, which makes a folder a run."""
    config = {"options": {name: {"value": value, "from": sources[name]} for name, value in options.items()},
              "model": dataclasses.asdict(shape)}
    write_whole(out_dir / "config.json", json.dumps(config, indent=2).encode())


def read_config(out_dir: Path) -> tuple[dict[str, Any], dict[str, str], GPTConfig]:
    """The options of a run, where they came from, and the model's shape. ValueError if it is missing or damaged."""
    try:
        config = json.loads((out_dir / "config.json").read_text("utf-8"))
        return ({name: o["value"] for name, o in config["options"].items()},
                {name: o["from"] for name, o in config["options"].items()}, GPTConfig(**config["model"]))
    except FileNotFoundError:
        raise ValueError(f"{out_dir} holds no run: train first, with python train.py --out_dir={out_dir}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{out_dir / 'config.json'} is damaged ({error!r}): put back a copy of it") from None


# ---- saving ----

def save(out_dir: Path, model: GPT, optimizer: optim.Optimizer, step: int, val_loss: float | None = None,
         keep: int = 3) -> None:
    """Write the checkpoint after `step` updates, so that a crash at any moment leaves all earlier ones whole; then
    delete all but the last `keep` and the one of the lowest val_loss. OSError if the disk is full: nothing is lost."""
    names = {id(p): name for name, p in model.named_parameters()}
    tensors, state = model.state_dict(), optimizer.state_dict()
    for moment in optimizer.moments:
        tensors |= {f"optimizer.{moment}.{names[id(p)]}": x for p, x in zip(optimizer.params, state[moment])}
    data = safetensors.numpy.save(tensors)
    record: dict[str, Any] = {"step": step, "val_loss": val_loss, "logs": {}}
    for log in LOGS:
        if (out_dir / log).exists():
            with open(out_dir / log, "rb+") as file:
                os.fsync(file.fileno())
                record["logs"][log] = file.seek(0, os.SEEK_END)
    record["sha256"] = _sha256(data, record)
    folder = out_dir / "checkpoints"
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"step_{step:06}.safetensors", data)
    write_whole(folder / f"step_{step:06}.json", json.dumps(record, indent=2).encode())

    paths = newest_first(out_dir)
    best = min(paths, key=_val_loss)            # the newest of equals
    for path in paths[keep:]:
        if path != best:
            path.unlink()                       # from here on it does not count
            path.with_suffix(".safetensors").unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a crash at any moment leaves the old one or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()                  # a full disk needs the room
        raise
    if os.name == "posix":                      # the new name, too, must survive a loss of power
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def _sha256(data: bytes, record: Mapping[str, Any]) -> str:
    """Of the tensors' file and of all the record says but this."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(data + json.dumps(rest, sort_keys=True).encode()).hexdigest()


# ---- loading ----

def newest_first(out_dir: Path) -> list[Path]:
    """The JSON files of a run's checkpoints, named for their steps."""
    return sorted(out_dir.glob("checkpoints/step_*.json"), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a checkpoint, from its name."""
    return int(path.stem.removeprefix("step_"))


def _record(path: Path) -> dict[str, Any] | None:
    """What the JSON of a checkpoint says; None if it is damaged."""
    try:
        record = json.loads(path.read_bytes())
        return record if {"step", "val_loss", "logs", "sha256"} <= record.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def _val_loss(path: Path) -> float:
    """Of the checkpoint with this JSON; infinite where it has none."""
    loss = (_record(path) or {}).get("val_loss")
    return loss if isinstance(loss, float) else math.inf


def _first_good(paths: list[Path]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(record, tensors) of the first checkpoint that is whole; stderr names those before it. None if there are no
    checkpoints, ValueError if all are damaged."""
    for path in paths:
        record, tensors = _record(path), path.with_suffix(".safetensors")
        data = tensors.read_bytes() if tensors.exists() else b""
        if record and record["sha256"] == _sha256(data, record):
            return record, safetensors.numpy.load(data)
        print(f"note    the checkpoint {tensors} is damaged, and so not used", file=sys.stderr)
    if paths:
        raise ValueError(f"all checkpoints in {paths[0].parent} are damaged: train again, into another --out_dir")
    return None


def resume(out_dir: Path, model: GPT, optimizer: optim.Optimizer) -> int | None:
    """Put the newest good checkpoint into a model and its optimizer, and cut the logs back to it  ->  its step. None
    for a run that had not saved yet: it starts again, which is the same run."""
    record = restore(model, optimizer, newest_first(out_dir)) or {"step": None, "logs": {}}
    for log in LOGS:
        if (out_dir / log).exists():
            size = record["logs"].get(log, 0)
            os.truncate(out_dir / log, min(size, (out_dir / log).stat().st_size))
    return record["step"]


def restore(model: GPT, optimizer: optim.Optimizer, paths: list[Path]) -> dict[str, Any] | None:
    """Put the first of these checkpoints that is whole into a model and its optimizer  ->  what its JSON says. None if
    there are no checkpoints, ValueError if all are damaged."""
    found = _first_good(paths)
    if found is None:
        return None
    record, tensors = found
    model.load_state_dict(weights(tensors))
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer.load_state_dict({"t": [record["step"]] * len(optimizer.params)} | {
        moment: [tensors[f"optimizer.{moment}.{names[id(p)]}"] for p in optimizer.params]
        for moment in optimizer.moments})
    return record


def load_model(out_dir: Path, device: str = "cpu") -> tuple[GPT, tokenizer.Tokenizer]:
    """The model, from the checkpoint of the lowest validation loss, and the tokenizer of a run. ValueError says what is
    missing or damaged."""
    options, _, shape = read_config(out_dir)
    found = _first_good(sorted(newest_first(out_dir), key=_val_loss))
    if found is None:
        raise ValueError(f"{out_dir} holds no checkpoint yet: train first, with python train.py --out_dir={out_dir}")
    model = GPT(shape, device=device, dtype=options["dtype"])
    model.load_state_dict(weights(found[1]))
    return model, tokenizer.load(out_dir / "tokenizer.json")


def last_good(out_dir: Path) -> str:
    """A sentence on the newest checkpoint that is whole."""
    found = _first_good(newest_first(out_dir))
    return f"The checkpoint of step {found[0]['step']} is whole" if found else "Nothing was saved yet"


def weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The model's part of the tensors of a checkpoint."""
    return {name: x for name, x in tensors.items() if not name.startswith("optimizer.")}
