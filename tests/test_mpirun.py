"""mpirun -n K python train.py: the weights, moments, logs, samples and checkpoints of one process, bit for bit.

To start processes takes the longest, so that each number of them is started once and does several things: see ranks.py.
"""
import json
import shutil
import sys

import numpy as np
import pytest

import ranks
from mpirun import TINY, folder_with_text, mpirun, open_mpi, outcome

OPTIONS = [*TINY, "--dataset=stars.txt"]
RUNS = {f"{G}-{dtype}": [*OPTIONS, f"--gradient_accumulation_steps={G}", f"--dtype={dtype}", f"--out_dir={G}-{dtype}"]
        for G, dtype in [(4, "float32"), (6, "float32"), (6, "float64"), (8, "float32")]}
MASKED = [(4, "float32"), (6, "float64")]
RESUME = ["--init_from=resume", "--out_dir=moved"]
# One run goes from 1 process to 3 and then to 2. It gets a signal in these steps: the rank, and the step.
MOVED = {"1": {"options": [*OPTIONS, "--gradient_accumulation_steps=6", "--out_dir=moved"], "stop": [0, 5]},
         "3": {"options": RESUME, "stop": [1, 12]}, "2": {"options": RESUME}}
JOBS = {"2": {}, "3": {}, "4": {}}              # the number of processes: the options of mpirun
if other := open_mpi():
    JOBS["3 of Open MPI"] = other


def tasks(job):
    """What the processes of a job do, for ranks.py. "1" is a process without mpirun."""
    return [*[("run", {"options": options}) for options in RUNS.values()],
            *[("run", MOVED[j]) for j in MOVED if j == job],
            *[("masked", {"G": G, "dtype": dtype}) for G, dtype in MASKED],
            *[("share", {"limit": limit, "bucket": 1000}) for limit in (1000, 1 << 30) if job[0] == "3"]]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder in which one process has done everything."""
    path = tmp_path_factory.mktemp("one")
    with folder_with_text(path):
        for name, arguments in tasks("1"):
            getattr(ranks, name)(**arguments)
    return path


@pytest.fixture(scope="module")
def several(one, tmp_path_factory):
    """several(job): the folder in which several processes have done everything, after one start by mpirun."""
    done = {}

    def start(job):
        if job not in done:
            path = tmp_path_factory.mktemp(job)
            shutil.copy(one / "stars.txt", path)
            if job in MOVED:
                shutil.copytree((one if job == "3" else start("3")) / "moved", path / "moved")
            status, out, err = mpirun(job[0], sys.executable, ranks.__file__, json.dumps(tasks(job)), cwd=path,
                                      **JOBS[job])
            assert status == 0, out + err
            done[job] = path
        return done[job]
    return start


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("run", RUNS)
def test_several_processes_write_the_files_of_one_process(one, several, run, job):
    """With dropout, and validation, samples, statistics and checkpoints in between."""
    for expected, found in zip(outcome(one / run), outcome(several(job) / run), strict=True):
        assert found == expected


def arrays(path):
    with np.load(path) as saved:
        return list(saved.values())


def same_bits(xs, ys):
    return len(xs) == len(ys) and all((x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())
                                      for x, y in zip(xs, ys))


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("G, dtype", MASKED)
def test_several_processes_have_the_bits_of_one_where_targets_are_masked_unevenly(one, several, G, dtype, job):
    """One micro-batch and one step have no target that counts."""
    expected = arrays(one / f"masked-{G}-{dtype}-0.npz")
    assert expected[3] == 0.0 < expected[4]                 # losses
    for rank in range(int(job[0])):
        assert same_bits(arrays(several(job) / f"masked-{G}-{dtype}-{rank}.npz"), expected)


def test_a_run_that_stops_and_goes_on_with_3_and_then_2_processes_equals_one_that_never_stopped(one, several):
    *expected, checkpoints = outcome(one / "6-float32")
    *found, with_stops = outcome(several("2") / "moved")
    assert found == expected
    assert checkpoints["step_000020.safetensors"] == with_stops["step_000020.safetensors"]


@pytest.mark.parametrize("job", [job for job in JOBS if job[0] == "3"])
@pytest.mark.parametrize("limit, once", [(1000, True), (1 << 30, False)])
def test_each_rank_gets_the_array_of_rank_0_and_a_large_one_is_in_memory_once(several, limit, once, job):
    changed = ranks.ARRAY.copy()
    changed[7, 5] += 1
    for rank in range(3):
        found = arrays(several(job) / f"share-{limit}-{rank}.npz")
        assert same_bits(found, [ranks.ARRAY, changed if once or rank == 0 else ranks.ARRAY])
