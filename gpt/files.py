"""Reading and writing the files of a run and of a model. A file is written as a whole or not at all, never through a
symbolic link, and has a SHA-256, so that damage is noticed. Only regular files are read: a read of a FIFO would wait
forever."""
import contextlib
import errno
import hashlib
import io
import json
import os
import reprlib
import stat
from collections import Counter
from pathlib import Path
from typing import Any, Collection, Mapping

import numpy as np

SMALL = 2 ** 20                                 # bytes: more than any settings need, little to read
HOW_TO_GO_ON = "restore it from a copy, or train again in another --out_dir"


# ---- reading ----

def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file to read it. ValueError for a FIFO, a directory and the like, OSError if it cannot be read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file: replace it by one")
    return open(path, "rb")


def read_json(path: Path, limit: int = SMALL) -> dict[str, Any]:
    """The object in a JSON file of at most `limit` bytes. ValueError if the file is damaged; OSError if it cannot be
    read."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    try:
        if len(data) > limit:
            raise ValueError(f"it has more than {limit:,} bytes")
        return json_object(data)
    except ValueError as error:
        raise damaged(path, error) from None


def json_object(text: str | bytes, **options: Any) -> dict[str, Any]:
    """The object in the text of a JSON file. options: of json.loads. ValueError for anything else, and for a name that
    occurs twice."""
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
            raise ValueError(f"{reprlib.repr(twice)} is there twice")
        return found

    try:
        content = json.loads(text, object_pairs_hook=unique, **options)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"expected {{name: value, ...}}, got a {type(content).__name__}")
    return content


def damaged(path: Path, reason: object) -> ValueError:
    """The error for a damaged file that is needed to go on."""
    return ValueError(f"{path} is damaged: {reason}; {HOW_TO_GO_ON}")


# ---- seals ----

def sha256(record: Mapping[str, Any], *data: Any, file: Any = None) -> str:
    """The SHA-256 of the parts of data, one after the other, or of an open file, and of a record without its own
    SHA-256."""
    rest = {name: value for name, value in record.items() if name != "sha256"}
    digest = hashlib.sha256()
    for part in data:                           # to join them would copy them
        digest.update(part)
    if file is not None:
        hashlib.file_digest(file, lambda: digest)
    digest.update(json.dumps(rest, sort_keys=True).encode())
    return digest.hexdigest()


def write_sealed(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record as JSON, with its SHA-256."""
    write_atomically(path, json.dumps({**record, "sha256": sha256(record)}, indent=2).encode())


def read_sealed(path: Path, names: Collection[str], limit: int = SMALL) -> dict[str, Any]:
    """The record in a file by write_sealed, with only these names. ValueError if it is damaged; OSError if it cannot
    be read. Files of earlier versions have no SHA-256."""
    record = read_json(path, limit)
    seal = record.pop("sha256", None)
    unknown = sorted(record.keys() - set(names))
    if unknown:
        raise damaged(path, f"unknown name {unknown[0]!r:.40}")
    if seal not in (None, sha256(record)):
        raise damaged(path, "its content does not have the SHA-256 that is in it")
    return record


# ---- writing ----

def write_atomically(path: Path, *data: Any) -> None:
    """Write a file so that after a crash at any moment it is the old one or the new one, never a part of it. data: its
    parts, bytes or contiguous arrays. OSError names the file."""
    temporary = path.with_name(path.name + ".tmp")
    if temporary.is_dir() and not temporary.is_symlink():
        raise OSError(errno.EISDIR, f"{os.strerror(errno.EISDIR)}: move it away", str(temporary))
    try:
        temporary.unlink(missing_ok=True)       # it was left by a crash, or is a link to another file
        with open(temporary, "xb") as file:
            file.writelines(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()                  # frees space on a full disk
        raise OSError(error.errno, error.strerror, str(path)) from None
    if os.name == "posix":                      # the new name must survive a loss of power too
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)


def safetensors_parts(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> list[Any]:
    """The parts of a safetensors file of floating arrays, for write_atomically. The arrays are not copied, as in
    safetensors.numpy.save, which needs twice their memory."""
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, x in tensors.items():
        start, end = end, end + x.nbytes
        header[name] = {"dtype": f"F{8 * x.itemsize}", "shape": x.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)             # so that the numbers are aligned
    return [len(text).to_bytes(8, "little"), text, *map(np.ascontiguousarray, tensors.values())]


def append(path: Path, text: str) -> None:
    """Append to a text file. OSError names the file."""
    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0), 0o666)
    try:
        with open(path, "ab", opener=opener) as file:
            file.write(text.encode("utf-8", errors="replace"))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
