"""The number of threads that matrix products run on: those of NumPy's BLAS. Everything else runs on the caller's."""
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController


@cache                                          # finding the libraries takes milliseconds
def _blas_libraries() -> list[Any]:
    libraries: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return libraries


def set_num_threads(n: int) -> None:
    """Let matrix products run on n threads from now on. Results depend on n in the last bits: BLAS cuts its sums
    accordingly. ValueError unless n is a whole number of at least 1."""
    if not isinstance(n, int) or n < 1:
        raise ValueError(f"the number of threads must be a whole number of at least 1, got {n!r}")
    for library in _blas_libraries():
        library.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that matrix products run on; 1 where BLAS is unknown."""
    return max((library.get_num_threads() for library in _blas_libraries()), default=1)
