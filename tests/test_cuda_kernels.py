"""The CUDA kernels of minigrad/cuda, without a GPU: their sources, compiled for the host, give the bits of what they
stand for; NVRTC compiles them for GPUs."""
import contextlib
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F, random
from minigrad.cuda import kernels

from cuda_on_cpu import cubin
from fake_device import FakeArray, synchronizations, xp

TYPES = [("float", "float"), ("float", "double"), ("double", "double")]     # X, Y
LAST = 2 ** 64 - 1


@pytest.mark.parametrize("seed, step, micro", [(0, 0, 0), (1, 2, 3), (2 ** 63 + 1, 5, 0), (LAST, LAST, LAST)])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 5, 1000), (0, 3)])
def test_a_mask_drawn_on_the_device_has_the_bits_of_the_host(seed, step, micro, shape):
    for name in ("a", "b", "c"):
        key = random.key(seed, step, micro).fold(name)
        for p in (0.0, 0.1, 0.5, 1.0 - 1e-12):
            mask = kernels.keep_mask(xp, key, shape, p)
            assert type(mask) is FakeArray and mask.dtype == bool
            np.testing.assert_array_equal(mask.get(), random.keep_mask(key, shape, p))


@pytest.mark.parametrize("key, p, error", [
    (None, 0.5, ValueError), (3, 0.5, TypeError), (random.key(0), 1.0, ValueError)])
def test_a_mask_on_the_device_refuses_what_the_host_refuses(key, p, error):
    with pytest.raises(error):
        kernels.keep_mask(xp, key, (3,), p)


@pytest.mark.parametrize("use", [
    lambda x, key: F.dropout(x, 0.3, key=key),
    lambda x, key: F.scaled_dot_product_attention(x, x, x, causal=True, dropout=0.3, key=key)])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dropout_on_the_device_draws_there_and_waits_for_nothing(use, dtype, monkeypatch):
    def run(device):
        x = Tensor(np.linspace(-1.0, 1.0, 60).reshape(2, 6, 5), True, dtype=dtype, device=device)
        y = use(x, random.key(3))
        y.sum().backward()
        return y.numpy(), Tensor(x.grad).numpy()

    with mg.plain():
        expected = run("cpu")
        np.testing.assert_array_equal(run("fake"), expected)
    monkeypatch.delattr(random, "bits")         # no mask from the host
    with synchronizations() as made:
        x = Tensor(np.ones((2, 6, 5)), device="fake")
        use(x, random.key(3))
    assert made == []
    np.testing.assert_array_equal(run("fake"), expected)


@pytest.mark.parametrize("index", [
    np.array([4, 0, 4, 4, -1, 2]), np.array(2), np.array([[1, 3], [1, 1]]), np.array([], int),
    (np.array([0, 4, 0, 0]), slice(1, 3)), (slice(None), np.array([1, 1, 2, 1])), (np.array([4, 4]), np.array([0, 0])),
    (Ellipsis, np.array([2, 2, 2])), (0, np.array([1, 1]))], ids=str)
@pytest.mark.parametrize("dtype, wider", [("float32", "float64"), ("float64", "float64"), ("float16", "float32")])
def test_additions_at_repeated_indices_equal_numpys_in_every_bit(index, dtype, wider):
    y = np.random.default_rng(0).normal(size=(5, 3)).astype(wider)
    x = np.random.default_rng(1).normal(size=y[index].shape).astype(dtype)
    on_device = xp.asarray(y)
    at = tuple(xp.asarray(i) if isinstance(i, np.ndarray) else i for i in index) if type(index) is tuple else (
        xp.asarray(index))
    with synchronizations() as made:
        kernels.add_at(xp, on_device, at, xp.asarray(x))
    assert made == []
    np.add.at(y, index, x)
    np.testing.assert_array_equal(on_device.get(), y)


def test_what_is_added_at_indices_may_broadcast():
    y = xp.zeros((4, 3), "float32")
    kernels.add_at(xp, y, xp.asarray(np.array([1, 1, 3])), xp.asarray(np.arange(3.0, dtype="float32")))
    np.testing.assert_array_equal(y.get(), np.outer([0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0]))


@pytest.mark.parametrize("gradient", [
    lambda w, i: F.embedding(w, i), lambda w, i: w[i], lambda w, i: w[i % 4, i % 3],
    lambda w, i: F.scatter_add(w[i], i, (7, 3))], ids=["embedding", "rows", "elements", "scatter_add"])
@pytest.mark.parametrize("plain", [False, True])
def test_gradients_of_repeated_indices_have_the_same_bits_on_every_run(gradient, plain):
    """The fake device's add.at adds in an order that changes, as CuPy's does."""
    index = np.random.default_rng(0).integers(0, 7, 500)
    found = set()
    for _ in range(5):
        w = Tensor(np.random.default_rng(1).normal(size=(7, 3)), True, dtype="float64", device="fake")
        with mg.plain() if plain else contextlib.nullcontext():
            y = gradient(w, index)
            (y * Tensor(np.random.default_rng(2).normal(size=y.shape), device="fake")).sum().backward()
        found.add(Tensor(w.grad).numpy().tobytes())
    assert len(found) == 1


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
@pytest.mark.parametrize("name", sorted(path.stem for path in Path(kernels.__file__).parent.glob("*.cu")))
def test_a_kernel_compiles_for_gpus_without_spilling_registers(name, arch):
    for x, y in TYPES if name == "add_at" else TYPES[:1]:
        binary, report = cubin(kernels.source(name), arch, f"-DX={x}", f"-DY={y}")
        assert binary.startswith(b"\x7fELF") and "0 bytes spill stores, 0 bytes spill loads" in report
