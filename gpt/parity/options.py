"""The options of `python -m gpt.parity`."""
import dataclasses
from pathlib import Path

from gpt.bench.machine import CORES
from gpt.run.command_line import option


@dataclasses.dataclass
class Options:
    """Compare a GPT-2 with transformers: python -m gpt.parity FOLDER --name=value ..."""
    model: str = option("", "a folder with config.json and model.safetensors", "what")
    text: str = option("", "a text file; without it, random tokens")
    block_size: int = option(64, "tokens in a row")
    batch_size: int = option(2, "rows in a batch")
    steps: int = option(120, "training steps of each side; 0: none")
    seed: int = option(0, "of the batches and the random tokens")
    threads: int = option(min(2, len(CORES)), "of each side", "how")
    out: str = option("parity.png", "the picture")
    json: str = option("", "a file for all figures")

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("give a folder with config.json and model.safetensors: python -m gpt.parity FOLDER")
        if self.block_size < 2 or self.batch_size < 1 or self.steps < 0 or self.seed < 0:
            raise ValueError(f"--block_size={self.block_size} must be at least 2, --batch_size={self.batch_size} at "
                             f"least 1, --steps={self.steps} and --seed={self.seed} at least 0")
        if not 1 <= self.threads <= len(CORES):
            raise ValueError(f"--threads must be at least 1 and at most {len(CORES)}, the number of cores, got "
                             f"{self.threads}")
        if not self.out.endswith(".png"):
            raise ValueError(f"--out=FILE.png needs a name that ends in .png, got {self.out}")
        for path in filter(None, (self.out, self.json)):
            if Path(path).is_dir():
                raise ValueError(f"{path} is a folder: give the name of a file")
