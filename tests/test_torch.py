"""The same numbers as PyTorch, an independent implementation, if it is installed."""
import numpy as np
import pytest

from minigrad import Tensor, functional as F, optim

torch = pytest.importorskip("torch")
TF = torch.nn.functional


def both(array):
    return Tensor(array.copy(), requires_grad=True), torch.tensor(array, requires_grad=True)


TARGETS = np.array([1, 0, -100, 4, 2])
CASES = {
    "attention": ([(2, 3, 5, 4)] * 3, lambda q, k, v: F.scaled_dot_product_attention(q, k, v, causal=True),
                  lambda q, k, v: TF.scaled_dot_product_attention(q, k, v, is_causal=True)),
    "layer_norm": ([(3, 4, 6), (6,), (6,)], F.layer_norm, lambda x, w, b: TF.layer_norm(x, (6,), w, b)),
    "gelu": ([(3, 5)], F.gelu, lambda x: TF.gelu(x, approximate="tanh")),
    "sigmoid": ([(3, 5)], F.sigmoid, torch.sigmoid),
    "var": ([(3, 5)], lambda x: F.var(x, axis=1, ddof=1), lambda x: x.var(1)),
    "logsumexp": ([(3, 5)], lambda x: F.logsumexp(x, axis=1), lambda x: x.logsumexp(1)),
    "linear": ([(2, 3, 4), (4, 5), (5,)], F.linear, lambda x, w, b: TF.linear(x, w.T, b)),
    "matmul": ([(7, 1, 2, 3), (4, 3, 5)], F.matmul, torch.matmul),
    **{f"cross_entropy, {reduction}, smoothing {s}": (
        [(5, 7)],
        lambda z, r=reduction, s=s: F.cross_entropy(z, TARGETS, label_smoothing=s, reduction=r),
        lambda z, r=reduction, s=s: TF.cross_entropy(z, torch.tensor(TARGETS), label_smoothing=s, reduction=r))
       for reduction in ("mean", "sum", "none") for s in (0.0, 0.1)},
}


@pytest.mark.parametrize("name", CASES)
def test_forward_and_gradients_equal_pytorch(name):
    shapes, ours, theirs = CASES[name]
    rng = np.random.default_rng(0)
    inputs = [both(rng.normal(size=shape)) for shape in shapes]
    y, want = ours(*[a for a, _ in inputs]), theirs(*[b for _, b in inputs])
    dy = rng.normal(size=y.shape)
    y.backward(dy)
    want.backward(torch.tensor(dy))
    np.testing.assert_allclose(y.data, want.detach().numpy(), rtol=0, atol=1e-13)
    for a, b in inputs:
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("ours, theirs, options", [
    (optim.AdamW, torch.optim.AdamW, dict(lr=0.1, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.2)),
    (optim.SGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, weight_decay=0.1)),
    (optim.SGD, torch.optim.SGD, dict(lr=0.1, momentum=0.9, nesterov=True)),
])
def test_optimizer_steps_equal_pytorch(ours, theirs, options):
    rng = np.random.default_rng(0)
    p, q = both(rng.normal(size=(4, 3)))
    a, b = ours([p], **options), theirs([q], **options)
    for _ in range(5):
        p.grad = rng.normal(size=(4, 3))
        q.grad = torch.tensor(p.grad)
        a.step()
        b.step()
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=0, atol=1e-13)
