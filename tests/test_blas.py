"""gpt.blas sets OpenBLAS's environment variables before NumPy is imported, and keeps those of the user."""
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from minigrad import threads

from gpt import blas

ROOT = Path(__file__).parent.parent


def cpuinfo(vendor, family, flags):
    """The text of /proc/cpuinfo for two cores."""
    return "\n".join(f"processor\t: {i}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: 17\n"
                     f"flags\t\t: fpu {flags} syscall\nbogomips\t: 5190.00\n" for i in range(2))


@pytest.mark.parametrize("text, kernels", [
    (cpuinfo("AuthenticAMD", 25, "avx2 avx512f avx512dq"), "Haswell"),      # Zen 4
    (cpuinfo("AuthenticAMD", 25, "avx2"), None),                            # Zen 3: OpenBLAS chooses Haswell by itself
    (cpuinfo("AuthenticAMD", 26, "avx2 avx512f avx512dq"), None),           # Zen 5
    (cpuinfo("GenuineIntel", 6, "avx2 avx512f avx512dq"), None),
    ("processor\t: 0\nFeatures\t: fp asimd evtstrm\n", None),               # Arm
    ("", None)])
def test_kernels_are_chosen_for_zen_4_alone(text, kernels):
    assert blas.better_kernels(text) == kernels


CORETYPE = blas.better_kernels(Path("/proc/cpuinfo").read_text()) if os.path.exists("/proc/cpuinfo") else None


@pytest.mark.parametrize("before, first, coretype, timeout", [
    ({}, "gpt", CORETYPE, "14"),
    ({}, "train", CORETYPE, "14"),
    ({"OPENBLAS_CORETYPE": "Nehalem"}, "gpt", "Nehalem", "14"),
    ({"OPENBLAS_THREAD_TIMEOUT": "20"}, "gpt", CORETYPE, "20"),
    ({}, "numpy", None, None)])                 # OpenBLAS has read its variables already
def test_variables_are_set_unless_the_user_set_them_or_numpy_is_imported(before, first, coretype, timeout):
    unset = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    ran = subprocess.run(
        [sys.executable, "-c", f"import {first}, gpt, os\n"
         "print(os.environ.get('OPENBLAS_CORETYPE'), os.environ.get('OPENBLAS_THREAD_TIMEOUT'))"],
        env=unset | {"PYTHONPATH": str(ROOT)} | before, capture_output=True, text=True)
    assert ran.stdout == f"{coretype} {timeout}\n", ran.stderr


def test_the_description_names_the_library():
    assert "blas" in blas.describe().lower()


def test_the_description_is_of_numpys_library_where_scipy_has_loaded_another(monkeypatch):
    libraries = [SimpleNamespace(filepath=f"/packages/{name}.libs/libblas.so", internal_api="openblas", version=version)
                 for name, version in (("scipy", "1"), ("numpy", "2"))]
    monkeypatch.setattr(threads, "blas_libraries", lambda: libraries)
    assert blas.describe() == "openblas 2"
