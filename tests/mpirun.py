"""Runs of several processes: mpirun in a process of its own, which leaves none behind."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from gpt.run.folder import read_rows

ROOT = Path(__file__).parent.parent
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
TRAIN = [sys.executable, str(ROOT / "train.py")]
# Open MPI refuses these otherwise: as root, and more processes than cores.
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
           "OMPI_MCA_rmaps_base_oversubscribe": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
TEXT = "".join(f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl", "hare"))
# A run of 20 steps of a tiny model, with everything that happens between steps.
TINY = ["--n_layer=1", "--n_head=2", "--n_embd=16", "--block_size=8", "--batch_size=2", "--max_iters=20",
        "--warmup_iters=2", "--eval_interval=10", "--eval_iters=3", "--log_interval=4", "--stats_interval=8",
        "--checkpoint_interval=10", "--sample_interval=10", "--threads=1", "--dropout=0.1"]


class Job:
    """Processes that mpirun has started. command: of each; several commands: `[*a], [*b]` as for `mpirun a : b`."""

    def __init__(self, n, *command, cwd, env=None, mpirun=None):
        pytest.importorskip("mpi4py")
        if not (mpirun or MPIRUN):
            pytest.skip("no mpirun is installed")
        self.mark = uuid.uuid4().hex            # in the environment of each of the processes
        self.process = subprocess.Popen(
            [*(mpirun or [MPIRUN]), "-n", str(n), *map(str, command)], cwd=cwd, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **ALLOWED, "PYTHONPATH": str(ROOT), "MARK": self.mark, **(env or {})})

    def pids(self):
        """The processes that are still running, by rank; mpirun's own are under None."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"MARK={self.mark}".encode() in environment and state != "Z":
                given = dict(line.split(b"=", 1) for line in environment if b"=" in line)
                rank = given.get(b"PMI_RANK", given.get(b"OMPI_COMM_WORLD_RANK"))
                found.setdefault(None if rank is None else int(rank), []).append(int(folder.name))
        return found

    def wait_for(self, path, seconds=60):
        """Return when a file exists."""
        end = time.monotonic() + seconds
        while not path.exists():
            assert self.process.poll() is None and time.monotonic() < end, self.end(1)
            time.sleep(0.02)

    def end(self, seconds=100):
        """(exit status, stdout, stderr) of mpirun. It must end within so many seconds, and every process with it."""
        try:
            out, err = self.process.communicate(timeout=seconds)
            for _ in range(100):
                if not (left := self.pids()):
                    break
                time.sleep(0.05)
            assert not left, f"these processes still run: {left}"
            return self.process.returncode, out, err
        finally:
            for pids in self.pids().values():
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
            self.process.communicate()


def mpirun(n, *command, cwd, seconds=100, **options):
    """Run a command on n processes  ->  (exit status, stdout, stderr)."""
    return Job(n, *command, cwd=cwd, **options).end(seconds)


def open_mpi():
    """The options of Job with which processes run under an Open MPI that is installed besides another MPI, or None."""
    info = shutil.which("ompi_info")
    if not info:
        return None
    names, library = ("mpirun.openmpi", "mpirun"), Path(info).parent.parent / "lib" / "libmpi.so.40"
    command = next(path for name in names if (path := Path(info).with_name(name)).exists())
    return {"mpirun": [str(command)], "env": {"MPI4PY_LIBMPI": str(library) if library.exists() else library.name}}


@contextlib.contextmanager
def folder_with_text(path):
    """Inside, path is the current folder, and has the file stars.txt."""
    (path / "stars.txt").write_text(TEXT, "utf-8")
    with contextlib.chdir(path):
        yield


def outcome(run):
    """Everything in the folder of a run that the numbers decide."""
    metrics = [{name: x for name, x in row.items() if name != "tokens_per_s"}
               for row in read_rows(run / "metrics.jsonl")]
    checkpoints = {path.name: path.read_bytes() for path in (run / "checkpoints").glob("*.safetensors")}
    assert metrics and checkpoints
    return metrics, (run / "samples.md").read_text("utf-8"), (run / "stats.jsonl").read_text("utf-8"), checkpoints
