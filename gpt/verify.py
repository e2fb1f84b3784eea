"""Verify on a run of your own that a killed and resumed run gives the same bits: python -m gpt.verify RUN

A copy of the run is trained for some steps from one of its checkpoints. A second copy is trained for the same steps,
but killed (SIGKILL) half way and resumed. Weights and AdamW's moments must be equal bit for bit.

With --ranks=3, one process trains the first copy; three train the second one until it is killed, and two resume it. So
the bits must depend neither on the kill nor on the number of processes.
"""
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gpt import files, lab
from gpt.run import base, checkpoint, folder
from gpt.run.command_line import TRAIN, bad_input_exits, option, parse
from gpt.run.machine import allowed_cores
from gpt.run.processes import started_by_mpirun
from gpt.text.dataset import open_data


@dataclass
class Options:
    """Verify that a run resumes exactly: python -m gpt.verify RUN --name=value ..."""
    out_dir: str = option("", "the folder of a run: needed")
    steps: int = option(10, "steps to train; killed half way")
    ranks: int = option(1, "processes of the copy that is killed, by mpirun")


def copy_run(run: Path, copy: Path, steps: int) -> int:
    """Copy a run with one of its checkpoints, the newest that is `steps` or more before its end  ->  its step.
    ValueError if there is no such checkpoint, ValueError or OSError for a file that cannot be copied."""
    options, _, _ = folder.read_config(run)
    while True:
        step = checkpoint.newest_step(run, options["max_iters"] - steps)
        if step is None:
            raise ValueError(f"{run} has no checkpoint {steps} steps or more before its end: use a smaller --steps")
        record = f"checkpoints/step_{step:06}.json"
        try:
            tokens = [f"tokens/{path.name}" for path in (run / "tokens").iterdir()]
            for name in ("config.json", "tokenizer.json", base.NAME, *tokens, record,
                         record.replace(".json", ".safetensors")):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                if (run / name).exists() or name.startswith("checkpoints"):
                    with files.open_regular(run / name) as original, open(copy / name, "wb") as copied:
                        shutil.copyfileobj(original, copied)
            return step
        except FileNotFoundError:
            if (run / record).exists():
                raise
            shutil.rmtree(copy / "checkpoints")         # a training that runs has deleted the checkpoint


def train_and_kill(run: Path, step: int, ranks: int, threads: int) -> str:
    """Resume a run with this many processes, each of so many threads, and kill it as soon as it has saved this step  ->
    the SHA-256 of the saved tensors."""
    saved = run / "checkpoints" / f"step_{step:06}.json"
    process = subprocess.Popen(started_by_mpirun(ranks, [
        sys.executable, str(TRAIN), "--init_from=resume", f"--out_dir={run}", "--checkpoint_interval=1",
        "--keep=1000000", "--sample_interval=0", f"--threads={threads}"]),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not saved.exists() and process.poll() is None:
            time.sleep(0.005)
    finally:                                            # also after a Ctrl-C
        if ranks > 1:
            kill_rank_0(process, run)
        process.kill()
        _, errors = process.communicate()
    (run / "lock").unlink(missing_ok=True)              # where there is no flock, only its owner may delete it
    if not saved.exists():
        lines = errors.splitlines() or ["it was killed"]
        own = [line for line in lines if line.startswith((f"{TRAIN.name}:", "rank "))]
        reason = own[0] if own else lines[-1] if ranks == 1 else "\n".join(["mpirun says", *lines])
        raise ValueError(f"the run could not be resumed: {reason}")
    return hashlib.sha256(saved.with_suffix(".safetensors").read_bytes()).hexdigest()


def kill_rank_0(mpirun: subprocess.Popen[str], run: Path) -> None:
    """Kill the process that has locked the run, or mpirun's job where none has, and wait for mpirun, which ends the
    other processes: where it is killed itself, they may go on."""
    try:
        os.kill(json.loads((run / "lock").read_text("utf-8"))["pid"], getattr(signal, "SIGKILL", signal.SIGTERM))
    except (OSError, ValueError):                       # not locked yet, or no longer
        mpirun.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        mpirun.wait(30.0)


def main(arguments: list[str]) -> int:
    """0 if the bits are equal, 1 if not."""
    with bad_input_exits("gpt.verify"):
        if arguments and not arguments[0].startswith("-"):
            arguments = [f"--out_dir={arguments[0]}", *arguments[1:]]
        o = parse(Options, arguments)
        if not o.out_dir or o.steps < 2 or o.ranks < 1:
            raise ValueError("give the folder of a run, python -m gpt.verify RUN, --steps=2 or more, and --ranks=1 or "
                             "more")
        run = Path(o.out_dir)
        options, _, _ = folder.read_config(run)
        micro_steps, threads = options["gradient_accumulation_steps"], options["threads"] or len(allowed_cores())
        if o.ranks > micro_steps:
            raise ValueError(f"--ranks={o.ranks} is more than the --gradient_accumulation_steps={micro_steps} of "
                             f"{run}, and each process computes whole micro-batches: use --ranks={micro_steps}" +
                             " or less" * (micro_steps > 1))
        started_by_mpirun(o.ranks, [])                  # ValueError without mpirun
        if mistake := options.get("break_", ""):
            raise ValueError(f"{run} is {lab.description(mistake)}; give a whole one")
        open_data(run)                                  # ValueError names a damaged file here, not in a copy
        with tempfile.TemporaryDirectory() as temporary:
            straight, killed = Path(temporary, "straight"), Path(temporary, "killed")
            start = copy_run(run, straight, o.steps)
            middle, end = start + o.steps // 2, start + o.steps
            shutil.copytree(straight, killed)
            fewer = max(1, o.ranks - 1)
            print(f"training from step {start} to {end} in one go, and once more with a kill at step {middle}")
            if o.ranks > 1:
                print(f"in one go by 1 process; until the kill by {o.ranks}, then by {fewer}; each with the run's "
                      f"--threads={threads}, on which bits depend")
            expected = train_and_kill(straight, end, 1, threads)
            train_and_kill(killed, middle, o.ranks, threads)
            resumed = train_and_kill(killed, end, fewer, threads)
    print(f"in one go  {expected}\nresumed    {resumed}")
    print("equal: weights and moments agree in every bit" if expected == resumed else "NOT equal")
    return 0 if expected == resumed else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))       # after the training is killed
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
