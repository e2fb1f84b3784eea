"""One training at a time in the folder of a run: its file `lock` names the process that trains there.

The process holds an flock on the file, which ends with the process, also by a kill: a file that is left behind on the
same host locks nothing. On another host of a shared disk, and where there is no flock, its owner may still be running:
then the file itself is the lock.
"""
import contextlib
import json
import os
import platform
import stat
import time
from pathlib import Path
from typing import Any, Iterator

try:
    import fcntl
except ImportError:                             # Windows
    fcntl = None                                # type: ignore[assignment]


@contextlib.contextmanager
def locked(out_dir: Path) -> Iterator[None]:
    """Inside, no other process or thread can lock this folder. ValueError if one has locked it."""
    path, owner = out_dir / "lock", os.getpid()
    descriptor = _lock(path)
    try:
        yield
    finally:
        if os.getpid() == owner:                # not in a fork, which may end before its parent
            with contextlib.suppress(OSError):
                path.unlink()                   # before the close, after which others can lock it
        if descriptor is not None:
            os.close(descriptor)


def _lock(path: Path) -> int | None:
    """Make the file and lock it  ->  its descriptor, which holds the flock; None where there is no flock."""
    created, descriptor = _open(path)
    keep = False
    try:
        flock = _flock(descriptor)
        if flock and not _is_at(path, descriptor):
            return _lock(path)                  # its owner deleted it after it was opened here
        owner = {} if created else _owner(descriptor)
        here = owner.get("host", platform.node()) == platform.node()
        if flock is False or not (created or flock and here):
            raise _refusal(path, owner, certain=flock is False and here)
        record = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, json.dumps(record).encode())
        except OSError as error:                # a full disk
            raise OSError(error.errno, error.strerror, str(path)) from None
        keep = bool(flock)
        return descriptor if keep else None
    finally:
        if not keep:
            os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the descriptor is that of the file at the path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _open(path: Path) -> tuple[bool, int]:
    """Open the file, or make it  ->  whether it was made, and its descriptor. OSError for a symbolic link, ValueError
    for a FIFO and the like."""
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    with contextlib.suppress(FileExistsError):
        return True, os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:                   # its owner ended and deleted it just now
        return _open(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError(f"{path} is not a regular file: move it away")
    return False, descriptor


def _flock(descriptor: int) -> bool | None:
    """Whether the file is locked now by this call; None if there is no flock on this system or this disk."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def _owner(descriptor: int) -> dict[str, Any]:
    """The content of the file; empty if it is damaged, or not written yet."""
    try:
        owner = json.loads(os.read(descriptor, 1000))
        return {name: str(owner[name]) for name in ("pid", "host", "since")}
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}


def _refusal(path: Path, owner: dict[str, Any], certain: bool) -> ValueError:
    who = "process {pid} on {host} since {since}".format(**owner) if owner else "another process"
    return ValueError(f"{path.parent} is in use: a training runs there ({who}): wait until it has ended, or train in "
                      f"another --out_dir" + ("" if certain else f"; if that process has ended, delete {path}"))
