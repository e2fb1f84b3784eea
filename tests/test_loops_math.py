"""exp and the maximum that loops use."""
import numpy as np
import pytest

numba = pytest.importorskip("numba")

from minigrad.kernels.loops import compiling            # noqa: E402
from minigrad.kernels.loops.compiling import FASTMATH   # noqa: E402
from minigrad.kernels.loops.math import exp, largest    # noqa: E402


@pytest.fixture(autouse=True)
def compiled_here(monkeypatch):
    """The functions of this file are not among those that are compiled ahead."""
    monkeypatch.setattr(compiling, "ahead", {"float32", "float64"})


jit = numba.njit(fastmath=FASTMATH, error_model="numpy")


@jit
def exp_of_each(x, y):
    for i in range(x.size):
        y[i] = exp(x[i])


@jit
def largest_of(x, y):
    y[0] = largest(x)


def loop_exp(x):
    y = np.empty_like(x)
    exp_of_each(x, y)
    return y


@pytest.mark.parametrize("dtype, low, high, rtol", [
    ("float32", -87.3, 88.72, 2e-6), ("float64", -708.3, 709.78, 1e-13)])
def test_exp_equals_numpys_wherever_the_result_is_a_normal_number(dtype, low, high, rtol):
    x = np.linspace(low, high, 100_001).astype(dtype)
    np.testing.assert_allclose(loop_exp(x), np.exp(x), rtol=rtol, atol=0.0)
    near_0 = np.linspace(-1, 1, 10_001).astype(dtype)
    np.testing.assert_allclose(loop_exp(near_0), np.exp(near_0), rtol=2 * np.finfo(dtype).eps, atol=0.0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_of_infinities_nan_zeros_and_numbers_far_from_0(dtype):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -1e4, 1e30, -1e30], dtype)
    np.testing.assert_array_equal(loop_exp(x), np.array([np.inf, 0, np.nan, 1, 1, np.inf, 0, np.inf, 0], dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exp_of_what_is_below_the_smallest_normal_number_is_0(dtype):
    x = np.log(np.finfo(dtype).tiny) + np.array([-1, -10], dtype)
    assert np.array_equal(loop_exp(x), [0.0, 0.0])


@pytest.mark.parametrize("size", range(1, 20))
def test_largest_finds_the_maximum_at_any_place(size):
    for place in range(size):
        x, y = np.full(size, -np.inf), np.empty(1)
        x[place] = -3.0
        largest_of(x, y)
        assert y == -3.0
