"""python -m tests.device_check: exits with status 1 if a part failed or found something wrong, 2 without a GPU."""
import gpt  # noqa: F401  (before NumPy: it configures BLAS)

import dataclasses
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from gpt.run.command_line import bad_input_exits, one_of, option, parse
from minigrad.cuda import cuda_status

from .child import run_part
from .parts import PARTS
from .runner import run_parts

NAMES = [part.name for part in PARTS]


@dataclasses.dataclass
class Options:
    """Check minigrad on a CUDA device: python -m tests.device_check --name=value ..."""
    out: str = option("runs/device_check", "the folder that the results are written to")
    seconds: float = option(420.0, "how long, in all")
    only: str = option("", f"some parts, as in --only={','.join(NAMES[:2])}: {', '.join(NAMES)}")
    part: str = option("", "MODULE:FUNCTION: run this part alone, in this process")

    def __post_init__(self) -> None:
        for name in filter(None, self.only.split(",")):
            one_of("only", name, NAMES)
        if self.part and not all(self.part.partition(":")):
            raise ValueError(f"--part must be MODULE:FUNCTION, got {self.part!r}")


def main(arguments: list[str]) -> int:
    began = time.monotonic()
    with bad_input_exits("tests.device_check"):
        o = parse(Options, arguments)
        works, reason = (True, "") if o.part else cuda_status()
        if not works:
            raise ValueError(f"there is no GPU to check: {reason}")
        out = Path(o.out).resolve()
        out.mkdir(parents=True, exist_ok=True)
    if o.part:
        return run_part(o.part, out, o.seconds)
    parts = [part for part in PARTS if not o.only or part.name in o.only.split(",")]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))        # the part that runs is ended, too
    with tempfile.TemporaryDirectory() as cache:
        os.environ["CUPY_CACHE_DIR"] = cache            # empty: every kernel is compiled, as on a new machine
        return 0 if run_parts(parts, out, began + o.seconds) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
