"""The options of `python -m gpt.bench`."""
import dataclasses
import importlib.util

import numpy as np

from minigrad.device import resolve
from minigrad.executor import EXECUTORS
from minigrad.kernels import loops

from gpt.bench.machine import CORES
from gpt.bench.presets import PRESETS
from gpt.bench.timing import MIN_STEPS
from gpt.run.command_line import one_of, option


@dataclasses.dataclass
class Options:
    """Time training steps: python -m gpt.bench --name=value ..."""
    preset: str = option("", f"{', '.join(PRESETS)}, all; two: cpu,gpu8", "what")
    vs: str = option("", "compare with torch, vector, plain (the textbook ops), or all")
    compile: bool = option(False, "with --vs=torch: torch.compile as well")
    finetune: bool = option(False, "fine-tuning beside transformers, at the preset gpt2")
    scaling: str = option("", "a PNG: time per token against each size")
    ranks: int = option(1, "so many processes, which share --threads, against one")
    seconds: float = option(10.0, f"for each side, and at least {MIN_STEPS} steps", "how")
    steps: int = option(0, "time this many steps, whatever --seconds")
    threads: int = option(min(2, len(CORES)), "of each side, on as many cores")
    device: str = option("cpu", "or auto, cuda, cuda:N")
    json: str = option("", "a file for all figures and the machine's")

    def __post_init__(self) -> None:
        for name in filter(None, self.preset.split(",")):
            one_of("preset", name, [*PRESETS, "all"])
        one_of("vs", self.vs, ("", "plain", "vector", "torch", "all"))
        if not 1 <= self.threads <= len(CORES):
            raise ValueError(f"--threads must be at least 1 and at most {len(CORES)}, the number of cores, got "
                             f"{self.threads}")
        if self.steps < 0 or self.seconds < 0.0:
            raise ValueError(f"--steps={self.steps} and --seconds={self.seconds:g} must not be negative")
        if self.vs == "vector" and not self.runs_loops:
            raise ValueError("--vs=vector needs loops to compare with, which run on the CPU: "
                             'pip install "minigrad[fast]"')
        if self.vs == "torch" and importlib.util.find_spec("torch") is None:
            raise ValueError('--vs=torch needs PyTorch: pip install "minigrad[bench]"')
        generates = any(PRESETS[name].generates for name in self.presets)
        if self.scaling and (not self.scaling.endswith(".png") or generates or len(self.presets) > 1):
            raise ValueError("--scaling=FILE.png needs a name that ends in .png, and one preset that trains: "
                             f"got {self.scaling}, {self.preset}")
        if self.finetune and (self.vs or self.scaling or self.ranks != 1 or generates or resolve(self.device) != "cpu"):
            raise ValueError("--finetune is measured on the CPU, without --vs, --scaling and --ranks, at presets that "
                             f"train: got --device={self.device}, --preset={self.preset}")
        if self.ranks < 1 or self.threads % self.ranks:
            raise ValueError(f"--ranks={self.ranks} must be at least 1 and divide --threads={self.threads}, which the "
                             f"processes share, {len(CORES)} at most")
        if self.ranks > 1 and (self.vs or self.scaling or generates or resolve(self.device) != "cpu"):
            raise ValueError("--ranks compares minigrad with itself, on the CPU, without --vs and --scaling, at "
                             f"presets that train: not {next(name for name in PRESETS if PRESETS[name].generates)}")
        for name in self.presets:
            if PRESETS[name].batch_size % self.ranks:
                raise ValueError(f"--ranks={self.ranks} must divide the rows of a step of --preset={name}, "
                                 f"{PRESETS[name].batch_size}")
        if self.compile and (self.vs != "torch" or generates):
            raise ValueError("--compile needs --vs=torch and presets that train")

    @property
    def presets(self) -> list[str]:
        """Names of the presets that are timed; of all, those that train come first."""
        names = (self.preset or ("gpt2" if self.finetune else "cpu")).split(",")
        return sorted(PRESETS, key=lambda name: PRESETS[name].generates) if "all" in names else names

    @property
    def runs_loops(self) -> bool:
        """Whether the side "minigrad" runs loops."""
        return resolve(self.device) == "cpu" and isinstance(EXECUTORS[np.ndarray], loops.LoopsExecutor)

    @property
    def sides(self) -> list[str]:
        """Names of the sides that are timed, minigrad first."""
        has_torch = importlib.util.find_spec("torch") is not None
        others = {"": [], "plain": ["textbook"], "vector": ["vector"], "torch": ["PyTorch"],
                  "all": ["textbook", *["vector"] * self.runs_loops, *["PyTorch"] * has_torch]}
        return ["minigrad", *others[self.vs], *["torch.compile"] * self.compile]
