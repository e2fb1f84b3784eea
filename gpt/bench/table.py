"""The reports of several presets as one table."""
import math
from typing import Any

from gpt.bench.machine import executor_name, in_words
from gpt.bench.presets import PRESETS

ORDER = "textbook", "vector", "minigrad", "PyTorch", "torch.compile"


def markdown(reports: list[dict[str, Any]]) -> str:
    """A line that names the machine, and a Markdown table with a row for each report of `gpt.bench.report.compare`:
    time and memory of a step of each side, and ratios of minigrad's time to that of the vector kernels and PyTorch,
    medians of pairs. The side "minigrad" is called by what ran: loops, vector, textbook or cuda."""
    machine = reports[0]["machine"]
    ran = executor_name(machine)
    sides = [name for name in ORDER if any(name in report["sides"] for report in reports)]
    others = [name for name in sides if name not in ("minigrad", "textbook")]
    heading = ["preset", "layers, heads, width, block, batch, vocabulary",
               *(f"{ran if name == 'minigrad' else name}: ms, MB" for name in sides),
               *(f"{ran} / {name}" for name in others)]
    rows = [heading, ["---"] * len(heading)]
    for report in reports:
        found, ratios = report["sides"], report["ratios"]
        rows.append([report["preset"], sizes(report["preset"]),
                     *(step(found[name]) if name in found else "" for name in sides),
                     *(f"{ratios[name]['of_pairs']:.2f}" if name in ratios else "" for name in others)])
    return "\n".join([in_words(machine), "", *(f"| {' | '.join(row)} |" for row in rows)])


def sizes(preset: str) -> str:
    """The sizes of a preset in the order of the table's heading."""
    p = PRESETS[preset]
    c = p.shape
    numbers = f"{c.n_layer}, {c.n_head}, {c.n_embd}, {c.block_size}, {p.batch_size}, {c.vocab_size}"
    return f"{numbers}; samples {p.tokens} tokens" if p.generates else numbers


def step(row: dict[str, Any]) -> str:
    """Milliseconds, with three digits, and megabytes of a step of a side: "26.8, 48"."""
    decimals = max(0, 2 - math.floor(math.log10(row["ms"])))
    memory = "" if row["memory_bytes"] is None else f", {row['memory_bytes'] / 1e6:.0f}"
    return f"{row['ms']:.{decimals}f}{memory}"
