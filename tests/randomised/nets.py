"""Random small networks, trained for a few steps. If the network is copied, pickled or loaded into another one in
between, the training must go on with the same bits. Every loss and weight must be PyTorch's where it is installed;
where it is not, those of the textbook's ops and of an optimizer in NumPy.
"""
import copy
import pickle
import pprint
from unittest import mock

import numpy as np

import minigrad as mg
from minigrad import functional as F, nn, optim
from minigrad.executor import EXECUTORS
from minigrad.modes import switch
from minigrad.ops import dropout, op

from .programs import MODES, Wrong

try:
    import torch
    from . import torch_functions as TF
except ImportError:
    torch = None


# ---- the networks ---------------------------------------------------------------------------------------------------

class Activation(nn.Module):
    def __init__(self, name):
        self.name = name

    def forward(self, x):
        return getattr(F, self.name)(x)


class Residual(nn.Module):
    def __init__(self, layers):
        self.layers = layers

    def forward(self, x, key):
        return x + through(self.layers, x, key)


def through(layers, x, key):
    for layer in layers:
        x = layer(x, key) if isinstance(layer, (Residual, nn.Dropout)) else layer(x)
    return x


class Net(nn.Module):
    """Tokens (B, T)  ->  the mean cross-entropy of the targets (B, T). spec: see `draw`."""

    def __init__(self, spec, seed, dtype):
        rng, C = np.random.default_rng(seed), spec["width"]
        self.spec = spec
        self.table = nn.Embedding(spec["vocabulary"], C, rng=rng, dtype=dtype)
        self.layers = made(spec["layers"], C, rng, dtype)
        self.head = None if spec["tied"] else nn.Linear(C, spec["vocabulary"], rng=rng, dtype=dtype)
        self.unused = nn.Linear(2, 3, rng=rng, dtype=dtype)

    def forward(self, idx, targets, key):
        x = through(self.layers, self.table(idx), key)
        if self.head is None:
            return F.linear_cross_entropy(x, self.table.weight, targets)
        return F.cross_entropy(self.head(x), targets)


def made(layers, C, rng, dtype):
    found = []
    for kind, *rest in layers:
        found.append(
            nn.Linear(C, C, rest[0], rng=rng, dtype=dtype) if kind == "linear" else
            nn.LayerNorm(C, rest[0], dtype=dtype) if kind == "norm" else
            nn.Dropout(rest[0]) if kind == "dropout" else
            Residual(made(rest[0], C, rng, dtype)) if kind == "residual" else
            found[rest[0]] if kind == "again" else              # the same layer, and its parameters, once more
            Activation(kind))
    return found


def torch_loss(net, own, masks, idx, targets):
    """The loss of a Net in PyTorch. own: name of a parameter -> its tensor. masks: what dropout keeps, call by call."""
    def bias(layer):
        return None if layer.bias is None else own[layer.bias.name]

    def run(layer, x):
        if isinstance(layer, nn.Linear):
            return TF.linear(x, own[layer.weight.name], bias(layer))
        if isinstance(layer, nn.LayerNorm):
            return TF.layer_norm(x, own[layer.weight.name], bias(layer))
        if isinstance(layer, nn.Dropout):
            return x * torch.as_tensor(masks.pop(0)) / (1.0 - layer.p) if net.training and layer.p else x
        if isinstance(layer, Residual):
            return x + run_all(layer.layers, x)
        return getattr(TF, layer.name)(x)

    def run_all(layers, x):
        for layer in layers:
            x = run(layer, x)
        return x

    table = own[net.table.weight.name]
    x = run_all(net.layers, TF.embedding(table, idx))
    return TF.cross_entropy(x @ table.T if net.head is None else run(net.head, x), targets)


# ---- training -------------------------------------------------------------------------------------------------------

def batches(spec, step):
    rng = np.random.default_rng([spec["seed"], step])
    for _ in range(spec["micro"]):
        targets = rng.integers(0, spec["vocabulary"], (2, 3))
        yield rng.integers(0, spec["vocabulary"], (2, 3)), np.where(rng.random((2, 3)) < 0.2, -100, targets)


def groups_of(spec, named):
    """The parameters in groups, without the frozen ones. named: (name, parameter)."""
    trained = [(name, p) for name, p in named if name not in spec["frozen"]]
    if not spec["groups"]:
        return [p for _, p in trained]
    matrices = [p for _, p in trained if p.ndim > 1]
    return [group for group in ({"params": matrices, "weight_decay": 0.1, "lr": 0.03},
                                {"params": [p for _, p in trained if p.ndim <= 1]}) if group["params"]]


class Formulas:
    """AdamW and SGD in NumPy, as in PyTorch's documentation, with the interface of minigrad's optimizers."""

    def __init__(self, params, hyper):
        groups = params if isinstance(params[0], dict) else [{"params": params}]
        self.groups = [{**hyper, **group} for group in groups]
        self.params = [p for group in self.groups for p in group["params"]]
        self.state = {id(p): (0, 0.0, 0.0) for p in self.params}       # steps, and the moments

    def step(self):
        for h in self.groups:
            for p in h["params"]:
                if p.grad is not None:
                    p.data = self.new_value(h, p)

    def new_value(self, h, p):
        (t, m, v), g, lr = self.state[id(p)], p.grad, h["lr"]
        if "betas" in h:
            b1, b2 = h["betas"]
            t, m, v = t + 1, b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            self.state[id(p)] = t, m, v
            return p.data * (1 - lr * h["weight_decay"]) - lr * m / (1 - b1 ** t) / (
                np.sqrt(v / (1 - b2 ** t)) + h["eps"])
        g = g + h["weight_decay"] * p.data
        m = h["momentum"] * m + g
        self.state[id(p)] = t, m, v
        return p.data - lr * (g + h["momentum"] * m if h["nesterov"] else m)

    def zero_grad(self):
        for p in self.params:
            p.zero_grad()


def train(spec, dtype, roundtrip=None, formulas=False):
    """Train a Net. Returns its losses, itself, and the masks of dropout. formulas: by the class Formulas."""
    masks, losses, keep_mask = [], [], op.keep_mask

    def recorded(*arguments):
        masks.append(keep_mask(*arguments))
        return masks[-1]

    net = Net(spec, spec["seed"], dtype)
    for name, p in net.named_parameters():
        p.requires_grad = name not in spec["frozen"]
    params = groups_of(spec, net.named_parameters())
    optimizer = Formulas(params, spec["hyper"]) if formulas else getattr(optim, spec["optimizer"])(
        params, **spec["hyper"])
    kernels = EXECUTORS[np.ndarray].kernels
    with (mock.patch.object(op, "keep_mask", recorded), mock.patch.object(dropout, "keep_mask", recorded),
          mock.patch.dict(kernels)):
        kernels.pop(dropout.Dropout, None)      # the loop makes no mask
        for step in range(spec["steps"]):
            if step == spec["at"] and roundtrip:
                net, optimizer = ROUNDTRIPS[roundtrip](net, optimizer, spec, dtype)
            for micro, (idx, targets) in enumerate(batches(spec, step)):
                loss = net(idx, targets, mg.random.key(spec["seed"], step, micro)) * (1.0 / spec["micro"])
                if loss.requires_grad:
                    loss.backward()
                losses.append(loss.item())
            if spec["clip"] and any(p.grad is not None for p in optimizer.params):
                losses.append(optim.clip_grad_norm(optimizer.params, spec["clip"]).item())
            optimizer.step()
            optimizer.zero_grad()
    net.eval()
    losses.append(net(*next(iter(batches(spec, 99))), None).item())
    return losses, net, masks


def from_state(net, optimizer, spec, dtype):
    other = Net(spec, spec["seed"] + 1, dtype)
    other.load_state_dict(net.state_dict())
    for name, p in other.named_parameters():
        p.requires_grad = name not in spec["frozen"]
    new = getattr(optim, spec["optimizer"])(groups_of(spec, other.named_parameters()), **spec["hyper"])
    new.load_state_dict(optimizer.state_dict())
    return other, new


ROUNDTRIPS = {
    "deepcopy": lambda net, optimizer, *_: copy.deepcopy((net, optimizer)),
    "pickle": lambda net, optimizer, *_: pickle.loads(pickle.dumps((net, optimizer))),
    "state_dict": from_state,
}


def torch_train(spec, masks):
    net = Net(spec, spec["seed"], "float64")
    own = {name: torch.tensor(p.numpy(), requires_grad=name not in spec["frozen"])
           for name, p in net.named_parameters()}
    optimizer = getattr(torch.optim, spec["optimizer"])(groups_of(spec, own.items()), **spec["hyper"])
    params = [p for group in optimizer.param_groups for p in group["params"]]
    losses, masks = [], list(masks)
    for step in range(spec["steps"]):
        for idx, targets in batches(spec, step):
            loss = torch_loss(net, own, masks, idx, targets) / spec["micro"]
            if loss.requires_grad:
                loss.backward()
            losses.append(loss.item())
        if spec["clip"] and any(p.grad is not None for p in params):
            losses.append(torch.nn.utils.clip_grad_norm_(params, spec["clip"]).item())
        optimizer.step()
        optimizer.zero_grad()
    net.eval()
    losses.append(torch_loss(net, own, masks, *next(iter(batches(spec, 99)))).item())
    return losses, {name: p.detach().numpy() for name, p in own.items()}


# ---- checks ---------------------------------------------------------------------------------------------------------

def check(spec):
    """Train this network. Raises Wrong if a check fails."""
    with MODES[spec["mode"]](), np.errstate(all="ignore"):
        losses, net, masks = train(spec, spec["dtype"])
        if spec["roundtrip"]:
            same, other, _ = train(spec, spec["dtype"], spec["roundtrip"])
            for (name, p), (_, q) in zip(net.named_parameters(), other.named_parameters()):
                if not np.array_equal(p.data, q.data) or losses != same:
                    raise Wrong(f"{name} has other bits after {spec['roundtrip']} before step {spec['at']}, off by "
                                f"{np.abs(p.data - q.data).max():.3g}, losses by {np.abs(np.subtract(losses, same))}")
        losses, net, masks = train(spec, "float64")             # in float32 AdamW enlarges rounding
    if torch:
        right, parameters = torch_train(spec, masks)
    else:
        with switch(plain=True, unfused=True):
            right, twin, _ = train(spec, "float64", formulas=True)
            parameters = twin.state_dict()
    if not np.allclose(losses, right, rtol=1e-7, atol=1e-8):
        raise Wrong(f"losses and norms {losses} should be {right}")
    for name, p in net.named_parameters():
        if not np.allclose(p.data, parameters[name], rtol=1e-6, atol=1e-6):
            raise Wrong(f"{name} is off by {np.abs(p.data - parameters[name]).max():.3g}")


def draw(rng):
    """A random network and training, as a dict of numbers and lists."""
    chance = lambda p: bool(rng.random() < p)
    among = lambda options: options[int(rng.integers(len(options)))]

    def layers(depth, count):
        found = []
        for i in range(count):
            shared = [k for k, layer in enumerate(found) if layer[0] in ("linear", "norm", "residual", "dropout")]
            kind = among(["linear", "linear", "norm", "dropout", "gelu", "relu", "tanh", "residual", "again"])
            if kind == "residual" and depth:
                found.append(["residual", layers(depth - 1, int(rng.integers(1, 4)))])
            elif kind == "again" and shared:
                found.append(["again", among(shared)])
            elif kind in ("linear", "norm"):
                found.append([kind, chance(0.7)])
            elif kind == "dropout":
                found.append([kind, among([0.0, 0.2, 0.5])])
            else:
                found.append([among(["gelu", "relu", "tanh"])])
        return found

    spec = dict(seed=int(rng.integers(1000)), width=among([2, 4, 5]), vocabulary=among([3, 6, 11]), tied=chance(0.5),
                layers=layers(2, int(rng.integers(1, 6))), steps=int(rng.integers(1, 6)), micro=among([1, 2, 3]),
                clip=among([0.0, 0.3, 10.0]), groups=chance(0.5), mode=among(list(MODES)),
                dtype=among(["float32", "float64"]), roundtrip=among(["", *ROUNDTRIPS]))
    spec["at"] = int(rng.integers(0, spec["steps"]))
    spec["frozen"] = [name for name, _ in Net(spec, 0, "float32").named_parameters()
                      if name != "unused.bias" and chance(0.15)]       # an optimizer needs a parameter
    if chance(0.6):
        spec |= dict(optimizer="AdamW", hyper=dict(lr=0.01, betas=among([(0.9, 0.999), (0.8, 0.9)]), eps=1e-6,
                                                   weight_decay=among([0.0, 0.2])))
    else:
        momentum = among([0.0, 0.9])
        spec |= dict(optimizer="SGD", hyper=dict(lr=0.1, momentum=momentum, weight_decay=among([0.0, 0.1]),
                                                 nesterov=momentum > 0.0 and chance(0.5)))
    return spec


def simpler(spec):
    """Specs that are a little simpler than this one."""
    for i, layer in enumerate(spec["layers"]):
        if not any(other[0] == "again" for other in spec["layers"]):
            yield spec | {"layers": spec["layers"][:i] + spec["layers"][i + 1:], "frozen": []}
    for name, least in (("micro", 1), ("clip", 0.0), ("groups", False), ("frozen", []), ("roundtrip", ""),
                        ("mode", "plain"), ("dtype", "float64"), ("tied", False)):
        if spec[name] != least:
            yield spec | {name: least}
    if spec["steps"] > 1:
        yield spec | {"steps": spec["steps"] - 1, "at": min(spec["at"], spec["steps"] - 2)}


def failure(spec):
    try:
        check(spec)
    except Wrong as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def trial(rng):
    """Draw a network and train it. Returns None, or what is wrong and a script that repeats it."""
    spec = draw(rng)
    message, again = failure(spec), True
    if message is None:
        return None
    while again:
        again = False
        for less in simpler(spec):
            if (now := failure(less)) is not None and now[:12] == message[:12]:
                spec, message, again = less, now, True
                break
    return message, f"from tests.randomised.nets import check\n\ncheck({pprint.pformat(spec, width=110)})\n"
