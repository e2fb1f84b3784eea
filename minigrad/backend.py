"""Array libraries: what the engine asks of NumPy, CuPy and any other that is registered."""
import time
from typing import Any, Callable, NamedTuple

import numpy as np


def seconds_on_host(f: Callable[[], Any]) -> float:
    """How long f takes."""
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


class Backend(NamedTuple):
    """One array library: its namespace, how its arrays are copied to and from the host, how to wait for them, and what
    the library does differently from NumPy."""
    kind: str                                   # "cpu", "cuda"
    xp: Any                                     # numpy, cupy
    put: Callable[[np.ndarray, int], Any]       # host array, device number -> device array
    host: Callable[[Any], np.ndarray]           # device array -> host array
    number: Callable[[Any], int | None]         # device array -> device number; None if there is only one device
    synchronize: Callable[[], None]             # return when everything queued on the device has been computed
    wraps: bool                                 # an index out of range wraps around without an error
    address: Callable[[Any], int]               # of the first element of an array
    add_at: Callable[[Any, Any, Any], None]     # y, index, x: y[index] += x, once for each index, in a fixed order
    seconds: Callable[[Callable[[], Any]], float] = seconds_on_host     # that a call takes on the device
    memory: Callable[[], tuple[int, int, int] | None] = lambda: None    # bytes free, in the pool, and in use of these
    facts: Callable[[], dict[str, Any]] = dict  # what results depend on besides the host: the card, its libraries


BACKENDS: dict[type, Backend] = {}              # array type -> its library
WHEN_REGISTERED: list[Callable[[type, Backend], None]] = []     # called with each new entry of BACKENDS


def register(array_type: type, backend: Backend) -> None:
    """Let the engine compute on arrays of `array_type` with `backend`."""
    BACKENDS[array_type] = backend
    for call in WHEN_REGISTERED:
        call(array_type, backend)


register(np.ndarray, Backend("cpu", np, put=lambda array, number: array, host=lambda array: array,
                             number=lambda array: None, synchronize=lambda: None, wraps=False,
                             address=lambda array: array.__array_interface__["data"][0], add_at=np.add.at))
