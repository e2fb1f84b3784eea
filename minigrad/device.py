"""Where arrays live: NumPy arrays on the host, CuPy arrays on a CUDA device. The only file that imports CuPy.

A device is named by a string: "cpu", "cuda" (the first CUDA device), "cuda:N", or "auto" (CUDA if it works, else cpu).
"""

import contextlib
import functools
from contextvars import ContextVar
from typing import Any, Callable, Iterator, NamedTuple

import numpy as np


class Backend(NamedTuple):
    """One array library: its namespace, how its arrays are copied to and from the host, and how to wait for them."""
    kind: str                                   # "cpu", "cuda"
    xp: Any                                     # numpy, cupy
    put: Callable[[np.ndarray, int], Any]       # host array, device number -> device array
    host: Callable[[Any], np.ndarray]           # device array -> host array
    number: Callable[[Any], int | None]         # device array -> device number; None if there is only one device
    synchronize: Callable[[], None]             # return when everything queued on the device has been computed
    wraps: bool                                 # an index out of range wraps around without an error
    address: Callable[[Any], int]               # of the first element of an array


BACKENDS: dict[type, Backend] = {}              # array type -> its library


def register(array_type: type, backend: Backend) -> None:
    """Let the engine compute on arrays of `array_type` with `backend`."""
    BACKENDS[array_type] = backend


register(np.ndarray, Backend("cpu", np, put=lambda array, number: array, host=lambda array: array,
                             number=lambda array: None, synchronize=lambda: None, wraps=False,
                             address=lambda array: array.__array_interface__["data"][0]))


def _register_cupy() -> None:
    import cupy

    def put(array: np.ndarray, number: int) -> Any:
        cupy.cuda.Device(number).use()          # CuPy computes on the current device, wherever its arrays are
        return cupy.asarray(array)

    def synchronize() -> None:
        cupy.cuda.get_current_stream().synchronize()    # all arrays are on the current stream

    register(cupy.ndarray, Backend("cuda", cupy, put, cupy.asnumpy, lambda array: array.device.id, synchronize,
                                   wraps=True, address=lambda array: array.data.ptr))


def backend(array: Any) -> Backend:
    """The library of an array. TypeError for anything that is not an array of a registered library."""
    if not is_array(array):
        raise TypeError(f"expected an array of NumPy or CuPy, got {type(array).__name__}")
    return BACKENDS[type(array)]


def is_array(x: Any) -> bool:
    """Whether x is an array of a registered library. CuPy is registered when its first array comes here."""
    kind = type(x)
    if kind not in BACKENDS and kind.__module__ == "cupy" and hasattr(x, "__cuda_array_interface__"):
        _register_cupy()
    return kind in BACKENDS


def xp(array: Any) -> Any:
    """The namespace (numpy, cupy) that computes on this array. TypeError if it is not an array."""
    return backend(array).xp


def name(array: Any) -> str:
    """The device of this array: "cpu", "cuda:0". TypeError if it is not an array."""
    library = backend(array)
    number = library.number(array)
    return library.kind if number is None else f"{library.kind}:{number}"


def host(array: Any) -> np.ndarray:
    """The array on the host; a host array is returned as it is. Waits for the device. TypeError if it is not an
    array."""
    return backend(array).host(array)


def addresses(array: Any) -> tuple[int, int]:
    """The address of the first byte that the array uses, and the address after the last. TypeError if it is not an
    array."""
    start = backend(array).address(array)
    if array.flags.c_contiguous or array.size == 0:
        return start, start + array.nbytes
    steps = [(n - 1) * stride for n, stride in zip(array.shape, array.strides)]    # from the first element to the last
    return start + sum(s for s in steps if s < 0), start + sum(s for s in steps if s > 0) + array.itemsize


def read_only(array: Any) -> Any:
    """A read-only view of a host array; anything else unchanged, as CuPy's arrays are always writable."""
    if type(array) is not np.ndarray:
        return array
    view = array.view()
    view.flags.writeable = False
    return view


def put(array: Any, device: str) -> Any:
    """The array (or a list of numbers) on `device`; an array that is already there is returned as it is. ValueError
    for a device that is unknown or does not work."""
    device = resolve(device)
    if is_array(array) and name(array) == device:
        return array
    kind, _, number = device.partition(":")
    library = next(b for b in BACKENDS.values() if b.kind == kind)
    return library.put(host(array) if is_array(array) else np.asarray(array), int(number or 0))


def synchronize() -> None:
    """Return when everything queued on every device has been computed. Needed only to measure time: whatever reads
    numbers on the host waits for them."""
    for library in list(BACKENDS.values()):
        library.synchronize()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@functools.cache                                # the trial computes and waits for the device: only once
def cuda_status() -> tuple[bool, str]:
    """(True, name of the first CUDA device), or (False, in one line what is missing: CuPy, its libraries, the driver, a
    device or the CUDA toolkit)."""
    try:
        import cupy
    except ModuleNotFoundError:
        return False, "CuPy is not installed: pip install 'minigrad[cuda13]' (or 'minigrad[cuda12]', by your driver)"
    except ImportError as error:
        return False, f"CuPy is installed but does not load ({_first_line(error.__cause__ or error)})"
    runtime = cupy.cuda.runtime
    try:
        if not cupy.cuda.is_available():
            missing = "no CUDA driver was found" if runtime.driverGetVersion() == 0 else "no CUDA device is visible"
            return False, f"{missing}: check nvidia-smi and CUDA_VISIBLE_DEVICES"
        a = cupy.ones((2, 2), "float32")
        float((a @ a + 1).sum())                # a matrix product and a compiled kernel: both libraries must load
    except (RuntimeError, ImportError, OSError) as error:
        reason = _first_line(error)
        return False, f"the CUDA toolkit does not work ({reason}): pip install 'minigrad[cuda13]' brings its libraries"
    return True, runtime.getDeviceProperties(0)["name"].decode()


def resolve(device: str) -> str:
    """The full name of a device: "cuda" -> "cuda:0", "auto" -> "cuda:0" or "cpu". ValueError, with the reason, for a
    device that is unknown or does not work."""
    kind, _, number = str(device).partition(":")
    if device in {b.kind for b in BACKENDS.values()} - {"cuda"}:
        return device
    if device == "auto":
        return "cuda:0" if cuda_status()[0] else "cpu"
    if kind != "cuda" or (number and not number.isdecimal()) or str(device).endswith(":"):
        raise ValueError(f'unknown device {device!r}: use "auto", "cpu", "cuda" or "cuda:N"')
    works, why_not = cuda_status()
    if not works:
        raise ValueError(f'device {device!r} cannot be used: {why_not}; or use device="cpu"')
    _register_cupy()
    import cupy
    count = cupy.cuda.runtime.getDeviceCount()
    if int(number or 0) >= count:
        raise ValueError(f"device {device!r} does not exist: this machine has {count}, numbered from 0")
    return f"cuda:{int(number or 0)}"


def from_dlpack(x: Any) -> Any:
    """An array that shares the memory of another library's array x, on the device of x. ValueError if that is CUDA and
    CuPy does not work here."""
    if x.__dlpack_device__()[0] != 2:           # DLPack's number for CUDA
        return np.from_dlpack(x)
    resolve("cuda")
    import cupy
    return cupy.from_dlpack(x)


_CHECK_INDICES: ContextVar[bool] = ContextVar("check_indices", default=False)


@contextlib.contextmanager
def check_indices() -> Iterator[None]:
    """Check indices on CUDA devices too: `with mg.check_indices():` an index out of range raises IndexError.

    Indices on the host are always checked. CuPy wraps an index out of range around without an error, and checking it
    means waiting for the device, so it is checked only inside this block.
    """
    token = _CHECK_INDICES.set(True)
    try:
        yield
    finally:
        _CHECK_INDICES.reset(token)


def in_range(what: str, index: Any, size: int, low: int = 0) -> None:
    """Raise IndexError, naming `what`, unless low <= index < size for the whole integer array; for an array on a
    device only under check_indices."""
    if index.size == 0 or (backend(index).wraps and not _CHECK_INDICES.get()):
        return
    smallest, largest = int(index.min()), int(index.max())
    if smallest < low or largest >= size:
        bad = smallest if smallest < low else largest
        raise IndexError(f"{what} {bad} is out of range: expected {low} <= {what} < {size}")
