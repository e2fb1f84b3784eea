"""Tests of the engine on a device: test_device.py runs them on the fake device, test_gpu.py on CUDA."""
import contextlib
import gc
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, device as devices, functional as F, nn, optim, random
from minigrad.cuda import kernels
from minigrad.gradcheck import relative_error
from minigrad.modes import switch
from minigrad.ops.op import Op
from minigrad.ops.sample import Sample
from minigrad.ops.sums import add_at
from minigrad.tape import apply

from gpt.model import GPT, GPTConfig

OPS = {name: op for name, op in sorted(mg.OPS.items()) if op.__module__.startswith("minigrad.")}
LOOKUPS = {                                     # functions that take indices, and their message for an index of 3
    "embedding": (lambda t, i: F.embedding(t, i), "token 3 is out of range: expected 0 <= token < 3"),
    "cross_entropy": (lambda t, i: F.cross_entropy(t[:2], i, reduction="none"),
                      "target 3 is out of range: expected 0 <= target < 3"),
    "linear_cross_entropy": (lambda t, i: F.linear_cross_entropy(t[:2], t, i),
                             "target 3 is out of range: expected 0 <= target < 3"),
    "getitem": (lambda t, i: t[i], "index 3 is out of range: expected -3 <= index < 3"),
    "getitem, second axis": (lambda t, i: t[:, i], "index 3 is out of range: expected -3 <= index < 3"),
    "scatter_add": (lambda t, i: F.scatter_add(t[:2], i, (3, 3)), "index 3 is out of range: expected -3 <= index < 3"),
}


def samples(fused: tuple[bool, ...] = (False, True)) -> pytest.MarkDecorator:
    """Parametrize by every sample of every op; fused=(False,): of primitives only, (True,): of fused ops only."""
    return pytest.mark.parametrize("op, sample", [
        pytest.param(op, sample, id=f"{name}-{i}")
        for name, op in OPS.items() if op.fused in fused for i, sample in enumerate(op.samples)])


both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
lookups = pytest.mark.parametrize("look, message", LOOKUPS.values(), ids=LOOKUPS)


# ---- ops ------------------------------------------------------------------------------------------------------------

def moved(x: Any, device: str) -> Any:
    """x with its NumPy arrays, also those in a tuple, copied to a device."""
    if type(x) is tuple:
        return tuple(moved(y, device) for y in x)
    return devices.put(x, device) if isinstance(x, np.ndarray) else x


class Run:
    """One sample of an op, with its inputs and random gradients on a device."""

    def __init__(self, op: type[Op], sample: Sample, dtype: str, device: str) -> None:
        self.op = op
        self.inputs = [Tensor(x, True, dtype=dtype, device=device) if isinstance(x, np.ndarray) else x
                       for x in sample.draw(0)]
        self.static = {k: moved(v, device) for k, v in sample.static.items()}
        self.leaves = [x for x in self.inputs if isinstance(x, Tensor)]
        rng = np.random.default_rng(1)
        with mg.no_grad():
            self.dys = [Tensor(rng.normal(size=y.shape), True, dtype=y.dtype, device=device) for y in self.forward()]
        self.directions = [Tensor(rng.normal(size=x.shape), dtype=dtype, device=device) for x in self.leaves]

    def forward(self) -> tuple[Tensor, ...]:
        y = apply(self.op, *self.inputs, **self.static)
        return y if isinstance(y, tuple) else (y,)

    def first_order(self) -> list[Tensor]:
        """The outputs, and the gradient of each input that is an array."""
        ys = self.forward()
        return [*ys, *mg.grad(inner(ys, self.dys), self.leaves)]

    def second_order(self) -> list[Tensor]:
        """Gradients of (gradients . random directions) with respect to the inputs and to the outputs' gradients."""
        gradients = mg.grad(inner(self.forward(), self.dys), self.leaves, create_graph=True)
        return mg.grad(inner(gradients, self.directions), self.leaves + self.dys)

    @property
    def picks_by_mask(self) -> bool:
        """Whether the op indexes with a boolean mask: the shape of its output depends on numbers on the device. No
        other op has to wait for the device."""
        index = self.static.get("index")
        return self.op.name in ("getitem", "scatter_add") and getattr(index, "dtype", None) == bool


def inner(xs: Any, ys: Any) -> Tensor:
    """The sum of all x * y."""
    total = F.sum(xs[0] * ys[0])
    for x, y in zip(xs[1:], ys[1:]):
        total = total + F.sum(x * y)
    return total


def assert_agree(got: list[Any], want: list[Any], tolerance: float) -> None:
    """Assert that Tensors have the same shapes and dtypes, and values within a relative tolerance (0: bit for bit)."""
    assert len(got) == len(want)
    for g, w in zip(got, want):
        assert (g.shape, g.dtype) == (w.shape, w.dtype)
        assert relative_error(g.numpy(), w.numpy()) <= tolerance


# ---- a model --------------------------------------------------------------------------------------------------------

def small_gpt(device: str, dtype: str) -> GPT:
    config = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=12, dropout=0.1)
    return GPT(config, device=device, dtype=dtype)


def batch(device: str) -> tuple[Any, Any]:
    """Tokens and targets, both (3, 8); two targets are ignored."""
    tokens = np.random.default_rng(0).integers(0, 11, size=(3, 9))
    targets = tokens[:, 1:].copy()
    targets[1, :2] = -100
    return moved((tokens[:, :-1].copy(), targets), device)


def optimizer_of(model: nn.Module, name: str) -> optim.Optimizer:
    if name == "sgd":
        return optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    return optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)


def train(model: GPT, optimizer: optim.Optimizer, tokens: Any, targets: Any, steps: int = 3) -> list[Tensor]:
    """The losses of a few steps, each of two micro-batches, with clipping."""
    losses = []
    for step in range(steps):
        optimizer.zero_grad()
        for micro in range(2):
            loss = model.loss(tokens, targets, key=mg.random.key(0, step, micro)) * 0.5
            loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return losses


# ---- the suite ------------------------------------------------------------------------------------------------------

class DeviceSuite:
    """A subclass gives the name of a device, how close its results are to the host's, and how to record waits."""
    device: str
    tolerance: dict[str, float]                 # relative error of one op, by dtype
    training_tolerance: dict[str, float]        # of parameters after a few training steps

    def waits(self) -> contextlib.AbstractContextManager[list[str]]:
        """A list of what made the host wait for the device in the block; always empty if waits cannot be recorded."""
        return contextlib.nullcontext([])

    @property
    def name(self) -> str:
        return devices.resolve(self.device)

    @property
    def xp(self) -> Any:
        return devices.library(self.device).xp

    def put(self, *values: int) -> Any:
        """A plain array on the device."""
        return devices.put(np.array(values), self.device)

    def floats(self, *shape: int) -> Tensor:
        """A leaf of this shape with the values 1, 2, 3, ..."""
        return Tensor(np.arange(1.0, 1.0 + np.prod(shape)).reshape(shape), True, device=self.device)

    def agrees_with_host(self, op, sample, dtype, compute):
        run = Run(op, sample, dtype, self.device)
        with self.waits() as made:
            results = compute(run)
        assert not made or run.picks_by_mask
        assert all(y.device == self.name for y in results)
        with mg.plain():
            assert_agree(results, compute(Run(op, sample, dtype, "cpu")), self.tolerance[dtype])

    # ---- every op ----

    @both_dtypes
    @samples()
    def test_op(self, op, sample, dtype):
        self.agrees_with_host(op, sample, dtype, Run.first_order)

    @both_dtypes
    @samples(fused=(False,))
    def test_second_order(self, op, sample, dtype):
        self.agrees_with_host(op, sample, dtype, Run.second_order)

    @both_dtypes
    @samples(fused=(True,))
    def test_decomposition(self, op, sample, dtype):
        with mg.unfused():
            self.agrees_with_host(op, sample, dtype, Run.second_order)

    # ---- a model ----

    @both_dtypes
    @pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
    @pytest.mark.parametrize("data", ["on the device", "on the host"])
    def test_training_equals_the_host_and_never_waits(self, data, optimizer, dtype):
        def trained(device):
            model = small_gpt(device, dtype)
            update, given = optimizer_of(model, optimizer), batch(device if data == "on the device" else "cpu")
            with self.waits() as made:
                losses = train(model, update, *given)
            assert made == []
            return [*losses, *model.parameters()]

        with mg.plain():
            assert_agree(trained(self.device), trained("cpu"), self.training_tolerance[dtype])

    def test_second_derivatives_of_a_model(self):
        def product(device):
            model = small_gpt(device, "float64")
            with mg.unfused():
                loss = model.loss(*batch(device), key=mg.random.key(0))
                gradients = mg.grad(loss, model.parameters(), create_graph=True)
                return mg.grad(inner(gradients, gradients), model.parameters())

        assert_agree(product(self.device), product("cpu"), self.training_tolerance["float64"])

    def test_layers_have_their_parameters_on_the_given_device(self):
        d = self.device
        layers = [nn.Linear(3, 2, device=d), nn.LayerNorm(3, device=d), nn.Embedding(5, 3, device=d)]
        assert {p.device for layer in layers for p in layer.parameters()} == {self.name}

    def test_a_state_dict_can_be_loaded_on_another_device(self):
        models = small_gpt(self.device, "float64"), small_gpt("cpu", "float64")
        updates = [optimizer_of(model, "adamw") for model in models]
        train(models[0], updates[0], *batch(self.device))
        models[1].load_state_dict(models[0].state_dict())
        updates[1].load_state_dict(updates[0].state_dict())
        with mg.plain():
            for model, update in zip(models, updates):
                train(model, update, *batch(model.wte.weight.device), steps=1)
        assert_agree(models[0].parameters(), models[1].parameters(), self.training_tolerance["float64"])

    def test_hooks_and_retained_gradients(self):
        b = F.exp(self.floats(2, 3) * 0.1)
        b.register_hook(lambda g: g * 2.0)
        b.retain_grad()
        b.sum().backward()
        np.testing.assert_array_equal(devices.host(b.grad), np.full((2, 3), 2.0))

    def test_nan_detection(self):
        with mg.detect_nan(), np.errstate(invalid="ignore"):
            F.log(self.floats(3)).sum().backward()
            with pytest.raises(FloatingPointError, match="forward of log.* made the first bad value: 2 NaN of 3"):
                F.log(self.floats(3) - 2.5)

    def test_clip_grad_norm_leaves_the_norm_on_the_device(self):
        t = self.floats(2)
        t.sum().backward()
        with self.waits() as made:
            norm = optim.clip_grad_norm([t], 1.0)
        assert made == [] and devices.name(norm) == self.name
        assert float(norm) == pytest.approx(np.sqrt(2.0))

    def test_after_training_all_memory_of_the_device_is_free_again(self):
        def used_bytes():
            gc.collect()
            _, _, used = devices.library(self.device).memory()
            return used

        def trained():
            model = small_gpt(self.device, "float32")
            losses = train(model, optimizer_of(model, "adamw"), *batch(self.device))
            return used_bytes(), losses

        trained()                                           # what the library keeps after its first run is not counted
        before = used_bytes()
        while_alive, losses = trained()
        del losses
        assert used_bytes() == before < while_alive

    # ---- kernels ----

    @pytest.mark.parametrize("seed, step, micro", [(0, 0, 0), (1, 2, 3), (2 ** 63 + 1, 5, 0), (*[2 ** 64 - 1] * 3,)])
    @pytest.mark.parametrize("shape", [(), (1,), (7,), (8,), (3, 5, 1000), (0, 3)])
    def test_a_mask_drawn_on_the_device_has_the_bits_of_the_host(self, shape, seed, step, micro):
        for name, p in zip("abcd", (0.0, 0.1, 0.5, 1.0 - 1e-12)):
            key = random.key(seed, step, micro).fold(name)
            mask = kernels.keep_mask(self.xp, key, shape, p)
            assert devices.name(mask) == self.name and mask.dtype == bool
            np.testing.assert_array_equal(devices.host(mask), random.keep_mask(key, shape, p))

    @pytest.mark.parametrize("key, p, error", [(None, 0.5, ValueError), (3, 0.5, TypeError),
                                               (random.key(0), 1.0, ValueError)])
    def test_a_mask_on_the_device_refuses_what_the_host_refuses(self, key, p, error):
        with pytest.raises(error):
            kernels.keep_mask(self.xp, key, (3,), p)

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_dropout_and_attention_draw_on_the_device_and_wait_for_nothing(self, dtype, monkeypatch):
        def run(device):
            x = Tensor(np.linspace(-1.0, 1.0, 60).reshape(2, 6, 5), True, dtype=dtype, device=device)
            y = F.dropout(x, 0.3, key=random.key(3))
            a = F.scaled_dot_product_attention(x, x, x, causal=True, dropout=0.3, key=random.key(4))
            (y.sum() + a.sum()).backward()
            return y, a, Tensor(x.grad)

        tolerance = {"float16": 1e-2, **self.tolerance}[dtype]
        with mg.plain():
            expected = run("cpu")
            assert_agree(run(self.device), expected, tolerance)
        monkeypatch.delattr(random, "bits")     # no mask from the host
        with self.waits() as made, switch(plain=False):
            found = run(self.device)
        assert made == []
        assert_agree(found, expected, tolerance)

    @pytest.mark.parametrize("index", [
        np.array([4, 0, 4, 4, -1, 2]), np.array(2), np.array([[1, 3], [1, 1]]), np.array([], int),
        (np.array([0, 4, 0, 0]), slice(1, 3)), (slice(None), np.array([1, 1, 2, 1])),
        (np.array([4, 4]), np.array([0, 0])), (Ellipsis, np.array([2, 2, 2])), (0, np.array([1, 1]))], ids=str)
    @pytest.mark.parametrize("dtype, wider", [("float32", "float64"), ("float64", "float64"), ("float16", "float32")])
    def test_additions_at_repeated_indices_equal_numpys_in_every_bit(self, index, dtype, wider):
        y = np.random.default_rng(0).normal(size=(5, 3)).astype(wider)
        x = np.random.default_rng(1).normal(size=y[index].shape).astype(dtype)
        on_device, at, added = moved((y, index, x), self.device)
        with self.waits() as made:
            add_at(on_device, at, added)
        assert made == []
        np.add.at(y, index, x)
        np.testing.assert_array_equal(devices.host(on_device), y)

    @both_dtypes
    @pytest.mark.parametrize("layout", ["contiguous", "transposed"])
    def test_adamw_and_clipping_equal_the_textbook(self, dtype, layout):
        def updated(device):
            rng = np.random.default_rng(0)
            params = [nn.Parameter(rng.normal(size=shape), device=device, dtype=dtype)
                      for shape in ((3, 5), (700, 30), (1,), (2, 0), (4, 2))]
            if layout == "transposed":
                params[0] = nn.Parameter(devices.put(rng.normal(size=(5, 3)).astype(dtype), device).T)
            optimizer = optim.AdamW([{"params": params[:2], "weight_decay": 0.3}, {"params": params[2:]}], lr=0.1)
            norms = []
            for _ in range(3):
                for p in params[:4]:                # the last one has no gradient
                    p.grad = devices.put(rng.normal(size=p.shape).astype(dtype), device)
                norms.append(Tensor(optim.clip_grad_norm(params, 5.0)))
                optimizer.step()
            return [*norms, *params, *(Tensor(optimizer.state_of(p)[m]) for p in params for m in "mv")]

        with mg.plain():
            expected = updated("cpu")
        assert_agree(updated(self.device), expected, {"float32": 1e-6, "float64": 1e-13}[dtype])

    @pytest.mark.parametrize("large", [1e30, 1e-30, np.inf, np.nan])
    def test_the_norm_of_huge_tiny_and_infinite_gradients_is_that_of_the_textbook(self, large):
        t = nn.Parameter(np.zeros(1000), device=self.device, dtype="float32")
        t.grad = devices.put(np.full(1000, large, "float32"), self.device)
        with np.errstate(invalid="ignore"):         # infinity * 0
            norm = float(optim.clip_grad_norm([t], 1.0))
        np.testing.assert_allclose(norm, large * np.sqrt(1000.0), rtol=1e-6)
        clipped = devices.host(t.grad)
        np.testing.assert_allclose(clipped, min(large, 1.0 / np.sqrt(1000.0)) if np.isfinite(large) else np.nan,
                                   rtol=1e-4)

    @pytest.mark.parametrize("index_dtype", ["int8", "uint8", "int16", "uint32", "int32", "uint64"])
    def test_the_dtype_of_an_index_need_not_hold_the_number_of_rows(self, index_dtype):
        index = np.array([3, 120, 3], index_dtype)
        for look in (lambda w, i: F.embedding(w, i), lambda w, i: w[i], lambda w, i: w.T[:, i]):
            w = Tensor(np.ones((300, 2)), True, device=self.device)
            look(w, moved(index, self.device)).sum().backward()
            assert Tensor(w.grad).numpy()[[3, 120, 4], 1].tolist() == [2.0, 1.0, 0.0]

    @pytest.mark.parametrize("dtype", ["bool", *(f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64))])
    def test_integers_and_booleans_are_added_at_indices_as_on_the_host(self, dtype):
        x, index = np.array([1, 0, 100], dtype), np.array([2, 0, 2])
        on_device, on_host = (F.scatter_add(Tensor(x, device=d), index, (4,)) for d in (self.device, "cpu"))
        assert on_device.dtype == dtype and on_device.numpy().tolist() == on_host.numpy().tolist()

    def test_what_is_added_at_indices_may_broadcast(self):
        y, index, x = moved((np.zeros((4, 3)), np.array([1, 1, 3]), np.arange(3.0)), self.device)
        add_at(y, index, x)
        np.testing.assert_array_equal(devices.host(y), np.outer([0.0, 2.0, 0.0, 1.0], [0.0, 1.0, 2.0]))

    @pytest.mark.parametrize("gradient", [
        lambda w, i: F.embedding(w, i), lambda w, i: w[i], lambda w, i: w[i % 4, i % 3],
        lambda w, i: F.scatter_add(w[i], i, (7, 3))], ids=["embedding", "rows", "elements", "scatter_add"])
    @pytest.mark.parametrize("plain", [False, True])
    def test_gradients_of_repeated_indices_have_the_same_bits_on_every_run(self, gradient, plain):
        """CuPy's own add.at adds in an order that changes."""
        index, found = np.random.default_rng(0).integers(0, 7, 5000), set()
        for _ in range(5):
            w = Tensor(np.random.default_rng(1).normal(size=(7, 3)), True, device=self.device)
            with mg.plain() if plain else contextlib.nullcontext():
                y = gradient(w, index)
                (y * Tensor(np.random.default_rng(2).normal(size=y.shape), device=self.device)).sum().backward()
            found.add(Tensor(w.grad).numpy().tobytes())
        assert len(found) == 1

    # ---- indices ----

    @lookups
    def test_an_index_out_of_range_is_an_error_under_check_indices(self, look, message):
        t = self.floats(3, 3)
        with mg.check_indices():
            with pytest.raises(IndexError, match=message) as error:
                look(t, self.put(0, 3))
            assert any("device_suite.py" in note for note in error.value.__notes__)
            look(t, self.put(0, 2))
        look(t, self.put(0, 3))                 # no check after the block

    @lookups
    def test_an_index_out_of_range_wraps_around_without_check_indices(self, look, message):
        """Why `check_indices` exists: wrong values, no error, no wait."""
        t = self.floats(3, 3)
        with self.waits() as made:
            wrong = look(t, self.put(0, 3))
        assert made == []
        np.testing.assert_array_equal(wrong.numpy(), look(t, self.put(0, 0)).numpy())

    @lookups
    def test_indices_on_the_host_are_copied_and_always_checked(self, look, message):
        """Checking them needs no wait for the device."""
        t, index = self.floats(3, 3), np.array([0, 2])
        with self.waits() as made:
            y = look(t, index)
            y.sum().backward()
            for wrong in (np.array([0, 3]), [0, 3]):
                with pytest.raises(IndexError, match=message):
                    look(t, wrong)
        assert made == []
        np.testing.assert_array_equal(y.numpy(), look(t, self.put(0, 2)).numpy())

    def test_a_mask_on_the_host_is_copied(self):
        t, mask = self.floats(3, 3), np.tri(3, dtype=bool)
        np.testing.assert_array_equal(F.where(mask, t, 0.0).numpy(), np.tril(t.numpy()))
        y = F.scaled_dot_product_attention(t, t, t, mask=mask)
        np.testing.assert_array_equal(y.numpy(), F.scaled_dot_product_attention(t, t, t, causal=True).numpy())

    # ---- two devices ----

    @pytest.mark.parametrize("mix", [
        lambda here, there: here + there, lambda here, there: there @ here, lambda here, there: F.linear(here, there),
        lambda here, there: F.concatenate([here, there]), lambda here, there: F.where(here.data > 0, here, there),
        lambda here, there: here * there.data, lambda here, there: there * here.data,
        lambda here, there: there.data * here, lambda here, there: F.layer_norm(there, here[0]),
        lambda here, there: F.scaled_dot_product_attention(here, there, there),
        lambda here, there: there.backward(here), lambda here, there: here.backward(there)])
    def test_tensors_of_two_devices_do_not_mix(self, mix):
        names = f"(cpu|{self.name})"
        with pytest.raises(ValueError, match=f"cpu and {self.name}|lives on {names}, the Tensor on {names}"):
            mix(Tensor(np.ones((3, 3)), True), self.floats(3, 3))

    @pytest.mark.parametrize("use", [
        lambda t, i: F.embedding(t, i), lambda t, i: F.cross_entropy(t, i), lambda t, i: t[i], lambda t, i: t[:, i],
        lambda t, i: F.scatter_add(t, i, (3, 3)), lambda t, i: F.where(i > 0, t, 0.0),
        lambda t, i: F.scaled_dot_product_attention(t, t, t, mask=i > 0)])
    def test_indices_and_masks_on_the_device_are_an_error_for_a_host_tensor(self, use):
        with pytest.raises(ValueError, match=f"lives on {self.name}, the input on cpu"):
            use(Tensor(np.ones((3, 3)), True), self.put(0, 1, 2))

    # ---- Tensors ----

    def test_to_copies_to_another_device_and_returns_a_tensor_that_is_already_there(self):
        t = Tensor(np.arange(3.0), True)
        moved_t = t.to(self.device)
        assert (moved_t.device, moved_t.requires_grad, moved_t.node) == (self.name, True, None)
        assert moved_t.to(self.device) is moved_t and t.to("cpu") is t
        moved_t.data = np.zeros(3)
        np.testing.assert_array_equal(moved_t.to("cpu").data, 0.0)
        np.testing.assert_array_equal(t.data, np.arange(3.0))

    def test_only_explicit_methods_copy_to_the_host(self):
        t = self.floats(2)
        np.testing.assert_array_equal(t.numpy(), [1.0, 2.0])
        assert (t[1].item(), float(t[1]), t.tolist()) == (2.0, 2.0, [1.0, 2.0])
        for convert in (np.asarray, np.array):
            with pytest.raises(TypeError, match=rf"lives on {self.name}: \.numpy\(\)"):
                convert(t)

    def test_repr_shows_values_and_device(self):
        t = self.floats(2)
        assert repr(t) == f"Tensor([1., 2.], shape=(2,), dtype=float64, device={self.name}, requires_grad=True)"
        assert f"device={self.name}, op=exp" in repr(F.exp(t))

    @pytest.mark.parametrize("multiply", [
        lambda t: t * t.data, lambda t: t.data * t, lambda t: np.float64(2.0) * t, lambda t: t * np.float32(2.0)])
    def test_a_tensor_times_an_array_or_a_scalar_is_a_tensor_on_the_device(self, multiply):
        y = multiply(self.floats(2))
        assert isinstance(y, Tensor) and (y.device, y.dtype, y.requires_grad) == (self.name, "float64", True)

    def test_backward_accepts_the_gradient_as_a_host_array(self):
        t = self.floats(2)
        (t * 3.0).backward(np.array([1.0, 2.0]))
        np.testing.assert_array_equal(devices.host(t.grad), [3.0, 6.0])
