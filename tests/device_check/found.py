"""What one part has found. Each change is written to a file at once, so that it is kept if the part is cut off."""
import json
import re
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, Iterable

from gpt import files

WARNING = re.compile(r"^\s*(\S+?):(\d+): (\w*Warning): (.*)$", re.MULTILINE)


class Found:
    """out: the folder of the results. seconds: the time limit of the part."""

    def __init__(self, file: Path, out: Path, seconds: float) -> None:
        self.file, self.out, self.seconds = file, out, seconds
        self.answers: list[dict[str, Any]] = []
        self.numbers: dict[str, Any] = {}
        self.warnings: Counter[str] = Counter()
        self.error = ""

    def answer(self, text: str, good: bool | None = None) -> None:
        """One line of report.txt. good: whether what it says is as it must be; None for a measurement."""
        self.answers.append({"good": good, "text": text})
        print({True: "yes ", False: "NO  ", None: "    "}[good] + text, flush=True)
        self.save()

    def number(self, name: str, value: Any) -> None:
        """A value of report.json: what JSON can write."""
        self.numbers[name] = value
        self.save()

    def spread(self, name: str, values: Iterable[float], unit: str) -> float:
        """Record the median, smallest and largest of repeated measurements  ->  the median."""
        values = [float(v) for v in values]
        median = statistics.median(values)
        self.number(name, {"unit": unit, "median": median, "min": min(values), "max": max(values), "n": len(values)})
        return median

    def warn(self, message: Any, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        """Record a warning; takes the place of warnings.showwarning."""
        self.warnings[f"{Path(filename).name}:{lineno}: {category.__name__}: {message}"] += 1
        self.save()

    def warnings_in(self, text: str) -> None:
        """Record the warnings that a program has printed."""
        self.warnings.update(f"{Path(file).name}:{line}: {category}: {message}"
                             for file, line, category, message in WARNING.findall(text))
        self.save()

    def save(self) -> None:
        content = {"answers": self.answers, "numbers": self.numbers, "warnings": self.warnings, "error": self.error}
        files.write_atomically(self.file, json.dumps(content, default=str).encode())
