"""One part, in the process that runs it."""
import faulthandler
import importlib
import traceback
import warnings
from pathlib import Path

from .found import Found

LAST_LINES = 8                          # of a traceback, in the report; log.txt has all of it


def result_file(out: Path, function: str) -> Path:
    """Where the process of a part writes what it finds."""
    return out / f"{function.partition(':')[2]}.part.json"


def run_part(function: str, out: Path, seconds: float) -> int:
    """Run the function "MODULE:FUNCTION"  ->  0 if it returned, 1 if it raised."""
    module, _, name = function.partition(":")
    found = Found(result_file(out, function), out, seconds)
    faulthandler.enable()               # a crash in a library shows the line of Python that led to it
    faulthandler.dump_traceback_later(max(seconds - 1.0, 0.5))          # and so does a part that hangs
    warnings.simplefilter("default")
    warnings.showwarning = found.warn
    try:
        getattr(importlib.import_module(module), name)(found)
    except (Exception, SystemExit):
        traceback.print_exc()
        found.error = "\n".join(traceback.format_exc().splitlines()[-LAST_LINES:])
    found.save()
    return 1 if found.error else 0
