"""Reading regular files alone, and writing files that a crash leaves complete."""
import contextlib
import io
import os
import stat
from pathlib import Path
from typing import Any


# ---- reading ----

def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file to read it. ValueError for a FIFO, a directory and the like, OSError if it cannot be read."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path} is not a regular file: move it away")
    return open(path, "rb")


# ---- writing ----

def write_atomically(path: Path, data: Any) -> None:
    """Write a file so that after a crash at any moment it is the old one or the new one, never a part of it. OSError
    names the file."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.unlink(missing_ok=True)       # left by a crash, or a link to another file
        with open(temporary, "xb") as file:
            file.write(data)
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
