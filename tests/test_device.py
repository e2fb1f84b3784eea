"""Devices, tested without a GPU: the fake device and the engine on it; device names; messages where CUDA fails."""
import gc
import itertools
import json
import os
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, cuda, device
from minigrad.backend import BACKENDS

import make_cupy_api
from fake_device import API, BFLOAT16, FakeArray, current_device, full_pool, synchronizations, used_bytes, xp

pytest.register_assert_rewrite("cupy_rules", "device_suite")
from cupy_rules import CupyRules                                    # noqa: E402
from device_suite import DeviceSuite, batch, lookups, small_gpt     # noqa: E402


# ---- the fake device behaves like CuPy ------------------------------------------------------------------------------

class TestRules(CupyRules):
    xp = xp
    waits = staticmethod(synchronizations)
    full_pool = staticmethod(full_pool)

    def bfloat16(self):
        return BFLOAT16


def test_operators_that_cupy_lacks_are_missing():
    """Except @=, for which Python would use @ without it, and __getattr__, which looks names up in the table."""
    special = {name for name in dir(FakeArray) if name.startswith("__") and callable(getattr(FakeArray, name))}
    assert special - set(dir(object)) - set(API["operators"]) <= {"__imatmul__", "__getattr__"}


def test_attributes_that_mean_something_else_in_cupy_are_missing():
    assert not any(hasattr(xp.ones(3), name) for name in ("base", "data", "device", "flat"))


def test_add_at_adds_floating_numbers_in_an_order_that_changes():
    """As atomic additions on a GPU do: equal calls give other bits, so an op whose gradients repeat cannot use it."""
    x, index = np.random.default_rng(0).normal(size=1000), xp.asarray(np.arange(1000) % 3)
    sums = [xp.zeros(3) for _ in range(10)]
    for y in sums:
        xp.add.at(y, index, xp.asarray(x))
    assert len({y.get().tobytes() for y in sums}) > 1
    np.testing.assert_allclose([y.get() for y in sums], [[x[i::3].sum() for i in range(3)]] * 10, rtol=1e-12)


def test_computing_on_an_array_of_another_device_than_the_current_one_is_an_error():
    """CuPy computes on the current device, and reads memory of another one only where the two are connected."""
    here = xp.ones(3)
    with current_device(1):
        there = xp.ones(3)
        assert (there + there).get().tolist() == [2.0, 2.0, 2.0] == (2.0 * here.get()).tolist()
    for compute in (lambda: there + 1.0, lambda: here + there, lambda: there.sum(), lambda: there.__setitem__(0, 1.0),
                    lambda: here.__setitem__(slice(2), there[1:]), lambda: xp.concatenate([here, there])):
        with pytest.raises(ValueError, match=r"resides \(1\) is different from the current device \(0\). Peer access"):
            compute()


def test_used_bytes_are_those_of_the_arrays_that_are_alive():
    gc.collect()
    before = used_bytes()
    a = xp.zeros((64, 64))
    b = a.T.reshape(32, 128)[1:]
    c = a + 1.0
    assert used_bytes() == before + 3 * 8 * 64 * 64             # the reshape copies
    del a, c
    assert used_bytes() == before + 8 * 64 * 64
    del b
    assert used_bytes() == before


def test_the_table_equals_the_installed_cupy():
    pytest.importorskip("cupy")
    table = json.loads(json.dumps(make_cupy_api.table()))
    if table["versions"] != API["versions"]:
        pytest.skip(f"the table was made from {API['versions']}, installed is {table['versions']}")
    assert table == API


# ---- the engine on a device -----------------------------------------------------------------------------------------

class TestFake(DeviceSuite):
    """The fake device computes with NumPy, so its results equal the host's bit for bit."""
    device = "fake"
    tolerance = {"float32": 1e-7, "float64": 1e-15}         # NumPy 2.0 computes ** in two ways
    training_tolerance = {"float32": 0.0, "float64": 0.0}

    def waits(self):
        return synchronizations()


def test_a_backward_for_which_memory_is_missing_changes_no_gradient_and_can_be_run_again():
    def gradients():
        return [p.grad.get().tobytes() for p in model.parameters()]

    def loss(seed):
        return model.loss(*given, key=mg.random.key(seed))

    model, given = small_gpt("fake", "float32"), batch("fake")
    loss(0).backward()
    before = gradients()
    loss(1).backward()
    after, failures = gradients(), 0
    for free in itertools.count(0, 8192):
        model.zero_grad()
        loss(0).backward()
        second = loss(1)
        try:
            with full_pool(free):
                second.backward()
            break
        except MemoryError:
            failures += 1
            assert gradients() == before
    assert failures > 2 and gradients() == after


@lookups
def test_an_index_out_of_range_is_always_an_error_on_the_host(look, message):
    with pytest.raises(IndexError, match=message):
        look(Tensor(np.ones((3, 3)), True), np.array([0, 3]))


def test_synchronize_waits_for_every_registered_library():
    with synchronizations() as made:
        device.synchronize()
    assert [wait.split()[0] for wait in made] == ["synchronize"]


# ---- names of devices, and messages where CUDA fails ----------------------------------------------------------------

class StandInArray(np.ndarray):
    """An array with the attributes that the engine reads from a CuPy array; on device 1 unless made on another."""
    __module__ = "cupy"
    __cuda_array_interface__ = {}
    data = property(lambda array: SimpleNamespace(ptr=array.__array_interface__["data"][0]))
    device = property(lambda array: SimpleNamespace(id=array.number))

    def __array_finalize__(self, base):
        self.number = getattr(base, "number", 1)


class StandIn:
    """The part of the module cupy that `minigrad.cuda` uses, on a machine with two devices. Counts the trials of CUDA
    and the synchronizations. error: of the trial. full: no byte is free, not even for CUDA's own state. tf32: its
    products round their factors."""

    def __init__(self, available=True, driver=13000, error=None, full=False, tf32=False):
        self.ndarray, self.error, self.trials, self.synchronized = StandInArray, error, 0, 0
        self.used: list[int] = []
        self.factor = np.float32(1.0 if tf32 else 1.0 + 2.0 ** -12)

        def free_and_all():
            if full:
                raise RuntimeError("cudaErrorMemoryAllocation: out of memory")
            return 12_345_678, 80_000_000_000

        runtime = SimpleNamespace(driverGetVersion=lambda: driver, getDeviceCount=lambda: 2, memGetInfo=free_and_all,
                                  getDeviceProperties=lambda n: {"name": b"Stand-in"})
        stream = SimpleNamespace(synchronize=self.synchronize)
        self.cuda = SimpleNamespace(is_available=lambda: available, runtime=runtime, get_current_stream=lambda: stream,
                                    nvrtc=SimpleNamespace(getVersion=lambda: (13, 0)), Device=self.device)

    def device(self, n=0):
        return SimpleNamespace(use=lambda: self.used.append(n), compute_capability="210")

    def synchronize(self):
        self.synchronized += 1

    def asarray(self, array):
        x = array.view(StandInArray)
        x.number = self.used[-1]
        return x

    def asnumpy(self, array):
        return array.view(np.ndarray)

    def full(self, shape, value, dtype):
        self.trials += 1
        if self.error is not None:
            raise self.error
        return np.full(shape, value, dtype)

    def eye(self, n, dtype):
        return np.eye(n, dtype=dtype) * (self.factor / np.float32(1.0 + 2.0 ** -12))


class OutOfMemoryError(MemoryError):
    """As CuPy's: the memory of the device is full."""


class CompileException(Exception):
    """As CuPy's: NVRTC does not compile a kernel."""


class Damaged:
    """An entry of sys.meta_path that makes CuPy an installed package whose import raises an error."""

    def __init__(self, error, cause=None):
        self.error, self.cause = error, cause

    def find_spec(self, name, *args):
        if name == "cupy":
            raise self.error from self.cause


@pytest.fixture
def with_cupy(monkeypatch):
    """A function that replaces the module cupy during the test: by a StandIn, by None (not installed), by a Damaged.
    The process uses no CUDA device before."""
    def replace(module):
        if isinstance(module, Damaged):
            monkeypatch.delitem(sys.modules, "cupy", raising=False)
            monkeypatch.setattr(sys, "meta_path", [module, *sys.meta_path])
        else:
            monkeypatch.setitem(sys.modules, "cupy", module)

    monkeypatch.setenv("CUPY_TF32", "1")
    monkeypatch.setattr(cuda, "_in_use", [])
    before = dict(BACKENDS)
    cuda.cuda_status.cache_clear()
    yield replace
    cuda.cuda_status.cache_clear()
    BACKENDS.clear()
    BACKENDS.update(before)


BROKEN = {
    "no CuPy": (None, "CuPy is not installed: pip install 'minigrad[cuda13]'"),
    "no loadable CuPy": (Damaged(ImportError("===\nFailed to import CuPy\n==="), OSError("libcuda.so.1: no such file")),
                         "CuPy is installed but does not load (libcuda.so.1: no such file)"),
    "CuPy of another NumPy": (Damaged(ValueError("numpy.dtype size changed")),
                              "CuPy is installed but does not load (numpy.dtype size changed)"),
    "no package that CuPy needs": (Damaged(ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock")),
                                   "CuPy is installed but does not load (No module named 'fastrlock')"),
    "no driver": (StandIn(available=False, driver=0), "no CUDA driver was found"),
    "no device": (StandIn(available=False), "no CUDA device is visible"),
    "no compiler": (StandIn(error=RuntimeError("no headers\nat all")), "the CUDA toolkit does not work (no headers)"),
    "no cuBLAS": (StandIn(error=ImportError("libcublas.so.13")), "the CUDA toolkit does not work (libcublas.so.13)"),
    "no library": (StandIn(error=OSError("libcudart")), "the CUDA toolkit does not work (libcudart)"),
    "no free memory": (StandIn(error=OutOfMemoryError("Out of memory allocating 262,144 bytes")),
                       "the memory of the CUDA device is full (12 of 80,000 MB are free): nvidia-smi shows which"),
    "no memory for CUDA": (StandIn(error=RuntimeError("cudaErrorMemoryAllocation: out of memory"), full=True),
                           "the memory of the CUDA device is full (cudaErrorMemoryAllocation: out of memory)"),
    "no memory for cuBLAS": (StandIn(error=RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")),
                             "the memory of the CUDA device is full (12 of 80,000 MB are free): nvidia-smi"),
    "no compiler for this device": (
        StandIn(error=CompileException("nvrtc: error: invalid value for --gpu-architecture (-arch)\nsecond line")),
        "the compiler of CUDA 13.0 does not compile for this device, Stand-in of compute capability 210 (nvrtc: error: "
        "invalid value for --gpu-architecture (-arch)): the extra of minigrad, cuda12 or cuda13, must fit"),
    "no exact products": (StandIn(tf32=True), "CuPy multiplies float32 in TF32, as CUPY_TF32 was 1 at its first"),
    "no message": (StandIn(error=RuntimeError()), "the CUDA toolkit does not work (RuntimeError)"),
}


@pytest.mark.parametrize("cupy, reason", BROKEN.values(), ids=BROKEN)
def test_where_cuda_fails_the_reason_is_one_line(with_cupy, cupy, reason):
    with_cupy(cupy)
    works, why_not = cuda.cuda_status()
    assert not works and why_not.startswith(reason) and "\n" not in why_not
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f'device {name!r} cannot be used: {re.escape(reason)}.*device="cpu"'):
            device.resolve(name)
    assert device.resolve("auto") == "cpu"
    assert Tensor([1.0], device="auto").device == "cpu"


def test_device_names_where_cuda_works(with_cupy):
    with_cupy(StandIn())
    assert cuda.cuda_status() == (True, "Stand-in")
    assert [device.resolve(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    with pytest.raises(ValueError, match="device 'cuda:2' does not exist: this machine has 2, numbered from 0"):
        device.resolve("cuda:2")


def test_auto_has_the_library_of_cuda_before_any_array_is_on_it(with_cupy):
    with_cupy(StandIn())
    assert device.library("auto").kind == "cuda"


def test_a_tensor_on_cuda_1_makes_that_device_the_current_one(with_cupy):
    """CuPy computes on the current device, wherever its arrays are."""
    cupy = StandIn()
    with_cupy(cupy)
    t = Tensor(np.arange(3.0), device="cuda:1")
    assert t.device == "cuda:1" and cupy.used == [1] and type(t.data) is StandInArray
    assert type(t.numpy()) is np.ndarray


def test_a_process_uses_one_cuda_device(with_cupy):
    """Arrays of two devices would be computed on one of them, with a warning, or not at all."""
    cupy = StandIn()
    with_cupy(cupy)
    Tensor(np.ones(3), device="cuda:0")
    says = (r"device 'cuda:1' cannot be used: this process computes on cuda:0, and a process uses one CUDA device; "
            r"CUDA_VISIBLE_DEVICES=1 in its environment would make that one its only device, 'cuda:0'")
    for use in (lambda: Tensor(np.ones(3), device="cuda:1"), lambda: device.resolve("cuda:1"),
                lambda: Tensor(np.ones(3)).to("cuda:1"), lambda: Tensor(np.ones(3).view(StandInArray))):
        with pytest.raises(ValueError, match=says):
            use()
    assert Tensor(np.ones(3), device="cuda").device == "cuda:0" and cupy.used == [0]


@pytest.mark.parametrize("limit, free", [(0, 2000), (1000, 400), (10 ** 9, 2000)])
def test_the_memory_of_a_device_is_that_of_the_device_that_was_named_up_to_the_limit_of_the_pool(with_cupy, limit,
                                                                                                free):
    cupy = StandIn()
    cupy.get_default_memory_pool = lambda: SimpleNamespace(get_limit=lambda: limit, total_bytes=lambda: 600,
                                                           used_bytes=lambda: 500)
    cupy.cuda.runtime.memGetInfo = lambda: ((1000, 2000)[cupy.used[-1] if cupy.used else 0], 80_000)
    with_cupy(cupy)
    assert device.library("cuda:1").memory() == (free, 600, 500)


def test_cuda_and_auto_without_a_number_are_the_device_that_the_process_uses(with_cupy):
    with_cupy(StandIn())
    Tensor(np.ones(3), device="cuda:1")
    assert [device.resolve(name) for name in ("auto", "cuda")] == ["cuda:1", "cuda:1"]


def test_dlpack_shares_an_array_of_the_device_that_the_process_uses(with_cupy):
    cupy = StandIn()
    with_cupy(cupy)
    x = np.ones(3).view(StandInArray)
    cupy.from_dlpack = lambda other: x
    here, elsewhere = (SimpleNamespace(__dlpack_device__=lambda n=n: (2, n)) for n in (1, 0))
    for _ in range(2):
        assert mg.from_dlpack(here).data is x
    with pytest.raises(ValueError, match="device 'cuda:0' cannot be used: this process computes on cuda:1"):
        mg.from_dlpack(elsewhere)


def test_tf32_of_the_environment_is_switched_off_before_the_first_product(with_cupy):
    with_cupy(StandIn())
    device.resolve("cuda")
    assert os.environ["CUPY_TF32"] == "0"


def test_a_cupy_array_is_accepted_before_any_device_was_named(with_cupy):
    with_cupy(StandIn())
    t = Tensor(np.ones(3).view(StandInArray), requires_grad=True)
    assert (t * 2.0).device == "cuda:1"


def test_cuda_is_tried_once(with_cupy):
    """A trial computes and waits for the device: too slow to repeat in every optimizer step or batch."""
    cupy = StandIn()
    with_cupy(cupy)
    t = Tensor(np.arange(3.0), device="cuda:1")
    for _ in range(3):
        t.data = t.data * 2.0
        t.data = np.ones(3)
    assert cupy.trials == 1


def test_synchronize_waits_for_cupys_current_stream(with_cupy):
    cupy = StandIn()
    with_cupy(cupy)
    device.synchronize()
    assert cupy.synchronized == 0               # no array of CuPy yet
    Tensor(np.arange(3.0), device="cuda")
    device.synchronize()
    assert cupy.synchronized == 1


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cpu:0", "", "auto:0"])
def test_an_unknown_device_is_an_error_that_lists_the_known_ones(name):
    with pytest.raises(ValueError, match=f'unknown device {name!r}: use "auto", "cpu", "cuda" or "cuda:N"'):
        device.resolve(name)


def test_the_cpu_works_without_cupy(with_cupy):
    with_cupy(None)
    assert device.resolve("cpu") == Tensor([1.0], device="cpu").device == "cpu"


@pytest.mark.parametrize("function", [device.backend, device.xp, device.name, device.host])
def test_the_device_of_something_that_is_no_array_is_an_error(function):
    with pytest.raises(TypeError, match="expected an array of NumPy or CuPy, got list"):
        function([1.0])
    assert device.is_array(np.ones(1)) and device.is_array(xp.ones(1)) and not device.is_array([1.0])
