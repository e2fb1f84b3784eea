"""What the processes of a run agree on before it starts: options, text, device; and notes on how they differ."""
import dataclasses
import hashlib
import importlib.util
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

import minigrad as mg
from minigrad import device, functional as F
from minigrad.parallel import World
from minigrad.words import plural

from gpt.run.command_line import TRAIN
from gpt.run.machine import allowed_cores
from gpt.run.options import Options, configure
from gpt.text.dataset import Data


def agreed_options(world: World, arguments: list[str]) -> tuple[Options, dict[str, str], list[str]]:
    """What `configure` returns, on every rank. ValueError, on every rank, if the processes were started in different
    ways, if there are more processes than micro-batches, and for what `configure` refuses."""
    if world.size > 1:
        world.agree(arguments=" ".join(arguments), program=source(), minigrad=mg.__version__, NumPy=np.__version__)
    o, sources, changes = world.share(lambda: configure(arguments))
    world.patience = o.patience
    if world.size == 1:
        return o, sources, changes
    if o.break_ == "no-zero-grad":              # each process would add the gradients of all processes to its own
        world.fail(ValueError("--break=no-zero-grad is a mistake of one process: start it without mpirun"))
    if world.size > o.gradient_accumulation_steps:
        rows = o.batch_size * o.gradient_accumulation_steps
        fits = [k for k in range(world.size, rows + 1) if rows % k == 0]
        fix = (f"--batch_size={rows // fits[0]} --gradient_accumulation_steps={fits[0]} keeps the {rows} rows of a "
               f"step" if fits else f"a step has {rows} rows: use a larger --gradient_accumulation_steps")
        world.fail(ValueError(
            f"{world.size} processes need --gradient_accumulation_steps={world.size} or more, got "
            f"{o.gradient_accumulation_steps}, as each computes whole micro-batches; {fix}"))
    if o.threads == 0 or sources["threads"] == "default" and o.init_from != "resume":       # which keeps its bits
        o = dataclasses.replace(o, threads=max(1, len(cores(world)) // world.local_size))
        sources["threads"] = "mpirun"
    world.agree(**{"cores for": f"--threads={o.threads}"})
    return o, sources, changes


def started_by_mpirun(n: int, command: list[str]) -> list[str]:
    """The command that runs a command of this Python in n processes; of one, the command itself. ValueError without
    mpi4py or mpirun."""
    if n == 1:
        return command
    if importlib.util.find_spec("mpi4py") is None:
        raise ValueError(f'{n} processes need mpi4py: pip install -e ".[mpi]"')
    beside = str(Path(sys.executable).parent)               # first: the MPI that was installed with mpi4py
    mpirun = shutil.which("mpirun", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if mpirun is None:
        raise ValueError(f"{n} processes need mpirun, which is neither beside {sys.executable} nor on the PATH: "
                         'pip install -e ".[mpi]", or load the MPI of the cluster')
    return [mpirun, "-n", str(n), *command]


def source() -> str:
    """The SHA-256 of the program's source, shortened."""
    digest = hashlib.sha256()
    for package in Path(mg.__file__).parent, TRAIN.parent / "gpt":
        for path in sorted(package.rglob("*.py")):
            digest.update(path.read_bytes())
    digest.update(TRAIN.read_bytes())
    return digest.hexdigest()[:16]


def cores(world: World) -> set[int]:
    """The cores of this machine that its processes may run on: mpirun may have given each its own."""
    everyones = world.gather((platform.node(), allowed_cores()))
    return {core for host, cores in everyones if host == everyones[world.rank][0] for core in cores}


def device_of_rank(name: str, world: World) -> str:
    """The full name of the device of this process. Each has a GPU of its own: its number is that of the process among
    those that see the same GPUs, by their machine and CUDA_VISIBLE_DEVICES. ValueError for a device that does not work,
    and if there are fewer GPUs than processes."""
    visible = world.gather((platform.node(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    if world.local_size > 1 and name.startswith("cuda:"):
        raise ValueError(f"--device={name} is one GPU, and each of {world.local_size} processes needs its own: use "
                         "--device=cuda")
    resolved = device.resolve(name)
    if world.size == 1 or resolved == "cpu":
        return resolved
    try:
        return device.resolve(f"cuda:{visible[:world.rank].count(visible[world.rank])}")
    except ValueError as error:
        raise ValueError(f"each of {world.local_size} processes on a machine needs a GPU of its own: {error}") from None


def compile_loops(world: World, dtype: str) -> None:
    """Compile the loops for a dtype where the cache does not have them: once per machine, while the others wait."""
    if world.size > 1 and world.local_rank == 0:
        F.gelu(mg.Tensor(np.zeros((64, 64), dtype)))          # any op with a loop: the first call compiles all
    world.gather(None)


def processes(world: World) -> str:
    """How many processes there are, for the header of a run."""
    if world.size == 1:
        return ""
    return f"{world.size} processes on {plural(world.machines, 'machine')}, "


def notes_on_processes(world: World, machine: Mapping[str, Any], o: Options, sources: Mapping[str, str]) -> list[str]:
    """What may surprise in a run of several processes, in words."""
    notes = []
    if sources["threads"] == "mpirun":
        notes.append(f"--threads={o.threads} gives the same bits with any number of processes")
    n_cores = len(cores(world))
    crowded = [(n, local_size, host) for n, local_size, host in
               world.gather((n_cores, world.local_size, platform.node())) if local_size * o.threads > n]
    for n, local_size, host in crowded[:1]:
        notes.append(f"{local_size} processes x {plural(o.threads, 'thread')} share the {plural(n, 'core')} of {host}: "
                     "more than one thread on a core is slow")
    kernels = [f"{there['blas']}, {there['executor']}" for there in world.gather(machine)]
    for rank in [rank for rank, other in enumerate(kernels) if other != kernels[0]][:1]:
        notes.append(f"rank {rank} computes with {kernels[rank]}, and rank 0 with {kernels[0]}: other machines will "
                     "not give the same bits")
    return notes


def share_text(world: World, open_text: Callable[[], tuple[Path, Data]]) -> tuple[Path, Data]:
    """The folder and the text that rank 0 opens, on every rank."""
    opened: list[Data] = []

    def without_arrays() -> tuple[Path, Data]:
        path, data = open_text()
        opened.append(data)
        return path, data if world.size == 1 else _with_arrays(data, lambda _: None)
    path, data = world.share(without_arrays)
    shared = _with_arrays(opened[0] if opened else data, world.share_array)
    return path, opened[0] if opened else shared


def _with_arrays(data: Data, f: Callable[[Any], Any]) -> Data:
    """The data with f(array) for each array."""
    train, val = (type(part)(**{name: f(array) for name, array in vars(part).items()})
                  for part in (data.train, data.val))
    return dataclasses.replace(data, train=train, val=val)
