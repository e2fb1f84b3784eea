"""Times of whole steps, of all sides in turn."""
import math
import time
from typing import Any, Callable

import numpy as np

from gpt.bench.presets import Preset, random_batches
from gpt.bench.sides import stages

WARM_UP, MIN_STEPS = 3, 5                       # steps that are not timed, and timed at least
PAUSE = 0.02                                    # seconds, in which the other side's threads stop spinning
TURN = 0.05                                     # seconds of a turn: the first step after a pause is slower than others


def time_in_turn(p: Preset, sides: dict[str, Any], floor: Callable[[], Any] | None, seconds: float,
                 steps: int) -> dict[str, np.ndarray]:
    """Seconds of each step of each side and of the floor, which take turns: one step of each per round. Where steps are
    short, a turn has several on the same batch, and the result is their mean."""
    times: dict[str, list[float]] = {name: [] for name in [*sides, *(["floor"] if floor else [])]}
    end, repeats = np.inf, dict.fromkeys(times, 1)
    for rounds, (x, y) in enumerate(random_batches(p)):
        if rounds == WARM_UP:
            end = time.perf_counter() + seconds * len(times)
            repeats = {name: math.ceil(TURN / min(t)) for name, t in times.items()}
        if rounds >= WARM_UP + (steps or MIN_STEPS) and (steps or time.perf_counter() > end):
            break
        for name, t in times.items():
            runs = [floor] if floor and name == "floor" else stages(sides[name], p, x, y)
            time.sleep(PAUSE)
            start = time.perf_counter()
            for run in runs * repeats[name]:
                run()
            t.append((time.perf_counter() - start) / repeats[name])
    return {name: np.array(t[WARM_UP:]) for name, t in times.items()}
