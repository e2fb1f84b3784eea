"""python -m tests.randomised: exits with status 1 if a trial fails."""
import gpt  # noqa: F401  (before NumPy: it configures BLAS)

import contextlib
import dataclasses
import secrets
import sys
import time
from typing import Any, Callable

import numpy as np

from gpt.run.command_line import bad_input_exits, one_of, option, parse

from . import damage, kills, nets, processes, programs

Trial = Callable[[np.random.Generator], Any]    # returns None, or what is wrong and what repeats it
PARTS: dict[str, tuple[float, Callable[[Any], Trial]]] = {      # share of the time, trial from a folder of tiny runs
    "programs": (0.45, lambda folder: programs.trial),
    "nets": (0.1, lambda folder: nets.trial),
    "runs": (0.2, lambda folder: damage.Runs(folder).trial),
    "models": (0.1, lambda folder: damage.Models(folder).trial),
    "kills": (0.15, lambda folder: kills.Kills(folder).trial),
}


@dataclasses.dataclass
class Options:
    """Check on random inputs: python -m tests.randomised --name=value ..."""
    seed: int = option(0, "of all trials; 0: a fresh one, which is printed")
    seconds: float = option(60.0, "how long, in all")
    only: str = option("", f"one part: {', '.join(PARTS)}")
    trial: int = option(-1, "one trial of that part, by its number")

    def __post_init__(self) -> None:
        one_of("only", self.only, ("", *PARTS))
        if self.seed < 0 or (self.trial >= 0 and not self.only):
            raise ValueError("--seed must not be negative, and --trial needs --only=PART")


def main(arguments: list[str]) -> int:
    """0 if all trials pass, 1 if one fails."""
    with bad_input_exits("tests.randomised"):
        o = parse(Options, arguments)
    seed, ok = o.seed or secrets.randbelow(10 ** 9), True
    print(f"seed    {seed}", flush=True)
    with contextlib.nullcontext() if o.only in ("programs", "nets") else processes.prepared() as folder:
        for number, (name, (share, make)) in enumerate(PARTS.items()):
            if o.only in ("", name):
                numbers = range(o.trial, o.trial + 1) if o.trial >= 0 else None
                seconds = o.seconds if o.only else o.seconds * share
                ok &= passes(name, make(folder), (seed, number), numbers, seconds)
    return 0 if ok else 1


def passes(name: str, trial: Trial, seeds: tuple[int, int], numbers: range | None, seconds: float) -> bool:
    """Run trials, those with these numbers or as many as the time allows, up to the first that fails. Prints it."""
    end, n = time.monotonic() + seconds, 0
    for n in numbers or range(10 ** 9):
        if n and not numbers and time.monotonic() > end:
            break
        found = trial(np.random.default_rng([*seeds, n]))
        if found is not None:
            message, repeat = found
            print(f"{name:<11} FAILED: {message}\n\n{repeat}\n"
                  f"Repeat it with  python -m tests.randomised --only={name} --seed={seeds[0]} --trial={n}", flush=True)
            return False
    print(f"{name:<11} {len(numbers) if numbers else n} trials passed", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
