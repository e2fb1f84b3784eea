"""The suites of device_suite.py and of cupy_rules.py on a CUDA device, and tests that need a real one."""
import contextlib
import pathlib
from unittest import mock

import numpy as np
import pytest

import minigrad as mg
from fake_device import caller
from minigrad import Tensor, cuda, device, functional as F

pytest.register_assert_rewrite("cupy_rules", "device_suite")
from cupy_rules import CupyRules                                    # noqa: E402
from device_suite import DeviceSuite                                # noqa: E402

WORKS, STATUS = cuda.cuda_status()
if not WORKS:
    pytest.skip(STATUS, allow_module_level=True)
pytestmark = pytest.mark.gpu

import cupy                                                         # noqa: E402
from cupy._core import syncdetect                                   # noqa: E402


@contextlib.contextmanager
def waits():
    """A list, filled inside the block, of the lines where CuPy waits for the device. It calls a function before it
    waits, so that cupyx.allow_synchronize can refuse it; here this function records it."""
    made, folder = [], str(pathlib.Path(cupy.__file__).parent)
    with mock.patch.object(syncdetect, "_declare_synchronize", lambda: made.append(caller(folder))):
        yield made


@contextlib.contextmanager
def full_pool(free):
    """A pool of its own, so that no memory that was freed before the block is used inside it."""
    pool = cupy.cuda.MemoryPool()
    pool.set_limit(free)
    with cupy.cuda.using_allocator(pool.malloc):
        yield


class TestCupy(CupyRules):
    xp = cupy
    waits = staticmethod(waits)
    full_pool = staticmethod(full_pool)

    def bfloat16(self):
        return np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


class TestCuda(DeviceSuite):
    """Sums are taken in another order than on the host. Within a few steps AdamW turns the rounding errors of gradients
    that are exactly 0, such as those of the keys' bias, into small steps."""
    device = "cuda"
    tolerance = {"float32": 3e-5, "float64": 1e-12}         # on the host float32 is up to 8e-6 from float64 itself
    training_tolerance = {"float32": 1e-3, "float64": 1e-9}

    def waits(self):
        return waits()


def test_auto_is_the_first_cuda_device():
    assert Tensor([1.0], device="auto").device == device.resolve("auto") == "cuda:0"


def test_a_device_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="does not exist: this machine has"):
        device.resolve("cuda:99")


def test_synchronize_waits_until_everything_is_computed():
    a = cupy.ones((4096, 4096), "float32")
    for _ in range(20):
        a = a @ a * 1e-4
    device.synchronize()
    assert cupy.cuda.get_current_stream().done


def test_dlpack_shares_memory_with_cupy():
    array = cupy.arange(3.0)
    t = mg.from_dlpack(array)
    assert t.device == "cuda:0" and t.data.data.ptr == array.data.ptr
    assert cupy.from_dlpack(F.exp(t)).shape == (3,)
    assert cupy.from_dlpack(t).data.ptr == array.data.ptr


def test_dlpack_shares_memory_with_torch():
    torch = pytest.importorskip("torch")
    a = torch.arange(3.0, device="cuda", dtype=torch.float64)
    t = mg.from_dlpack(a)
    assert t.device == "cuda:0" and t.data.data.ptr == a.data_ptr()
    assert torch.from_dlpack(t).data_ptr() == a.data_ptr()
    np.testing.assert_array_equal(t.numpy(), [0.0, 1.0, 2.0])


def test_the_gradient_of_a_float16_embedding_adds_up():
    table = Tensor(np.ones((5, 3)), True, dtype="float16", device="cuda")
    F.embedding(table, np.array([1, 4, 1])).sum().backward()
    np.testing.assert_array_equal(device.host(table.grad)[:, 0], [0.0, 2.0, 0.0, 0.0, 1.0])
