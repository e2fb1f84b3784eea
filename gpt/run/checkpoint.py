"""Checkpoints of a run.

    checkpoints/step_000200.safetensors weights under GPT-2's names, the optimizer's moments (optimizer.m.wte.weight)
    checkpoints/step_000200.json        step, validation loss, lengths of the logs; the SHA-256 of these, and of these
                                        with the tensors

The JSON is written last and makes a checkpoint valid. A checkpoint is not used if a SHA-256 does not match, or if a
value is not finite.

Checkpoints of a run that trains adapters hold these alone, and their moments; base.safetensors has the other weights
(gpt/run/base.py). adapter_config.json and adapter_model.safetensors are the adapters of the checkpoint with the lowest
validation loss, in PEFT's form.
"""
import json
import math
import os
import re
import weakref
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping

import numpy as np

from minigrad import device as devices, optim

from gpt import files, lab, lora, pretrained
from gpt.model import GPT, GPTConfig
from gpt.run import base, folder
from gpt.run.command_line import train_command
from gpt.run.estimates import trained_count
from gpt.text import tokenizer


# ---- saving ----

def save(out_dir: Path, model: GPT, optimizer: optim.Optimizer, step: int, val_loss: float | None = None,
         keep: int = 3, base_model: str = "") -> None:
    """Write the checkpoint after `step` updates, then delete all before it but the newest `keep` and the one with the
    lowest val_loss. base_model: the folder of the model whose adapters are trained. A crash at any moment leaves all
    earlier checkpoints intact, and so does a full disk, an OSError. FloatingPointError if a weight or a moment is not
    finite; then nothing is written."""
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    tensors = {names[id(p)]: devices.host(p.data) for p in model.parameters() if p.requires_grad}        # not copied
    for moment in optimizer.moments:
        tensors |= {f"optimizer.{moment}.{names[id(p)]}": devices.host(optimizer.state_of(p)[moment])
                    for p in optimizer.params}
    _check_finite(tensors)
    data = files.safetensors_parts(tensors, {})
    size = sum(memoryview(part).nbytes for part in data)
    record: dict[str, Any] = {"step": step, "val_loss": val_loss, "bytes": size, "logs": {}}
    for log in folder.LOGS:
        if (out_dir / log).exists():
            with open(out_dir / log, "rb+") as file:
                os.fsync(file.fileno())
                record["logs"][log] = file.seek(0, os.SEEK_END)
    record = sealed(record, *data)
    path = out_dir / "checkpoints" / f"step_{step:06}"
    path.parent.mkdir(exist_ok=True)
    if model.adapters:
        losses = [_val_loss(other) for other in newest_first(out_dir) if step_of(other) < step]
        if (math.inf if val_loss is None else val_loss) <= min(losses, default=math.inf):
            lora.save_adapters(out_dir, model, base_model)
    files.write_atomically(path.with_suffix(".safetensors"), *data)
    files.write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2).encode())

    paths = [path for path in newest_first(out_dir) if step_of(path) <= step]   # a resume has skipped later ones
    best = min(paths, key=_val_loss)            # the newest of equals
    for path in paths[keep:]:
        if path != best:
            _delete(path)


def sealed(record: Mapping[str, Any], *data: Any) -> dict[str, Any]:
    """The record of a checkpoint with two SHA-256: its own, so that val_loss can be checked before the tensors are
    read, and that of the record and the tensors."""
    record = {name: value for name, value in record.items() if name != "record_sha256"}
    record["record_sha256"] = files.sha256(record)
    return {**record, "sha256": files.sha256(record, *data)}


def discard(out_dir: Path, step: int) -> None:
    """Delete the checkpoint of a step, if there is one: for a step whose training loss shows a divergence."""
    for path in newest_first(out_dir):
        if step_of(path) == step:
            _delete(path)


def _delete(path: Path) -> None:
    path.unlink()                               # first: without its JSON a checkpoint is not valid
    path.with_suffix(".safetensors").unlink(missing_ok=True)


def _check_finite(tensors: Mapping[str, Any]) -> None:
    for name, x in tensors.items():
        if not np.isfinite(x).all():
            raise FloatingPointError(f"{name} has values that are not finite")


# ---- loading ----

def newest_first(out_dir: Path) -> list[Path]:
    """The JSON files of a run's checkpoints, the highest step first. OSError if the folder cannot be read."""
    try:
        paths = list((out_dir / "checkpoints").iterdir())       # glob would find nothing without a permission to read
    except FileNotFoundError:
        return []
    return sorted((path for path in paths if path.suffix == ".json" and _is_named(path) and path.is_file()),
                  key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step of a checkpoint, from its file name."""
    return int(path.stem.removeprefix("step_"))


def _is_named(path: Path) -> bool:
    """Whether the name of a file is that of a checkpoint; step_000200 (copy).json and step_old.json are not."""
    return bool(re.fullmatch("step_([0-9]{6}|[1-9][0-9]{6,17})", path.stem))


def _note_foreign(out_dir: Path) -> list[Path]:
    """Print a note for each path that looks like a checkpoint and is not one: copies with other names, folders, and
    tensors without their JSON. Returns these paths."""
    found = [path for kind in ("json", "safetensors") for path in sorted(out_dir.glob(f"checkpoints/step_*.{kind}"))
             if not _is_named(path) or not path.is_file() or not os.path.lexists(path.with_suffix(".json"))]
    for path in found:
        reason = ("is not a checkpoint" if os.path.lexists(path.with_suffix(".json")) else
                  f"has no {path.with_suffix('.json').name} beside it")
        folder.note(f"{path} {reason} and is not used")
    return found


def _record(path: Path) -> dict[str, Any] | None:
    """The content of the JSON of a checkpoint; None if it is damaged."""
    try:
        record = files.read_json(path)
    except (OSError, ValueError):
        return None
    own = record.get("record_sha256")           # earlier versions have none
    rest = {name: value for name, value in record.items() if name != "record_sha256"}
    good = {"step", "val_loss", "logs", "sha256"} <= record.keys() and own in (None, files.sha256(rest))
    return record if good else None


def _val_loss(path: Path) -> float:
    """The validation loss of the checkpoint with this JSON; infinite if it has none, or NaN."""
    loss = (_record(path) or {}).get("val_loss")
    return loss if isinstance(loss, float) and math.isfinite(loss) else math.inf


class _Unusable(Exception):
    """A checkpoint that is not used; the message says why."""


class _Tensors(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by name. Each is read from the file when it is asked for, also after a training that
    runs has deleted the file. ValueError for a damaged file, OSError for one that cannot be read."""

    def __init__(self, path: Path) -> None:
        self.file = files.open_regular(path)
        weakref.finalize(self, self.file.close)
        self._stored = {tensor.name: tensor for tensor in pretrained.read_header(path)[1]}
        self.shapes = {name: tensor.shape for name, tensor in self._stored.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        tensor = self._stored[name]
        array = np.empty(tensor.shape, pretrained.DTYPES[tensor.dtype])
        self.file.seek(tensor.offset)
        if self.file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
            raise OSError(f"{tensor.path} has become shorter while it was read")
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _load(path: Path, n_weights: int | None) -> tuple[dict[str, Any], _Tensors]:
    """(record, tensors) of the checkpoint with this JSON. n_weights: the number of elements of all its weights;
    None for any. _Unusable if it is damaged, of another model, or not finite."""
    record = _record(path)
    try:
        tensors = _Tensors(path.with_suffix(".safetensors"))
        size = os.fstat(tensors.file.fileno()).st_size
        whole = record is not None and record["step"] == step_of(path) and size == record.get("bytes", size)
        if record is None or not whole or record["sha256"] != files.sha256(record, file=tensors.file):
            raise _Unusable("is damaged")
    except (OSError, ValueError):
        raise _Unusable("is damaged") from None
    if n_weights not in (None, sum(map(math.prod, weights(tensors.shapes).values()))):
        raise _Unusable("is of another model")
    try:
        _check_finite(tensors)
    except FloatingPointError as error:
        raise _Unusable(f"has diverged ({error}; resume with a smaller --learning_rate)") from None
    return record, tensors


def _first_intact(paths: list[Path], n_weights: int | None = None, listed: Callable[[], list[Path]] | None = None
                  ) -> tuple[dict[str, Any], _Tensors] | None:
    """(record, tensors) of the first usable one of these checkpoints; those before it are named on stderr. None if
    there are no checkpoints, ValueError if none is usable. n_weights: see _load.

    listed: lists the paths again. A training that runs may have deleted all of them: then its newer ones are tried.
    """
    before: list[Path] = []
    while paths != before:
        for path in paths:
            try:
                return _load(path, n_weights)
            except _Unusable as error:
                if path.exists():
                    folder.note(f"the checkpoint {path.with_suffix('.safetensors')} {error} and is not used")
        before, paths = paths, listed() if listed else paths
    if paths:
        which = f"all checkpoints in {paths[0].parent} are" if len(paths) > 1 else f"{paths[0].with_suffix('')} is"
        raise ValueError(f"{which} damaged, diverged or of another model than config.json: train again in another "
                         "--out_dir, after a divergence with a smaller --learning_rate")
    return None


def resume(out_dir: Path, model: GPT, optimizer: optim.Optimizer, max_iters: float = math.inf) -> int | None:
    """Load the newest intact checkpoint into a model and its optimizer, and cut the logs to their lengths at that
    checkpoint  ->  its step. None if there are no checkpoints: the run starts from step 0, and is the same run.
    ValueError if no checkpoint is intact, if it is of a step after max_iters, or if a log is not a file."""
    for path in _note_foreign(out_dir):
        if _is_named(path) and path.is_dir():           # a later checkpoint may have this name
            path.rename(path.with_name(f"{path.name}.moved"))
    record = restore(model, optimizer, newest_first(out_dir))
    if record is None:
        folder.note(f"{out_dir} holds no checkpoint: it starts again from step 0")
        record = {"step": None, "logs": {}}
    if (record["step"] or 0) > max_iters:
        raise ValueError(f"{out_dir} is at step {record['step']} already: --max_iters={max_iters} must be at least "
                         "that")
    for log in folder.LOGS:
        folder.cut_log(out_dir / log, record["logs"].get(log, 0))
    return record["step"]


def restore(model: GPT, optimizer: optim.Optimizer, paths: list[Path]) -> dict[str, Any] | None:
    """Load the first intact one of these checkpoints into a model and its optimizer  ->  the content of its JSON. None
    if there are no checkpoints, ValueError if all are damaged."""
    found = _first_intact(paths, sum(p.size for p in optimizer.params))
    if found is None:
        return None
    record, tensors = found
    _load_weights(model, tensors)
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer.load_state_dict({"t": [record["step"]] * len(optimizer.params)} | {
        moment: [tensors[f"optimizer.{moment}.{names[id(p)]}"] for p in optimizer.params]
        for moment in optimizer.moments})
    return record


def missing(out_dir: Path) -> ValueError:
    """The error for a run without a checkpoint."""
    return ValueError(f"{out_dir} holds no checkpoint yet: train first, with {train_command()} "
                      f"{folder.out_dir_option(out_dir)}")


def load_model(out_dir: Path, device: str = "cpu") -> tuple[GPT, tokenizer.Tokenizer]:
    """The model of a run at its checkpoint with the lowest validation loss, and its tokenizer. ValueError names what is
    missing or damaged."""
    options, _, shape = folder.read_config(out_dir)
    loaded = tokenizer.load(out_dir / "tokenizer.json")
    if options.get("tokenizer") == "model":         # of a table of embeddings that may be padded
        tokenizer.check_fits(loaded, shape.vocab_size, out_dir)
    elif len(loaded) != shape.vocab_size:
        raise ValueError(f"{out_dir / 'tokenizer.json'} has {len(loaded)} tokens and the model {shape.vocab_size}: it "
                         "is of another run; restore it from a copy")
    _note_foreign(out_dir)

    def best_first() -> list[Path]:
        # Damaged ones come first, so that each gets a note: the best may be one of them.
        return sorted(newest_first(out_dir), key=lambda path: (_record(path) is not None, _val_loss(path)))
    found = _first_intact(best_first(), trained_count(shape, lora.of_options(options)), best_first)
    if found is None:
        raise missing(out_dir)
    model = untrained(out_dir, options, shape, device)
    _load_weights(model, found[1])
    return model, loaded


def untrained(out_dir: Path, options: dict[str, Any], shape: GPTConfig, device: str = "cpu") -> GPT:
    """The model of a run before its first step. A note says of a broken run that it is one. ValueError if the frozen
    weights of a run that trains adapters are missing or damaged."""
    if adapters := lora.of_options(options):
        model = base.load(out_dir, shape, device, options["dtype"])
        lora.add_adapters(model, adapters.rank, adapters.alpha, adapters.targets, options["seed"])
        return model
    mistake = options.get("break_", "")
    if mistake:
        folder.note(f"{out_dir} is {lab.description(mistake)}")
    return lab.make(mistake, shape, device=device, dtype=options["dtype"])


def newest_step(out_dir: Path, last: float = math.inf) -> int | None:
    """The step of the newest intact checkpoint up to the step `last`; None if there is none. ValueError if none is
    intact."""
    def listed() -> list[Path]:
        return [path for path in newest_first(out_dir) if step_of(path) <= last]
    found = _first_intact(listed(), listed=listed)
    return found[0]["step"] if found else None


def last_intact(out_dir: Path) -> str:
    """A sentence for error messages: the step of the newest intact checkpoint."""
    try:
        step = newest_step(out_dir)
    except ValueError:
        return "No checkpoint is intact"
    except OSError as error:
        return f"Its checkpoints cannot be read now ({error.strerror})"
    return "Nothing was saved yet" if step is None else f"The checkpoint of step {step} is intact"


def _load_weights(model: GPT, tensors: Mapping[str, Any]) -> None:
    """Load the weights of a checkpoint into a model. ValueError if they do not fit."""
    frozen = {name: p for name, p in model.named_parameters() if not p.requires_grad}
    model.load_state_dict(frozen | weights(tensors))


def weights(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The weights among the tensors of a checkpoint."""
    return {name: tensors[name] for name in tensors if not name.startswith("optimizer.")}
