"""What holds for CuPy's arrays and not for NumPy's. test_device.py tests it on the fake device, test_gpu.py on CuPy, so
that the fake device is held to the real one. What can be tested on the fake device alone is in test_device.py. The
classes of errors and the dtypes are those of CuPy 14.2."""
import contextlib
from typing import Any, Callable

import numpy as np
import pytest

HOST = np.ones((3, 4))

forbidden = pytest.mark.parametrize("compute", [
    lambda xp, x: x + HOST, lambda xp, x: HOST + x, lambda xp, x: HOST * x, lambda xp, x: x @ HOST.T,
    lambda xp, x: xp.where(x > 1, x, HOST), lambda xp, x: xp.concatenate([x, HOST]), lambda xp, x: x.__iadd__(HOST),
    lambda xp, x: x == HOST, lambda xp, x: np.concatenate([x, HOST]), lambda xp, x: xp.exp([1.0, 2.0]),
    lambda xp, x: x + [1.0, 2.0, 3.0, 4.0], lambda xp, x: xp.stack([1.0, 2.0]), lambda xp, x: x.sum(where=x > 1),
    lambda xp, x: xp.sum(x, where=x > 1), lambda xp, x: xp.exp(x, where=x > 1), lambda xp, x: xp.max(x, initial=0.0),
    lambda xp, x: xp.clip(x, min=0.0), lambda xp, x: x.var(mean=x), lambda xp, x: np.asarray(x),
    lambda xp, x: np.array([x, x]), lambda xp, x: range(xp.asarray(3))])

forbidden_otherwise = pytest.mark.parametrize("compute, error", [
    (lambda xp, x: x.__setitem__(0, HOST[0]), ValueError),                      # the value must be a scalar
    (lambda xp, x: x.__setitem__(0, [1.0, 2.0, 3.0, 4.0]), ValueError),
    (lambda xp, x: xp.max([1.0, 2.0]), AttributeError),                         # a list has no method max
    (lambda xp, x: xp.max(2.0), AttributeError),
    (lambda xp, x: xp.where(True, 1.0, 2.0), AttributeError)])                  # a bool has no method astype

results_0_d = pytest.mark.parametrize("compute", [
    lambda xp, x: x.sum(), lambda xp, x: x.mean(axis=(0, 1)), lambda xp, x: xp.max(x), lambda xp, x: x[1, 2],
    lambda xp, x: x[0] @ x[1], lambda xp, x: xp.exp(x[0, 0]), lambda xp, x: np.exp(x[0, 0]),
    lambda xp, x: 2.0 * x[0, 0], lambda xp, x: np.float64(2.0) * x[0, 0], lambda xp, x: xp.asarray(1.0),
    lambda xp, x: xp.sqrt(2.0), lambda xp, x: xp.array_equal(x, x)])

waiting = pytest.mark.parametrize("compute", [
    lambda xp, x: float(x[0, 0]), lambda xp, x: int(x[0, 0]), lambda xp, x: bool(x[0, 0]),
    lambda xp, x: complex(x[0, 0]), lambda xp, x: x[0, 0].item(), lambda xp, x: x.tolist(), lambda xp, x: x.get(),
    lambda xp, x: x[x > 1], lambda xp, x: x[HOST > 2], lambda xp, x: x.__setitem__(x > 20, 0.0),
    lambda xp, x: x.nonzero(), lambda xp, x: xp.nonzero(x), lambda xp, x: xp.flatnonzero(x),
    lambda xp, x: xp.where(x > 1), lambda xp, x: xp.unique(x), lambda xp, x: repr(x), lambda xp, x: f"{x[0, 0]:.2f}",
    lambda xp, x: 1.0 if (x > 1).any() else 0.0, lambda xp, x: 1.0 in x[0]])

scatters = pytest.mark.parametrize("name, dtypes", [
    ("add", ["int32", "int64", "float16", "float32", "float64"]), ("subtract", ["int32"]),
    ("maximum", ["int32", "int64", "float32", "float64"]), ("minimum", ["int32", "int64", "float32", "float64"]),
    ("bitwise_and", ["int32", "int64"]), ("bitwise_or", ["int32", "int64"]), ("bitwise_xor", ["int32", "int64"])])


class CupyRules:
    """A subclass gives the namespace, and how to record waits and to fill the device's memory."""
    xp: Any
    waits: Callable[[], contextlib.AbstractContextManager[list[str]]]
    full_pool: Callable[[int], contextlib.AbstractContextManager[None]]     # of which so many bytes are free

    @pytest.fixture
    def x(self):
        return self.xp.asarray(np.arange(12.0).reshape(3, 4))

    # ---- what is an error or missing ----

    @forbidden
    def test_a_host_array_a_list_or_an_unknown_parameter_is_an_error(self, compute, x):
        with pytest.raises(TypeError):
            compute(self.xp, x)

    @forbidden_otherwise
    def test_where_cupy_does_not_check_the_type_the_error_is_another_one(self, compute, error, x):
        """CuPy calls a method that the value does not have, or assigns it as a scalar: its error is an accident. The
        fake device raises TypeError."""
        with pytest.raises((TypeError, error)):
            compute(self.xp, x)

    @pytest.mark.parametrize("missing", ["errstate", "insert", "einsum_path", "geomspace", "vecdot", "scatter_add"])
    def test_functions_of_numpy_that_are_missing(self, missing):
        assert not hasattr(self.xp, missing)

    def test_methods_of_numpy_that_are_missing(self, x):
        assert not hasattr(x, "ctypes") and not hasattr(x, "setflags")
        for method in (self.xp.maximum.reduce, self.xp.logical_and.reduce, self.xp.subtract.accumulate):
            with pytest.raises(NotImplementedError):
                method(x)
        np.testing.assert_array_equal(self.xp.add.reduce(x, axis=0).get(), x.get().sum(axis=0))

    # ---- results ----

    @results_0_d
    def test_0_d_results_are_arrays_on_the_device(self, compute, x):
        result = compute(self.xp, x)
        assert type(result) is self.xp.ndarray and result.shape == ()

    def test_a_function_of_numpy_that_is_called_on_device_arrays_runs_on_the_device(self, x):
        joined = np.concatenate([x, x])
        assert type(joined) is self.xp.ndarray
        np.testing.assert_array_equal(joined.get(), np.concatenate([x.get(), x.get()]))

    def test_a_view_shares_memory_and_a_host_array_is_copied(self):
        on_host = np.zeros(3)
        on_device = self.xp.asarray(on_host)
        on_device[1:][0] = 5.0
        on_device[2][...] = 7.0
        np.testing.assert_array_equal(on_device.get(), [0.0, 5.0, 7.0])
        on_device.get()[:] = 1.0
        same = on_device
        same += 1.0
        assert same is on_device and self.xp.asarray(same) is on_device
        assert same.astype("float64", copy=False) is on_device
        np.testing.assert_array_equal(on_device.get(), [1.0, 6.0, 8.0])
        np.testing.assert_array_equal(on_host, 0.0)

    def test_an_integer_array_out_of_range_wraps_around(self, x):
        xp = self.xp
        a = xp.asarray(np.array([10.0, 11.0, 12.0]))
        i = xp.asarray(np.array([3, -4, 7]))
        np.testing.assert_array_equal(a[i].get(), [10.0, 12.0, 11.0])
        np.testing.assert_array_equal(x[:, i].get(), x.get()[:, [3, 0, 3]])
        np.testing.assert_array_equal(x[..., None, i, 4 * i].get(), x.get()[..., None, [0, 2, 1], [0, 0, 0]])
        xp.add.at(a, i, 1.0)
        a[xp.asarray(np.array(4))] = 0.0
        np.testing.assert_array_equal(a.get(), [11.0, 0.0, 13.0])
        with pytest.raises(IndexError):
            a[3]                                    # a Python integer does not wrap

    @scatters
    def test_the_method_at_of_a_ufunc_changes_arrays_of_some_dtypes(self, name, dtypes):
        index, scatter, changed = self.xp.asarray([0, 2]), getattr(self.xp, name).at, getattr(np, name)(1, 1)
        for dtype in ("int16", "int32", "int64", "float16", "float32", "float64"):
            x, one = self.xp.ones(3, dtype), self.xp.ones((), dtype)
            if dtype in dtypes:
                scatter(x, index, one)
                assert x.get().tolist() == [changed, 1, changed]
            else:
                with pytest.raises(TypeError, match=f"{name}.at only supports"):
                    scatter(x, index, one)

    # ---- half precision ----

    @pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
    def test_a_product_of_float16_is_computed_in_float32_and_rounded(self, shape):
        """To float16, which at 4099 has steps of 4. Ones that are added in float16 would stay at 2048."""
        y = self.xp.ones((*shape, 2, 4099), "float16") @ self.xp.ones((*shape, 4099, 3), "float16")
        assert y.dtype == "float16" and y.shape == (*shape, 2, 3)
        assert abs(y.get().astype("float64") - 4099.0).max() <= 4.0

    def test_a_product_of_bfloat16_with_more_than_two_axes_is_an_error(self):
        x = self.xp.asarray(np.zeros((2, 3, 3), self.bfloat16()))
        with pytest.raises(TypeError, match="data type 'E' not understood"):
            x @ x

    # ---- waits and memory ----

    @waiting
    def test_a_wait_for_the_device_is_recorded_with_its_line(self, compute, x):
        with self.waits() as made:
            compute(self.xp, x)
        assert made and all("cupy_rules.py" in place for place in made)

    def test_computing_on_the_device_records_no_wait(self, x):
        xp = self.xp
        with self.waits() as made:
            y = xp.where(x > 1, x, 0.0).sum(axis=0, keepdims=True) @ x.T
            y[:, xp.arange(3)] += 1.0
            (xp.asarray(HOST) * y.max()).astype("float32").reshape(-1)
            len(x), x.shape, [row.size for row in x]
        assert made == []

    def test_an_array_that_does_not_fit_raises_MemoryError_and_what_fits_can_still_be_made(self):
        xp = self.xp
        with self.full_pool(1024):
            a = xp.zeros(64)                        # 512 bytes, the unit of allocation
            with pytest.raises(MemoryError, match=r"Out of memory allocating 1,024 bytes \(allocated so far: [\d,]+ b"):
                xp.zeros(65)
            b = xp.zeros(1)                         # 512 bytes
            with pytest.raises(MemoryError):
                a + b
            a += b
            view = a[1:]
            del a, b
            with pytest.raises(MemoryError):
                xp.zeros(65)                        # the view keeps the memory
            del view
            xp.zeros(128)
