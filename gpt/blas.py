"""Which of its matrix products OpenBLAS runs, on a processor where it chooses slow ones by itself."""
import os
import re
import sys
from pathlib import Path

from threadpoolctl import threadpool_info


def better_kernels(cpuinfo: str) -> str | None:
    """The name of the kernels that OpenBLAS should have chosen, given /proc/cpuinfo; None where its own choice is good.

    Zen 4 (AMD's family 25) has the instructions of AVX-512 on units half as wide: OpenBLAS takes it for Intel's
    SkylakeX, and its code for AVX2 is 5 to 8 % faster there. Zen 5 has the wide units.
    """
    family = re.search(r"vendor_id\s*: AuthenticAMD\ncpu family\s*: 25\n", cpuinfo)
    return "Haswell" if family and re.search(r"^flags\s*:.* avx512f ", cpuinfo, re.MULTILINE) else None


def choose() -> None:
    """Set OPENBLAS_CORETYPE, unless it is set. OpenBLAS reads it when NumPy is imported: later it does nothing."""
    cpuinfo = Path("/proc/cpuinfo")
    if "numpy" in sys.modules or "OPENBLAS_CORETYPE" in os.environ or not cpuinfo.exists():
        return
    kernels = better_kernels(cpuinfo.read_text("utf-8"))
    if kernels:
        os.environ["OPENBLAS_CORETYPE"] = kernels


def describe() -> str:
    """The BLAS that NumPy runs, and the kernels that it chose: "openblas 0.3.31 Haswell"."""
    return "; ".join(" ".join(filter(None, (lib["internal_api"], lib["version"], lib.get("architecture"))))
                     for lib in threadpool_info() if lib["user_api"] == "blas") or "unknown BLAS"
