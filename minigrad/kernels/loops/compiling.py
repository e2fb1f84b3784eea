"""How loops are compiled, and how they are called.

Compiled loops are cached, so that they are compiled once: in __pycache__, or in the user's cache folder if that is
read-only, or in the folder that NUMBA_CACHE_DIR names. If no folder can be written to, each process compiles them.
"""
import functools
import os
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core import event

from minigrad.kernels.loops.blas import BITS
from minigrad.kernels.loops.threads import run

FASTMATH = {"contract", "reassoc", "nsz"}       # not nnan and ninf: a NaN stays a NaN; not arcp: x / x is 1
# numba compiles a function again if its own file changes. These files have what loops of all files use.
SHARED = [Path(__file__).with_name(f"{name}.py") for name in ("blas", "compiling", "linalg", "math")]
VERSION = f"{zlib.crc32(b''.join(file.read_bytes() for file in SHARED)):08x}"

inner = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")


ahead: set[str] = set()             # the dtypes whose loops have been compiled ahead, or cannot be


class NotCompiled(Exception):
    """A loop is not in the cache; its dtype."""


def jit(function: Any) -> Any:
    """Compile a loop function at its first call with arrays of a dtype. The last of its arguments is n, the number of
    parts that prange runs over."""
    function.__qualname__ += f"_{BITS}_{VERSION}"       # its name in the cache
    options = dict(parallel=True, nogil=True, fastmath=FASTMATH, error_model="numpy")
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:                                # no folder for the cache can be written to
        compiled = numba.njit(**options)(function)
        ahead.update(("float32", "float64"))

    @functools.wraps(function)
    def loop(*args):
        try:
            run(compiled, args)
        except NotCompiled as missing:
            compile_ahead(str(missing))
            run(compiled, args)
    return loop


def compile_ahead(dtype: str) -> None:
    """Compile the loops for a dtype in another process. What numba has just compiled has been optimized less often than
    what it loads from the cache, and rounds differently, so all processes load loops. What is not in the cache then, as
    arrays lie in memory in another way, is compiled in this process."""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    optimize = [f"-{'O' * sys.flags.optimize}"] if sys.flags.optimize else []       # changes what a cache is valid for
    subprocess.run([sys.executable, *optimize, "-m", __package__, dtype], stdout=subprocess.DEVNULL,
                   env=os.environ | {"PYTHONPATH": paths, "MINIGRAD_EXECUTOR": "loops", "MINIGRAD_PLAIN": "0"})
    ahead.add(dtype)


class Progress(event.Listener):     # type: ignore[misc]  # numba has no types
    """Says on stderr what is compiled: on a terminal, a line that names each function while it is compiled; elsewhere,
    a line for all of them."""
    said = False

    def on_start(self, event):
        function = event.data["dispatcher"].py_func
        if not function.__module__.startswith(__package__):
            return
        dtype = next((a.dtype.name for a in event.data["args"] if isinstance(a, types.Array)), None)
        if dtype is not None and dtype not in ahead:
            raise NotCompiled(dtype)
        line = "minigrad compiles its loops, which happens once"
        if sys.stderr.isatty():
            name = f"{function.__module__.split('.')[-1]}.{function.__name__}"
            sys.stderr.write(f"\r\x1b[K{line}: {name}")
        elif not self.said:
            sys.stderr.write(line + "\n")
        self.said = True
        sys.stderr.flush()

    def on_end(self, event):
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


event.register("numba:compile", Progress())
