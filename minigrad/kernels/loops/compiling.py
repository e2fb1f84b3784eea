"""How loops are compiled, and how they are called.

Compiled loops are cached, so that they are compiled once: in __pycache__, or in the user's cache folder if that is
read-only, or in the folder that NUMBA_CACHE_DIR names. If no folder can be written to, each process compiles them.

What numba has just compiled has been optimized less often than what it loads from the cache, and rounds differently. So
another process compiles, and all processes that compute load what it has saved.
"""
import contextlib
import functools
import importlib
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import event
from numba.core.caching import FunctionCache

from minigrad.kernels.loops.blas import BITS
from minigrad.kernels.loops.threads import on_another_thread, run
from minigrad.threads import lock

FASTMATH = {"contract", "reassoc", "nsz"}       # not nnan and ninf: a NaN stays a NaN; not arcp: x / x is 1
# numba compiles a function again if its own file changes. These files have what loops of all files use.
SHARED = [Path(__file__).with_name(f"{name}.py") for name in ("blas", "compiling", "dropout", "linalg", "math")]
VERSION = f"{zlib.crc32(b''.join(file.read_bytes() for file in SHARED)):08x}"

inner = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")


ahead: set[str] = set()             # the dtypes whose loops have been compiled ahead
elsewhere = True                    # whether another process compiles, so that this one loads


class NotCompiled(Exception):
    """A loop is not in the cache."""


class Cache(FunctionCache):     # type: ignore[misc]  # numba has no types
    """numba's cache of a function. A damaged file is compiled again; a file that cannot be written is not an error."""

    def load_overload(self, sig, target_context):
        try:
            found = super().load_overload(sig, target_context)
        except Exception:                               # unpickling a damaged file may raise any error
            with contextlib.suppress(OSError):
                self.flush()
            return None
        # two processes that save at once may give the code for other arrays the name of this file
        return found if found and tuple(found.signature.args) == tuple(sig) else None

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):              # the disk is full
            super().save_overload(sig, data)


def dispatcher_of(function: Any, only_loads: bool) -> Any:
    """numba's version of a loop function. only_loads: it raises NotCompiled for what is not in the cache. RuntimeError
    if no folder for the cache can be written to."""
    dispatcher = numba.njit(parallel=True, nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    dispatcher.only_loads = only_loads
    with contextlib.suppress(*(() if only_loads else (RuntimeError,))):
        dispatcher._cache = Cache(function)
    return dispatcher


def jit(function: Any) -> Any:
    """Compile a loop function at its first call with arrays of a dtype. The last of its arguments is n, the number of
    parts that prange runs over."""
    function.__qualname__ += f"_{BITS}_{VERSION}"       # its name in the cache
    try:
        dispatcher = dispatcher_of(function, only_loads=True)
    except RuntimeError:
        dispatcher = dispatcher_of(function, only_loads=False)

    def compile_now(signature):
        compiled = dispatcher_of(function, only_loads=False)
        on_another_thread(compiled.compile, signature)
        return compiled

    @functools.wraps(function)
    def loop(*args):
        nonlocal dispatcher
        if ran(dispatcher, args):
            return
        signature = tuple(map(dispatcher.typeof_pyval, args))
        with lock:                                      # several Python threads compile it once
            if elsewhere:
                compile_ahead(next(a.dtype.name for a in args if getattr(a, "dtype", np.dtype(int)).kind == "f"))
                if ran(dispatcher, args):
                    return
                compile_elsewhere(function, signature)
            if not ran(dispatcher, args):
                dispatcher = compile_now(signature)
                run(dispatcher, args)

    loop.compile_now = compile_now                      # type: ignore[attr-defined]
    return loop


def ran(dispatcher: Any, args: Any) -> bool:
    """Run a loop function, if it is in the cache."""
    try:
        run(dispatcher, args)
    except NotCompiled:
        return False
    return True


def compile_ahead(dtype: str) -> None:
    """Compile all loops for a dtype at once, with arrays that lie in memory as in a GPT."""
    if dtype not in ahead:
        in_another_process(f"from {__package__}.__main__ import main; main()", dtype)
        ahead.add(dtype)
        Progress.said = True


def compile_elsewhere(function: Any, signature: Any) -> None:
    """Compile a loop function for arrays that lie in memory in another way, are read-only, and so on."""
    in_another_process(f"from {__name__} import compile_given; compile_given()", function.__module__,
                       function.__name__, pickle.dumps(signature).hex(), "" if Progress.said else "announce")
    Progress.said = True


def compile_given() -> None:
    """What `compile_elsewhere` runs in the other process."""
    module, name, signature, announce = sys.argv[1:]
    Progress.said = not announce
    with contextlib.suppress(ImportError):              # a module that only the first process can import
        getattr(importlib.import_module(module), name).compile_now(pickle.loads(bytes.fromhex(signature)))


def in_another_process(code: str, *arguments: str) -> None:
    """Run Python code with these arguments. Nothing happens if Python cannot be run: then this process compiles."""
    paths = os.pathsep.join(filter(None, (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))))
    optimize = [f"-{'O' * sys.flags.optimize}"] if sys.flags.optimize else []       # changes what a cache is valid for
    # On Ctrl-C, this process decides. A KeyboardInterrupt here ends the other process.
    code = f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); {code}"
    with contextlib.suppress(OSError):
        # no executable: where a program embeds Python; -P: a file random.py in the current folder is not Python's
        subprocess.run([sys.executable or "", "-P", *optimize, "-c", code, *arguments], stdout=subprocess.DEVNULL,
                       env=os.environ | {"PYTHONPATH": paths, "MINIGRAD_EXECUTOR": "loops", "MINIGRAD_PLAIN": "0"})


class Progress(event.Listener):     # type: ignore[misc]  # numba has no types
    """Says on stderr what is compiled: on a terminal, a line that names each function while it is compiled; elsewhere,
    a line for all of them."""
    said = False

    def on_start(self, event):
        dispatcher = event.data["dispatcher"]
        function = dispatcher.py_func
        if not function.__module__.startswith(__package__):
            return
        if getattr(dispatcher, "only_loads", False):
            raise NotCompiled
        line = "minigrad compiles its loops, which happens once"
        with contextlib.suppress(AttributeError, OSError, ValueError):      # stderr is None, a broken pipe or closed
            if sys.stderr.isatty():
                name = f"{function.__module__.split('.')[-1]}.{function.__name__}"
                sys.stderr.write(f"\r\x1b[K{line}: {name}")
            elif not Progress.said:
                sys.stderr.write(line + "\n")
            Progress.said = True
            sys.stderr.flush()

    def on_end(self, event):
        if not event.data["dispatcher"].py_func.__module__.startswith(__package__):
            return                                      # a function of the user, whose output is not erased
        with contextlib.suppress(AttributeError, OSError, ValueError):
            if sys.stderr.isatty():
                sys.stderr.write("\r\x1b[K")
                sys.stderr.flush()


event.register("numba:compile", Progress())
