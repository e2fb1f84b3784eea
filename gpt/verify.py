"""Verify on a run of your own that a killed and resumed run gives the same bits: python -m gpt.verify RUN

A copy of the run is trained for some steps from one of its checkpoints. A second copy is trained for the same steps,
but killed (SIGKILL) half way and resumed. Weights and AdamW's moments must be equal bit for bit.
"""
import hashlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from gpt import files, lab
from gpt.run import checkpoint, folder
from gpt.run.command_line import TRAIN, bad_input_exits, option, parse
from gpt.text.dataset import open_data


@dataclass
class Options:
    """Verify that a run resumes exactly: python -m gpt.verify RUN --name=value ..."""
    out_dir: str = option("", "the folder of a run: needed")
    steps: int = option(10, "steps to train; killed half way")


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
            for name in ("config.json", "tokenizer.json", "tokens/meta.json", "tokens/train.bin", "tokens/val.bin",
                         record, record.replace(".json", ".safetensors")):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                if (run / name).exists() or name.startswith("checkpoints"):
                    with files.open_regular(run / name) as original, open(copy / name, "wb") as copied:
                        shutil.copyfileobj(original, copied)
            return step
        except FileNotFoundError:
            if (run / record).exists():
                raise
            shutil.rmtree(copy / "checkpoints")         # a training that runs has deleted the checkpoint


def train_and_kill(run: Path, step: int) -> str:
    """Resume a run and kill it as soon as it has saved this step  ->  the SHA-256 of the saved tensors."""
    saved = run / "checkpoints" / f"step_{step:06}.json"
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "--init_from=resume", f"--out_dir={run}", "--checkpoint_interval=1",
         "--keep=1000000", "--sample_interval=0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        while not saved.exists() and process.poll() is None:
            time.sleep(0.005)
    finally:                                            # also after a Ctrl-C
        process.kill()
        _, errors = process.communicate()
    (run / "lock").unlink(missing_ok=True)              # where there is no flock, only its owner may delete it
    if not saved.exists():
        raise ValueError(f"the run could not be resumed: {(errors.splitlines() or ['it was killed'])[-1]}")
    return hashlib.sha256(saved.with_suffix(".safetensors").read_bytes()).hexdigest()


def main(arguments: list[str]) -> int:
    """0 if the bits are equal, 1 if not."""
    with bad_input_exits("gpt.verify"):
        if arguments and not arguments[0].startswith("-"):
            arguments = [f"--out_dir={arguments[0]}", *arguments[1:]]
        o = parse(Options, arguments)
        if not o.out_dir or o.steps < 2:
            raise ValueError("give the folder of a run, python -m gpt.verify RUN, and --steps=2 or more")
        run = Path(o.out_dir)
        if mistake := folder.read_config(run)[0].get("break_", ""):
            raise ValueError(f"{run} is {lab.description(mistake)}; give a whole one")
        open_data(run)                                  # ValueError names a damaged file here, not in a copy
        with tempfile.TemporaryDirectory() as temporary:
            straight, killed = Path(temporary, "straight"), Path(temporary, "killed")
            start = copy_run(run, straight, o.steps)
            middle, end = start + o.steps // 2, start + o.steps
            shutil.copytree(straight, killed)
            print(f"training from step {start} to {end} in one go, and once more with a kill at step {middle}")
            expected = train_and_kill(straight, end)
            train_and_kill(killed, middle)
            resumed = train_and_kill(killed, end)
    print(f"in one go  {expected}\nresumed    {resumed}")
    print("equal: weights and moments agree in every bit" if expected == resumed else "NOT equal")
    return 0 if expected == resumed else 1


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
