"""What is special to loops: compiling and its cache, threads, gemm of NumPy's BLAS, forks and interrupts. That loops
compute what their ops do is tested with the other kernels."""
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import random
from minigrad.executor import EXECUTORS
from minigrad.gradcheck import relative_error

pytest.importorskip("numba", reason="loops need numba, of the extra fast")
import numba.core.caching

from gpt.run import machine
from minigrad.kernels import loops
from minigrad.kernels.loops import attention, blas, compiling, dropout, linalg, threads
from minigrad.kernels.loops.__main__ import main

RNG = np.random.default_rng(0)
ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def loops_on_two_threads(monkeypatch):
    monkeypatch.setitem(EXECUTORS, np.ndarray, loops.executor())
    before = mg.get_num_threads()
    mg.set_num_threads(2)
    yield
    mg.set_num_threads(before)


def run_script(code, *, prelude="", timeout=120, **environment):
    """Run code in a new process, in which loops run for arrays of any size."""
    start = f"""
import os, sys, threading
{prelude}
import numpy as np
import minigrad as mg
from minigrad import functional as F
from minigrad.executor import EXECUTORS
EXECUTORS[np.ndarray].min_size = 1
def loss_and_gradient():
    x = np.sin(np.arange(40 * 96, dtype="float32")).reshape(40, 96)
    w = mg.Tensor(np.cos(np.arange(96 * 64, dtype="float32")).reshape(96, 64), requires_grad=True)
    loss = (F.linear(x, w, np.ones(64, "float32")) ** 2).sum()
    return loss, w
def bits():
    loss, w = loss_and_gradient()
    loss.backward()
    return loss.numpy().tobytes() + w.grad.tobytes()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "MINIGRAD_PLAIN": "0", "MINIGRAD_EXECUTOR": "loops"} | environment
    return subprocess.run([sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", start + code],
                          capture_output=True, text=True, timeout=timeout, env=env)


# ---- which executor is registered -----------------------------------------------------------------------------------

NO_NUMBA, NO_COMPILER = "sys.modules['numba'] = None", "os.environ['NUMBA_DISABLE_JIT'] = '1'"


@pytest.mark.parametrize("value, prelude, expected", [
    ("loops", "", "LoopsExecutor"),
    ("vector", "", "VectorExecutor"),
    (None, "", "LoopsExecutor"),
    (None, NO_NUMBA, "VectorExecutor"),
    (None, NO_COMPILER, "VectorExecutor"),
])
def test_loops_run_where_numba_compiles_unless_minigrad_executor_is_vector(value, prelude, expected):
    environment = {} if value is None else {"MINIGRAD_EXECUTOR": value}
    prelude += "" if value else "\nos.environ.pop('MINIGRAD_EXECUTOR')"
    ran = run_script("print(type(EXECUTORS[np.ndarray]).__name__, len(bits()) > 0)", prelude=prelude, **environment)
    assert ran.stdout == f"{expected} True\n", ran.stderr


@pytest.mark.parametrize("prelude, message", [
    (NO_NUMBA, "loops need numba: "), (NO_NUMBA, 'pip install "minigrad[fast]"'),
    (NO_COMPILER, "loops need numba's compiler, which NUMBA_DISABLE_JIT switches off")])
def test_minigrad_executor_loops_without_numba_or_its_compiler_raises_an_import_error(prelude, message):
    ran = run_script("", prelude=prelude)
    assert "ImportError: " in ran.stderr and message in ran.stderr


def test_an_unknown_minigrad_executor_raises_a_value_error_that_lists_the_choices():
    ran = run_script("", MINIGRAD_EXECUTOR="fast")
    assert "ValueError: MINIGRAD_EXECUTOR=fast: expected loops or vector" in ran.stderr


def test_describe_names_the_threads_and_the_products_of_loops_and_the_textbook_inside_plain():
    ran = run_script("print(EXECUTORS[np.ndarray].describe())")
    assert ran.stdout in {f"loops (numba {numba.__version__}, {layer}, {products})\n"
                          for layer in ("OpenMP", "tbb", "workqueue")
                          for products in ("gemm of openblas", "products of NumPy")}
    with mg.plain():
        assert machine.executor("cpu") == "textbook"


def test_openmp_starts_no_threads_within_threads_after_loops_have_run():
    """numba switches that on for the thread that it starts OpenMP from: PyTorch's ops, on that thread, would take 5
    times as long."""
    ran = run_script("""
import ctypes
loops = EXECUTORS[np.ndarray].describe()
bits()
print(ctypes.CDLL("libgomp.so.1").omp_get_max_active_levels() if "OpenMP" in loops else 1)
""")
    assert ran.stdout == "1\n", ran.stderr


# ---- products -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float64", 1e-13)])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 5), (7, 1, 5), (7, 5, 1), (70, 9, 33), (9, 70, 33), (130, 65, 17)])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_products_equal_those_of_numpy_for_any_layout_and_number_of_parts(dtype, bound, shape, n, monkeypatch):
    monkeypatch.setattr(linalg, "parts", lambda elements, nanoseconds: n)
    N, M, K = shape
    a, b, bias = (RNG.normal(size=size).astype(dtype) for size in ((N, K), (K, M), (M,)))
    turned = lambda x: x.T.copy().T
    for left, right in ((a, b), (a, turned(b)), (turned(a), b), (turned(a), turned(b)), (a[::-1], b[:, ::-1])):
        for added in (None, bias):
            out = np.full((N, M), np.nan, dtype)
            linalg.matmul(left, right, out, added)
            want = left @ right
            assert relative_error(out, want if added is None else want + added) < bound


def test_products_without_terms_are_0_or_the_bias():
    out, bias = np.full((3, 2), np.nan), np.array([1.0, 2.0])
    linalg.matmul(np.ones((3, 0)), np.ones((0, 2)), out)
    np.testing.assert_array_equal(out, 0.0)
    linalg.matmul(np.ones((3, 0)), np.ones((0, 2)), out, bias)
    np.testing.assert_array_equal(out, [bias] * 3)


def test_without_gemm_of_openblas_products_are_numpys(monkeypatch):
    monkeypatch.setattr(linalg, "GEMM", False)
    monkeypatch.setattr(linalg, "product", None)
    a, b, out = RNG.normal(size=(40, 30)), RNG.normal(size=(40, 20)), np.empty((30, 20))
    linalg.matmul(a.T, b, out, np.ones(20))
    np.testing.assert_allclose(out, a.T @ b + 1.0)


def test_a_single_row_is_multiplied_by_numpy_whose_product_does_not_copy_the_matrix(monkeypatch):
    monkeypatch.setattr(linalg, "product", None)
    a, b, out = RNG.normal(size=(1, 30)), RNG.normal(size=(20, 30)).T, np.empty((1, 20))
    linalg.matmul(a, b, out, np.ones(20))
    np.testing.assert_array_equal(out, a @ b + 1.0)


def test_without_openblas_the_executor_has_no_loops_of_attention():
    code = "print(EXECUTORS[np.ndarray].kernels[mg.OPS['attention']].__module__, len(bits()) > 0)"
    ran = run_script(code, prelude="""
import threadpoolctl
threadpoolctl.OpenBLASController.internal_api = "another BLAS"
""")
    assert ran.stdout == "minigrad.kernels.vector.attention True\n", ran.stderr


@pytest.mark.parametrize("transposed", [False, True])
def test_linear_takes_a_transposed_w_and_arrays_that_are_not_contiguous(transposed):
    shape, op_class = (6, 5), mg.OPS["linear"]
    w = RNG.normal(size=shape[::-1]).T if transposed else RNG.normal(size=(12, 10))[::2, ::2]
    x, b, dy = RNG.normal(size=(4, 12))[:, ::2], RNG.normal(size=10)[::2], RNG.normal(size=(5, 4)).T
    found = []
    for op in (op_class(), linalg.Linear()):
        op.xp, op.needs = np, [True] * 3
        found.append([op.forward(x, w, b), *op.backward(dy, **op.saved)])
    for want, got in zip(*found):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12)


# ---- attention ------------------------------------------------------------------------------------------------------

def heads(layout, B=2, H=3, T=70, D=4):
    return {"contiguous": lambda: RNG.normal(size=(B, H, T, D)),
            "split_heads": lambda: RNG.normal(size=(B, T, 3, H, D)).transpose(2, 0, 3, 1, 4)[1],
            "last axis not contiguous": lambda: RNG.normal(size=(B, H, D, T)).swapaxes(2, 3),
            "reversed": lambda: RNG.normal(size=(B, H, T, D))[:, :, ::-1],
            "broadcast": lambda: np.broadcast_to(RNG.normal(size=(B, H, 1, D)), (B, H, T, D))}[layout]()


@pytest.mark.parametrize("layout", ["contiguous", "split_heads", "last axis not contiguous", "reversed", "broadcast"])
@pytest.mark.parametrize("causal", [False, True])
def test_attention_equals_the_textbook_for_any_layout(layout, causal):
    q, k, v = (heads(layout) for _ in range(3))
    dy, found = heads(layout), []
    for op in (mg.OPS["attention"](), attention.Attention()):
        op.xp, op.needs = np, [True] * 3
        found.append([op.forward(q, k, v, causal=causal), *op.backward(dy, **op.saved)])
    for want, got in zip(*found):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 3, 70, 70), (1, 2, 130, 33), (1, 1, 2, 200)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("p", [1e-12, 0.2, 0.9, 1 - 1e-12])
@pytest.mark.parametrize("dtype, bound", [("float32", 1e-5), ("float64", 1e-11)])
def test_attention_with_dropout_equals_the_textbook_with_the_same_key(shape, causal, p, dtype, bound):
    """The first and the last p drop nothing and all."""
    B, H, T, S = shape
    S = T if causal else S
    q, k, v, dy = (heads("split_heads", B, H, size).astype(dtype) for size in (T, S, S, T))
    found = []
    for op in (mg.OPS["attention"](), attention.Attention()):
        op.xp, op.needs = np, [True] * 3
        y = op.forward(q, k, v, causal=causal, dropout=p, key=random.key(3, 4).fold("attention"))
        found.append([y, *op.backward(dy, **op.saved)])
    for want, got in zip(*found):
        assert got.dtype == dtype and relative_error(got, want) < bound


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0, 1e4, 1e150])
def test_attention_equals_the_textbook_for_scores_of_any_size(scale):
    q, k, v = heads("split_heads") * scale, heads("split_heads") * scale, heads("split_heads")
    want, op = mg.OPS["attention"](), attention.Attention()
    want.xp = op.xp = np
    np.testing.assert_allclose(op.forward(q, k, v, causal=True), want.forward(q, k, v, causal=True), atol=1e-11)


@pytest.mark.skipif(sys.platform != "linux", reason="the memory of a process is read from /proc")
def test_attention_without_enough_memory_raises_a_memory_error_or_is_right():
    ran = run_script("""
import resource
rng = np.random.default_rng(0)
S = 1 << 17
arrays = [rng.normal(size=(1, 2, t, 8)).astype("float32") for t in (64, S, S)]
def attend():
    xs = [mg.Tensor(a, requires_grad=True) for a in arrays]
    y = F.scaled_dot_product_attention(*xs)
    y.backward(arrays[0])
    return [y.data, *(x.grad for x in xs)]
attend()
want = attend()
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
for more in range(0, 300, 4):
    resource.setrlimit(resource.RLIMIT_AS, (size + (more << 20), -1))
    try:
        assert all(np.array_equal(a, b) for a, b in zip(attend(), want)), more
    except MemoryError:
        pass
print("right")
""")
    assert ran.stdout == "right\n", ran.stderr


def test_attention_keeps_nan_in_the_rows_that_see_it():
    q, k, v = (heads("split_heads") for _ in range(3))
    k[0, 0, 5, 0] = np.nan
    op = attention.Attention()
    op.xp = np
    y = op.forward(q, k, v, causal=True)
    assert np.isnan(y[0, 0, 5:]).all()
    y[0, 0, 5:] = 0.0
    assert np.isfinite(y).all()


# ---- dropout --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("numbers", [dict(seed=0), dict(seed=1, step=2, micro=3, stream=4),
                                     dict(seed=2 ** 64 - 1, step=2 ** 64 - 1, micro=2 ** 64 - 1, stream=2 ** 64 - 1)])
def test_random_integers_of_any_elements_are_those_of_minigrad_random(numbers):
    key = random.Key(**numbers)
    want, stream = random.bits(key, (3000,)), dropout.stream_of(key, 0.5)
    for first, n in ((0, 8), (0, 1), (8, 16), (7, 1), (7, 2), (5, 1000), (2993, 7)):
        room = np.empty((n // 8 + 2, 4), np.uint64)
        np.testing.assert_array_equal(dropout.draw(stream, first, n, room)[:n], want[first:first + n])


@pytest.mark.parametrize("p", [0.0, 1e-12, 0.2, 0.9, 1 - 1e-12])
@pytest.mark.parametrize("size", [1, 7, 1024, 5000])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_dropout_keeps_the_elements_that_the_textbook_keeps_for_any_number_of_parts(p, size, n, monkeypatch):
    monkeypatch.setattr(dropout, "parts", lambda elements, nanoseconds: n)
    x, key, op = RNG.normal(size=size), random.key(5).fold("layer").next(), dropout.Dropout()
    keep = random.keep_mask(key, x.shape, p)
    np.testing.assert_array_equal(op.forward(x, p=p, key=key), np.where(keep, x, 0.0) * (1.0 / (1.0 - p)))
    np.testing.assert_array_equal(op.backward(x, **op.saved), np.where(keep, x, 0.0) * (1.0 / (1.0 - p)))


# ---- threads --------------------------------------------------------------------------------------------------------

def test_set_num_threads_sets_the_threads_of_loops_and_results_differ_by_rounding_only():
    found = []
    for n in (1, 2, 3):
        mg.set_num_threads(n)
        assert n == threads.parts(10 ** 9, 1.0) == mg.get_num_threads()
        x, total = RNG.normal(size=(500, 300)), np.empty(300)
        linalg.sum_rows(x, total, threads.parts(10 ** 9, 1.0))
        found.append(relative_error(total, x.sum(axis=0)))
    assert max(found) < 1e-13


def test_parts_gives_little_work_to_few_threads():
    mg.set_num_threads(3)
    assert threads.parts(0, 1.0) == threads.parts(100, 1.0) == 1
    assert threads.parts(20_000, 1.0) == 2 and threads.parts(40_000, 1.0) == 3


def test_loops_leave_the_number_of_threads_of_blas_as_it_was():
    ran = run_script("""
from threadpoolctl import threadpool_info
mg.set_num_threads(2)
bits()
print(mg.get_num_threads(), {lib["num_threads"] for lib in threadpool_info() if lib["user_api"] == "blas"})
""")
    assert ran.stdout == "2 {2}\n", ran.stderr


def test_results_have_the_same_bits_on_fewer_cores_and_on_other_layers_of_threads():
    """Two parts on two threads, on the one thread of numba of a process on one core, and on numba's workqueue."""
    code = "mg.set_num_threads(2)\nimport numba\nprint(numba.config.NUMBA_NUM_THREADS, bits().hex())"
    usual = run_script(code)
    one_core = run_script(code, NUMBA_NUM_THREADS="1")
    workqueue = run_script(code, NUMBA_THREADING_LAYER="workqueue")
    assert one_core.stdout.startswith("1 "), one_core.stderr
    assert usual.stdout.split()[1] == one_core.stdout.split()[1] == workqueue.stdout.split()[1]


@pytest.mark.parametrize("layer", ["default", "workqueue"])
def test_python_threads_that_run_loops_at_once_give_the_bits_of_one(layer):
    ran = run_script("""
mg.set_num_threads(2)
want, found = bits(), []
def work():
    for _ in range(20):
        found.append(bits() == want)
workers = [threading.Thread(target=work) for _ in range(4)]
for t in workers: t.start()
while any(t.is_alive() for t in workers): assert mg.get_num_threads() == 2
print(len(found), all(found))
""", NUMBA_THREADING_LAYER=layer)
    assert ran.stdout == "80 True\n", ran.stderr


# ---- forks and interrupts -------------------------------------------------------------------------------------------

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


@needs_fork
def test_a_child_forked_after_loops_have_run_takes_the_vector_kernels_and_is_not_killed():
    ran = run_script("""
mg.set_num_threads(2)
want = np.frombuffer(bits(), "float32")
recorded, w = loss_and_gradient()
child = os.fork()
if child == 0:
    np.testing.assert_allclose(np.frombuffer(bits(), "float32"), want, rtol=1e-3, atol=1e-2)
    assert EXECUTORS[np.ndarray].describe() == "vector" and mg.get_num_threads() == 2
    try:
        recorded.backward()
    except RuntimeError as error:
        assert "run the forward pass again" in str(error)
        os._exit(7)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
recorded.backward()
print(code, EXECUTORS[np.ndarray].describe()[:5])
""")
    assert ran.stdout == "7 loops\n", ran.stderr


@needs_fork
def test_a_child_forked_before_any_loop_has_run_runs_loops():
    ran = run_script("""
child = os.fork()
if child == 0:
    bits()
    os._exit(7 if EXECUTORS[np.ndarray].describe()[:5] == "loops" else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
""")
    assert ran.stdout == "7\n", ran.stderr


@needs_fork
def test_a_child_forked_while_another_thread_runs_loops_computes():
    ran = run_script("""
import signal
mg.set_num_threads(2)
bits()
going = True
def work():
    while going: bits()
thread = threading.Thread(target=work)
thread.start()
codes = []
for _ in range(10):
    child = os.fork()
    if child == 0:
        signal.alarm(20)                        # a child that waits forever is killed
        bits()
        os._exit(7 if mg.get_num_threads() == 2 else 1)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
going = False
thread.join()
print(set(codes))
""")
    assert ran.stdout == "{7}\n", ran.stderr


def test_ctrl_c_while_loops_run_leaves_loops_and_blas_usable():
    ran = run_script("""
import _thread, time
mg.set_num_threads(2)
want, interrupts = bits(), 0
for wait in np.linspace(0.0, 0.01, 30):
    timer = threading.Timer(wait, _thread.interrupt_main)
    try:
        timer.start()
        while True: bits()
    except KeyboardInterrupt:
        interrupts += 1
    timer.join()
print(interrupts, bits() == want, mg.get_num_threads())
""")
    assert ran.stdout == "30 True 2\n", ran.stderr


# ---- compiling ------------------------------------------------------------------------------------------------------

LOOP = """
__name__ = "minigrad.kernels.loops.loop"        # where what is compiled is announced
from numba import prange
from minigrad.kernels.loops.compiling import jit

@jit
def double(x, n):
    for part in prange(n):
        for i in range(x.size * part // n, x.size * (part + 1) // n):
            x[i] *= 2.0
"""


def run_loop(folder, code="", **environment):
    """Double 1, 1, 1 with a loop function in a module in this folder, where its cache is too."""
    (folder / "module").mkdir(exist_ok=True)
    path = folder / "module" / "loop.py"
    if not path.exists():
        path.write_text(LOOP)
    here = "from minigrad.kernels.loops import compiling\ncompiling.elsewhere = False\n"
    return run_script(f"{here}{code}\nsys.path.insert(0, {str(path.parent)!r})\n"
                      "import loop\nsys.modules[loop.__name__] = loop\nx = np.ones(3)\n"
                      "loop.double(x, 2)\nprint(x.sum())",
                      NUMBA_CACHE_DIR=str(folder / "cache"), **environment)


def indices(folder):
    """The files that say what is in the cache."""
    return sorted(folder.glob("cache/**/*.nbi"))


def test_a_loop_is_compiled_once_and_compiling_is_announced(tmp_path):
    first, second = run_loop(tmp_path), run_loop(tmp_path)
    assert first.stdout == second.stdout == "6.0\n", first.stderr
    assert first.stderr == "minigrad compiles its loops, which happens once\n"
    assert second.stderr == ""


def test_the_loops_of_a_dtype_are_compiled_in_another_process_so_that_all_processes_load_them(tmp_path):
    code = """
compiling.elsewhere = True
compiling.in_another_process = lambda code, *arguments: print(*arguments[:2])
"""
    assert run_loop(tmp_path, code).stdout == "float64\nminigrad.kernels.loops.loop double\n6.0\n"
    assert run_loop(tmp_path, code).stdout == "6.0\n"


def test_blas_with_integers_of_other_sizes_and_other_sources_of_exp_share_no_cache(tmp_path):
    for change in ("", "compiling.BITS = 96", "compiling.VERSION = '0'"):
        ran = run_loop(tmp_path, change)
        assert ran.stdout == "6.0\n", ran.stderr
    names = [index.name.split("-")[0] for index in indices(tmp_path)]
    assert set(names) == {f"loop.double_{blas.BITS}_{compiling.VERSION}", f"loop.double_96_{compiling.VERSION}",
                          f"loop.double_{blas.BITS}_0"}


def test_a_cache_of_another_numba_version_is_replaced(tmp_path):
    run_loop(tmp_path)
    index, = indices(tmp_path)
    with index.open("rb") as file:
        version, rest = pickle.load(file), file.read()
    index.write_bytes(pickle.dumps("0.1") + rest)
    ran = run_loop(tmp_path)
    assert ran.stdout == "6.0\n", ran.stderr
    with index.open("rb") as file:
        assert pickle.load(file) == version == numba.__version__


def test_without_a_folder_that_can_be_written_to_loops_are_compiled_in_each_process(monkeypatch):
    def refuse(**kwargs):
        raise OSError("read-only")

    def double(x, n):
        for part in numba.prange(n):
            x[part] *= 2.0

    monkeypatch.setattr(numba.core.caching.tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(compiling, "in_another_process", None)          # is not called
    x = np.ones(3)
    compiling.jit(double)(x, 3)
    np.testing.assert_array_equal(x, 2.0)


def test_processes_that_compile_at_once_share_a_cache(tmp_path):
    found = []
    workers = [threading.Thread(target=lambda: found.append(run_loop(tmp_path).stdout)) for _ in range(3)]
    for t in workers:
        t.start()
    for t in workers:
        t.join()
    assert found == ["6.0\n"] * 3 and len(indices(tmp_path)) == 1


def test_ctrl_c_while_a_loop_is_compiled_waits_until_it_is(tmp_path):
    ran = run_loop(tmp_path, f"""
import _thread
sys.path.insert(0, {str(tmp_path / "module")!r})
import loop
timer = threading.Timer(0.05, _thread.interrupt_main)
timer.start()
try:
    loop.double(np.ones(3), 2)
    timer.join()
except KeyboardInterrupt:
    print("interrupted")
from minigrad.kernels.loops import linalg
linalg.matmul(np.ones((2, 3)), np.ones((3, 4)), out := np.empty((2, 4)))
assert (out == 3.0).all()
""")
    assert ran.stdout == "interrupted\n6.0\n", ran.stderr


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups")
def test_ctrl_c_in_a_terminal_while_another_process_compiles_shows_no_error_of_that_process(tmp_path):
    code = """
threading.Timer(1.0, os.killpg, (os.getpgrp(), 2)).start()
try:
    compiling.in_another_process("import time; time.sleep(5)")
except KeyboardInterrupt:
    print("interrupted")
"""
    ran = run_loop(tmp_path, "os.setpgrp()" + code)
    assert ran.stdout == "interrupted\n6.0\n" and "KeyboardInterrupt" not in ran.stderr


def test_the_command_compiles_all_loops_for_both_dtypes(monkeypatch):
    def command(**environment):
        return subprocess.run([sys.executable, "-m", "minigrad.kernels.loops"], capture_output=True, text=True,
                              timeout=300, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})

    monkeypatch.delenv("MINIGRAD_EXECUTOR", raising=False)
    ran = command()
    assert ran.returncode == 0 and "float32" in ran.stdout and "float64" in ran.stdout, ran.stderr
    ran = command(NUMBA_DISABLE_JIT="1")
    assert ran.returncode == 2 and ran.stderr.startswith("minigrad.kernels.loops: loops need numba's compiler")


FIRST_AND_SECOND = """
x = np.sin(np.arange(6000, dtype="float32")).reshape(60, 100)
w = np.cos(np.arange(100, dtype="float32"))
x.flags.writeable = w.flags.writeable = False
xs = [mg.Tensor(a, requires_grad=True) for a in (x, w)]
F.layer_norm(*xs).backward(x)
print(xs[0].grad.tobytes().hex(), xs[1].grad.tobytes().hex())
"""


def test_a_process_that_compiles_loops_for_read_only_arrays_gets_the_bits_of_later_ones(tmp_path):
    first, second = (run_script(FIRST_AND_SECOND, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.stderr == "minigrad compiles its loops, which happens once\n"
    assert second.stderr == "" and first.stdout == second.stdout != ""


def test_functions_of_the_user_compile_without_output_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert numba.njit(lambda x: x + 1)(1) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("ending", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", [b"", b"garbage\n"])
def test_a_damaged_file_of_the_cache_is_compiled_again(tmp_path, ending, damage):
    run_loop(tmp_path)
    file, = tmp_path.glob(f"cache/**/*.{ending}")
    file.write_bytes(damage)
    again, later = run_loop(tmp_path), run_loop(tmp_path)
    assert again.stdout == later.stdout == "6.0\n", again.stderr
    assert again.stderr != "" and later.stderr == ""


def test_code_for_other_arrays_under_the_name_of_a_file_is_not_run(tmp_path):
    run_loop(tmp_path)
    index, = indices(tmp_path)
    with index.open("rb") as file:
        version, (stamp, names) = pickle.load(file), pickle.loads(file.read())
    single = numba.typeof(np.ones(3, "float32"))
    names = {((single, key[0][1]), *key[1:]): name for key, name in names.items()}
    index.write_bytes(pickle.dumps(version) + pickle.dumps((stamp, names)))
    ran = run_loop(tmp_path, "ones = np.ones\nnp.ones = lambda n: ones(n, 'float32')")
    assert ran.stdout == "6.0\n", ran.stderr


@pytest.mark.parametrize("prelude", [
    "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))",     # as if the disk were full
    "sys.stderr = None", "sys.stderr.close()", "read, write = os.pipe(); os.close(read); os.dup2(write, 2)"])
def test_loops_compile_with_a_full_disk_and_without_stderr(tmp_path, prelude):
    assert run_loop(tmp_path, prelude).stdout == "6.0\n"


@pytest.mark.parametrize("prelude", ["sys.executable = ''", "sys.executable = None", "sys.executable = '/missing'"])
def test_loops_compile_where_python_cannot_be_started(tmp_path, prelude):
    ran = run_loop(tmp_path, f"compiling.elsewhere = True\n{prelude}")
    assert ran.stdout == "6.0\n", ran.stderr


def test_a_file_in_the_current_folder_with_the_name_of_a_module_is_not_run(tmp_path):
    (tmp_path / "random.py").write_text("raise SystemExit('the wrong file')")
    ran = run_loop(tmp_path, "compiling.elsewhere = True\ncompiling.ahead.add('float64')\n"
                   f"os.chdir({str(tmp_path)!r})\nsys.path.remove('')")
    assert ran.stdout == "6.0\n" and "wrong" not in ran.stderr


@pytest.mark.parametrize("dtype", ["float16", "nonsense"])
def test_the_command_refuses_other_dtypes(dtype, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["loops", dtype])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err.endswith(f"error: loops are for float32 and float64, got {dtype}\n")
