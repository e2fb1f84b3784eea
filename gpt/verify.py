"""Verify on a run of your own that a killed and resumed run gives the same bits: python -m gpt.verify RUN

A copy of the run is trained for some steps from one of its checkpoints. A second copy is trained for the same steps,
but killed (SIGKILL) half way and resumed. Weights and AdamW's moments must be equal bit for bit.
"""
import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gpt.run import checkpoint, folder
from gpt.run.command_line import TRAIN, bad_input_exits, option, parse


@dataclass
class Options:
    """Verify that a run resumes exactly: python -m gpt.verify RUN --name=value ..."""
    out_dir: str = option("", "the folder of a run: needed")
    steps: int = option(10, "steps to train; killed half way")


def copy_run(run: Path, copy: Path, step: int) -> None:
    """Copy a run with the checkpoint of this step alone."""
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("checkpoints", "*.png"))
    (copy / "checkpoints").mkdir()
    for path in (run / "checkpoints").glob(f"step_{step:06}.*"):
        shutil.copy(path, copy / "checkpoints")


def train_and_kill(run: Path, step: int) -> str:
    """Resume a run and kill it as soon as it has saved this step  ->  the SHA-256 of the saved tensors."""
    saved = run / "checkpoints" / f"step_{step:06}.json"
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "--init_from=resume", f"--out_dir={run}", "--checkpoint_interval=1",
         "--keep=1000000", "--sample_interval=0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not saved.exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    _, errors = process.communicate()
    if not saved.exists():
        raise ValueError(f"the run could not be resumed: {errors.strip()}")
    return hashlib.sha256(saved.with_suffix(".safetensors").read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """0 if the bits are equal, 1 if not."""
    with bad_input_exits("gpt.verify"):
        o = parse(Options, [a if a.startswith("-") else f"--out_dir={a}" for a in arguments])
        if not o.out_dir or o.steps < 2:
            raise ValueError("give the folder of a run, python -m gpt.verify RUN, and --steps=2 or more")
        run = Path(o.out_dir)
        options, _, _ = folder.read_config(run)
        possible = [step for step in map(checkpoint.step_of, checkpoint.newest_first(run))
                    if step + o.steps <= options["max_iters"]]
        if not possible:
            raise ValueError(f"{run} has no checkpoint {o.steps} steps or more before its end: use a smaller --steps")
        start, middle, end = possible[0], possible[0] + o.steps // 2, possible[0] + o.steps
        with tempfile.TemporaryDirectory() as temporary:
            straight, killed = Path(temporary, "straight"), Path(temporary, "killed")
            copy_run(run, straight, start)
            copy_run(run, killed, start)
            print(f"training from step {start} to {end} in one go, and once more with a kill at step {middle}")
            expected = train_and_kill(straight, end)
            train_and_kill(killed, middle)
            resumed = train_and_kill(killed, end)
    print(f"in one go  {expected}\nresumed    {resumed}")
    print("equal: weights and moments agree in every bit" if expected == resumed else "NOT equal")
    return 0 if expected == resumed else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
