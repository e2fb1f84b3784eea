"""Runs parts one after the other, each in a process of its own, and writes the report after each."""
import datetime
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from gpt import files

from .child import result_file
from .report import text

ROOT = Path(__file__).parents[2]


class Part(NamedTuple):
    """needs: seconds that it usually takes: it does not start if fewer are left. limit: seconds after which it is cut
    off."""
    name: str
    needs: float
    limit: float
    function: str                       # "MODULE:FUNCTION", called with a Found
    question: str


def run_parts(parts: list[Part], out: Path, end: float) -> bool:
    """Run the parts until `end`, a time of time.monotonic()  ->  whether all ran and found nothing wrong. Of a report
    that is in the folder already, the other parts stay as they are."""
    file = out / "report.json"
    report: dict[str, Any] = json.loads(file.read_text("utf-8")) if file.exists() else {"parts": {}}
    run = f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d %H:%M} UTC, commit {current_commit() or 'unknown'}"
    report["parts"] |= {part.name: {"question": part.question, "run": run, "status": "not run yet"} for part in parts}
    (out / "log.txt").write_bytes(b"")
    for part in parts:
        left = end - time.monotonic()
        report["parts"][part.name] |= (run_one(part, out, min(part.limit, left)) if left >= part.needs else
                                       {"status": "not run: no time left"})
        files.write_atomically(file, (json.dumps(report, indent=1) + "\n").encode())
        files.write_atomically(out / "report.txt", text(report).encode())
    print(text(report))
    return all(found["status"] == "ran" and all(a["good"] is not False for a in found["answers"])
               for found in report["parts"].values())


def run_one(part: Part, out: Path, seconds: float) -> dict[str, Any]:
    """Run a part for at most so many seconds  ->  what it found, also if it ended early, and how it ended."""
    began, file = time.monotonic(), result_file(out, part.function)
    file.unlink(missing_ok=True)
    print(f"{part.name}: {part.question}", flush=True)
    with open(out / "log.txt", "ab") as log:
        log.write(f"\n==== {part.name} ====\n".encode())
        log.flush()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.device_check", f"--part={part.function}", f"--out={out}",
             f"--seconds={seconds:.1f}"], cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            start_new_session=True)
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            status = None
        finally:                        # also after a Ctrl-C: nothing that the part has started goes on
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
    found = json.loads(file.read_text("utf-8")) if file.exists() else {"answers": [], "numbers": {}, "warnings": {},
                                                                      "error": ""}
    file.unlink(missing_ok=True)
    how = f"cut off after {seconds:.0f} s" if status is None else "ran" if status == 0 else "failed"
    if status not in (None, 0) and not found["error"]:
        found["error"] = f"the process ended with status {status}; log.txt has its output"
    return {"status": how, "seconds": round(time.monotonic() - began, 1), **found}


def current_commit() -> str:
    """The commit that is checked out, with -dirty if files differ from it; "" where git does not tell."""
    try:
        return subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True,
                              text=True).stdout.strip()
    except OSError:
        return ""
