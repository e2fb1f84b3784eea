"""Where arrays live: NumPy arrays on the host, CuPy arrays on a CUDA device.

A device is named by a string: "cpu"; "cuda:N"; "cuda", the CUDA device that this process uses, or the first if it uses
none yet; "auto", "cuda" if that works, else "cpu".
"""
import contextlib
from contextvars import ContextVar
from typing import Any, Iterator

import numpy as np

from minigrad.backend import BACKENDS, Backend
from minigrad.cuda import check_number, cuda_status, from_dlpack as cupy_from_dlpack, number_in_use, register_cupy, use


def backend(array: Any) -> Backend:
    """The library of an array. TypeError for anything that is not an array of a registered library."""
    if not is_array(array):
        raise TypeError(f"expected an array of NumPy or CuPy, got {type(array).__name__}")
    return BACKENDS[type(array)]


def is_array(x: Any) -> bool:
    """Whether x is an array of a registered library. CuPy is registered when its first array comes here."""
    kind = type(x)
    if kind not in BACKENDS and kind.__module__ == "cupy" and hasattr(x, "__cuda_array_interface__"):
        register_cupy()
    return kind in BACKENDS


def xp(array: Any) -> Any:
    """The namespace (numpy, cupy) that computes on this array. TypeError if it is not an array."""
    return backend(array).xp


def name(array: Any) -> str:
    """The device of this array: "cpu", "cuda:0". TypeError if it is not an array. ValueError if it is on another CUDA
    device than the one of this process."""
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


def library(device: str) -> Backend:
    """The library of the arrays on a device. A CUDA device is from then on the one that this process uses. ValueError
    for a device that is unknown or does not work, and for a second CUDA device."""
    kind, _, number = resolve(device).partition(":")
    if number:
        use(int(number))                        # what the library tells of its device, such as its memory, is of this
    return next(b for b in BACKENDS.values() if b.kind == kind)


def put(array: Any, device: str) -> Any:
    """The array (or a list of numbers) on `device`; an array that is already there is returned as it is. ValueError
    for a device that is unknown or does not work, and for a second CUDA device."""
    device = resolve(device)
    if is_array(array) and name(array) == device:
        return array
    number = int(device.partition(":")[2] or 0)
    return library(device).put(host(array) if is_array(array) else np.asarray(array), number)


def synchronize() -> None:
    """Return when everything queued on every device has been computed. Needed only to measure time: whatever reads
    numbers on the host waits for them."""
    for library in list(BACKENDS.values()):
        library.synchronize()


def resolve(device: str) -> str:
    """The full name of a device: "cuda" -> "cuda:0", "auto" -> "cuda:0" or "cpu". ValueError, with the reason, for a
    device that is unknown or does not work, and for another CUDA device than the one of this process."""
    kind, _, number = str(device).partition(":")
    if device in {b.kind for b in BACKENDS.values()} - {"cuda"}:
        return device
    if device == "auto":
        return resolve("cuda") if cuda_status()[0] else "cpu"
    if kind != "cuda" or (number and not number.isdecimal()) or str(device).endswith(":"):
        raise ValueError(f'unknown device {device!r}: use "auto", "cpu", "cuda" or "cuda:N"')
    works, why_not = cuda_status()
    if not works:
        raise ValueError(f'device {device!r} cannot be used: {why_not}; or use device="cpu"')
    if not any(b.kind == "cuda" for b in BACKENDS.values()):
        register_cupy()
    n = int(number) if number else number_in_use()
    check_number(n)
    return f"cuda:{n}"


def from_dlpack(x: Any) -> Any:
    """An array that shares the memory of another library's array x, on the device of x. ValueError if that is CUDA and
    CuPy does not work here, and if it is another CUDA device than the one of this process."""
    kind, number = x.__dlpack_device__()
    if kind != 2:                               # DLPack's number for CUDA
        return np.from_dlpack(x)
    resolve(f"cuda:{number}")
    return cupy_from_dlpack(x)


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
