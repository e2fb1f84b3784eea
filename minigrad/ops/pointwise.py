"""Elementwise ops: arithmetic, elementary functions, selection. Two inputs broadcast against each other."""
import math
from typing import Any

import numpy as np

from minigrad.ops.op import Fused, Primitive
from minigrad.ops.sample import Sample, distinct, positive, signed
from minigrad.ops.sums import in_float32

PAIRS = [
    ((2, 3), (2, 3)),
    ((2, 3, 5), (3, 5)),
    ((3, 1), (2, 1, 5)),
    ((), (4,)),
    ((4,), (1, 1)),
]  # every way to broadcast


def pairs(draw: Any) -> list[Sample]:
    """Samples of two inputs, drawn by normal, positive, ..., for every way to broadcast."""
    return [Sample(draw(*a), draw(*b)) for a, b in PAIRS]


MASK = np.array([[True, False, True], [False, False, True]])


class Add(Primitive):
    """a, b  ->  y

    forward   y = a + b
    backward  da = dy    db = dy
    why       the derivative with respect to each term is 1. An input that was broadcast gets the sum of the gradients
              of its copies
    identity  the derivative with respect to each input is 1: sum(da) = sum(dy); sum(db) = sum(dy)
    """
    broadcasts = True

    def forward(self, a, b):
        return a + b

    def backward(self, dy):
        return dy, dy

    samples = pairs(distinct) + [Sample((3, 2), 2.0)]


class Sub(Primitive):
    """a, b  ->  y

    forward   y = a - b
    backward  da = dy    db = -dy
    why       the derivative with respect to a is 1, that with respect to b is -1
    identity  adding one number to a and b leaves y unchanged: sum(da) + sum(db) = 0;
              the derivative is 1 for a and -1 for b: sum(da) = sum(dy); sum(db) = -sum(dy)
    """
    broadcasts = True

    def forward(self, a, b):
        return a - b

    def backward(self, dy):
        return dy, -dy

    samples = pairs(distinct) + [Sample(2.0, (3, 2))]


class Mul(Primitive):
    """a, b  ->  y

    forward   y = a * b
    backward  da = dy * b    db = dy * a
    why       each factor is the derivative of y with respect to the other
    identity  y is linear in each factor: sum(da * a) = sum(dy * y); sum(db * b) = sum(dy * y)
    """
    broadcasts = True

    def forward(self, a, b):
        self.save(a=a, b=b)
        return a * b

    def backward(self, dy, a, b):
        da = dy * b if self.needs[0] else None
        db = dy * a if self.needs[1] else None
        return da, db

    samples = pairs(distinct) + [Sample((3, 2), 2.0)]


class Div(Primitive):
    """a, b  ->  y

    forward   y = a / b
    backward  da = dy / b    db = -dy * y / b
    why       the derivative with respect to a is 1 / b, that with respect to b is -a / b^2, which is -y / b
    identity  scaling a and b by one factor leaves y unchanged: sum(da * a) + sum(db * b) = 0;
              y is linear in a and in 1 / b: sum(da * a) = sum(dy * y); sum(db * b) = -sum(dy * y)
    """
    broadcasts = True

    def forward(self, a, b):
        y = a / b
        self.save(b=b, y=y)
        return y

    def backward(self, dy, b, y):
        da = dy / b
        db = -(dy * y) / b if self.needs[1] else None
        return da, db

    samples = pairs(signed) + [Sample(2.0, signed(3, 2)), Sample((3, 2), 2.0)]


class Neg(Primitive):
    """x  ->  y

    forward   y = -x
    backward  dx = -dy
    why       the derivative of -x is -1
    identity  y is linear in x: sum(dx * x) = sum(dy * y)
    """

    def forward(self, x):
        return -x

    def backward(self, dy):
        return -dy

    samples = [Sample((2, 3)), Sample(())]


class Pow(Primitive):
    """x, p  ->  y

    forward   y = x ** p
    backward  dx = p dy * x ** (p - 1)    dp = dy * y * log(x)
    why       where p = 0, y is 1 for every x, so dx is 0. Where x <= 0, y has no real derivative with respect to p, and
              dp is set to 0. Where y = 0, dp is 0: y * log(x) goes to 0 with y
    identity  scaling x by s scales y by s^p: sum(dx * x) = sum(dy * p * y)
    """
    wide = True
    broadcasts = True

    def forward(self, x, p):
        y = x ** p
        self.save(x=x, p=p, y=y)
        return y

    def backward(self, dy, x, p, y):
        dx = dy * p * x ** (p - (p != 0)) if self.needs[0] else None
        with np.errstate(invalid="ignore"):                         # inf * 0, where dp is 0
            dp = self.xp.where((x <= 0) | (y == 0), 0.0, dy * y * self.log(x)) if self.needs[1] else None
        return dx, dp

    def log(self, x):
        """log(x), 0 where x <= 0."""
        if isinstance(x, (int, float)):
            return math.log(x) if x > 0 else 0.0
        return self.xp.log(self.xp.where(x <= 0, 1.0, x))

    samples = pairs(positive) + [
        Sample(signed(3, 2), 3),
        Sample(positive(3, 2), -0.5),
        Sample((2, 3), 0),
        Sample(2.0, (2, 3)),
    ]


class Exp(Primitive):
    """x  ->  y

    forward   y = exp(x)
    backward  dx = dy * y
    why       exp is its own derivative, so the derivative of y is y
    identity  adding one number to every x scales every y by one factor: sum(dx) = sum(dy * y)
    """

    def forward(self, x):
        y = self.xp.exp(x)
        self.save(y=y)
        return y

    def backward(self, dy, y):
        return dy * y

    samples = [Sample((2, 3)), Sample(())]


class Log(Primitive):
    """x  ->  y

    forward   y = log(x)
    backward  dx = dy / x
    why       the derivative of log(x) is 1 / x
    identity  scaling x by s adds log(s) to every y: sum(dx * x) = sum(dy)
    """

    def forward(self, x):
        self.save(x=x)
        return self.xp.log(x)

    def backward(self, dy, x):
        return dy / x

    samples = [Sample(positive(2, 3)), Sample(positive())]


class Sqrt(Primitive):
    """x  ->  y

    forward   y = sqrt(x)
    backward  dx = dy / (2 y)
    why       the derivative of sqrt(x) is 1 / (2 sqrt(x)), and sqrt(x) is y
    identity  scaling x by s scales y by sqrt(s): sum(dx * x) = sum(dy * y) / 2
    """
    wide = True

    def forward(self, x):
        y = self.xp.sqrt(x)
        self.save(y=y)
        return y

    def backward(self, dy, y):
        return dy / (2.0 * y)

    samples = [Sample(positive(2, 3)), Sample(positive())]


class Tanh(Primitive):
    """x  ->  y

    forward   y = tanh(x)
    backward  dx = dy * (1 - y^2)
    why       where y rounds to 1, the difference 1 - y^2 would be 0. So it is computed from e = exp(-2 |x|):
              1 - y^2 = 4 e / (1 + e)^2
    identity  dx is smaller than dy by dy * y^2, nearly all of dy where y is near -1 or 1:
              sum(dy - dx) = sum(dy * y**2)
    """
    wide = True

    def forward(self, x):
        self.save(x=x)
        return self.xp.tanh(x)

    def backward(self, dy, x):
        e = self.xp.exp(self.xp.where(x > 0, -x, x))
        e = e * e                                                   # exp(-2 |x|)
        d = 1.0 + e
        return dy * (4.0 * e) / d / d

    samples = [Sample((2, 3)), Sample(())]


class Sigmoid(Primitive):
    """x  ->  y

    forward   e = exp(-|x|)    y = 1 / (1 + exp(-x)) = 1 / (1 + e) where x > 0, else e / (1 + e)
    backward  dx = dy * y * (1 - y) = dy * e / (1 + e)^2
    why       e is at most 1, so it never overflows; and y and 1 - y, computed from it, are exact to the last digits
              even where they are tiny
    identity  the derivative is 1/4 where y = 1/2, and smaller elsewhere: sum(dy) / 4 - sum(dx) = sum(dy * (y - 1/2)**2)
    """
    wide = True

    def forward(self, x):
        e = self.xp.exp(self.xp.where(x > 0, -x, x))
        self.save(e=e)
        return self.xp.where(x > 0, 1.0, e) / (1.0 + e)

    def backward(self, dy, e):
        d = 1.0 + e
        return dy * e / d / d

    samples = [Sample((2, 3)), Sample(())]


class Relu(Primitive):
    """x  ->  y

    forward   y = 0 where x <= 0, else x
    backward  dx = 0 where x <= 0, else dy
    why       the derivative is 1 where x > 0, else 0. NaN <= 0 is false, so a NaN in x is a NaN in y too
    identity  scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
    """
    wide = True

    def forward(self, x):
        off = x <= 0
        self.save(off=off)
        return self.xp.where(off, 0.0, x)

    def backward(self, dy, off):
        return self.xp.where(off, 0.0, dy)

    samples = [Sample(distinct(3, 5)), Sample(signed())]


class Gelu(Fused):
    """x  ->  y

    forward   k = sqrt(2 / pi)    c = 0.044715    t = tanh(k (x + c x^3))    y = x * (1 + t) / 2
    backward  du = k (1 + 3 c x^2)    slope = (1 + t) / 2 + x * (1 - t^2) * du / 2    dx = dy * slope
    why       slope is the derivative of y, by the product rule for x and (1 + t) / 2. The derivative of t = tanh(u) is
              (1 - t^2) du, where du is the derivative of u = k (x + c x^3). Where |x| > 10, t is -1 or 1 to all digits
              and y is 0 or x: the cube, which may overflow, is not computed there
    identity  scaling x scales y, as for relu, up to a term that is nearly 0 far from x = 0:
              sum(dx * x) = sum(dy * y) + sum(dy * x**2 * (1 - t**2) * du) / 2
    source    Hendrycks & Gimpel 2016, "Gaussian error linear units", the tanh form that GPT-2 uses
    """
    wide = True
    k = math.sqrt(2.0 / math.pi)
    c = 0.044715
    far = 10.0

    def forward(self, x):
        near = self.xp.clip(x, -self.far, self.far)
        t = self.xp.tanh(self.k * (near + self.c * near * near * near))
        self.save(x=near, t=t)
        return self.xp.where(x > self.far, x, 0.5 * near * (1.0 + t))

    def backward(self, dy, x, t):
        du = self.k * (1.0 + 3.0 * self.c * x * x)
        slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du
        return dy * slope

    @staticmethod
    @in_float32
    def composed(F, x):
        near = F.clip(x, -Gelu.far, Gelu.far)
        t = F.tanh(Gelu.k * (near + Gelu.c * near * near * near))
        return F.where(x > Gelu.far, x, 0.5 * near * (1.0 + t))

    samples = [Sample((3, 5)), Sample(())]


class Abs(Primitive):
    """x  ->  y

    forward   y = |x|
    backward  dx = dy * sign(x)
    why       abs has no derivative at 0; it is set to 0 there, halfway between -1 and 1
    identity  scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
    """
    wide = True
    analytic = False

    def forward(self, x):
        self.save(x=x)
        return abs(x)

    def backward(self, dy, x):
        return self.xp.where(x == 0, 0.0, self.xp.where(x < 0, -dy, dy))

    samples = [Sample(distinct(3, 5)), Sample(signed())]


class Maximum(Primitive):
    """a, b  ->  y

    forward   y = max(a, b)
    backward  da = dy where a > b, dy / 2 where a = b, else 0    db = dy where b > a, dy / 2 where a = b, else 0
    why       the output is one of the inputs, and this one gets the gradient. NaN counts as larger than any number
    identity  each dy is passed to a or b, or half to each: sum(da) + sum(db) = sum(dy);
              a gets dy where y is a, and half of it where a = b: sum(da) = sum(dy * (a_wins + tie / 2))
    """
    wide = True
    broadcasts = True

    def forward(self, a, b):
        a_wins, b_wins = (a > b) | (a != a), (b > a) | (b != b)
        self.save(a_wins=a_wins, b_wins=b_wins, tie=a_wins == b_wins)
        return self.xp.maximum(a, b)

    def backward(self, dy, a_wins, b_wins, tie):
        where, half = self.xp.where, 0.5 * dy
        return where(tie, half, where(a_wins, dy, 0.0)), where(tie, half, where(b_wins, dy, 0.0))

    samples = [Sample(distinct(*a), distinct(*b, offset=0.03)) for a, b in PAIRS[:4]] + [
        Sample(distinct(3, 5), 0.0), Sample(0.0, distinct(3, 5))]


class Minimum(Primitive):
    """a, b  ->  y

    forward   y = min(a, b)
    backward  da = dy where a < b, dy / 2 where a = b, else 0    db = dy where b < a, dy / 2 where a = b, else 0
    why       the output is one of the inputs, and this one gets the gradient. NaN counts as smaller than any number
    identity  each dy is passed to a or b, or half to each: sum(da) + sum(db) = sum(dy);
              a gets dy where y is a, and half of it where a = b: sum(da) = sum(dy * (a_wins + tie / 2))
    """
    wide = True
    broadcasts = True

    def forward(self, a, b):
        a_wins, b_wins = (a < b) | (a != a), (b < a) | (b != b)
        self.save(a_wins=a_wins, b_wins=b_wins, tie=a_wins == b_wins)
        return self.xp.minimum(a, b)

    def backward(self, dy, a_wins, b_wins, tie):
        where, half = self.xp.where, 0.5 * dy
        return where(tie, half, where(a_wins, dy, 0.0)), where(tie, half, where(b_wins, dy, 0.0))

    samples = [Sample(distinct(*a), distinct(*b, offset=0.03)) for a, b in PAIRS[:4]] + [
        Sample(distinct(3, 5), 0.0), Sample(0.0, distinct(3, 5))]


class Where(Primitive):
    """a, b; mask  ->  y

    forward   y = a where mask, else b
    backward  da = dy where mask, else 0    db = 0 where mask, else dy
    why       y is a copy of a or of b at each place, and that input gets the gradient there
    identity  each dy is passed to the input that y is a copy of:
              sum(da) = sum(dy * mask); sum(da) + sum(db) = sum(dy)
    """
    wide = True
    broadcasts = True

    def forward(self, a, b, *, mask):
        self.save(mask=mask)
        return self.xp.where(mask, a, b)

    def backward(self, dy, mask):
        da = self.xp.where(mask, dy, 0.0)
        db = self.xp.where(mask, 0.0, dy)
        return da, db

    samples = [Sample((2, 3), (2, 3), mask=MASK), Sample((2, 1), (3,), mask=MASK), Sample((5, 2, 3), 0.5, mask=MASK),
               Sample((), (1, 3), mask=MASK)]


class Clip(Primitive):
    """x; low, high  ->  y

    forward   y = min(max(x, low), high) [if (low is given) == (high is given)]
              y = max(x, low) [if low is given and high is not given]
              y = min(x, high) [if high is given and low is not given]
    backward  dx = 0 where x < low or x > high, else dy [if (low is given) == (high is given)]
              dx = 0 where x < low, else dy [if low is given and high is not given]
              dx = 0 where x > high, else dy [if high is given and low is not given]
    why       where x was clipped, y is a limit and does not depend on x; elsewhere y is x
    identity  dx is dy where x was not clipped, else 0: sum(dx) = sum(dy * (x == y))
    """
    wide = True
    analytic = False

    def forward(self, x, *, low=None, high=None):
        for limit in (low, high):
            if np.broadcast_shapes(x.shape, np.shape(limit)) != x.shape:
                raise ValueError(f"clip: a limit of shape {np.shape(limit)} does not broadcast to that of x, {x.shape}")
        clipped = (x < (-math.inf if low is None else low)) | (x > (math.inf if high is None else high))
        y = x if low is None else self.xp.where(x < low, low, x)
        y = y if high is None else self.xp.where(y > high, high, y)
        self.save(clipped=clipped)
        return y

    def backward(self, dy, clipped):
        return self.xp.where(clipped, 0.0, dy)

    samples = [
        Sample(distinct(3, 5), low=-0.3, high=0.4),
        Sample(distinct(3, 5), low=0.0),
        Sample(distinct(3, 5), high=0.0),
    ]
