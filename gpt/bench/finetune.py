"""Fine-tuning a GPT-2 beside transformers: --finetune measures time and memory of training steps, sampling, loading.

Both sides load the same folder of random weights. Training steps and sampling take turns in one process; each figure of
memory, and each loading, is from a new process.
"""
import dataclasses
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any, Callable

import numpy as np

from minigrad.words import plural

from gpt.bench import machine
from gpt.bench.finetune_sides import make_finetune_side
from gpt.bench.memory import in_new_process, peak_rss
from gpt.bench.options import Options
from gpt.bench.presets import DROPOUT, RANK, TARGETS, TRAINED, Preset, prompt_and_new, random_batches
from gpt.bench.report import TOLERANCE, UNSTEADY, VARIES, ratio
from gpt.bench.sides import relative_differences, stages
from gpt.bench.timing import time_in_turn
from gpt.model import GPT, GPTConfig
from gpt.pretrained import TENSORS
from gpt.run.report import print_report

TINY = Preset(GPTConfig(32, 65, 1, 2, 64), 1)   # imports modules and loads loops before memory is measured
LOADINGS = 3                                    # of each side, in turn
STEPS = 3                                       # whose peak of memory is measured
Row = dict[str, dict[str, Any]]


def compare_finetune(o: Options, p: Preset, device: str) -> dict[str, Any]:
    """Check that both sides compute the same, measure them, and print a table; its figures, as --json writes them."""
    c, others = p.shape, sides_of_kinds()
    m = machine.describe(o.threads, device, "transformers" in others["full"])
    prompt, new = prompt_and_new(c.block_size)
    print_report("what", f"{o.preset}: {plural(c.n_layer, 'layer')}, {plural(c.n_head, 'head')}, {c.n_embd} wide, "
                 f"vocabulary {c.vocab_size}; steps on {p.tokens} tokens, dropout {DROPOUT}; LoRA of rank {RANK} in "
                 f"{', '.join(TARGETS)}; sampling {new} tokens after {prompt}")
    print_report("machine", machine.in_words(m))
    for package in ("transformers", "peft"):
        if importlib.util.find_spec(package):
            m[package] = importlib.metadata.version(package)
            print_report("beside", f"{package} {m[package]}")
    if "transformers" not in others["full"]:
        print_report("note", "minigrad alone: a comparison needs PyTorch and transformers")
    elif "transformers" not in others["LoRA"]:
        print_report("note", "LoRA of minigrad alone: a comparison needs PEFT")
    with tempfile.TemporaryDirectory() as scratch:
        folders = {folder: Path(scratch) / folder for folder in ("tiny", "real")}
        for folder, preset in zip(folders.values(), (TINY, p)):
            size = in_process(write_random, folder, preset.shape)
        differences = {kind: checked(kind, folders["real"], p) for kind in TRAINED if len(others[kind]) > 1}
        rows = {kind: measured(kind, names, folders, p, o) for kind, names in others.items()}
    print_table(rows, size)
    if any(side["p90_ms"] > UNSTEADY * side["p10_ms"] for row in rows.values() for side in row["sides"].values()):
        print(VARIES)
    return {"preset": o.preset, "shape": dataclasses.asdict(c), "batch_size": p.batch_size, "machine": m,
            "file_bytes": size, "differences": differences, "rows": rows}


def sides_of_kinds() -> dict[str, list[str]]:
    """The sides that each row of the table can have with the packages that are installed."""
    def has(*packages: str) -> bool:
        return all(importlib.util.find_spec(package) for package in packages)

    torch, peft = has("torch", "transformers"), has("torch", "transformers", "peft")
    return {kind: ["minigrad"] + ["transformers"] * (peft if kind.startswith("LoRA") else torch)
            for kind in (*TRAINED, "sampling", "loading")}


def write_random(folder: Path, shape: GPTConfig) -> int:
    """Write the folder of a GPT-2 of this shape with random weights; the size of its weights' file in bytes."""
    GPT(shape).save_pretrained(folder)
    return (folder / TENSORS).stat().st_size


def in_process(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), computed in a new process. ValueError if that process ends early."""
    found = in_new_process(function, *args)
    if found is None:
        raise ValueError("a process of the measurement ended early: was memory short?")
    return found


def checked(kind: str, folder: Path, p: Preset) -> dict[str, float]:
    """Relative differences between the two sides, without dropout and with adapters that are not zero. Ends the program
    with status 1 where they are larger than those of rounding."""
    ours, theirs = (make_finetune_side(name, folder, kind, dropout=0.0) for name in ("minigrad", "transformers"))
    rng = np.random.default_rng(0)
    for name, w in ours.model.named_parameters():
        if "lora_" in name:
            w.data[...] = rng.normal(0.0, 0.02, w.shape)
    found = relative_differences(ours, theirs, p)
    text = ", ".join(f"{what} {value:.0e}" for what, value in found.items())
    if not max(found.values()) < TOLERANCE:
        sys.exit(f"gpt.bench: minigrad and transformers do not compute the same, {kind}: relative differences {text}; "
                 f"rounding explains at most {TOLERANCE:.0e}. Nothing was measured")
    print_report("same", f"{kind}, without dropout; relative differences: {text}")
    return found


def measured(kind: str, names: list[str], folders: dict[str, Path], p: Preset, o: Options) -> dict[str, Any]:
    """A row of the table: time and memory of each side, and minigrad's divided by transformers'."""
    p = p._replace(generates=kind == "sampling")
    processes = [{name: in_process(use_memory, name, kind, folders, p, o.threads) for name in names}
                 for _ in range(LOADINGS if kind == "loading" else 1)]
    if kind == "loading":
        times = {name: np.array([each[name]["seconds"] for each in processes]) for name in names}
    else:
        sides = {name: make_finetune_side(name, folders["real"], kind) for name in names}
        times = time_in_turn(p, sides, None, o.seconds, o.steps)
    found = {}
    for name, t in times.items():
        p10, ms, p90 = (1e3 * np.quantile(t, (0.1, 0.5, 0.9))).tolist()
        found[name] = {"ms": ms, "p10_ms": p10, "p90_ms": p90, "all_ms": (1e3 * t).tolist(), **processes[0][name]}
        if kind == "sampling":
            found[name]["tokens_per_s"] = 1e3 / ms * p.batch_size * prompt_and_new(p.shape.block_size)[1]
    row: dict[str, Any] = {"sides": found}
    if len(names) > 1:
        ours, theirs = (found[name]["rise_bytes"] for name in names)
        row["ratio"] = {"time": ratio(times["minigrad"], times["transformers"])["of_pairs"],
                        "memory": ours / theirs if ours is not None and theirs else None}
    return row


def use_memory(name: str, kind: str, folders: dict[str, Path], p: Preset, threads: int) -> dict[str, Any]:
    """Load a side and run some steps, none for the kind "loading": the seconds that loading takes, the peak of this
    process's memory, and how far it rises above the peak with a tiny model, both in bytes. To be run in a new process,
    as a peak never falls."""
    with machine.on_threads(threads):
        for folder, preset in (("tiny", TINY._replace(generates=p.generates)), ("real", p)):
            before, start = peak_rss(), time.perf_counter()
            side = make_finetune_side(name, folders[folder], kind)
            seconds = time.perf_counter() - start
            for x, y in islice(random_batches(preset), STEPS * (kind != "loading")):
                for stage in stages(side, preset, x, y):
                    stage()
    peak = peak_rss()
    rise = None if before is None or peak is None else max(0, peak - before)
    return {"seconds": seconds, "peak_bytes": peak, "rise_bytes": rise}


def print_table(rows: dict[str, Any], size: int) -> None:
    """The rows, and what follows from them. size: of the file that was loaded, in bytes."""
    def mb(n: int | None) -> str:
        return "" if n is None else f"{n / 1e6:.0f}"

    names = list(rows["full"]["sides"])
    compared = len(names) > 1
    print(f"\n{'':26}" + "".join(f"{name:^28}" for name in names) + "  ours / theirs" * compared)
    print(f"{'':26}" + f"{'speed':>11}{'memory':>8}{'peak':>7}  " * len(names) + "  time   memory" * compared)
    for kind, row in rows.items():
        cells = "".join(f"{side.get('tokens_per_s', side['ms']):11.1f}{mb(side['rise_bytes']):>8}"
                        f"{mb(side['peak_bytes']):>7}  " for side in row["sides"].values())
        ratios = [f"{x:.2f}" if x is not None else "" for x in row["ratio"].values()] if "ratio" in row else ["", ""]
        print(f"{kind:17}{'tokens/s' if kind == 'sampling' else 'ms':9}{cells}{ratios[0]:>6}{ratios[1]:>9}".rstrip())
    print("\nMB: peak is that of a process, memory its rise over that with a tiny model. Ratios of times: of pairs.")
    for kind in ("full", "LoRA"):
        plain, again = (rows[name]["sides"]["minigrad"] for name in (kind, f"{kind}, recompute"))
        saved = "" if None in (plain["rise_bytes"], again["rise_bytes"]) else (
            f" and saves {mb(plain['rise_bytes'] - again['rise_bytes'])} MB")
        print(f"{kind}: recomputation takes {again['ms'] / plain['ms'] - 1.0:+.0%} of the time{saved}")
    loaded = [f"{name} {side['rise_bytes'] / size:.2f}" for name, side in rows["loading"]["sides"].items()
              if side["rise_bytes"] is not None]
    print(f"the file has {mb(size)} MB; the memory of loading is a multiple of it: {', '.join(loaded)}")
