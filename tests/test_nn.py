"""Modules: names, shared parameters, state, modes, initial weights."""
import weakref
from collections import ChainMap, UserDict, UserList, deque
from types import MappingProxyType

import numpy as np
import pytest

import minigrad as mg
from minigrad import Tensor, functional as F, nn
from minigrad.random import Key


class Block(nn.Module):
    def __init__(self, rng):
        self.fc = nn.Linear(3, 5, rng=rng)
        self.norm = nn.LayerNorm(5)
        self.drop = nn.Dropout(0.5)

    def forward(self, x, key=None):
        return self.drop(self.norm(self.fc(x)), key)


class Model(nn.Module):
    def __init__(self):
        rng = np.random.default_rng(0)
        self.wte = nn.Embedding(7, 3, rng=rng)
        self.h = [Block(rng), Block(rng)]
        self.head = nn.Linear(3, 7, bias=False, rng=rng)
        self.tied = self.wte.weight


def test_names_are_paths():
    names = [name for name, _ in Model().named_parameters()]
    assert names == ["wte.weight", "h.0.fc.weight", "h.0.fc.bias", "h.0.norm.weight", "h.0.norm.bias",
                     "h.1.fc.weight", "h.1.fc.bias", "h.1.norm.weight", "h.1.norm.bias", "head.weight"]


def test_parameters_and_modules_store_their_path():
    model = Model()
    assert all(p.name == name for name, p in model.named_parameters())
    assert [m.path for _, m in model.named_modules()][:4] == ["", "wte", "h.0", "h.0.fc"]
    outer = nn.Module()
    outer.inner = model
    assert model.h[1].norm.weight.name == "inner.h.1.norm.weight" and model.h[1].norm.path == "inner.h.1.norm"


def test_a_shared_parameter_is_listed_once_under_its_first_name():
    model = Model()
    assert sum(p is model.tied for p in model.parameters()) == 1
    assert model.tied.name == "wte.weight"


def test_paths_and_names_are_right_after_a_part_is_replaced():
    model = Model()
    model.h[1].fc = nn.Linear(3, 5)
    model.h[0].norm = Block(None)
    for path, module in model.named_modules():
        assert module.path == path
    for name, p in model.named_parameters():
        assert p.name == name


@pytest.mark.parametrize("parts", [
    lambda a, b: [a, b],
    lambda a, b: (a, b),
    lambda a, b: {"a": a, "b": b},
    lambda a, b: [[a], [b]],
    lambda a, b: {"layers": [a, {"last": b}]},
    lambda a, b: [F.relu, a, None, b],
])
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 2), lambda: nn.Parameter(np.ones(2)), lambda: Block(None)])
def test_parts_in_lists_tuples_and_dicts_also_nested_belong_to_the_module(parts, make):
    class Net(nn.Module):
        def __init__(self):
            self.own = nn.Parameter(np.ones(1))
            self.parts = parts(make(), make())

    net = Net()
    inside = [q for part in (make(), make()) for q in ([part] if isinstance(part, nn.Parameter) else part.parameters())]
    assert len(net.parameters()) == 1 + len(inside) == len(net.state_dict())
    assert all(p.name == name for name, p in net.named_parameters())
    assert all(module.path == path for path, module in net.named_modules())


def test_a_part_added_to_a_list_or_dict_later_is_trained_too():
    class Net(nn.Module):
        def __init__(self):
            self.layers, self.heads = [], {}
            self.layers.append(nn.Linear(2, 2))
            self.heads["a"] = nn.Linear(2, 2)

    assert [p.name for p in Net().parameters()] == [
        "layers.0.weight", "layers.0.bias", "heads.a.weight", "heads.a.bias"]


def test_a_collection_without_an_order_or_with_equal_names_is_an_error():
    class Net(nn.Module):
        pass

    with pytest.raises(TypeError, match="parts is a set of Modules or Parameters"):
        Net().parts = {nn.Linear(2, 2)}
    with pytest.raises(ValueError, match="one name"):
        Net().parts = {1: nn.Parameter(np.ones(1)), "1": nn.Parameter(np.ones(1))}
    net = Net()
    net.parts = {"a": nn.Linear(2, 2), "a.weight": nn.Parameter(np.ones(1))}
    with pytest.raises(ValueError, match="two parameters have the name parts.a.weight"):
        net.state_dict()


@pytest.mark.parametrize("collect", [
    lambda a: frozenset([a]), lambda a: deque([a]), lambda a: UserList([a]), lambda a: UserDict(a=a),
    lambda a: ChainMap({"a": a}), lambda a: MappingProxyType({"a": a}), lambda a: {"a": a}.values(),
    lambda a: {"a": a}.items(), lambda a: np.array([a, None]), lambda a: [{a}], lambda a: {"a": {a}},
    lambda a: ([deque([[a]])],),
])
def test_a_collection_that_would_not_be_trained_is_an_error(collect):
    class Net(nn.Module):
        pass

    with pytest.raises(TypeError, match=r"parts.* of Modules or Parameters, which would not be trained"):
        Net().parts = collect(nn.Linear(2, 2))
    net = Net()
    net.parts = collect(1)
    assert net.parameters() == []


def test_a_parameter_of_a_class_or_in_a_slot_is_an_error():
    with pytest.raises(TypeError, match="Net.layers belongs to the class"):
        class Net(nn.Module):
            layers = [nn.Linear(2, 2)]

    class Slotted(nn.Module):
        __slots__ = ("weight",)

    with pytest.raises(TypeError, match="weight is a slot"):
        Slotted().weight = nn.Parameter(np.ones(1))


def test_a_module_that_would_contain_itself_is_refused_and_stays_as_it_was():
    class Net(nn.Module):
        pass

    net, child = Net(), Net()
    net.child, child.weight = {"a": [child]}, nn.Parameter(np.ones(1))
    for part in (net, [net], {"b": [net]}, child):
        with pytest.raises(ValueError, match="would contain itself"):
            child.parent = part
    assert list(net.state_dict()) == ["child.a.0.weight"]
    child.parent = weakref.ref(net)
    assert list(net.state_dict()) == ["child.a.0.weight"]


def test_a_list_of_modules_is_stored_as_a_tuple():
    assert isinstance(Model().h, tuple)


def test_a_node_stores_the_path_of_the_module_that_made_it():
    model = Model().eval()
    y = model.h[1](np.ones((2, 3), "float32"))
    assert y.node.module == "h.1.norm"
    assert F.exp(y).node.module == ""


def test_train_and_eval_reach_every_module():
    model = Model()
    assert model.eval() is model and not any(m.training for _, m in model.named_modules())
    assert all(m.training for _, m in model.train().named_modules())


def test_each_call_of_a_dropout_draws_its_own_mask_and_equal_keys_draw_the_same_masks():
    model, x = Model(), Tensor(np.ones((20, 3), "float32"))
    a, b, alone = model.h[0].drop, model.h[1].drop, nn.Dropout(0.5)

    def masks(step):
        key = mg.random.key(1, step)
        return [(drop(x, key).data == 0.0).tobytes() for drop in (a, b, a, alone, alone, nn.Dropout(0.5))]

    assert len(set(masks(3) + masks(4))) == 12
    assert masks(3) == masks(3)


def test_two_dropouts_in_a_row_keep_the_mean():
    drop, key = nn.Dropout(0.5), mg.random.key(0)
    y = drop(drop(Tensor(np.ones(20_000)), key), key)
    assert abs(y.mean().item() - 1.0) < 0.05 and abs((y.data > 0.0).mean() - 0.25) < 0.02


def test_dropout_in_training_mode_needs_a_key():
    model, x = Model(), Tensor(np.ones((20, 3), "float32"))
    a = model.h[0]
    with pytest.raises(ValueError, match="h.0.drop in training mode needs key="):
        a.drop(x)
    assert model.eval().h[0].drop(x) is x


def test_a_state_dict_holds_copies_and_can_be_loaded():
    model, other = Model(), Model()
    for p in model.parameters():
        p.data = p.data + 1.0
    state = model.state_dict()
    other.load_state_dict(state)
    state["wte.weight"][...] = 0.0
    for p, q in zip(model.parameters(), other.parameters()):
        np.testing.assert_array_equal(p.data, q.data)


def test_a_state_dict_that_does_not_fit_is_an_error_that_lists_every_problem():
    model = Model()
    before, state = model.state_dict(), model.state_dict()
    del state["h.0.fc.bias"]
    state["extra"] = np.ones(3)
    state["head.weight"] = np.ones((7, 3))
    state["wte.weight"] = state["wte.weight"] + 1.0
    with pytest.raises(
        ValueError, match=r"missing: h.0.fc.bias; unexpected: extra; head.weight has shape \(7, 3\), expected \(3, 7\)"
    ):
        model.load_state_dict(state)
    np.testing.assert_array_equal(model.wte.weight.data, before["wte.weight"])


def test_initial_weights_depend_on_the_rng_alone_and_not_on_the_dtype():
    make = lambda dtype: nn.Linear(50, 40, rng=np.random.default_rng(3), dtype=dtype).weight.data
    np.testing.assert_array_equal(make("float32"), make("float64").astype("float32"))
    assert abs(make("float64").std() * np.sqrt(50) - 1.0) < 0.05
    assert abs(nn.Linear(50, 40, std=0.02, rng=np.random.default_rng(3)).weight.data.std() - 0.02) < 0.001


def test_layers_compute_their_formula():
    x = np.random.default_rng(0).normal(size=(2, 4, 3))
    layer = nn.Linear(3, 5, dtype="float64")
    layer.bias.data = np.arange(5.0)
    np.testing.assert_allclose(layer(x).data, x @ layer.weight.data + np.arange(5.0))
    y = nn.LayerNorm(3, dtype="float64")(x).data
    np.testing.assert_allclose(y.mean(-1), 0.0, atol=1e-12)
    np.testing.assert_allclose(y.var(-1), 1.0, rtol=1e-3)      # eps
    table = nn.Embedding(7, 3)
    np.testing.assert_array_equal(table(np.array([[1, 6]])).data, table.weight.data[[[1, 6]]])


def test_calling_a_module_without_a_forward_is_an_error():
    class Empty(nn.Module):
        pass

    with pytest.raises(NotImplementedError, match="Empty needs a forward"):
        Empty()()


def test_each_key_gives_other_bits_and_element_i_depends_only_on_key_and_i():
    key = mg.random.key(seed=1, step=2, micro=3)
    bits = mg.random.bits(key, (4, 5))
    assert bits.dtype == "uint32" and bits.shape == (4, 5)
    np.testing.assert_array_equal(bits.reshape(-1)[:7], mg.random.bits(key, (7,)))
    others = [
        mg.random.key(2, 2, 3),
        mg.random.key(1, 3, 3),
        mg.random.key(1, 2, 4),
        key.fold("a"),
        key.fold("b"),
        key.fold("a").fold("b"),
    ]
    drawn = {mg.random.bits(k, (8,)).tobytes() for k in [key, *others]}
    assert len(drawn) == 7
    for number in (-1, 2 ** 64, 1.5):
        with pytest.raises(ValueError, match="step must be an integer"):
            mg.random.key(0, number)


def test_every_bit_of_a_stream_counts():
    """NumPy turns a list with an integer of 2^63 or more into float64, which has 53 bits."""
    streams = [Key(seed=0, stream=s) for s in (2 ** 63 + 1, 2 ** 63 + 2, 2 ** 63 + 1000, 2 ** 64 - 1)]
    seeds = [Key(seed=s) for s in (2 ** 63 + 1, 2 ** 63 + 2)]
    steps = [Key(seed=0, step=s) for s in (2 ** 63 + 1, 2 ** 63 + 2)]
    assert len({mg.random.bits(k, (8,)).tobytes() for k in [*streams, *seeds, *steps]}) == 8


def test_the_bits_of_a_key_never_change():
    """A run is repeated from its keys alone, so the generator must stay the same."""
    assert mg.random.bits(mg.random.key(1, 2, 3).fold("h.0"), (4,)).tolist() == PHILOX


PHILOX = [1559226399, 1344699668, 687317122, 2147085968]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_zeroes_a_fraction_p_and_keeps_the_mean(p):
    x = Tensor(np.ones(100_000))
    y = F.dropout(x, p, mg.random.key(0)).data
    assert abs((y == 0.0).mean() - p) < 0.01
    assert abs(y.mean() - 1.0) < 0.02
