"""The options of `python -m gpt.bench`."""
import dataclasses
import importlib.util

from gpt.bench.machine import CORES
from gpt.bench.presets import PRESETS
from gpt.bench.timing import MIN_STEPS
from gpt.run.command_line import one_of, option


@dataclasses.dataclass
class Options:
    """Time training steps: python -m gpt.bench --name=value ..."""
    preset: str = option("cpu", f"or {', '.join(list(PRESETS)[1:])}", "what")
    vs: str = option("", "compare with torch, or plain: the textbook ops")
    compile: bool = option(False, "with --vs=torch: torch.compile as well")
    scaling: str = option("", "a PNG: time per token against each size")
    seconds: float = option(10.0, f"for each side, and at least {MIN_STEPS} steps", "how")
    steps: int = option(0, "time this many steps, whatever --seconds")
    threads: int = option(min(2, len(CORES)), "of each side, on as many cores")
    device: str = option("cpu", "or auto, cuda, cuda:N")
    json: str = option("", "a file for all figures and the machine's")

    def __post_init__(self) -> None:
        one_of("preset", self.preset, PRESETS)
        one_of("vs", self.vs, ("", "plain", "torch"))
        if not 1 <= self.threads <= len(CORES):
            raise ValueError(f"--threads must be at least 1 and at most {len(CORES)}, the number of cores, got "
                             f"{self.threads}")
        if self.steps < 0 or self.seconds < 0.0:
            raise ValueError(f"--steps={self.steps} and --seconds={self.seconds:g} must not be negative")
        if self.vs == "torch" and importlib.util.find_spec("torch") is None:
            raise ValueError('--vs=torch needs PyTorch: pip install "minigrad[bench]"')
        if self.scaling and (not self.scaling.endswith(".png") or PRESETS[self.preset].generates):
            raise ValueError("--scaling=FILE.png needs a name that ends in .png, and a preset that trains: "
                             f"got {self.scaling}, {self.preset}")
        if self.compile and (self.vs != "torch" or PRESETS[self.preset].generates):
            raise ValueError("--compile needs --vs=torch and a preset that trains")

    @property
    def sides(self) -> list[str]:
        """Names of the sides that are timed, minigrad first."""
        others = {"": [], "plain": ["textbook"], "torch": ["PyTorch", "torch.compile"][:1 + self.compile]}
        return ["minigrad", *others[self.vs]]
