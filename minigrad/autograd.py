"""`grad` returns gradients as Tensors; `hvp` computes products with the Hessian."""
from collections import deque
from typing import Any, Callable

from minigrad import errors
from minigrad.modes import mode
from minigrad.tape import after_hooks, walk
from minigrad.tensor import Tensor


def grad(y: Tensor, xs: Any, *, create_graph: bool = False, retain_graph: bool = False) -> Any:
    """The gradients of y (one element) with respect to xs, a Tensor or a sequence of Tensors: new Tensors of the same
    shapes, zeros for an x that y does not depend on. No `.grad` changes. create_graph: the gradients are recorded, so
    they can be differentiated again. The graph of y is freed unless retain_graph or create_graph. ValueError for an x
    that needs no gradient, for a y that needs none or has several elements, for a graph that was freed, and for
    create_graph inside no_grad."""
    single = isinstance(xs, Tensor)
    wanted: list[Tensor] = [xs] if single else list(xs)
    for i, x in enumerate(wanted):
        if not isinstance(x, Tensor) or not x.requires_grad:
            raise ValueError(f"xs[{i}] needs no gradient: make it with Tensor(array, requires_grad=True)")
    if create_graph and not mode().grad:
        raise ValueError("create_graph=True records the gradients, and inside no_grad() nothing is recorded: call "
                         "mg.grad outside")
    found: dict[int, Any] = {}
    hooked: list[Any] = []

    def deliver(leaf: Tensor, g: Any) -> None:
        found[id(leaf)] = after_hooks(leaf.hooks or (), g)

    try:
        for x in wanted:
            if x.node is not None:
                hook = lambda g, key=id(x): found.__setitem__(key, g)
                x.register_hook(hook)
                hooked.append((x, hook))
        deque(walk(y, errors.first_gradient(y, None), retain_graph=retain_graph or create_graph,
                   create_graph=create_graph, deliver=deliver), maxlen=0)
    finally:
        for x, hook in hooked:
            x.node.hooks[x.out].remove(hook)
    grads = []
    for x in wanted:
        g = found.get(id(x))
        g = x.xp.zeros_like(x._data) if g is None else g
        grads.append(g if isinstance(g, Tensor) else Tensor(g.copy()))
    return grads[0] if single else grads


def hvp(f: Callable[..., Any], xs: Any, vs: Any) -> Any:
    """The product of the Hessian of f at xs with vs: the gradient of the dot product of f's gradient and vs. xs and vs
    are Tensors, or sequences of Tensors, of the same shapes; f(*xs) is a Tensor of one element. Returns Tensors of
    these shapes. If f has fused ops, put `with mg.unfused():` around the call. ValueError for shapes that differ."""
    single = isinstance(xs, Tensor)
    points, directions = ([xs], [vs]) if single else (list(xs), list(vs))
    if len(points) != len(directions) or any(x.shape != v.shape for x, v in zip(points, directions)):
        raise ValueError(f"hvp needs one v of the same shape for each x, got xs {errors.shapes(points)} and vs "
                         f"{errors.shapes(directions)}")
    derivative: Any = 0.0                       # of f along vs
    for g, v in zip(grad(f(*points), points, create_graph=True), directions):
        derivative = derivative + (g * v).sum()
    if not derivative.requires_grad:            # f is linear
        products = [Tensor(x.xp.zeros_like(x._data)) for x in points]
    else:
        products = grad(derivative, points)
    return products[0] if single else products
