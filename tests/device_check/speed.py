"""How long training steps take, and how many launches they have."""
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable

import cupy

from minigrad import device

from gpt.run import folder

from .commands import last_line, run
from .found import Found
from .training import SHAPES, TOKENS, Training


def steps(found: Found) -> None:
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        status, output = run(found, "gpt.train", "--device=cuda", "--max_iters=800", f"--out_dir={out}/run")
        seconds = time.perf_counter() - start
        if status:
            raise RuntimeError(f"gpt.train ended with status {status}: {last_line(output)}")
        metrics = folder.read_rows(Path(out, "run", "metrics.jsonl"))
    ms = found.spread("a step", (1e3 * TOKENS / row["tokens_per_s"] for row in metrics[5:] if "tokens_per_s" in row),
                      "ms")
    last = next(row["full_val_loss"] for row in metrics if "full_val_loss" in row)
    found.number("seconds of the whole command", seconds)
    found.number("validation loss", last)
    found.answer(f"{ms:.1f} ms a step of 768 tokens, the median of 800; the whole command takes {seconds:.0f} s and "
                 f"ends at a validation loss of {last:.3f}")


def launches(found: Found) -> None:
    for name, (shape, rows) in SHAPES.items():
        step = Training(shape, rows).step
        for _ in range(3):
            step()
        ms = found.spread(f"{name}: a step", timed(step, 20, wait=True), "ms")
        host = found.spread(f"{name}: the host's part of a step", timed(step, 20, wait=False), "ms")
        kernels = traced(step)
        found.number(f"{name}: launches of a step", {"kernels": len(kernels), "by name": [
            [*row] for row in Counter(kernel for kernel, _ in kernels).most_common(25)]})
        if kernels:
            busy = sum(us for _, us in kernels) / 1e3
            found.number(f"{name}: ms in which the device is busy", busy)
            found.answer(f"{name}: {len(kernels)} launches and copies a step, which takes {ms:.1f} ms, the host's part "
                         f"{host:.1f}; the device is busy for {busy:.2f} ms, {busy / ms:.0%}: "
                         f"{'bound by launches' if host > busy else 'bound by the device'}")
        else:
            a = cupy.ones(1024, "float32")
            call = min(timed(lambda: cupy.add(a, a, a), 200, wait=False))
            found.answer(f"{name}: a step takes {ms:.1f} ms, the host's part {host:.1f}; no profiler is here, so an "
                         f"estimate: as long as {host / call:.0f} launches of a ufunc")


def timed(f: Callable[[], Any], n: int, wait: bool) -> list[float]:
    """Milliseconds of n calls. wait: until the device has computed each; else only the time of the host."""
    found = []
    for _ in range(n):
        device.synchronize()
        start = time.perf_counter()
        f()
        if wait:
            device.synchronize()
        found.append(1e3 * (time.perf_counter() - start))
    device.synchronize()
    return found


def traced(f: Callable[[], Any]) -> list[tuple[str, float]]:
    """The name and the microseconds of every kernel and copy that f() queues. PyTorch's profiler sees those of the
    whole process; empty where it does not work."""
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
        torch.cuda.init()
    except (ImportError, OSError, RuntimeError, AssertionError) as error:
        print(f"no profiler: {error}")
        return []
    for _ in range(2):                          # the first one starts CUPTI
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            f()
            device.synchronize()
    with tempfile.TemporaryDirectory() as out:
        profiler.export_chrome_trace(f"{out}/trace.json")
        events = json.loads(Path(out, "trace.json").read_text("utf-8"))["traceEvents"]
    return [(event["name"][:80], event["dur"]) for event in events
            if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]


def bench(found: Found) -> None:
    for preset in ("gpu8", "gpt2"):
        with tempfile.TemporaryDirectory() as out:
            status, output = run(found, "gpt.bench", "--device=cuda", "--vs=torch", f"--preset={preset}", "--seconds=3",
                                 f"--json={out}/bench.json")
            if status:
                found.answer(f"{preset}: gpt.bench ended with status {status}: {last_line(output)}", False)
                continue
            report = json.loads(Path(out, "bench.json").read_text("utf-8"))
        for side in report["sides"].values():
            del side["all_ms"]
        found.number(preset, report)
        ours, peer = report["sides"]["minigrad"], report["sides"]["PyTorch"]
        found.answer(f"{preset}: {ours['ms']:.1f} ms a step, PyTorch {peer['ms']:.1f}: "
                     f"{report['ratios']['PyTorch']['of_pairs']:.2f} of its time; {ours['of_peak']:.0%} of the peak "
                     f"of {report['peak_gflops'] / 1e3:.1f} TFLOP/s; memory {gigabytes(ours)}, PyTorch "
                     f"{gigabytes(peer)}")


def gigabytes(side: dict[str, Any]) -> str:
    return "unknown" if side["memory_bytes"] is None else f"{side['memory_bytes'] / 1e9:.2f} GB"
