"""mpirun -n K python train.py: the weights, moments, logs, samples and checkpoints of one process, bit for bit.

To start processes takes the longest, so that each number of them is started once and does several things: see ranks.py.
"""
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import ranks
from gpt.run import folder
from mpirun import TINY, mpirun

TEXT = "".join(f"the {animal} sees {n} stars\n" for n in range(40) for animal in ("fox", "owl", "hare"))
OPTIONS = [*TINY, "--dataset=stars.txt"]
RUNS = {f"{G}-{dtype}": [*OPTIONS, f"--gradient_accumulation_steps={G}", f"--dtype={dtype}", f"--out_dir={G}-{dtype}"]
        for G, dtype in [(4, "float32"), (6, "float32"), (6, "float64"), (8, "float32")]}
MASKED = [(G, dtype) for G in (4, 6) for dtype in ("float32", "float64")]
RESUME = ["--init_from=resume", "--out_dir=moved"]
# One run goes from 1 process to 3 and then to 2. It gets a signal in these steps: the rank, and the step.
MOVED = {1: dict(options=[*OPTIONS, "--gradient_accumulation_steps=6", "--out_dir=moved"], stop=[0, 5]),
         3: dict(options=RESUME, stop=[1, 12]), 2: dict(options=RESUME)}


def tasks(K):
    return [*[("run", dict(options=options)) for options in RUNS.values()],
            *[("run", MOVED[K])] * (K in MOVED),
            *[("masked", dict(G=G, dtype=dtype)) for G, dtype in MASKED],
            *[("share", dict(limit=limit, bucket=1000)) for limit in (1000, 1 << 30)] * (K == 3)]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder in which one process has done everything."""
    path = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        Path("stars.txt").write_text(TEXT, "utf-8")
        for name, arguments in tasks(1):
            getattr(ranks, name)(**arguments)
    return path


@pytest.fixture(scope="module")
def several(one, tmp_path_factory):
    """several(K): the folder in which K processes have done everything, after one start by mpirun."""
    done = {}

    def start(K):
        if K not in done:
            path = tmp_path_factory.mktemp(f"{K}-processes")
            shutil.copy(one / "stars.txt", path)
            if K in MOVED:
                shutil.copytree((one if K == 3 else start(3)) / "moved", path / "moved")
            status, out, err = mpirun(K, sys.executable, ranks.__file__, json.dumps(tasks(K)), cwd=path)
            assert status == 0, out + err
            done[K] = path
        return done[K]
    return start


def outcome(run):
    """Everything in the folder of a run that the numbers decide."""
    metrics = [{name: x for name, x in row.items() if name != "tokens_per_s"}
               for row in folder.read_rows(run / "metrics.jsonl")]
    checkpoints = {path.name: path.read_bytes() for path in (run / "checkpoints").glob("*.safetensors")}
    digests = {path.name: json.loads(path.read_text("utf-8"))["sha256"] for path in (run / "checkpoints").glob("*.json")}
    assert metrics and checkpoints and digests.keys() == {name.replace("safetensors", "json") for name in checkpoints}
    return (metrics, (run / "samples.md").read_text("utf-8"), (run / "stats.jsonl").read_text("utf-8"), checkpoints,
            digests)


@pytest.mark.parametrize("K", [2, 3, 4])
@pytest.mark.parametrize("run", RUNS)
def test_k_processes_write_the_files_of_one_process(one, several, run, K):
    """With dropout, and validation, samples, statistics and checkpoints in between."""
    for expected, found in zip(outcome(one / run), outcome(several(K) / run), strict=True):
        assert found == expected


def arrays(path):
    with np.load(path) as saved:
        return list(saved.values())


def same_bits(xs, ys):
    return len(xs) == len(ys) and all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
                                      for x, y in zip(xs, ys))


@pytest.mark.parametrize("K", [2, 3, 4])
@pytest.mark.parametrize("G, dtype", MASKED)
def test_k_processes_have_the_bits_of_one_where_targets_are_masked_unevenly(one, several, G, dtype, K):
    """One micro-batch and one step have no target that counts."""
    expected = arrays(one / f"masked-{G}-{dtype}-0.npz")
    assert expected[3] == 0.0 < expected[4]                 # losses
    for rank in range(K):
        assert same_bits(arrays(several(K) / f"masked-{G}-{dtype}-{rank}.npz"), expected)


def test_a_run_that_stops_and_goes_on_with_3_and_then_2_processes_equals_one_that_never_stopped(one, several):
    assert (several(3) / "moved" / "checkpoints" / "step_000013.json").exists()
    for expected, found in zip(outcome(one / "6-float32"), outcome(several(2) / "moved"), strict=True):
        assert found == expected


@pytest.mark.parametrize("limit, once", [(1000, True), (1 << 30, False)])
def test_each_rank_gets_the_array_of_rank_0_and_a_large_one_is_in_memory_once(several, limit, once):
    array = np.random.default_rng(0).integers(0, 1 << 16, (100, 31), np.uint16)
    changed = array.copy()
    changed[7, 5] += 1
    for rank in range(3):
        found = arrays(several(3) / f"share-{limit}-{rank}.npz")
        assert same_bits(found, [array, changed if once or rank == 0 else array])
