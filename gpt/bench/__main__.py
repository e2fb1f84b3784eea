"""How fast whole training steps are on this machine, compared with its matrix products, the textbook ops, or PyTorch.

    python -m gpt.bench                                     minigrad alone, in the sizes of the preset `cpu`
    python -m gpt.bench --vs=torch --preset=gpu8            in turn with PyTorch, after both gave the same numbers
    python -m gpt.bench --vs=all                            in turn with all that runs here: textbook, vector, PyTorch
    python -m gpt.bench --preset=gen --vs=torch             sampling with a key-value cache instead of training
    python -m gpt.bench --preset=all --vs=all               all presets, one after the other, and a table of them
    python -m gpt.bench --scaling=scaling.png               time per token against each size of the model
    python -m gpt.bench --ranks=2                           2 processes x 1 thread in turn with 1 x 2 threads
    python -m gpt.bench --finetune                          fine-tuning a GPT-2, in turn with transformers

A step is forward, backward, clipping and AdamW on a fresh random batch, in float32. All sides are timed in one process,
in turn, with a pause before each, so that other programs slow them equally; medians are reported. The preset `gen`
samples tokens. With --ranks, whole runs take turns, as each has processes of its own. --preset=cpu,gpu8 times several
presets; --json then writes a list of their reports.
"""
import dataclasses
import importlib
import json
import sys
from pathlib import Path
from typing import Any

from minigrad.command import end_on_signals
from minigrad.device import resolve

from gpt.bench.finetune import compare_finetune
from gpt.bench.machine import on_threads
from gpt.bench.options import Options
from gpt.bench.presets import PRESETS
from gpt.bench.ranks import compare_ranks
from gpt.bench.report import compare
from gpt.bench.scaling import measure_scaling, plot_scaling
from gpt.bench.table import markdown
from gpt.run.command_line import bad_input_exits, parse


def main(arguments: list[str]) -> None:
    with bad_input_exits("gpt.bench"):
        o = parse(Options, arguments)
        device = resolve(o.device)
        if "PyTorch" in o.sides:
            check_torch(device)
        for path in filter(None, (o.scaling, o.json)):
            if Path(path).is_dir():
                raise ValueError(f"{path} is a folder: give the name of a file")
            Path(path).touch()                  # an error now rather than after the measurement
        found: list[dict[str, Any]] = []
        for name in o.presets:
            if found:
                print()
            measure = (compare_finetune if o.finetune else measure_scaling if o.scaling else
                       compare_ranks if o.ranks > 1 else compare)
            with on_threads(o.threads):
                found.append(measure(dataclasses.replace(o, preset=name), PRESETS[name], device))
        if o.scaling:
            plot_scaling(Path(o.scaling), found[0])
        if len(found) > 1 and o.ranks == 1 and not o.finetune:
            print(f"\n{markdown(found)}")
        if o.json:
            Path(o.json).write_text(json.dumps(found if len(found) > 1 else found[0], indent=1), "utf-8")


def check_torch(device: str) -> None:
    """ValueError if the installed PyTorch does not load, or has no CUDA device where `device` is one."""
    try:
        torch_side = importlib.import_module("gpt.bench.torch_side")
    except (ImportError, OSError) as error:
        raise ValueError(f"PyTorch is installed but does not load ({str(error).splitlines()[0]})") from None
    if device != "cpu" and not torch_side.torch.cuda.is_available():
        raise ValueError(f"--device={device}: comparing with PyTorch needs a PyTorch for CUDA: the installed one has "
                         "no CUDA device")


if __name__ == "__main__":
    end_on_signals()
    main(sys.argv[1:])
