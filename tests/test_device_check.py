"""The check on a GPU, run here with stand-ins for its parts: what it writes, whatever becomes of a part."""
import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from tests.device_check.found import Found
from tests.device_check.parts import PARTS
from tests.device_check.report import text
from tests.device_check.runner import ROOT, Part, run_parts


# ---- stand-ins, which run in processes of their own -----------------------------------------------------------------

def succeeds(found):
    found.answer("1 is 1", True)
    found.answer("it took 2 ms")
    found.spread("a step", [3.0, 1.0, 2.0], "ms")
    found.number("machine", {"GPU": "Imaginary 1000", "CuPy": "14.2.0"})
    warnings.warn("this version is old")
    print("printed")


def finds_something_wrong(found):
    found.answer("two runs have the same bits", False)


def raises(found):
    found.answer("the first measurement is done", True)
    raise ZeroDivisionError("the second one fails")


def hangs(found):
    """In a process that it has started."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    found.number("pid", process.pid)
    found.answer("the first measurement is done", True)
    process.wait()


def is_killed(found):
    os.kill(os.getpid(), signal.SIGKILL)


def exits(found):
    raise SystemExit("train.py: no such file")


def run(out, *functions, limit=30.0, needs=0.0, seconds=100.0):
    """Run stand-ins  ->  whether all is well, the content of report.json and the text of report.txt."""
    parts = [Part(f.__name__, needs, limit, f"tests.test_device_check:{f.__name__}", "is it so?") for f in functions]
    well = run_parts(parts, out, time.monotonic() + seconds)
    return well, json.loads((out / "report.json").read_text()), (out / "report.txt").read_text()


# ---- what is written ------------------------------------------------------------------------------------------------

def test_a_part_that_succeeds_has_its_answers_numbers_warnings_and_output_in_the_files(tmp_path):
    well, report, page = run(tmp_path, succeeds)
    part = report["parts"]["succeeds"]
    assert well and part["status"] == "ran" and part["error"] == ""
    assert part["answers"] == [{"good": True, "text": "1 is 1"}, {"good": None, "text": "it took 2 ms"}]
    assert part["numbers"]["a step"] == {"unit": "ms", "median": 2.0, "min": 1.0, "max": 3.0, "n": 3}
    assert [w for w in part["warnings"] if w.endswith("UserWarning: this version is old")]
    assert "printed" in (tmp_path / "log.txt").read_text()
    assert re.search(r"^succeeds: is it so\? \[ran, \d+ s\]\n  yes 1 is 1\n      it took 2 ms$", page, re.M)
    assert "GPU Imaginary 1000; CuPy 14.2.0" in page and "1 x test_device_check.py" in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "report.json", "report.txt"]


def test_a_part_that_raises_is_recorded_with_the_end_of_its_traceback_and_the_next_one_runs(tmp_path):
    well, report, page = run(tmp_path, raises, succeeds)
    part = report["parts"]["raises"]
    assert not well and part["status"] == "failed"
    assert part["error"].endswith("ZeroDivisionError: the second one fails")
    assert part["answers"] == [{"good": True, "text": "the first measurement is done"}]
    assert "      | ZeroDivisionError: the second one fails" in page
    assert "Traceback" in (tmp_path / "log.txt").read_text()
    assert report["parts"]["succeeds"]["status"] == "ran"


def test_a_part_that_hangs_is_cut_off_with_all_that_it_started_and_keeps_what_it_found(tmp_path):
    well, report, page = run(tmp_path, hangs, succeeds, limit=6.0)
    part = report["parts"]["hangs"]
    assert not well and part["status"] == "cut off after 6 s"
    assert part["answers"] == [{"good": True, "text": "the first measurement is done"}]
    assert re.search(r"test_device_check.py\", line \d+ in hangs", (tmp_path / "log.txt").read_text())
    process = Path(f"/proc/{part['numbers']['pid']}/status")
    assert not process.exists() or "State:\tZ" in process.read_text()       # ended, and perhaps not yet waited for
    assert report["parts"]["succeeds"]["status"] == "ran"


@pytest.mark.parametrize("function, error", [
    (is_killed, "the process ended with status -9; log.txt has its output"),
    (exits, "SystemExit: train.py: no such file")])
def test_a_part_that_ends_its_process_is_recorded_as_failed(function, error, tmp_path):
    well, report, _ = run(tmp_path, function)
    part = report["parts"][function.__name__]
    assert not well and part["status"] == "failed" and part["error"].endswith(error)


def test_a_part_for_which_too_little_time_is_left_is_not_run(tmp_path):
    well, report, page = run(tmp_path, succeeds, needs=20.0, seconds=10.0)
    assert not well and report["parts"]["succeeds"]["status"] == "not run: no time left"
    assert "succeeds: is it so? [not run: no time left]" in page


def test_parts_that_are_not_run_again_stay_in_the_report(tmp_path):
    run(tmp_path, succeeds, raises)
    _, report, page = run(tmp_path, raises, finds_something_wrong)
    assert list(report["parts"]) == ["succeeds", "raises", "finds_something_wrong"]
    assert "  yes 1 is 1" in page and re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d UTC, commit \w", page, re.M)


def test_an_answer_that_is_wrong_fails_the_check(tmp_path):
    well, report, page = run(tmp_path, finds_something_wrong)
    assert not well and report["parts"]["finds_something_wrong"]["status"] == "ran"
    assert "  NO  two runs have the same bits" in page


def test_the_report_is_written_after_each_part(tmp_path, monkeypatch):
    pages = []

    def remembered(report):
        pages.append(text(report))
        return pages[-1]

    monkeypatch.setattr("tests.device_check.runner.text", remembered)
    run(tmp_path, succeeds, raises)
    assert "raises: is it so? [not run yet]" in pages[0] and "[failed" in pages[1]


def test_warnings_that_a_program_prints_are_recorded_once_with_their_number(tmp_path):
    found = Found(tmp_path / "found.json", tmp_path, 1.0)
    found.warnings_in("  /a/b.py:12: DeprecationWarning: use c\nother\n/x/b.py:12: DeprecationWarning: use c\n")
    assert found.warnings == Counter({"b.py:12: DeprecationWarning: use c": 2})


# ---- the command ----------------------------------------------------------------------------------------------------

def command(*arguments):
    return subprocess.run([sys.executable, "-m", "tests.device_check", *arguments], cwd=ROOT, capture_output=True,
                          text=True, env={"PATH": "", "CUDA_VISIBLE_DEVICES": ""})


def test_without_a_gpu_the_command_exits_with_status_2_and_one_line(tmp_path):
    ended = command(f"--out={tmp_path / 'out'}")
    assert ended.returncode == 2 and ended.stdout == ""
    assert re.fullmatch(r"tests\.device_check: there is no GPU to check: .+\n", ended.stderr)
    assert not (tmp_path / "out").exists()


def test_an_unknown_part_is_named():
    ended = command("--only=versions,loses")
    assert ended.returncode == 2 and ended.stderr.endswith("got 'loses'; did you mean losses?\n")


def test_one_part_can_be_run_in_a_folder_that_is_new(tmp_path):
    ended = command("--part=versions")
    assert ended.returncode == 2 and ended.stderr.endswith("--part must be MODULE:FUNCTION, got 'versions'\n")
    assert command("--part=tests.test_device_check:succeeds", f"--out={tmp_path / 'out'}").returncode == 0
    assert (tmp_path / "out" / "succeeds.part.json").exists()


def test_every_part_is_a_function_of_its_module_and_all_fit_into_the_time():
    for part in PARTS:
        module, _, name = part.function.partition(":")
        assert re.search(rf"^def {name}\(found: Found\) -> None:$", source(module), re.M), part
    assert sum(part.needs for part in PARTS) <= 420.0 and all(part.needs <= part.limit for part in PARTS)


def source(module):
    return (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8")
