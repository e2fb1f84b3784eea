"""Faults and bad input of several processes: what ends one ends all, with one message, and nothing keeps running."""
import json
import os
import signal
import sys
import types

import pytest
import safetensors.numpy

import train
from gpt.run import checkpoint, folder, plot, processes
from minigrad import device
from minigrad.parallel.world import RANKS, SIZES, World, portable
from mpirun import ROOT, TEXT, TINY, Job, mpirun

PLANTED = [sys.executable, str(ROOT / "tests" / "planted_run.py")]
FOUR = [*TINY, "--dataset=stars.txt", "--gradient_accumulation_steps=4", "--sample_interval=0", "--out_dir=run"]


@pytest.fixture
def text(tmp_path):
    (tmp_path / "stars.txt").write_text(TEXT, "utf-8")
    return tmp_path


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The tensors after all steps of a run of one process."""
    path = tmp_path_factory.mktemp("unbroken")
    (path / "stars.txt").write_text(TEXT, "utf-8")
    return train_here(path, FOUR)


def train_here(path, arguments):
    """Train in this process, in a folder  ->  the tensors of the newest checkpoint, the losses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        for name in ("loss_curve", "lr_curve", "stats_maps"):
            patch.setattr(plot, name, lambda *_: None)      # takes most of the time of a short run
        train.main(arguments)
    return result(path / "run")


def result(run):
    newest = checkpoint.newest_first(run)[0].with_suffix(".safetensors")
    losses = [{name: value for name, value in row.items() if name != "tokens_per_s"}
              for row in folder.read_rows(run / "metrics.jsonl")]
    return {name: x.tobytes() for name, x in safetensors.numpy.load(newest.read_bytes()).items()}, losses


def outcomes(path, cases, n=2):
    """Run trainings one after the other on n ranks  ->  for each: a list of (status, stdout, stderr), by rank."""
    (path / "cases").write_text(json.dumps(cases), "utf-8")
    status, out, err = mpirun(n, *PLANTED, "cases", cwd=path)
    assert status == 0, out + err
    return list(zip(*(json.loads((path / f"cases.{rank}").read_text("utf-8")) for rank in range(n))))


# ---- a process that fails alone ----

@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_job_and_one_process_resumes_with_the_same_bits(text, unbroken, rank):
    fault = f"rank == {rank} and at('gpt.model:GPT.loss', 25, send(signal.SIGKILL))"       # in step 12
    status, _, _ = mpirun(2, *PLANTED, fault, *FOUR, cwd=text)
    assert status != 0
    assert checkpoint.step_of(checkpoint.newest_first(text / "run")[0]) == 10
    assert train_here(text, ["--init_from=resume", "--out_dir=run"]) == unbroken


def test_an_exception_on_one_rank_ends_the_job_and_shows_the_traceback_and_the_rank(text, unbroken):
    status, _, err = mpirun(2, *PLANTED, "rank == 1 and at('gpt.model:GPT.loss', 25, fail(KeyError('planted')))", *FOUR,
                            cwd=text)
    assert status == 1
    assert err.count("Traceback") == 1 and "rank 1 of 2: Traceback" in err and "KeyError: 'planted'" in err
    assert "this process failed, and all are ended" in err


@pytest.mark.parametrize("rank", [0, 1])
def test_a_lack_of_memory_on_one_rank_ends_the_job_with_a_line(text, unbroken, rank):
    status, _, err = mpirun(2, *PLANTED, f"rank == {rank} and at('gpt.model:GPT.loss', 25, fail(MemoryError('big')))",
                            *FOUR, cwd=text)
    assert status == 2
    assert err.count("train.py: out of memory: big: halve --batch_size=2 and double") == 1
    assert "--init_from=resume --out_dir=run resumes the run" in err
    assert f"rank {rank} of 2: " in err and "Traceback" not in err


def test_a_stopped_rank_ends_the_job_when_the_others_have_waited_for_it(text, unbroken):
    status, _, err = mpirun(2, *PLANTED, "rank == 1 and at('gpt.model:GPT.loss', 25, send(signal.SIGSTOP))", *FOUR,
                            "--patience=3", cwd=text)
    assert status == 3
    assert "rank 0 of 2: waited 3 s for the others" in err


# ---- signals ----

def test_ctrl_c_saves_the_step_that_all_have_done(text, unbroken):
    job = Job(2, *PLANTED, "", *FOUR, "--max_iters=100000", cwd=text)
    job.wait_for(text / "run" / "checkpoints" / "step_000010.json")
    job.process.send_signal(signal.SIGINT)
    status, out, err = job.end()
    step = checkpoint.step_of(checkpoint.newest_first(text / "run")[0])
    assert status == 130, err
    assert f"stopped at step {step}, which is saved" in out and "Traceback" not in err


def test_sigterm_during_the_start_ends_all_with_status_143(text):
    job = Job(2, *PLANTED, "rank == 1 and at('gpt.run.run:matmul_peak', 1, pause)", *FOUR, cwd=text)
    job.wait_for(text / "paused")
    job.process.send_signal(signal.SIGTERM)
    status, _, err = job.end()
    assert status == 143
    assert "Traceback" not in err and "failed" not in err


def test_ctrl_c_of_one_rank_during_the_start_ends_all_with_status_130(text):
    status, _, err = mpirun(2, *PLANTED, "rank == 1 and at('gpt.run.run:matmul_peak', 1, send(signal.SIGINT))", *FOUR,
                            cwd=text)
    assert status == 130
    assert "Traceback" not in err and "failed" not in err


def test_the_second_signal_ends_all_at_once(text, unbroken):
    fault = "rank == 0 and at('gpt.model:GPT.loss', 5, lambda *args, **more: (send(2)(), send(2)()))"
    status, out, _ = mpirun(2, *PLANTED, fault, *FOUR, cwd=text)
    assert status != 0 and "stopped at step" not in out


# ---- what ends all processes together: several trainings in one job ----

def test_faults_that_all_ranks_meet_are_said_once_by_rank_0_and_leave_a_run_that_resumes(text, unbroken):
    def signalled(rank, number, where, call):
        return f"rank == {rank} and at({where!r}, {call}, send({number}))"
    constant = ["--learning_rate=30", "--lr_schedule=constant", "--grad_clip=0", "--eval_interval=1",
                "--checkpoint_interval=1"]
    full = "rank == 0 and at('gpt.run.checkpoint:save', 2, fail(OSError(errno.ENOSPC, 'No space left', 'x.json')))"
    changed = "lambda run, step: next(iter(run.model.parameters())).data.__setitem__((0, 0), 7.0)"
    other = ("rank == 1 and mock.patch('gpt.blas.describe', lambda: 'other kernels').start()\n"
             "mock.patch('os.sched_getaffinity', lambda pid: {0}).start()\n")
    cases = {
        # name: (fault, options, status, what rank 0 says)
        "full": (full, [], 2, "train.py: cannot write x.json: No space left. The checkpoint of step 0 is intact"),
        "loss": ("", ["--learning_rate=1e30", "--grad_clip=0"], 1, "training diverged: the loss is nan at step 1"),
        "validation": ("", constant, 1, "training diverged: the validation loss is"),
        "samples": ("at('gpt.run.run:samples', 2, fail(ValueError('the logits are nan: planted')))",
                    ["--sample_interval=10"], 1, "training diverged: the logits are nan at step 10"),
        "weights": ("at('gpt.run.checkpoint:_check_finite', 2, fail(FloatingPointError('h.0 is not finite')))", [], 1,
                    "training diverged: h.0 is not finite at step 10"),
        "drift": (f"rank == 1 and at('gpt.run.run:Run._check_equal', 2, {changed})", [], 1,
                  "rank 1 has weights at step 10, of SHA-256"),
        "training": (other + signalled(1, 2, "gpt.model:GPT.loss", 9), [], 130, "stopped at step 5"),
        "validating": (signalled(1, 15, "gpt.run.run:evaluate", 2), [], 143, "stopped at step 11"),
        "sampling": (signalled(0, 2, "gpt.run.run:samples", 2), ["--sample_interval=10"], 130, "stopped at step 11"),
        "report": ("mock.patch('gpt.run.plot.draw').start()\n" +
                   signalled(1, 2, "gpt.run.run:Run._print_validation", 1), [], 0, "next    "),
    }
    found = dict(zip(cases, outcomes(text, [[fault, [*FOUR, f"--out_dir={name}", *options]]
                                            for name, (fault, options, _, _) in cases.items()])))
    for name, (_, _, status, said) in cases.items():
        (of_rank_0, out, err), (of_rank_1, *others) = found[name]
        message = of_rank_0 if isinstance(of_rank_0, str) else out + err        # a text is printed at the exit
        assert said in message, name
        assert (1 if isinstance(of_rank_0, str) else of_rank_0, of_rank_1) == (status, status), name
        assert others == ["", ""], name
        saved = [checkpoint.step_of(path) for path in checkpoint.newest_first(text / name)]
        if "stopped" in said:
            assert saved[0] == int(said.split()[-1])
        if status in (1, 2):
            assert saved == [0], name           # what was wrong is not saved
    notes = " ".join(found["training"][0][1].split())
    assert "2 processes x 1 thread share the 1 core of" in notes
    assert "rank 1 computes with other kernels" in notes and "will not give the same bits" in notes

    (text / "full").rename(text / "run")
    assert train_here(text, ["--init_from=resume", "--out_dir=run"]) == unbroken


def test_bad_input_is_refused_on_all_ranks_said_once_by_rank_0_and_nothing_is_written(text):
    (text / "short.txt").write_text("short", "utf-8")
    other_machine = ("mock.patch('platform.node', lambda: f'host{rank}').start()\n"
                     "mock.patch('os.sched_getaffinity', lambda pid: set(range(2 + 2 * rank))).start()")
    cases = [
        # fault, options, what rank 0 says
        ("", ["--gradient_accumulation_steps=1"], "2 processes need --gradient_accumulation_steps=2 or more, got 1, as "
         "each computes whole micro-batches; --batch_size=1 --gradient_accumulation_steps=2 keeps the 2 rows"),
        ("", ["--nonsense=1"], "unknown option --nonsense"),
        ("", ["--dataset=missing.txt"], "missing.txt: No such file"),
        ("", ["--dataset=short.txt"], "the text is too short"),
        ("", ["--break=no-zero-grad"], "--break=no-zero-grad is a mistake of one process: start it without mpirun"),
        ("", ["--init_from=resume", "--out_dir=nowhere"], "nowhere holds no run"),
        ("", ["--n_embd=1000000"], "out of memory: training in 2 processes on a machine takes about"),
        ("", ["--device=cuda:0"], "--device=cuda:0 is one GPU, and each of 2 processes needs its own"),
        (other_machine, ["--threads=0"], "rank 1 has cores for --threads=4, and rank 0 --threads=2"),
        ("mock.patch('gpt.run.processes.source', lambda: f'source{rank}').start()", [],
         "rank 1 has program source1, and rank 0 source0"),
        ("mock.patch('numpy.__version__', f'2.{rank}').start()", [], "rank 1 has NumPy 2.1, and rank 0 2.0"),
        ("import gpt.run.machine as m\nrank == 1 and mock.patch('gpt.run.run.environment', lambda device: "
         "m.environment(device) | {'executor': 'other (1.0)'}).start()", [], "rank 1 has executor other, and rank 0 "),
        ("rank == 1 and mock.patch('train.main', lambda a, main=train.main: main([*a, '--seed=7'])).start()",
         ["--seed=6"], "--seed=6 --seed=7, and rank 0 "),
    ]
    found = outcomes(text, [[f"import train\n{fault}", [*FOUR, *options]] for fault, options, _ in cases])
    for (_, options, said), ((status, _, err), rank_1) in zip(cases, found):
        assert status == 2 and said in err, (options, err)
        assert err.count("\n") == 1 and err.startswith("train.py: "), err
        assert rank_1 == [2, "", ""], options
    assert sorted(path.name for path in text.iterdir()) == ["cases", "cases.0", "cases.1", "short.txt", "stars.txt"]


def test_help_is_printed_once(text):
    status, out, err = mpirun(2, *PLANTED, "", "--help", cwd=text)
    assert (status, err) == (0, "") and out.count("--max_iters=") == 1


def test_mpi4py_that_finds_no_mpi_is_said_once_under_mpirun(text):
    (text / "mpi4py").mkdir()
    (text / "mpi4py" / "__init__.py").touch()
    (text / "mpi4py" / "MPI.py").write_text("raise RuntimeError('cannot load MPI library')")
    status, out, err = mpirun(2, *PLANTED, "", *FOUR, cwd=text, env={"PYTHONPATH": f"{text}{os.pathsep}{ROOT}"})
    assert (status, out) == (2, "")
    assert err.count("2 processes were started and cannot exchange numbers (cannot load MPI library)") == 1
    assert 'pip install -e ".[mpi]"' in err and err.count("\n") == 1
    assert not (text / "run").exists()


# ---- the class World, in a program of one's own ----

WORLD = "import minigrad as mg, os, signal, sys\nworld = mg.parallel.World(patience=1)\n"


def program(text, n=2):
    return n, sys.executable, "-c", WORLD + text


def test_an_exception_on_one_rank_of_any_program_ends_all(tmp_path):
    status, _, err = mpirun(*program("if world.rank == 1: 1 / 0\nworld.gather(None)"), cwd=tmp_path)
    assert status == 1
    assert "rank 1 of 2: Traceback" in err and err.count("ZeroDivisionError") == 1


def test_a_system_exit_on_one_rank_ends_all_inside_with(tmp_path):
    status, _, err = mpirun(*program("""
with world:
    if world.rank == 1: sys.exit('not here')
    world.gather(None)
"""), cwd=tmp_path)
    assert status == 1 and "rank 1 of 2: not here" in err


def test_share_and_each_raise_on_every_rank_also_what_cannot_be_pickled(tmp_path):
    status, out, err = mpirun(*program("""
class Own(OSError):
    def __init__(self):
        super().__init__("no room")
        self.function = lambda: None
def fail(on):
    if world.rank in on: raise Own
for function, on in (world.share, [0]), (world.each, [1]):
    try:
        function(lambda: fail(on))
    except OSError as error:
        os.write(1, f"{world.rank} {error}\\n".encode())
world.share(lambda: fail([0]))
"""), cwd=tmp_path)
    assert sorted(out.split("\n")) == ["", "0 no room", "0 no room", "1 no room", "1 no room"]
    assert status == 1
    assert err.count("Traceback") == 1 and "Own: no room" in err and " of 2: " not in err


def test_an_exception_on_one_rank_ends_all_also_after_one_that_all_have_caught(tmp_path):
    status, _, err = mpirun(*program("""
with world:
    try:
        world.share(lambda: 1 / 0)
    except ZeroDivisionError:
        pass
    if world.rank == 1: raise KeyError("alone")
    world.gather(None)
"""), cwd=tmp_path)
    assert status == 1 and "rank 1 of 2: Traceback" in err and "KeyError: 'alone'" in err


def test_more_processes_than_micro_batches_in_a_loop_of_ones_own_are_refused_once(tmp_path):
    status, _, err = mpirun(*program("mg.parallel.GradientSum([mg.Tensor([1.0])], 1, world)"), cwd=tmp_path)
    assert status == 1 and err.count("2 processes need 2 micro-batches in a step or more, got 1") == 1


def test_a_rank_prints_any_character_where_the_locale_has_only_ascii(tmp_path):
    ascii = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    status, _, err = mpirun(*program("with world: print('' if world.rank == 0 else chr(177))"), cwd=tmp_path, env=ascii)
    assert (status, err) == (0, "")


def test_a_rank_that_is_stopped_after_its_last_exchange_ends_the_job(tmp_path):
    status, _, err = mpirun(*program("""
with world:
    if world.rank == 0: os.kill(os.getpid(), signal.SIGSTOP)
"""), cwd=tmp_path)
    assert status == 3 and "rank 1 of 2: waited 1 s for the others" in err


def test_a_rank_that_ends_before_it_has_joined_ends_the_job(tmp_path):
    alone = "import os, sys\nif os.environ.get('PMI_RANK') == '1': sys.exit(2)\n"
    status, _, err = mpirun(2, sys.executable, "-c", alone + WORLD, cwd=tmp_path)
    assert status != 0 and "Timeout (0:00:01)" in err and "world.py" in err


@pytest.fixture
def started_as(monkeypatch):
    """A function that gives this process the environment of a launcher."""
    for name in SIZES + RANKS:
        monkeypatch.delenv(name, raising=False)

    def start(environment, mpi4py):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(sys.modules, "mpi4py", mpi4py)      # None: import raises ImportError
    return start


@pytest.mark.parametrize("environment", [{}, {"SLURM_NTASKS": "4"}, {"PMI_SIZE": "1", "PMI_RANK": "0"}])
def test_one_process_does_not_import_mpi4py(started_as, environment):
    started_as(environment, None)
    world = World()
    assert (world.rank, world.size, world.machines) == (0, 1, 1)
    assert world.gather(3) == [3] and world.share(lambda: 4) == 4


@pytest.mark.parametrize("environment, says", [({"PMI_SIZE": "2", "PMI_RANK": "0"}, True), ({"PMIX_RANK": "0"}, True),
                                               ({"PMI_SIZE": "2", "PMI_RANK": "1"}, False)])
def test_several_processes_without_mpi4py_are_refused_and_said_by_rank_0(started_as, environment, says):
    started_as(environment, None)
    with pytest.raises(ValueError if says else SystemExit, match="cannot exchange numbers" if says else "2"):
        World()


TWO_MPIS = [    # environment, the rank that says it
    ({"PMI_SIZE": "2", "PMI_RANK": "0"}, True), ({"PMI_SIZE": "2", "PMI_RANK": "1"}, False),
    ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}, True),
    ({"OMPI_COMM_WORLD_SIZE": "3", "OMPI_COMM_WORLD_RANK": "2", "PMIX_RANK": "2"}, False),
    ({"PMIX_RANK": "1"}, True), ({"PMIX_RANK": "2"}, False),
]


@pytest.mark.parametrize("environment, says", TWO_MPIS)
def test_mpirun_of_another_mpi_than_mpi4pys_is_refused_and_said_by_one_rank(started_as, environment, says):
    mpi = types.SimpleNamespace(COMM_WORLD=types.SimpleNamespace(rank=0, size=1),
                                Get_library_version=lambda: "MPICH 5\nmore")
    started_as(environment, types.SimpleNamespace(MPI=mpi))
    with pytest.raises(ValueError if says else SystemExit, match="two MPIs.*MPICH 5" if says else "2"):
        World()


def test_an_exception_that_can_be_pickled_is_shared_as_it_is():
    assert repr(portable(OSError(28, "full", "x.json"))) == repr(OSError(28, "full", "x.json"))
    assert portable(None) is None


# ---- GPUs ----

def world_of(rank, *visible):
    """A world whose ranks run on one machine and see these GPUs."""
    return types.SimpleNamespace(rank=rank, size=len(visible), local_size=len(visible),
                                 gather=lambda mine: [(mine[0], v) for v in visible])


def test_each_process_has_the_gpu_of_its_number_among_those_that_see_the_same_gpus(monkeypatch):
    monkeypatch.setattr(device, "resolve", {"cuda": "cuda:0", "cuda:0": "cuda:0", "cuda:1": "cuda:1"}.__getitem__)
    assert [processes.device_of_rank("cuda", world_of(rank, None, None)) for rank in (0, 1)] == ["cuda:0", "cuda:1"]
    assert [processes.device_of_rank("cuda", world_of(rank, "0", "1")) for rank in (0, 1)] == ["cuda:0", "cuda:0"]
    four = [processes.device_of_rank("cuda", world_of(rank, "0,1", "0,1", "2,3", "2,3")) for rank in range(4)]
    assert four == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


def test_more_processes_than_gpus_are_refused(monkeypatch):
    def resolve(name):
        if name == "cuda:1":
            raise ValueError("device 'cuda:1' does not exist: this machine has 1, numbered from 0")
        return "cuda:0"
    monkeypatch.setattr(device, "resolve", resolve)
    with pytest.raises(ValueError, match="each of 2 processes on a machine needs a GPU of its own: .* has 1"):
        processes.device_of_rank("cuda", world_of(1, None, None))
