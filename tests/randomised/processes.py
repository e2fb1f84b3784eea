"""A tiny training run, and commands run in a child process: a fork, which starts at once."""
import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np

import train
from minigrad.executor import EXECUTORS
from minigrad.kernels import vector

from gpt import sample
from gpt.run import checkpoint, plot, run as runs

RUN = ["--dataset=stars.txt", "--n_layer=1", "--n_head=2", "--n_embd=8", "--block_size=8", "--batch_size=2",
       "--dropout=0.1", "--gradient_accumulation_steps=2", "--max_iters=12", "--warmup_iters=2", "--eval_interval=4",
       "--eval_iters=2", "--log_interval=1", "--stats_interval=3", "--sample_interval=6", "--checkpoint_interval=2",
       "--threads=1"]
STOPPING = [signal.SIGINT, signal.SIGTERM]
VECTOR = vector.VectorExecutor(np, vector.KERNELS)
HANGS = 20.0                            # seconds after which a command counts as hanging
MEMORY = 2 << 30                        # bytes that a command may allocate


class Ended(NamedTuple):
    status: Any                         # exit status, minus the signal that ended it, or "hangs"
    out: str
    err: str


def training(out_dir: str) -> Callable[[], Any]:
    return lambda: train.main([*RUN, f"--out_dir={out_dir}"])


def resuming(out_dir: str) -> Callable[[], Any]:
    return lambda: train.main(["--init_from=resume", f"--out_dir={out_dir}"])


def sampling(out_dir: str) -> Callable[[], Any]:
    return lambda: sample.main([f"--out_dir={out_dir}", "--max_new_tokens=20", "--start=the "])


def run(command: Callable[[], Any], folder: Path, signals: Any = (), after: Path | None = None) -> Ended:
    """Run a command in a child process, in this folder. signals: (seconds to wait, number) to send one after the other,
    the first when the file `after` exists."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.stdout.flush()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)     # until the child is ready for them
        pid = os.fork()
        if pid == 0:
            _child(command, folder, out.fileno(), err.fileno())
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

        def ended() -> bool:
            return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

        end = time.monotonic() + HANGS
        while after and not after.exists() and not ended() and time.monotonic() < end:
            time.sleep(0.001)
        for seconds, number in signals:
            time.sleep(seconds)
            if not ended():
                os.kill(pid, number)
        status = _wait(pid)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
        return Ended(status, *texts)


def _wait(pid: int) -> Any:
    end = time.monotonic() + HANGS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return "hangs"


def _child(command: Callable[[], Any], folder: Path, out: int, err: int) -> None:
    """Run the command as Python runs a program, and end this process."""
    status = 1
    # Once loops have run in this process, its forks run vector kernels: all of them do, so that all have the same bits.
    EXECUTORS[np.ndarray] = VECTOR
    try:
        try:
            status = _run(command, folder, out, err)
        finally:
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)      # nothing may leave this function
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(status)


def _run(command: Callable[[], Any], folder: Path, out: int, err: int) -> int:
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", line_buffering=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", line_buffering=True)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_DATA, (_data_size() + MEMORY, resource.RLIM_INFINITY))
        for name in ("loss_curve", "lr_curve", "stats_maps"):       # they take longer than the training
            setattr(plot, name, lambda *_: None)
        texts = runs.samples                                        # so do long samples
        runs.samples = lambda model, data, n, length, seed: texts(model, data, n, 20, seed)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        command()
        return 0
    except KeyboardInterrupt:                                       # as in train.py
        return 128 + signal.SIGINT
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1


def _data_size() -> int:
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData"):
                return int(line.split()[1]) * 1024
    return 1 << 34


@contextlib.contextmanager
def prepared() -> Iterator[Path]:
    """A folder with a text; "whole", a run of 12 steps on it; "partly", the same run, killed after step 7."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "stars.txt").write_text("".join(f"the {animal} sees {n} stars\n" for n in range(40)
                                                  for animal in ("fox", "owl", "hare")), "utf-8")
        ended = run(training("whole"), folder)
        assert ended.status == 0, ended
        accumulate = train.accumulate_gradient

        def killed(*arguments: Any) -> Any:
            if arguments[-1] == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return accumulate(*arguments)

        def killed_training() -> None:
            train.accumulate_gradient = killed
            training("partly")()

        ended = run(killed_training, folder)
        assert ended.status == -signal.SIGKILL, ended
        yield folder


def tensors(run: Path) -> bytes:
    """The bytes of a run's last checkpoint: its weights and moments."""
    return checkpoint.newest_first(run)[0].with_suffix(".safetensors").read_bytes()


def copy(run: Path, to: Path) -> None:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(run, to, symlinks=True)
