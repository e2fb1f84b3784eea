"""The folder of a run: which one, and its files but for tokens and checkpoints.

    config.json         every option and the source of its value, and the model's shape; makes a folder a run
    env.json            the machine, its GPU, the libraries and the number of threads
    metrics.jsonl       training and validation losses, one JSON object per line
    stats.jsonl         norms of each tensor, its gradient and its update
    samples.md          texts that the model generated
    lock                only while a training runs: its process
"""
import contextlib
import dataclasses
import itertools
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any, Iterator, Mapping

from gpt import files
from gpt.model import GPTConfig
from gpt.run.command_line import train_command
from gpt.run.lock import locked

LOGS = ("metrics.jsonl", "stats.jsonl", "samples.md")
NORMS = ("weight_norm", "grad_norm", "update_norm", "update_ratio")     # of a row of stats.jsonl


# ---- which folder ----

def make(out_dir: str, dataset: str) -> Path:
    """Make the folder of a new run: out_dir, or the first of runs/<dataset>-001, -002, ... that does not exist."""
    if out_dir:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        return Path(out_dir)
    Path("runs").mkdir(exist_ok=True)
    for i in itertools.count(1):
        path = Path("runs", f"{Path(dataset).stem}-{i:03}")
        with contextlib.suppress(FileExistsError):      # of an earlier run, or of one that starts at the same time
            path.mkdir()
            break
    return path


@contextlib.contextmanager
def claimed(path: Path, new: bool = False) -> Iterator[Path]:
    """Inside, the folder of a run is locked. ValueError for a new run in a folder that has a run, for a folder in which
    another training runs, and for one with symbolic links, through which a run would write outside its folder."""
    with locked(path):
        for file in (*path.glob("*"), *path.glob("tokens/*"), *path.glob("checkpoints/*.tmp")):
            if file.is_symlink():
                raise ValueError(f"{file} is a symbolic link, and a run writes into its own folder alone: replace it "
                                 "by what it points to")
        if new:
            check_unused(path)
        yield path


def check_unused(path: Path) -> None:
    """ValueError if a folder has a run, or files that a run would add to; and if it is no folder."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a folder: choose another --out_dir")
    if _holds_model(path):
        raise ValueError(f"{path} holds a model: choose another --out_dir")
    if (path / "config.json").exists():
        raise ValueError(f"{path} holds a run already: --init_from=resume continues it; or choose another --out_dir")
    if _holds_parts(path):
        raise _without_config(path)


def _holds_model(path: Path) -> bool:
    """Whether a folder has the config.json of a model, as transformers writes it. False if that cannot be read."""
    try:
        return "model_type" in files.read_json(path / "config.json")
    except (OSError, ValueError):
        return False


def _holds_parts(path: Path) -> bool:
    """Whether a folder has files that only a run with a config.json writes."""
    return any(os.path.lexists(path / name) for name in (*LOGS, "checkpoints"))


def _without_config(path: Path) -> ValueError:
    return ValueError(f"{path} holds no run any more: {path / 'config.json'} is missing; {files.HOW_TO_GO_ON}")


def existing(out_dir: str) -> Path:
    """The folder that a command is given. ValueError for none."""
    if not out_dir:
        raise ValueError("which run? Give --out_dir=FOLDER, the folder that training wrote")
    return Path(out_dir)


def out_dir_option(out_dir: Path) -> str:
    """The option --out_dir as a shell reads it."""
    return f"--out_dir={shlex.quote(str(out_dir))}"


def note(text: str) -> None:
    """Print to stderr that something is missing or damaged, and the run goes on without it."""
    print(f"note    {text}", file=sys.stderr)


# ---- config.json, env.json ----

def write_config(out_dir: Path, options: Mapping[str, Any], sources: Mapping[str, str], shape: GPTConfig) -> None:
    """Write config.json."""
    files.write_sealed(out_dir / "config.json", {
        "options": {name: {"value": value, "from": sources[name]} for name, value in options.items()},
        "model": dataclasses.asdict(shape)})


def read_config(out_dir: Path) -> tuple[dict[str, Any], dict[str, str], GPTConfig]:
    """The options of a run, their sources, and the model's shape. ValueError if config.json is missing or damaged, and
    for the folder of a model."""
    path = out_dir / "config.json"
    if _holds_model(out_dir):
        raise ValueError(f"{out_dir} holds a model, not a run: give it as --model={out_dir}, or to train it "
                         f"--init_from={out_dir}")
    try:
        config = files.read_sealed(path, ("options", "model"))
    except FileNotFoundError:
        if _holds_parts(out_dir):
            raise _without_config(out_dir) from None
        raise ValueError(f"{out_dir} holds no run: train first, with {train_command()} "
                         f"{out_dir_option(out_dir)}") from None
    try:
        options = {name: o["value"] for name, o in config["options"].items()}
        if options["dtype"] not in ("float32", "float64"):
            raise ValueError(f"unknown dtype {options['dtype']!r}")
        return options, {name: str(o["from"]) for name, o in config["options"].items()}, GPTConfig(**config["model"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise files.damaged(path, repr(error)) from None


def write_environment(out_dir: Path, machine: Mapping[str, Any]) -> None:
    """Write env.json."""
    files.write_atomically(out_dir / "env.json", json.dumps(machine, indent=2).encode())


def changes_of_environment(out_dir: Path, machine: Mapping[str, Any]) -> list[str]:
    """What differs from env.json, in words. Where that is missing or damaged it is written again, with a note."""
    try:
        was = files.read_json(out_dir / "env.json")
    except (OSError, ValueError):
        note(f"{out_dir / 'env.json'} is missing or damaged and is written again: whether the machine is another one "
             "than before is not known")
        write_environment(out_dir, machine)
        return []
    return [f"{name} {was[name]!r:.60} -> {now!r}" for name, now in machine.items() if was.get(name, now) != now]


# ---- logs ----

def append(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows to a file of JSON lines."""
    files.append(path, "".join(json.dumps(row) + "\n" for row in rows))


def append_samples(out_dir: Path, title: str, texts: list[str]) -> None:
    """Append samples to samples.md."""
    files.append(out_dir / "samples.md",
                 f"## {title}\n\n" + "".join(f"```text\n{text.strip()}\n```\n\n" for text in texts))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none if there is no file. Damaged lines are left out."""
    if not path.exists():
        return []
    with files.open_regular(path) as file:
        return [row for row in map(_row, file.read().splitlines()) if row is not None]


def cut_log(path: Path, size: int) -> None:
    """Cut a log to its first `size` bytes, its length at a checkpoint. Lines that are damaged are left out, with a
    note: a run can go on without them. ValueError if it is not a regular file."""
    if not os.path.lexists(path):
        if size:
            note(f"{path} is missing: what happened before this checkpoint is not in it any more")
        return
    with files.open_regular(path) as file:
        there = os.fstat(file.fileno()).st_size
        data = file.read(min(size, there))
    lines = data.splitlines(keepends=True)
    good = [line for line in lines if path.suffix == ".md" or line.endswith(b"\n") and _row(line) is not None]
    if there < size or len(good) < len(lines):
        note(f"{path} is damaged: {len(lines) - len(good)} of its {len(lines)} lines cannot be read and are left out, "
             f"{max(size - there, 0):,} bytes are missing")
    files.write_atomically(path, b"".join(good))


def _row(line: bytes) -> dict[str, Any] | None:
    """The row in a line of metrics.jsonl or stats.jsonl: its step and other numbers. None if the line is damaged."""
    try:
        row = json.loads(line)
        right = (type(row["step"]) is int and isinstance(row.get("tensor", ""), str)
                 and ("tensor" not in row or row.keys() >= set(NORMS))
                 and all(_is_number(value) or name == "tensor" or value is None and name.endswith("_se")
                         for name, value in row.items()))
        return row if right else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _is_number(value: Any) -> bool:
    return type(value) is float or type(value) is int and 0 <= value < 2 ** 53
