"""Activation recomputation. minigrad/recompute.py has its samples, and the calls of functions that it runs."""
from minigrad.ops.op import Fused


class Recompute(Fused):
    """x0, x1, ...; f  ->  y

    forward   y = f(x0, x1, ...)
    backward  y = f(x0, x1, ...), recorded    dxs = the gradients that the backward of y gives, which begins with dy
    why       the activations inside f would need memory from its forward to its backward. Instead the inputs alone are
              kept, and f runs again just before its backward. A network whose layers are all recomputed holds the
              activations of one layer at a time, and takes the time of a second forward. The inputs of f are the
              Tensors that it is given, and the parameters that it uses
    identity  where the ops of f are recorded as primitives, the gradients are the same:
              sum(dxs) = sum(f.unfused_gradients(xs, dy))
    source    Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost"
    """

    def forward(self, *xs, f):
        self.save(xs=xs, f=f)
        return f.result(xs, self.needs)

    def backward(self, dy, xs, f):
        with f.run(xs, self.needs) as (inputs, y):
            f.check_same(xs, y)
            dxs = f.gradients(inputs, y, dy)
        return dxs

    @staticmethod
    def composed(F, *xs, f):
        return f.unfused(xs)
