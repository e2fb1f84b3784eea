"""The comparison of all sides at one preset: checked, timed, printed."""
import dataclasses
import sys
from typing import Any

import numpy as np

from minigrad.words import plural

from gpt.bench import machine
from gpt.bench.matmul_floor import floor, floor_flops, step_flops
from gpt.bench.memory import in_new_process, peak_memory
from gpt.bench.op_times import time_ops
from gpt.bench.options import Options
from gpt.bench.presets import Preset
from gpt.bench.sides import make_side, relative_differences
from gpt.bench.timing import time_in_turn
from gpt.run.machine import matmul_peak
from gpt.run.report import print_report

TOLERANCE = 1e-4                                # of relative differences between two sides in float32
UNSTEADY = 1.5                                  # 90th percentile / 10th percentile: above it, other programs disturb
VARIES = "The times vary a lot: other programs are running and slow some sides more than others. Run it again."
Row = dict[str, Any]


def compare(o: Options, p: Preset, device: str) -> dict[str, Any]:
    """Check that all sides compute the same, time them, and print a report; its figures, as --json writes them."""
    m, c = machine.describe(o.threads, device, "PyTorch" in o.sides), p.shape
    print_report("what", f"{o.preset}: {plural(c.n_layer, 'layer')}, {plural(c.n_head, 'head')}, {c.n_embd} wide, "
                 f"block {c.block_size}, vocabulary {c.vocab_size}, batch {p.batch_size}; a step "
                 f"{'samples' if p.generates else 'trains on'} {p.tokens} tokens")
    print_report("machine", machine.in_words(m))
    memory = {name: in_new_process(peak_memory, name, p, device, o.threads) for name in o.sides
              if name != "torch.compile"}       # its compiler needs more memory than the step
    sides, differences = checked_sides(o, p, device)

    best = None if p.generates else floor(p, device)
    peaks = [matmul_peak(device, "float32") for _ in range(5 if device == "cpu" else 1)]
    times = time_in_turn(p, sides, best, o.seconds, o.steps)
    if best:
        peaks.append(floor_flops(p) / float(min(times["floor"])))
    peak = max(peaks)
    print_report("timed", f"{len(times['minigrad'])} steps of each, in turn; a matrix product reaches "
                 f"{peak / 1e9:.0f} GFLOP/s")
    rows = {name: side_row(name, p, times, peak, memory.get(name)) for name in times}
    print_sides(rows)
    ratios = {name: ratio(times["minigrad"], times[name]) for name in differences}
    for name, r in ratios.items():
        print(f"minigrad takes {r['of_medians']:.3f} of the time of {name}; pair by pair {r['of_pairs']:.3f} "
              f"({r['p10']:.3f} - {r['p90']:.3f})")
    if any(row["p90_ms"] > UNSTEADY * row["p10_ms"] for row in rows.values()):
        print(VARIES)

    ops = time_ops(sides["minigrad"], p)
    watching = sum(row["forward_ms"] + row["backward_ms"] for row in ops) / rows["minigrad"]["ms"] - 1.0
    print_ops(ops, watching)
    return {"preset": o.preset, "shape": dataclasses.asdict(c), "batch_size": p.batch_size, "machine": m,
            "peak_gflops": peak / 1e9, "sides": rows, "differences": differences, "ratios": ratios, "ops": ops,
            "watching": watching}


def checked_sides(o: Options, p: Preset, device: str) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """The sides by name, and how far each differs from minigrad. Ends the program with status 1 where the difference is
    larger than that of rounding."""
    sides, differences = {name: make_side(name, p, device) for name in o.sides}, {}
    for name in o.sides[1:]:
        try:
            found = relative_differences(make_side("minigrad", p, device), sides[name], p)
        except RuntimeError as error:           # no compiler, or one that does not support this machine
            if name != "torch.compile":
                raise
            print_report("note", f"torch.compile does not work here: {str(error).strip().splitlines()[0]}")
            del sides[name]
            continue
        text = ", ".join(f"{what} {value:.0e}" for what, value in found.items())
        if not max(found.values()) < TOLERANCE:
            sys.exit(f"gpt.bench: minigrad and {name} do not compute the same: relative differences {text}; rounding "
                     f"explains at most {TOLERANCE:.0e}. Nothing was timed")
        print_report("same", f"as {name} from the same weights and batches; relative differences: {text}")
        differences[name] = found
    return sides, differences


def side_row(name: str, p: Preset, times: dict[str, np.ndarray], peak: float, memory: int | None) -> Row:
    """The figures of a side, or of the floor. peak: floating-point operations per second; memory: bytes."""
    seconds = times[name]
    p10, ms, p90 = (1e3 * np.quantile(seconds, (0.1, 0.5, 0.9))).tolist()
    rate = 1e3 / ms * (floor_flops(p) if name == "floor" else step_flops(p))
    of_floor = 1e3 * float(np.median(times["floor"])) / ms if "floor" in times else None
    return {"ms": ms, "p10_ms": p10, "p90_ms": p90, "tokens_per_s": 1e3 / ms * p.tokens, "gflops": rate / 1e9,
            "of_peak": rate / peak, "of_floor": of_floor, "memory_bytes": memory, "all_ms": (1e3 * seconds).tolist()}


def ratio(minigrad: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Times of minigrad / times of another side: of the medians, and of the steps of each round."""
    p10, median, p90 = np.quantile(minigrad / other, (0.1, 0.5, 0.9)).tolist()
    return {"of_medians": float(np.median(minigrad) / np.median(other)), "of_pairs": median, "p10": p10, "p90": p90}


def print_sides(rows: dict[str, Row]) -> None:
    print(f"\n{'':14} ms/step    p10 - p90     tokens/s  GFLOP/s  of peak  of floor    memory")
    for name, row in rows.items():
        of_floor = "" if row["of_floor"] is None else f"{row['of_floor']:.1%}"
        memory = "" if row["memory_bytes"] is None else f"{row['memory_bytes'] / 1e6:.0f} MB"
        digits = 1 if row["ms"] >= 10.0 else 3
        ms, p10, p90 = (f"{row[key]:.{digits}f}" for key in ("ms", "p10_ms", "p90_ms"))
        print(f"{name:14} {ms:>7} {p10:>7} - {p90:<7} {row['tokens_per_s']:9,.0f} "
              f"{row['gflops']:8.1f} {row['of_peak']:8.1%} {of_floor:>9} {memory:>9}")


def print_ops(rows: list[Row], watching: float) -> None:
    """watching: the relative change of the step's time by the timing of each op."""
    print(f"\n{'op':20} calls   forward  backward   share     ms per step; timing ops changed it by {watching:+.0%}")
    for row in rows:
        print(f"{row['op']:20} {row['calls']:5} {row['forward_ms']:9.3f} {row['backward_ms']:9.3f} {row['share']:7.1%}")
