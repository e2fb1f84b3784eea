"""How much memory a side needs."""
import contextlib
import multiprocessing
import re
import sys
from itertools import islice
from typing import Any, Callable

from minigrad.command import end_on_signals

from gpt.bench.machine import on_threads, system_file
from gpt.bench.presets import Preset, random_batches
from gpt.bench.sides import make_side, stages
from gpt.model import GPTConfig


def peak_memory(name: str, p: Preset, device: str, threads: int) -> int | None:
    """Bytes by which a side raises the peak memory of a process that has imported everything it needs: on a device, of
    that device. None where the system does not tell. To be run in a new process, as a peak never falls."""
    with on_threads(threads):
        # the first step imports modules, loads compiled loops, which small arrays do not run, and starts threads
        tiny = Preset(GPTConfig(32, 65, 1, 2, 64), 1, p.generates)
        for each in (tiny, p):
            before, side = peak_rss(), make_side(name, each, device)
            for x, y in islice(random_batches(each), 3):
                for stage in stages(side, each, x, y):
                    stage()
        if device != "cpu":
            return side.device_memory()
        after = peak_rss()
    return None if before is None or after is None else after - before


def in_new_process(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), computed in a new process; no thread is started in this one. None if that process dies or
    cannot be started."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, *args))
    try:
        process.start()
    except OSError:
        return None
    sender.close()                              # so that recv raises EOFError if the process dies
    try:
        return receiver.recv()
    except EOFError:
        return None
    finally:
        process.join()


def _send(sender: Any, function: Callable[..., Any], *args: Any) -> None:
    """The new process: send function(*args)."""
    end_on_signals()
    with contextlib.suppress(BrokenPipeError):      # Ctrl-C has ended the process that waits for the result
        sender.send(function(*args))


def peak_rss() -> int | None:
    """The peak resident memory of this process, in bytes; None where the system does not tell."""
    found = re.search(r"VmHWM:\s+(\d+) kB", system_file("/proc/self/status"))
    if found:                                   # on Linux getrusage also counts the process that started this one
        return int(found[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
