"""The suite of device_suite.py on a CUDA device, and tests that need a real one."""
import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, cuda, device, functional as F

pytest.register_assert_rewrite("device_suite")
from device_suite import DeviceSuite                                # noqa: E402

WORKS, STATUS = cuda.cuda_status()
if not WORKS:
    pytest.skip(STATUS, allow_module_level=True)
pytestmark = pytest.mark.gpu


class TestCuda(DeviceSuite):
    """Sums are taken in another order than on the host, in scatter_add in another order from run to run. Within a few
    steps AdamW turns the rounding errors of gradients that are exactly 0, such as those of the keys' bias, into small
    steps."""
    device = "cuda"
    tolerance = {"float32": 3e-5, "float64": 1e-12}         # on the host float32 is up to 8e-6 from float64 itself
    training_tolerance = {"float32": 1e-3, "float64": 1e-9}


def test_auto_is_the_first_cuda_device():
    assert Tensor([1.0], device="auto").device == device.resolve("auto") == "cuda:0"


def test_a_device_that_does_not_exist_is_an_error():
    with pytest.raises(ValueError, match="does not exist: this machine has"):
        device.resolve("cuda:99")


def test_synchronize_waits_until_everything_is_computed():
    import cupy
    a = cupy.ones((4096, 4096), "float32")
    for _ in range(20):
        a = a @ a * 1e-4
    device.synchronize()
    assert cupy.cuda.get_current_stream().done


def test_dlpack_shares_memory_with_cupy():
    import cupy
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
