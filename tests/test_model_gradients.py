"""Gradients of a tiny GPT and their gradients, compared with finite differences."""
import numpy as np
import pytest

import minigrad as mg
from gpt.model import GPT, GPTConfig
from minigrad import Tensor, gradcheck

IDX = np.array([[1, 4, 1, 0, 2], [3, 3, 0, 6, 5]])          # repeated tokens
TARGETS = np.array([[4, 1, 0, 2, 2], [3, 0, -100, 5, 1]])   # one is not counted


def tiny_gpt(**config):
    """Weights large enough for gradients through every path, and LayerNorm's away from 1 and 0."""
    shape = dict(block_size=6, vocab_size=7, n_layer=2, n_head=2, n_embd=6)
    model = GPT(GPTConfig(**shape, **config), seed=0, dtype="float64")
    rng = np.random.default_rng(1)
    for p in model.parameters():
        p.data = p.data + rng.normal(0.0, 0.3, size=p.shape)
    return model


@pytest.mark.parametrize("config", [{}, {"bias": False}, {"dropout": 0.3}])
@pytest.mark.parametrize("fused", [True, False])
def test_gradients_of_all_parameters_equal_finite_differences(config, fused):
    model, key = tiny_gpt(**config), mg.random.key(0, step=4)

    def loss():
        if fused:
            return model.loss(IDX, TARGETS, key)
        with mg.unfused():
            return model.loss(IDX, TARGETS, key)

    report = gradcheck.check_model(loss, model.named_parameters())
    assert report.ok, "\n".join(map(str, report.failures))
    assert {row.what for row in report.rows} == set(model.state_dict())


def test_the_hessian_vector_product_equals_a_difference_of_gradients():
    """To a relative error of 1e-6."""
    model, rng = tiny_gpt(), np.random.default_rng(2)
    params = model.parameters()
    vs = [rng.normal(size=p.shape) for p in params]
    with mg.unfused():
        products = mg.hvp(lambda *_: model.loss(IDX, TARGETS), params, [Tensor(v) for v in vs])
    start, sides = [p.numpy() for p in params], []
    for sign in (1.0, -1.0):
        for p, x, v in zip(params, start, vs):
            p.data = x + sign * 1e-5 * v
        sides.append([g.data for g in mg.grad(model.loss(IDX, TARGETS), params)])
    for product, above, below in zip(products, *sides):
        assert gradcheck.relative_error(product.data, (above - below) / 2e-5) < 1e-6


def test_unfused_gives_the_same_loss_and_gradients():
    model = tiny_gpt()
    fused = mg.grad(model.loss(IDX, TARGETS), model.parameters())
    with mg.unfused():
        loss = model.loss(IDX, TARGETS)
    assert abs(loss.item() - model.loss(IDX, TARGETS).item()) < 1e-12
    for a, b in zip(fused, mg.grad(loss, model.parameters())):
        assert gradcheck.relative_error(a.data, b.data) < 1e-11


def test_steps_name_the_module_of_their_op():
    model = tiny_gpt()
    names = [(step.op, step.name) for step in model.loss(IDX, TARGETS).backward_steps()]
    assert (
        ("attention", "h.1.attn") in names and ("linear", "h.0.mlp.c_fc") in names and ("layer_norm", "ln_f") in names
    )
