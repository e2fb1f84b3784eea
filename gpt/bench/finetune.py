"""Fine-tuning a GPT-2 beside transformers: --finetune measures training steps, sampling and loading, in time and memory.

Both sides load the same folder of random weights. Training steps and sampling take turns in one process; each figure of
memory, and each loading, is from a new process.
"""
import dataclasses
import importlib.util
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.words import plural

from gpt.bench import machine
from gpt.bench.finetune_sides import ALPHA, DROPOUT, RANK, TARGETS, TRAINED, make_finetune_side, prompt_and_new
from gpt.bench.memory import in_new_process, peak_rss
from gpt.bench.options import Options
from gpt.bench.presets import Preset, random_batches
from gpt.bench.report import TOLERANCE, UNSTEADY, VARIES, ratio
from gpt.bench.sides import relative_differences, stages
from gpt.bench.timing import time_in_turn
from gpt.model import GPT, GPTConfig
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
    if "transformers" not in others["full"]:
        print_report("note", "minigrad alone: the comparison needs PyTorch and transformers")
    elif "transformers" not in others["LoRA"]:
        print_report("note", "LoRA: minigrad alone: the comparison needs PEFT")
    with tempfile.TemporaryDirectory() as scratch:
        folders = {folder: Path(scratch) / folder for folder in ("tiny", "real")}
        for folder, preset in zip(folders.values(), (TINY, p)):
            in_new_process(write_random, folder, preset.shape)
        size = (folders["real"] / "model.safetensors").stat().st_size
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


def write_random(folder: Path, shape: GPTConfig) -> None:
    """Write the folder of a GPT-2 of this shape with random weights."""
    GPT(shape).save_pretrained(folder)


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
                 f"rounding explains at most {TOLERANCE:.0e}. Nothing was timed")
    print_report("same", f"{kind}, without dropout; relative differences: {text}")
    return found


def measured(kind: str, names: list[str], folders: dict[str, Path], p: Preset, o: Options) -> dict[str, Any]:
    """A row of the table: time and memory of each side, and minigrad's divided by transformers'."""
    p = p._replace(generates=kind == "sampling")
    processes = [{name: in_new_process(use_memory, name, kind, folders, p, o.threads) for name in names}
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
        row["ratio"] = {"ms": ratio(times["minigrad"], times["transformers"]), "rise_bytes": ours / theirs}
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
    return {"seconds": seconds, "peak_bytes": peak, "rise_bytes": max(0, peak - before)}


def print_table(rows: dict[str, Any], size: int) -> None:
    """The rows; a file of so many bytes was loaded."""
    names = list(rows["full"]["sides"])
    head = [[f"{name:^28}" for name in names], [f"{'':6}speed{'memory':>8}{'peak':>7}  "] * len(names)]
    for cells, ratios in zip(head, ("ours / theirs", f"{'time':>4}{'memory':>9}")):
        print("\n" * (cells is head[0]) + f"{'':26}{''.join(cells)}{ratios if len(names) > 1 else ''}".rstrip())
    for kind, row in rows.items():
        unit = "tokens/s" if kind == "sampling" else "ms"
        cells = "".join(f"{side.get('tokens_per_s', side['ms']):11.1f}{side['rise_bytes'] / 1e6:8.0f}"
                        f"{side['peak_bytes'] / 1e6:7.0f}  " for side in row["sides"].values())
        ratios = f"{row['ratio']['ms']['of_pairs']:4.2f}{row['ratio']['rise_bytes']:9.2f}" if "ratio" in row else ""
        print(f"{kind:17}{unit:9}{cells}{ratios}".rstrip())
    print("MB: peak is that of a process; memory is how far it rises over the peak with a tiny model. The ratio of times "
          "is\nthe median of pairs, that of tokens/s is of times too.")
    loaded = ", ".join(f"{name} {side['rise_bytes'] / size:.2f}" for name, side in rows["loading"]["sides"].items())
    print(f"Memory of loading / size of the file, {size / 1e6:.0f} MB: {loaded}")
