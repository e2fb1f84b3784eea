"""The tests that need a GPU."""
import os
import signal
import subprocess
import sys
from xml.etree import ElementTree

from .commands import last_line
from .found import Found
from .runner import ROOT

WORKERS = 12
SHOWN = 12                              # failures in the report; junit.xml has all


def suite(found: Found) -> None:
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in path.read_text("utf-8")]
    junit = found.out / "junit.xml"
    junit.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", str(WORKERS), "--tb=short", "-rs",
               f"--junitxml={junit}", "-p", "no:cacheprovider", "-o", "filterwarnings=default", *files]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=os.environ | {"OPENBLAS_NUM_THREADS": "1"})
    try:
        output, _ = process.communicate(timeout=found.seconds - 15.0)
        ended = ""
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)              # pytest then writes junit.xml with what ran
        output, _ = process.communicate(timeout=10.0)
        ended = f"stopped after {found.seconds - 15.0:.0f} s; "
    print(output)
    found.warnings_in(output)
    if not junit.exists():
        raise RuntimeError(f"pytest ended with status {process.returncode}: {last_line(output)}")

    counts, failures = dict(ElementTree.parse(junit).getroot()[0].attrib), []
    for case in ElementTree.parse(junit).iter("testcase"):
        for kind in ("failure", "error"):
            failures += [f"{case.get('name')}: {bad.get('message', '')[:200]}" for bad in case.findall(kind)]
    wrong = int(counts["failures"]) + int(counts["errors"])
    found.number("counts", {name: counts[name] for name in ("tests", "failures", "errors", "skipped", "time")})
    found.number("failures", failures)
    found.answer(f"{ended}{counts['tests']} tests in {float(counts['time']):.0f} s on {WORKERS} workers, kernels "
                 f"compiled from an empty cache: {wrong} fail, {counts['skipped']} skipped",
                 not wrong and not ended and process.returncode == 0)
    for failure in failures[:SHOWN]:
        found.answer(failure, False)
