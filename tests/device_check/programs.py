"""The programs that a user runs, on the device: each ends as it should, and says what is expected of it."""
import re
import tempfile
from pathlib import Path

from .commands import last_line, run
from .found import Found

TRAIN = ["gpt.train", "--device=cuda", "--n_layer=1", "--block_size=32", "--warmup_iters=2", "--log_interval=5"]


def programs(found: Found) -> None:
    with tempfile.TemporaryDirectory() as out:
        folder, small = f"--out_dir={out}/run", ["--max_iters=20", "--eval_interval=10", "--eval_iters=2"]
        says(found, "training with dropout, samples and a page of step 7", "grammar", *TRAIN, *small, folder,
             "--dropout=0.1", "--sample_interval=10", "--step_at=7")
        found.answer("the page of step 7 is there", Path(out, "run", "step-7.html").exists())
        for what, options in (("sampling", []), ("a beam search", ["--beam=3"])):
            says(found, what, "", "gpt.sample", folder, "--device=cuda", "--max_new_tokens=20", *options)
        says(found, "a page of the run", "wrote", "gpt.step", folder, f"--out={out}/page.html")
        says(found, "a training whose memory ends", "resumes the run", *TRAIN, "--max_iters=20",
             f"--out_dir={out}/full", "--batch_size=512", "--eval_iters=1", status=2, CUPY_GPU_MEMORY_LIMIT="40000000")


def says(found: Found, what: str, expected: str, *arguments: str, status: int = 0, **environment: str) -> None:
    """Run a program, and answer whether it ends with this status and its output has these words."""
    ended, output = run(found, *arguments, **environment)
    good = ended == status and re.search(expected, output) is not None and "Traceback" not in output
    found.answer(f"{what}: status {ended}{'' if good and not status else ': ' + last_line(output)}", good)
