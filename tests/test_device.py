"""Devices without a GPU: the engine under CuPy's rules on the fake device, the names of devices, why CUDA does not work."""
import contextlib
import copy
import json
import re
import sys
from inspect import unwrap
from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, device, functional as F, nn, optim

import make_cupy_api
from devices import FUSED, PRIMITIVES, SAMPLES, Run, assert_agree, batch, optimizer_of, small_gpt, train, trained, unfused
from fake_device import API, FakeArray, synchronizations, xp

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def on_fake(values, **kwargs):
    return Tensor(np.asarray(values), device="fake", **kwargs)


def floats(*shape):
    return on_fake(np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape), requires_grad=True)


# ---- the fake device keeps CuPy's rules -----------------------------------------------------------------------------

x = xp.asarray(np.arange(12.0).reshape(3, 4))
host = np.ones((3, 4))


@pytest.mark.parametrize("forbidden", [
    lambda: x + host, lambda: host + x, lambda: host * x, lambda: x @ host.T, lambda: xp.where(x > 1, x, host),
    lambda: xp.concatenate([x, host]), lambda: x.__setitem__(0, host[0]), lambda: x.__iadd__(host), lambda: x == host,
    lambda: xp.exp([1.0, 2.0]), lambda: x + [1.0, 2.0, 3.0, 4.0], lambda: x.__setitem__(0, [1.0, 2.0, 3.0, 4.0]),
    lambda: xp.max([1.0, 2.0]), lambda: xp.max(2.0), lambda: xp.where(True, 1.0, 2.0), lambda: xp.stack([1.0, 2.0]),
    lambda: x.sum(where=x > 1), lambda: xp.sum(x, where=x > 1), lambda: xp.max(x, initial=0.0), lambda: xp.exp(x, where=x > 1),
    lambda: xp.clip(x, min=0.0), lambda: x.var(mean=x), lambda: np.asarray(x), lambda: np.array([x, x]),
    lambda: np.concatenate([x, x]), lambda: range(xp.asarray(3)), lambda: xp.add.at(xp.arange(3), xp.arange(3), 1),
])
def test_the_fake_refuses_what_cupy_refuses(forbidden):
    with pytest.raises(TypeError):
        forbidden()


@pytest.mark.parametrize("missing", ["errstate", "insert", "einsum_path", "geomspace", "vecdot", "scatter_add"])
def test_the_fake_lacks_what_cupy_lacks(missing):
    assert not hasattr(xp, missing)


def test_the_fake_lacks_methods_that_cupy_lacks():
    assert not hasattr(x, "ctypes") and not hasattr(x, "setflags") and not hasattr(x, "data")
    for method in (xp.maximum.reduce, xp.logical_and.reduce, xp.subtract.accumulate):
        with pytest.raises(NotImplementedError):
            method(x)
    np.testing.assert_array_equal(xp.add.reduce(x, axis=0).get(), x.get().sum(axis=0))


def test_the_fake_has_no_operator_that_cupy_lacks():
    """But for the bookkeeping of every Python class, and @=, which Python makes of @."""
    own = {name for name in dir(FakeArray) if name.startswith("__")} - set(dir(object))
    assert own - set(API["operators"]) <= {"__imatmul__", "__module__", "__slots__", "__weakref__", "__annotations__", "__getattr__"}


@pytest.mark.parametrize("result", [
    lambda: x.sum(), lambda: x[1, 2], lambda: xp.max(x), lambda: x[0] @ x[1], lambda: xp.exp(x[0, 0]), lambda: 2.0 * x[0, 0],
    lambda: np.float64(2.0) * x[0, 0], lambda: xp.asarray(1.0), lambda: xp.array_equal(x, x), lambda: x.mean(axis=(0, 1)),
    lambda: np.exp(x[0, 0]), lambda: xp.sqrt(2.0)])
def test_results_without_axes_stay_on_the_device(result):
    assert type(result()) is FakeArray and result().shape == ()


def test_a_view_shares_memory_and_a_host_array_does_not():
    mine = np.zeros(3)
    theirs = xp.asarray(mine)
    theirs[1:][0] = 5.0
    theirs[2][...] = 7.0
    np.testing.assert_array_equal(theirs.get(), [0.0, 5.0, 7.0])
    theirs.get()[:] = 1.0
    same = theirs
    same += 1.0
    assert same is theirs and xp.asarray(theirs) is theirs and theirs.astype("float64", copy=False) is theirs
    np.testing.assert_array_equal(theirs.get(), [1.0, 6.0, 8.0])
    np.testing.assert_array_equal(mine, 0.0)


def test_an_integer_array_out_of_range_wraps_around():
    a = xp.asarray(np.array([10.0, 11.0, 12.0]))
    i = xp.asarray(np.array([3, -4, 7]))
    np.testing.assert_array_equal(a[i].get(), [10.0, 12.0, 11.0])
    np.testing.assert_array_equal(x[:, i].get(), x.get()[:, [3, 0, 3]])
    np.testing.assert_array_equal(x[..., None, i, 4 * i].get(), x.get()[..., None, [0, 2, 1], [0, 0, 0]])
    xp.add.at(a, i, 1.0)
    a[xp.asarray(np.array(4))] = 0.0
    np.testing.assert_array_equal(a.get(), [11.0, 0.0, 13.0])
    with pytest.raises(IndexError):
        a[3]                                    # a number does not wrap


@pytest.mark.parametrize("waiting", [
    lambda: float(x[0, 0]), lambda: int(x[0, 0]), lambda: bool(x[0, 0]), lambda: complex(x[0, 0]), lambda: x[0, 0].item(),
    lambda: x.tolist(), lambda: x.get(), lambda: x[x > 1], lambda: x.__setitem__(x > 20, 0.0), lambda: x.nonzero(),
    lambda: xp.nonzero(x), lambda: xp.where(x > 1), lambda: xp.unique(x), lambda: xp.flatnonzero(x), lambda: repr(x),
    lambda: f"{x[0, 0]:.2f}", lambda: 1.0 if (x > 1).any() else 0.0, lambda: 1.0 in x[0], lambda: x[host > 2]])
def test_what_waits_for_the_device_is_recorded(waiting):
    with synchronizations() as made:
        waiting()
    assert made and all("test_device.py" in place for place in made)


def test_what_need_not_wait_does_not():
    with synchronizations() as made:
        y = xp.where(x > 1, x, 0.0).sum(axis=0, keepdims=True) @ x.T
        y[:, xp.arange(3)] += 1.0
        (xp.asarray(host) * y.max()).astype("float32").reshape(-1)
        len(x), x.shape, [row.size for row in x]
    assert made == []


def test_the_table_is_that_of_the_installed_cupy():
    pytest.importorskip("cupy")
    table = json.loads(json.dumps(make_cupy_api.table()))
    if table["versions"] != API["versions"]:
        pytest.skip(f"the table is of {API['versions']}, installed is {table['versions']}")
    assert table == API


# ---- every op on the fake device ------------------------------------------------------------------------------------

def picks_by_mask(run):
    """Whether an op picks elements by a boolean mask: how many, which is the shape of the result, only the device knows.
    The one thing in the registry that cannot do without waiting for it."""
    index = run.static.get("index")
    return run.op.name in ("getitem", "scatter_add") and getattr(index, "dtype", None) == bool


def agrees_with_host(op, sample, dtype, compute):
    """Bit for bit, as the fake's arithmetic is NumPy's, and without waiting."""
    run = Run(op, sample, dtype, "fake")
    with synchronizations() as made:
        results = compute(run)
    assert bool(made) == picks_by_mask(run), made
    with mg.plain():
        assert_agree(results, compute(Run(op, sample, dtype, "cpu")), 0.0)


@DTYPES
@pytest.mark.parametrize("op, sample", SAMPLES)
def test_op(op, sample, dtype):
    agrees_with_host(op, sample, dtype, Run.first_order)


@DTYPES
@pytest.mark.parametrize("op, sample", PRIMITIVES)
def test_second_order(op, sample, dtype):
    agrees_with_host(op, sample, dtype, Run.second_order)


@DTYPES
@pytest.mark.parametrize("op, sample", FUSED)
def test_twin(op, sample, dtype):
    with mg.unfused():
        agrees_with_host(op, sample, dtype, Run.second_order)


# ---- a model on the fake device -------------------------------------------------------------------------------------

@DTYPES
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_training_equals_the_host_bit_for_bit(optimizer, dtype):
    with mg.plain():
        assert_agree(trained("fake", dtype, optimizer), trained("cpu", dtype, optimizer), 0.0)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("place", ["fake", "cpu"])
def test_a_training_step_never_waits_for_the_device(optimizer, place):
    """Also with a batch that comes from the host, as data does."""
    model = small_gpt("fake", "float32")
    update, data = optimizer_of(model, optimizer), batch(place)
    with synchronizations() as made:
        train(model, update, *data)
    assert made == []


@pytest.mark.parametrize("twins", [False, True])
def test_a_model_without_its_fused_ops(twins):
    def gradients(where):
        model = small_gpt(where, "float64")
        with unfused(twins):
            model.loss(*batch(where), key=mg.random.key(0)).backward()
        return [Tensor(p.grad) for p in model.parameters()]

    assert_agree(gradients("fake"), gradients("cpu"), 0.0)


def test_a_hessian_vector_product():
    def product(where):
        model = small_gpt(where, "float64")
        parameters = model.parameters()
        with mg.unfused():
            loss = model.loss(*batch(where), key=mg.random.key(0))
            slopes = mg.grad(loss, parameters, create_graph=True)
            total = sum((g * g).sum() for g in slopes)
        return mg.grad(total, parameters)

    assert_agree(product("fake"), product("cpu"), 0.0)


def test_layers_live_where_they_are_put():
    layers = [nn.Linear(3, 2, device="fake"), nn.LayerNorm(3, device="fake"), nn.Embedding(5, 3, device="fake")]
    assert {p.device for layer in layers for p in layer.parameters()} == {"fake"}


def test_a_state_moves_between_devices():
    there, here = small_gpt("fake", "float32"), small_gpt("cpu", "float32")
    updates = [optimizer_of(there, "adamw"), optimizer_of(here, "adamw")]
    train(there, updates[0], *batch("fake"))
    here.load_state_dict(there.state_dict())
    updates[1].load_state_dict(updates[0].state_dict())
    with mg.plain():
        for model, update, place in zip((there, here), updates, ("fake", "cpu")):
            train(model, update, *batch(place), steps=1)
    assert_agree(there.parameters(), here.parameters(), 0.0)


def test_hooks_retained_gradients_and_nan_detection():
    a = floats(2, 3)
    with mg.detect_nan():
        b = F.exp(a * 0.1)
        b.retain_grad()
        b.register_hook(lambda g: g * 2.0)
        b.sum().backward()
    np.testing.assert_array_equal(device.host(b.grad), 2.0)
    with pytest.raises(FloatingPointError, match="forward of log"), mg.detect_nan(), np.errstate(all="ignore"):
        F.log(a - 10.0)


# ---- indices --------------------------------------------------------------------------------------------------------

LOOKUPS = {
    "embedding": (lambda t, i: F.embedding(t, i), r"token 3 is out of range: expected 0 <= token < 3"),
    "cross_entropy": (lambda t, i: F.cross_entropy(t[:2], i, reduction="none"), r"target 3 is out of range: expected 0 <= target < 3"),
    "getitem": (lambda t, i: t[i], r"index 3 is out of range: expected -3 <= index < 3"),
    "getitem, second axis": (lambda t, i: t[:, i], r"index 3 is out of range: expected -3 <= index < 3"),
    "scatter_add": (lambda t, i: F.scatter_add(t[:2], i, (3, 3)), r"index 3 is out of range: expected -3 <= index < 3"),
}
lookups = pytest.mark.parametrize("look, message", LOOKUPS.values(), ids=LOOKUPS)


@lookups
def test_an_index_out_of_range_is_an_error_on_the_host(look, message):
    with pytest.raises(IndexError, match=message):
        look(Tensor(np.ones((3, 3)), requires_grad=True), np.array([0, 3]))


@lookups
def test_an_index_out_of_range_on_a_device_is_an_error_under_check_indices(look, message):
    t = floats(3, 3)
    with mg.check_indices(), pytest.raises(IndexError, match=message) as error:
        look(t, xp.asarray(np.array([0, 3])))
    assert any("test_device.py" in note for note in error.value.__notes__)
    with mg.check_indices():
        look(t, xp.asarray(np.array([0, 2])))


@lookups
def test_an_index_out_of_range_on_a_device_wraps_in_silence_without_the_check(look, message):
    """Why `check_indices` exists: wrong numbers, no error, no waiting."""
    t = floats(3, 3)
    with synchronizations() as made:
        wrong = look(t, xp.asarray(np.array([0, 3])))
    assert made == []
    np.testing.assert_array_equal(wrong.numpy(), look(t, xp.asarray(np.array([0, 0]))).numpy())


@lookups
def test_host_indices_are_used_and_checked_on_every_device(look, message):
    """The check costs a device nothing where the index is on the host, as a batch from a file is."""
    t, i = floats(3, 3), np.array([0, 2])
    with synchronizations() as made:
        y = look(t, i)
        y.sum().backward()
        with pytest.raises(IndexError, match=message):
            look(t, np.array([0, 3]))
    assert made == []
    np.testing.assert_array_equal(y.numpy(), look(t, xp.asarray(i)).numpy())


def test_check_indices_ends_with_its_block():
    t, i = floats(3, 3), xp.asarray(np.array([3]))
    with contextlib.suppress(IndexError), mg.check_indices():
        F.embedding(t, i)
    F.embedding(t, i)


# ---- mixed devices --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mix", [
    lambda here, there: here + there, lambda here, there: there @ here, lambda here, there: F.linear(here, there),
    lambda here, there: F.concatenate([here, there]), lambda here, there: F.where(here.data > 0, here, there),
    lambda here, there: here * there.data, lambda here, there: there * here.data, lambda here, there: there.data * here,
    lambda here, there: F.layer_norm(there, here[0]), lambda here, there: F.scaled_dot_product_attention(here, there, there),
    lambda here, there: there.backward(here), lambda here, there: here.backward(there)])
def test_tensors_of_two_devices_do_not_mix(mix):
    here, there = Tensor(np.ones((3, 3)), requires_grad=True), floats(3, 3)
    with pytest.raises(ValueError, match=r"cpu and fake|fake and cpu|on cpu.* on fake|on fake.* on cpu"):
        mix(here, there)


@pytest.mark.parametrize("mix", [
    lambda t, i: F.embedding(t, i), lambda t, i: F.cross_entropy(t, i), lambda t, i: t[i], lambda t, i: F.scatter_add(t, i, (3, 3)),
    lambda t, i: F.where(i > 0, t, 0.0), lambda t, i: F.scaled_dot_product_attention(t, t, t, mask=i > 0)])
def test_a_host_tensor_refuses_indices_and_masks_of_a_device(mix):
    with pytest.raises(ValueError, match="fake.*cpu|cpu.*fake"):
        mix(Tensor(np.ones((3, 3)), requires_grad=True), xp.asarray(np.array([0, 1, 2])))


def test_a_host_mask_goes_to_the_device_of_its_tensor():
    t, mask = floats(3, 3), np.tri(3, dtype=bool)
    np.testing.assert_array_equal(F.where(mask, t, 0.0).numpy(), np.where(mask, t.numpy(), 0.0))
    attended = F.scaled_dot_product_attention(t, t, t, mask=mask)
    np.testing.assert_array_equal(attended.numpy(), F.scaled_dot_product_attention(t, t, t, causal=True).numpy())


# ---- Tensors on a device --------------------------------------------------------------------------------------------

def test_to_moves_and_keeps_what_is_there():
    here = Tensor(np.arange(3.0), requires_grad=True)
    there = here.to("fake")
    assert (there.device, there.requires_grad, there.node, type(there.data)) == ("fake", True, None, FakeArray)
    assert there.to("fake") is there and here.to("cpu") is here
    there.data = np.zeros(3)
    np.testing.assert_array_equal(there.to("cpu").data, 0.0)
    np.testing.assert_array_equal(here.data, np.arange(3.0))


def test_to_the_host_is_asked_for_by_name():
    t = floats(2)
    np.testing.assert_array_equal(t.numpy(), [1.0, 2.0])
    for convert in (np.asarray, np.array):
        with pytest.raises(TypeError, match=r"lives on fake: \.numpy\(\)"):
            convert(t)


def test_repr_shows_numbers_and_device():
    t = floats(2)
    assert repr(t) == "Tensor([1., 2.], shape=(2,), dtype=float64, device=fake, requires_grad=True)"
    assert "device=fake, op=exp" in repr(F.exp(t))
    assert (t[1].item(), float(t[1]), t.tolist()) == (2.0, 2.0, [1.0, 2.0])


@pytest.mark.parametrize("multiply", [lambda t: t * t.data, lambda t: t.data * t, lambda t: np.float64(2.0) * t, lambda t: t * np.float32(2.0)])
def test_arrays_and_scalars_times_tensors_are_tensors_on_the_device(multiply):
    y = multiply(floats(2))
    assert isinstance(y, Tensor) and y.device == "fake" and y.requires_grad


def test_a_gradient_given_as_a_host_array_goes_to_the_device():
    t = floats(2)
    (t * 3.0).backward(np.array([1.0, 2.0]))
    np.testing.assert_array_equal(device.host(t.grad), [3.0, 6.0])


def test_clip_grad_norm_gives_a_norm_on_the_device():
    t = floats(2)
    t.sum().backward()
    with synchronizations() as made:
        norm = optim.clip_grad_norm([t], 1.0)
    assert made == [] and type(norm) is FakeArray and float(norm) == np.sqrt(2.0)


# ---- names of devices, and why CUDA does not work -------------------------------------------------------------------

class StandInArray(np.ndarray):
    """An array that says on which CUDA device it is."""
    device = SimpleNamespace(id=1)


def stand_in(available=True, driver=13000, count=2, work=np.ones):
    """As much of the module cupy as `minigrad.device` asks."""
    runtime = SimpleNamespace(driverGetVersion=lambda: driver, getDeviceCount=lambda: count, getDeviceProperties=lambda n: {"name": b"Stand-in"})
    cuda = SimpleNamespace(is_available=lambda: available, runtime=runtime, Device=contextlib.nullcontext)
    return SimpleNamespace(cuda=cuda, ones=work, ndarray=StandInArray, asarray=lambda a: a.view(StandInArray),
                           asnumpy=lambda a: a.view(np.ndarray))


@pytest.fixture
def with_cupy(monkeypatch):
    """Puts a stand-in in the place of cupy, None for no CuPy; undone after the test."""
    monkeypatch.setattr(device, "BACKENDS", copy.copy(device.BACKENDS))
    monkeypatch.setattr(device, "cuda_status", unwrap(device.cuda_status))      # without a memory of other tests
    return lambda module: monkeypatch.setitem(sys.modules, "cupy", module)


def fail(error):
    def ones(*args):
        raise error
    return ones


BROKEN = {
    "no CuPy": (None, "CuPy is not installed: pip install 'minigrad[cuda13]'"),
    "no driver": (stand_in(available=False, driver=0), "no CUDA driver was found"),
    "no device": (stand_in(available=False), "no CUDA device is visible"),
    "no compiler": (stand_in(work=fail(RuntimeError("CUDA headers are missing\nlong story"))), "the CUDA toolkit does not work (CUDA headers are missing)"),
    "no cuBLAS": (stand_in(work=fail(ImportError("libcublas.so.13: not found"))), "the CUDA toolkit does not work (libcublas.so.13: not found)"),
    "no library": (stand_in(work=fail(OSError("libcudart"))), "the CUDA toolkit does not work (libcudart)"),
    "wordless": (stand_in(work=fail(RuntimeError())), "the CUDA toolkit does not work (RuntimeError)"),
}


@pytest.mark.parametrize("cupy, reason", BROKEN.values(), ids=BROKEN)
def test_cuda_says_in_one_line_why_it_does_not_work(with_cupy, cupy, reason):
    with_cupy(cupy)
    works, why_not = device.cuda_status()
    assert not works and why_not.startswith(reason) and "\n" not in why_not
    for name in ("cuda", "cuda:1"):
        with pytest.raises(ValueError, match=f'device {name!r} cannot be used: {re.escape(reason)}.*device="cpu"'):
            device.resolve(name)
    assert device.resolve("auto") == "cpu"
    assert Tensor([1.0], device="auto").device == "cpu"


def test_cuda_where_it_works(with_cupy):
    with_cupy(stand_in())
    assert device.cuda_status() == (True, "Stand-in")
    assert [device.resolve(name) for name in ("auto", "cuda", "cuda:1")] == ["cuda:0", "cuda:0", "cuda:1"]
    there = Tensor(np.arange(3.0), device="cuda:1")
    assert there.device == "cuda:1" and type(there.data) is StandInArray
    assert type(there.numpy()) is np.ndarray
    with pytest.raises(ValueError, match="device 'cuda:2' does not exist: this machine has 2, numbered from 0"):
        device.resolve("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:1:2", "cpu:0", "", "auto:0"])
def test_an_unknown_device_is_named_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f'unknown device {re.escape(repr(name))}: use "auto", "cpu", "cuda" or "cuda:N"'):
        device.resolve(name)


def test_the_host_needs_no_cupy(with_cupy):
    with_cupy(None)
    assert device.resolve("cpu") == "cpu"
    assert Tensor([1.0], device="cpu").device == "cpu"


@pytest.mark.parametrize("ask", [device.backend, device.xp, device.name, device.host])
def test_only_arrays_have_a_device(ask):
    with pytest.raises(TypeError, match="expected an array of NumPy or CuPy, got list"):
        ask([1.0])
    assert not device.is_array([1.0]) and device.is_array(np.ones(1)) and device.is_array(x)
