"""Where the text of a dataset comes from: generated, the standard library's source, downloaded, or a file."""
import hashlib
import http.client
import os
import platform
import sysconfig
import urllib.error
import urllib.request
from pathlib import Path
from typing import Iterator

from tqdm import tqdm

from gpt.files import open_regular
from gpt.text import fables

FABLES_CHARACTERS = 2_000_000
PYTHON_CHARACTERS = 4_000_000
# Folders of no use as training text: tests, installed packages, and `encodings`, which is tables of numbers.
LEFT_OUT = {"test", "tests", "idle_test", "site-packages", "dist-packages", "encodings"}
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"


def load_text(dataset: str, seed: int = 1337) -> str:
    """The text of a dataset. "fables": generated from the seed; "python": the source of the running interpreter's
    standard library; "shakespeare": downloaded once; otherwise the path of a UTF-8 text file. ValueError for a file
    that is missing, empty or no text."""
    if dataset == "fables":
        return fables.text(FABLES_CHARACTERS, seed)
    if dataset == "python":
        return python_source()
    if dataset == "shakespeare":
        return shakespeare()
    if not Path(dataset).is_file():             # a read of a FIFO would wait, and that of a device may never end
        raise ValueError(f"{dataset}: No such file; --dataset takes fables, python, shakespeare or a UTF-8 text file, "
                         "or pairs in a .jsonl file")
    text = read_text(Path(dataset))
    if not text:
        raise ValueError(f"the text is too short: {dataset} is empty")
    return text


def describe(dataset: str) -> str:
    """The name of a dataset in the header of a run."""
    if dataset == "python":
        return f"python, the library of {platform.python_version()} (another version, another text)"
    return dataset


def python_source() -> str:
    """The first 4 million characters of the standard library's source, files in the order of their paths. Each version
    of Python has another text."""
    root = Path(sysconfig.get_path("stdlib"))
    texts, size = [], 0
    for path in sorted(_python_files(root)):
        texts.append(read_text(path))
        size += len(texts[-1])
        if size >= PYTHON_CHARACTERS:
            break
    if not size:
        raise ValueError(f"there is no Python source of the standard library in {root}: give a text, --dataset=FILE")
    return "".join(texts)[:PYTHON_CHARACTERS]


def _python_files(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in LEFT_OUT]
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def shakespeare() -> str:
    """A million characters of Shakespeare's plays (Karpathy 2015), from the cache: $MINIGRAD_CACHE or
    ~/.cache/minigrad. Downloaded into the cache the first time. ValueError if the download fails; it says where to put
    the file."""
    cache = Path(os.environ.get("MINIGRAD_CACHE") or "~/.cache/minigrad").expanduser()
    path = cache / "tinyshakespeare.txt"
    if not path.exists():
        try:
            fetched = _fetch(SHAKESPEARE_URL)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()                   # an HTTPError is the response too, with an open socket
            raise ValueError(f"cannot fetch Shakespeare ({error}): download {SHAKESPEARE_URL} on another machine and "
                             f"put it here as {path.absolute()}") from None
        _check(fetched, f"the download from {SHAKESPEARE_URL}",
               f"get the file elsewhere and put it here as {path.absolute()}")
        cache.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_bytes(fetched)
        os.replace(partial, path)               # the cache never holds an incomplete file
    _check(path.read_bytes(), str(path.absolute()), f"delete it to fetch {SHAKESPEARE_URL} again")
    return read_text(path)


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:
        size = int(response.headers.get("Content-Length", 0)) or None
        with tqdm(total=size, desc=url.rpartition("/")[2], unit="B", unit_scale=True, disable=None) as bar:
            chunks = []
            while chunk := response.read(1 << 16):
                chunks.append(chunk)
                bar.update(len(chunk))
    return b"".join(chunks)


def _check(data: bytes, what: str, fix: str) -> None:
    found = hashlib.sha256(data).hexdigest()
    if found != SHAKESPEARE_SHA256:
        raise ValueError(f"{what} is not the expected file: its SHA-256 is {found}, not {SHAKESPEARE_SHA256}; {fix}")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark, and with one newline for each end of a line. ValueError
    with the offset of the first bad byte if the file is not text, and for a FIFO, a directory and the like."""
    with open_regular(path) as file:
        try:
            data = file.read()
        except MemoryError:
            raise MemoryError(f"{path} has {os.fstat(file.fileno()).st_size:,} bytes") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte 0x{data[error.start]:02x} at offset {error.start}; "
                         "save it as UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path} is not text: byte 0x00 at offset {data.index(0)}, as in binary files; give a text "
                         "file saved as UTF-8")
    return text.removeprefix("\ufeff").replace("\r\n", "\n")
