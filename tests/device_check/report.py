"""report.txt: the answers of all parts, to read."""
import textwrap
from collections import Counter
from typing import Any

MARKS = {True: "yes", False: "NO", None: ""}
WARNINGS = 20                           # that are shown, the most frequent


def text(report: dict[str, Any]) -> str:
    """The page for what report.json holds."""
    parts = report["parts"]
    lines = ["minigrad on a GPU, by `python -m tests.device_check`"]
    for run in dict.fromkeys(found["run"] for found in parts.values()):
        lines += wrapped(f"{run}: {', '.join(name for name, found in parts.items() if found['run'] == run)}", "")
    machine = next((found["numbers"]["machine"] for found in parts.values()
                    if "machine" in found.get("numbers", {})), {})
    lines += wrapped("; ".join(f"{name} {value}" for name, value in machine.items()), "")
    warnings: Counter[str] = Counter()
    for name, found in parts.items():
        seconds = f", {found['seconds']:.0f} s" if "seconds" in found else ""
        lines += ["", f"{name}: {found['question']} [{found['status']}{seconds}]"]
        for answer in found.get("answers", []):
            lines += wrapped(answer["text"], f"  {MARKS[answer['good']]:4}")
        lines += [f"      | {line}" for line in found.get("error", "").splitlines()]
        warnings.update(found.get("warnings", {}))
    if warnings:
        lines += ["", "Warnings, and how often:"]
        for warning, count in warnings.most_common(WARNINGS):
            lines += wrapped(f"{count} x {warning}", "  ")
        lines += [f"  and {len(warnings) - WARNINGS} more in report.json"] * (len(warnings) > WARNINGS)
    return "\n".join(lines) + "\n"


def wrapped(line: str, start: str) -> list[str]:
    return textwrap.wrap(line, 118, initial_indent=start, subsequent_indent=" " * max(len(start), 2),
                         break_on_hyphens=False)
