"""Settings of OpenBLAS, the library of NumPy's matrix products, that must be made before NumPy is imported."""
import os
import re
import sys
import threading
from pathlib import Path


def better_kernels(cpuinfo: str) -> str | None:
    """The kernels (a value of OPENBLAS_CORETYPE) that are faster on a processor than those that OpenBLAS chooses, given
    the text of /proc/cpuinfo; None if its choice is good.

    Zen 4 (AMD's family 25) executes AVX-512 on 256-bit units. OpenBLAS chooses the kernels of Intel's SkylakeX for it;
    those for AVX2, called Haswell, are 5 to 8 % faster. Zen 5 has 512-bit units.
    """
    family = re.search(r"vendor_id\s*: AuthenticAMD\ncpu family\s*: 25\n", cpuinfo)
    return "Haswell" if family and re.search(r"^flags\s*:.* avx512f ", cpuinfo, re.MULTILINE) else None


def choose() -> None:
    """Set OPENBLAS_THREAD_TIMEOUT, OPENBLAS_CORETYPE where `better_kernels` has a value, and OPENBLAS_NUM_THREADS=1
    where the system starts no thread; one that is set stays as it is. OpenBLAS reads them when NumPy is imported: if
    NumPy is imported already, nothing is set.

    A thread of OpenBLAS without work spins for 2 ** OPENBLAS_THREAD_TIMEOUT clock ticks before it sleeps: by default
    2 ** 26, tens of milliseconds, which slows down the ops between two products, where two threads share a core. With
    2 ** 14, some microseconds, it sleeps between ops, and is awake for the next of the small products inside one op.
    """
    if "numpy" in sys.modules:
        return
    try:
        threading.Thread(target=int).start()
    except RuntimeError:                        # none can be started: OpenBLAS would end the program
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "14")
    cpuinfo = Path("/proc/cpuinfo")
    kernels = better_kernels(cpuinfo.read_text("utf-8")) if cpuinfo.exists() else None
    if kernels:
        os.environ.setdefault("OPENBLAS_CORETYPE", kernels)


def describe() -> str:
    """The BLAS of NumPy, its version and its kernels: "openblas 0.3.31 Haswell"."""
    from minigrad.threads import numpys_blas                # here: it imports NumPy
    library = numpys_blas()
    if library is None:
        return "unknown BLAS"
    return " ".join(filter(None, (library.internal_api, library.version, getattr(library, "architecture", None))))
