"""OpenBLAS runs its faster kernels where it would choose slower ones, and a user's own choice stands."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpt import blas

ROOT = Path(__file__).parent.parent


def cpuinfo(vendor, family, flags):
    """Two processors of /proc/cpuinfo, as Linux prints them."""
    return "\n".join(f"processor\t: {i}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
                     f"flags\t\t: fpu {flags} syscall\nbogomips\t: 5190.00\n" for i in range(2))


@pytest.mark.parametrize("text, kernels", [
    (cpuinfo("AuthenticAMD", 25, "avx2 avx512f avx512dq"), "Haswell"),      # Zen 4
    (cpuinfo("AuthenticAMD", 25, "avx2"), None),                            # Zen 3: OpenBLAS takes these by itself
    (cpuinfo("AuthenticAMD", 26, "avx2 avx512f avx512dq"), None),           # Zen 5
    (cpuinfo("GenuineIntel", 6, "avx2 avx512f avx512dq"), None),
    ("processor\t: 0\nFeatures\t: fp asimd evtstrm\n", None),               # Arm
    ("", None)])
def test_only_zen_4_is_helped(text, kernels):
    assert blas.better_kernels(text) == kernels


@pytest.mark.parametrize("before, first, after", [
    (None, "gpt", blas.better_kernels(Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc/cpuinfo") else None),
    ("Nehalem", "gpt", "Nehalem"),
    (None, "numpy", None)])                     # too late: nothing claims otherwise
def test_a_choice_of_the_user_or_of_an_earlier_import_stands(before, first, after):
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"} | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, "-c", f"import {first}, gpt, os; print(os.environ.get('OPENBLAS_CORETYPE'))"],
        env=environment | ({"OPENBLAS_CORETYPE": before} if before else {}), capture_output=True, text=True)
    assert ran.stdout == f"{after}\n", ran.stderr


def test_the_description_names_the_library():
    assert "blas" in blas.describe().lower()
