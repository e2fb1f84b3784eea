"""python -m tests.randomised: exits with status 1 if a trial fails."""
import gpt  # noqa: F401  (before NumPy: it configures BLAS)

import dataclasses
import secrets
import sys
import time
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from gpt.run.command_line import bad_input_exits, one_of, option, parse

from . import damage, kills, nets, processes, programs

Trial = Callable[[np.random.Generator], Any]    # returns None, or what is wrong and what repeats it
SHARES = {"programs": 0.45, "nets": 0.1, "runs": 0.2, "models": 0.1, "kills": 0.15}     # of the time


@dataclasses.dataclass
class Options:
    """Check on random inputs: python -m tests.randomised --name=value ..."""
    seed: int = option(0, "of all trials; 0: a fresh one, which is printed")
    seconds: float = option(60.0, "how long, in all")
    only: str = option("", f"one part: {', '.join(SHARES)}")
    trial: int = option(-1, "one trial of that part, by its number")

    def __post_init__(self) -> None:
        one_of("only", self.only, ("", *SHARES))
        if self.seed < 0 or (self.trial >= 0 and not self.only):
            raise ValueError("--seed must not be negative, and --trial needs --only=PART")


def parts(folder: Path) -> Iterator[tuple[str, Trial]]:
    """The name and the trial of each part. folder: with the runs of `processes.prepared`."""
    yield "programs", programs.trial
    yield "nets", nets.trial
    yield "runs", damage.Runs(folder).trial
    yield "models", damage.Models(folder).trial
    yield "kills", kills.Kills(folder).trial


def main(arguments: list[str]) -> int:
    """0 if all trials pass, 1 if one fails."""
    with bad_input_exits("tests.randomised"):
        o = parse(Options, arguments)
    seed, failed = o.seed or secrets.randbelow(10 ** 9), False
    print(f"seed    {seed}", flush=True)
    with processes.prepared() as folder:
        for number, (name, trial) in enumerate(parts(folder)):
            if o.only in ("", name):
                numbers = range(o.trial, o.trial + 1) if o.trial >= 0 else None
                seconds = o.seconds * (1.0 if o.only else SHARES[name])
                failed |= not passes(name, trial, (seed, number), numbers, seconds)
    return int(failed)


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
