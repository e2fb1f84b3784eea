"""Random damage to the folders that a training run and `save_pretrained` write. A command on such a folder gives the
same bits as without the damage, or ends with status 2 and one line that names the file; it never hangs, shows a
traceback, or silently gives another result.
"""
import json
import math
import os
import shutil

import numpy as np

from gpt.model import GPT, GPTConfig
from gpt.run import folder as run_folder
from gpt.run.command_line import bad_input_exits

from . import processes

WRONG_VALUES = [None, -1, 0, 3, 2.5, 1e308, -1e308, math.nan, 10 ** 9, 10 ** 12, 10 ** 30, "", "x", "false", [], [1],
                {}, {"a": 1}, True, "9" * 5000]


# ---- damages: functions of a path, a random generator and a folder outside; some return what they changed -----------

def delete(path, rng, outside):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path, rng, outside):
    size = int(rng.integers(0, path.stat().st_size))
    os.truncate(path, size)
    return f"to {size} bytes"


def empty(path, rng, outside):
    path.write_bytes(b"")


def flip_a_bit(path, rng, outside):
    data = bytearray(path.read_bytes())
    at = int(rng.integers(len(data)))
    before = bytes(data[max(0, at - 30):at + 30])
    data[at] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return f"byte {at}, in {before!r}, becomes {data[at]:#04x}"


def zeros(path, rng, outside):
    data = bytearray(path.read_bytes())
    first = int(rng.integers(len(data)))
    last = min(len(data), first + int(rng.integers(1, 200)))
    data[first:last] = bytes(last - first)
    path.write_bytes(data)
    return f"bytes {first} to {last}"


def noise(path, rng, outside):
    path.write_bytes(rng.bytes(int(rng.integers(1, 3000))))


def more(path, rng, outside):
    with open(path, "ab") as file:
        file.write(rng.bytes(int(rng.integers(1, 50))))


def directory(path, rng, outside):
    delete(path, rng, outside)
    path.mkdir()


def fifo(path, rng, outside):
    delete(path, rng, outside)
    os.mkfifo(path)


def dangling_link(path, rng, outside):
    delete(path, rng, outside)
    path.symlink_to("nowhere")


def link_to_itself(path, rng, outside):
    delete(path, rng, outside)
    path.symlink_to(path.name)


def link_outside(path, rng, outside):
    outside.mkdir(exist_ok=True)
    moved = outside / path.name
    shutil.move(path, moved)
    path.symlink_to(moved)


def huge(path, rng, outside):
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)              # a sparse file of a terabyte


def nested(path, rng, outside):
    path.write_text("[" * 200_000 if rng.random() < 0.5 else '{"a":' * 200_000, "utf-8")


def places(value, path=()):
    """The paths of all values in JSON data."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def wrong_value(path, rng, outside):
    data = json.loads(path.read_text("utf-8"))
    *parents, last = list(places(data))[int(rng.integers(1, sum(1 for _ in places(data))))]
    within = data
    for key in parents:
        within = within[key]
    new = WRONG_VALUES[int(rng.integers(len(WRONG_VALUES)))]
    if removed := rng.random() < 0.3:
        del within[last]
    else:
        within[last] = new
    path.write_text(json.dumps(data), "utf-8")
    return f"{'.'.join(map(str, [*parents, last]))} {'removed' if removed else f'is {new!r:.40}'}"


def foreign_file(path, rng, outside):
    name = [f"{path.stem} (copy){path.suffix}", f"step_old{path.suffix}", f"step_000099{path.suffix}.tmp",
            f"{path.name}~", ".DS_Store", f"step_{path.suffix}"][int(rng.integers(6))]
    (path.parent / name).write_bytes(path.read_bytes()[:int(rng.integers(0, 5000))])


ANY = [delete, cut, empty, flip_a_bit, zeros, noise, more, directory, fifo, dangling_link, link_to_itself, link_outside,
       huge, foreign_file]
JSON = [*ANY, nested, wrong_value, wrong_value, wrong_value, wrong_value]
FOLDER = [delete, fifo, dangling_link, link_outside]


def damage(where, rng):
    """Damage one file or folder in a folder. Returns its path, and the damage in words."""
    paths = [path for path in sorted(where.rglob("*")) if path.suffix != ".png"]
    path = paths[int(rng.integers(len(paths)))]
    kinds = FOLDER if path.is_dir() else JSON if path.suffix == ".json" else ANY
    kind = kinds[int(rng.integers(len(kinds)))]
    what = kind(path, rng, where.parent / "outside")
    return path, f"{kind.__name__} on {path.relative_to(where)}" + (f": {what}" if what else "")


# ---- trials ---------------------------------------------------------------------------------------------------------

def wrong(ended, path, same):
    """What is wrong with how a command ended, or None. same: whether its result is that without the damage."""
    lines = [line for line in ended.err.splitlines() if not line.startswith("note ")]
    if ended.status == "hangs" or "Traceback" in ended.err or ended.status not in (0, 2):
        return f"status {ended.status}"
    if ended.status == 0 and (not same or lines):
        return "another result" if not same else "exit status 0, but an error message"
    if ended.status == 2 and (len(lines) != 1 or not named(path, lines[0])):
        return "not one line that names the file"
    return None


def named(path, line):
    """Whether a message names the damaged file, a file beside it, or its folder."""
    names = [path.name, path.stem, *os.listdir(path.parent), path.parent.name + os.sep, f"{path.parent.name} "]
    return any(name in line for name in names)


def listing(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*") if path.is_file()} if folder.exists() else {}


class Runs:
    """Damaged copies of a run that was killed: it is resumed, or sampled from."""

    def __init__(self, prepared):
        self.folder = prepared
        self.right = processes.tensors(prepared / "whole")
        self.sample = processes.run(processes.sampling("partly"), prepared)

    def trial(self, rng):
        """Returns None, or what is wrong and how to repeat it."""
        run, outside = self.folder / "run", self.folder / "outside"
        processes.copy(self.folder / "partly", run)
        shutil.rmtree(outside, ignore_errors=True)
        path, words = damage(run, rng)
        linked = listing(outside)
        if rng.random() < 0.75:
            command, ended = "resume", processes.run(processes.resuming("run"), self.folder)
            same = ended.status == 0 and processes.tensors(run) == self.right and self.same_metrics(run, path)
        else:
            command, ended = "sample", processes.run(processes.sampling("run"), self.folder)
            same = ended.out == self.sample.out or ended.err.startswith("note ")    # of another checkpoint, and says so
        found = wrong(ended, path, same)
        if found is None and listing(outside) != linked:
            found = "a file outside the run was changed"
        return found and (f"{command}: {found}", f"{words}\n{ended.err[-3000:]}\n")

    def same_metrics(self, run, path):
        def rows(folder):
            return [{k: v for k, v in row.items() if k != "tokens_per_s"}
                    for row in run_folder.read_rows(folder / "metrics.jsonl")]
        return path.name == "metrics.jsonl" or rows(run) == rows(self.folder / "whole")


class Models:
    """Damaged copies of a folder written by save_pretrained: the model is loaded."""

    def __init__(self, prepared):
        self.folder = prepared
        self.model = GPT(GPTConfig(block_size=4, vocab_size=7, n_layer=2, n_head=2, n_embd=8), seed=3)
        self.model.save_pretrained(prepared / "model")

    def trial(self, rng):
        """Returns None, or what is wrong and how to repeat it."""
        where = self.folder / "damaged"
        processes.copy(self.folder / "model", where)
        shutil.rmtree(self.folder / "outside", ignore_errors=True)
        path, words = damage(where, rng)

        def load():
            with bad_input_exits("load"):
                model = GPT.from_pretrained("damaged")
            equal = all(np.array_equal(a, b) for a, b in zip(model.state_dict().values(),
                                                            self.model.state_dict().values()))
            print("equal" if equal else "other")

        ended = processes.run(load, self.folder)
        weights = path.suffix == ".safetensors" and words.startswith(("flip", "zeros"))     # the format has no checksum
        found = wrong(ended, path, "equal" in ended.out or weights)
        return found and (f"from_pretrained: {found}", f"{words}\n{ended.err[-3000:]}\n")
