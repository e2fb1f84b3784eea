"""Which memory was given new values, and when. A backward that needs the old values is refused.

Several Tensors may share memory: a Tensor and its detach(), or a view made under no_grad. So changes are stored by
address. Addresses of freed memory are used again, but this causes no mistake: a node refers to its inputs, so their
memory is not freed while the node exists, and a change at their addresses after the node was made is one of them.
"""
import itertools
import os
import threading
from typing import Any

from minigrad import device

clock = itertools.count(1).__next__             # numbers all nodes and all changes in order of time
latest = 0                                      # the time of the latest change
_changes: dict[tuple[int, int], int] = {}       # addresses of memory (start, end) -> when it changed; the latest last
_lock = threading.RLock()                       # keeps the changes of several threads in order of time
if hasattr(os, "register_at_fork"):             # a fork must not copy the lock while another thread has locked it
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


def record(array: Any) -> None:
    """Record that the values of an array have just been changed."""
    global latest
    memory = device.addresses(array)
    with _lock:
        _changes.pop(memory, None)
        _changes[memory] = latest = clock()


def changed_since(array: Any, time: int) -> bool:
    """Whether a change of memory that the array uses was recorded after this time."""
    start, end = device.addresses(array)
    return any(first < end and start < last for (first, last), _ in _after(time))


def _after(time: int) -> list[tuple[tuple[int, int], int]]:
    """The changes that were recorded after this time."""
    try:
        return list(itertools.takewhile(lambda change: change[1] > time, reversed(_changes.items())))
    except RuntimeError:                        # another thread has recorded a change meanwhile
        return _after(time)
