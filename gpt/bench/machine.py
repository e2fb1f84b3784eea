"""The machine that the figures are from: its processor and libraries, and the cores and threads that are used."""
import contextlib
import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any, Iterable, Iterator

import numpy as np

import minigrad as mg
from minigrad.device import library

from gpt import blas
from gpt.run.machine import allowed_cores, device_of, executor


CORES = allowed_cores()


@contextlib.contextmanager
def on_threads(n: int) -> Iterator[None]:
    """Inside, this process runs on n cores, and matrix products on n threads."""
    def pin(cores: Iterable[int]) -> None:
        if hasattr(os, "sched_setaffinity"):
            for thread in os.listdir("/proc/self/task"):        # BLAS's threads exist already
                with contextlib.suppress(ProcessLookupError):           # it has ended meanwhile
                    os.sched_setaffinity(int(thread), cores)

    threads, cores = mg.get_num_threads(), allowed_cores()
    mg.set_num_threads(n)
    pin(CORES[:n])
    try:
        yield
    finally:
        pin(cores)
        mg.set_num_threads(threads)


def describe(threads: int, device: str, with_torch: bool) -> dict[str, Any]:
    """What the figures depend on: processor, cores, threads, device and versions."""
    model = re.search(r"model name\s*: (.+)", system_file("/proc/cpuinfo"))
    found = {"cpu": model[1] if model else platform.processor() or platform.machine(), "cores": len(CORES),
             "threads": threads, "device": device, "python": platform.python_version(), "numpy": np.__version__,
             "blas": blas.describe(), "executor": executor(device), **library(device).facts()}
    if with_torch:
        found["torch"] = importlib.import_module("torch").__version__
    return found


def executor_name(found: dict[str, Any]) -> str:
    """The name of what runs minigrad's ops, from what `describe` found: loops, vector, textbook or cuda."""
    return str(found["executor"]).split()[0]


def in_words(found: dict[str, Any]) -> str:
    """What `describe` found, in one line."""
    torch = f", PyTorch {found['torch']}" if "torch" in found else ""
    return (f"{found['cpu']}, {found['threads']} of {found['cores']} cores, {device_of(found)}, Python "
            f"{found['python']}, NumPy {found['numpy']}, {found['blas']}{torch}; minigrad runs {found['executor']}")


def system_file(path: str) -> str:
    """The text of a file of the operating system; empty where there is no such file."""
    return Path(path).read_text("utf-8") if Path(path).exists() else ""
