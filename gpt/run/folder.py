"""The folder of a run: which one, and its files but for tokens and checkpoints.

    config.json         every option and the source of its value, and the model's shape; makes a folder a run
    env.json            the machine, the libraries and the number of threads
    metrics.jsonl       training and validation losses, one JSON object per line
    stats.jsonl         norms of each tensor, its gradient and its update
    samples.md          texts that the model generated
"""
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any, Mapping

from gpt.files import write_atomically as write_atomically
from gpt.model import GPTConfig
from gpt.run.command_line import train_command

LOGS = ("metrics.jsonl", "stats.jsonl", "samples.md")


def choose(out_dir: str, dataset: str, resumed: bool) -> Path:
    """The folder of a run: out_dir, or the first of runs/<dataset>-001, -002, ... that does not exist. ValueError for
    a new run in a folder that has a run."""
    name = Path(dataset).stem
    numbered = (Path("runs", f"{name}-{i:03}") for i in itertools.count(1))
    chosen = Path(out_dir) if out_dir else next(path for path in numbered if not path.exists())
    if not resumed and (chosen / "config.json").exists():
        raise ValueError(f"{chosen} holds a run already: --init_from=resume continues it; or choose another --out_dir")
    return chosen


def existing(out_dir: str) -> Path:
    """The folder that a command is given. ValueError for none."""
    if not out_dir:
        raise ValueError("which run? Give --out_dir=FOLDER, the folder that training wrote")
    return Path(out_dir)


# ---- config.json ----

def write_config(out_dir: Path, options: Mapping[str, Any], sources: Mapping[str, str], shape: GPTConfig) -> None:
    """Write config.json."""
    config = {"options": {name: {"value": value, "from": sources[name]} for name, value in options.items()},
              "model": dataclasses.asdict(shape)}
    write_atomically(out_dir / "config.json", json.dumps(config, indent=2).encode())


def read_config(out_dir: Path) -> tuple[dict[str, Any], dict[str, str], GPTConfig]:
    """The options of a run, their sources, and the model's shape. ValueError if config.json is missing or damaged."""
    try:
        config = json.loads((out_dir / "config.json").read_text("utf-8"))
        return ({name: o["value"] for name, o in config["options"].items()},
                {name: o["from"] for name, o in config["options"].items()}, GPTConfig(**config["model"]))
    except FileNotFoundError:
        raise ValueError(f"{out_dir} holds no run: train first, with {train_command()} "
                         f"--out_dir={out_dir}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{out_dir / 'config.json'} is damaged ({error!r}): restore it from a copy") from None


# ---- logs ----

def append(path: Path, *rows: dict[str, Any]) -> None:
    """Append rows to a file of JSON lines."""
    with open(path, "a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines; none if there is no file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def append_samples(out_dir: Path, title: str, texts: list[str]) -> None:
    """Append samples to samples.md."""
    with open(out_dir / "samples.md", "a", encoding="utf-8") as file:
        file.write(f"## {title}\n\n" + "".join(f"```text\n{text.strip()}\n```\n\n" for text in texts))
