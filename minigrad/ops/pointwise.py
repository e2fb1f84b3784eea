"""Elementwise ops: arithmetic, elementary functions, selection. Two inputs broadcast against each other."""
import math
from typing import Any

import numpy as np

from minigrad.ops.op import Fused, Primitive
from minigrad.ops.sample import Sample, distinct, positive, signed

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
    why       each term of a sum gets the gradient unchanged; an input that was broadcast gets the sum over its copies
    identity  each input gets all of dy: sum(da) = sum(dy); sum(db) = sum(dy)
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
    identity  adding one number to a and b leaves y unchanged: sum(da) + sum(db) = 0;
              each input gets all of dy, b with a minus sign: sum(da) = sum(dy); sum(db) = -sum(dy)
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
        db = -da * y if self.needs[1] else None
        return da, db

    samples = pairs(signed) + [Sample(2.0, signed(3, 2)), Sample((3, 2), 2.0)]


class Neg(Primitive):
    """x  ->  y

    forward   y = -x
    backward  dx = -dy
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
    backward  dx = dy * p * x ** (p - 1)    dp = dy * y * log(x)
    why       where p = 0, y is 1 for every x, so dx is 0; where x <= 0, y has no real derivative with respect to p,
              and dp is taken to be 0
    identity  scaling x by s scales y by s^p: sum(dx * x) = sum(dy * p * y)
    """
    broadcasts = True

    def forward(self, x, p):
        y = x ** p
        self.save(x=x, p=p, y=y)
        return y

    def backward(self, dy, x, p, y):
        dx = dy * p * x ** (p - (p != 0)) if self.needs[0] else None
        dp = dy * y * self.log(x) if self.needs[1] else None
        return dx, dp

    def log(self, x):
        """log(x), 0 where x <= 0."""
        if isinstance(x, (int, float)):
            return math.log(x) if x > 0 else 0.0
        return self.xp.log(self.xp.where(x > 0, x, 1.0))

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
    identity  scaling x by s scales y by sqrt(s): sum(dx * x) = sum(dy * y) / 2
    """

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
    identity  the fraction y^2 of dy is lost, nearly all of it where y is near -1 or 1: sum(dy - dx) = sum(dy * y**2)
    """

    def forward(self, x):
        y = self.xp.tanh(x)
        self.save(y=y)
        return y

    def backward(self, dy, y):
        return dy * (1.0 - y * y)

    samples = [Sample((2, 3)), Sample(())]


class Sigmoid(Primitive):
    """x  ->  y

    forward   y = 1 / (1 + exp(-x)) = (1 + tanh(x / 2)) / 2
    backward  dx = dy * y * (1 - y)
    why       the form with tanh never overflows
    identity  the derivative is 1/4 where y = 1/2, and smaller elsewhere: sum(dy) / 4 - sum(dx) = sum(dy * (y - 1/2)**2)
    """

    def forward(self, x):
        y = 0.5 * (1.0 + self.xp.tanh(0.5 * x))
        self.save(y=y)
        return y

    def backward(self, dy, y):
        return dy * y * (1.0 - y)

    samples = [Sample((2, 3)), Sample(())]


class Relu(Primitive):
    """x  ->  y

    forward   y = max(x, 0)
    backward  dx = dy where x > 0, else 0
    identity  scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
    """

    def forward(self, x):
        mask = x > 0
        self.save(mask=mask)
        return self.xp.where(mask, x, 0.0)

    def backward(self, dy, mask):
        return dy * mask

    samples = [Sample(distinct(3, 5)), Sample(signed())]


class Gelu(Fused):
    """x  ->  y

    forward   u = k (x + c x^3)    t = tanh(u)    y = x (1 + t) / 2    k = sqrt(2 / pi)    c = 0.044715
    backward  du = k (1 + 3 c x^2)    dx = dy * ((1 + t) / 2 + x (1 - t^2) du / 2)
    identity  scaling x scales y, as for relu, up to a term that vanishes far from 0:
              sum(dx * x) = sum(dy * y) + sum(dy * x**2 * (1 - t**2) * du) / 2
    source    Hendrycks & Gimpel 2016, "Gaussian error linear units", the tanh form that GPT-2 uses
    """
    k = math.sqrt(2.0 / math.pi)
    c = 0.044715

    def forward(self, x):
        t = self.xp.tanh(self.k * (x + self.c * x * x * x))
        self.save(x=x, t=t)
        return 0.5 * x * (1.0 + t)

    def backward(self, dy, x, t):
        du = self.k * (1.0 + 3.0 * self.c * x * x)
        slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * du
        return dy * slope

    @staticmethod
    def composed(F, x):
        return 0.5 * x * (1.0 + F.tanh(Gelu.k * (x + Gelu.c * x * x * x)))

    samples = [Sample((3, 5)), Sample(())]


class Abs(Primitive):
    """x  ->  y

    forward   y = |x|
    backward  dx = dy * sign(x)
    why       at 0 the derivative is taken to be 0, halfway between -1 and 1
    identity  scaling x by s > 0 scales y by s: sum(dx * x) = sum(dy * y)
    """
    analytic = False

    def forward(self, x):
        self.save(x=x)
        return abs(x)

    def backward(self, dy, x):
        return dy * (x > 0) - dy * (x < 0)

    samples = [Sample(distinct(3, 5)), Sample(signed())]


class Maximum(Primitive):
    """a, b  ->  y

    forward   y = max(a, b)
    backward  da = dy where a > b    db = dy where b > a    half to each where a = b
    identity  each dy goes to a or b, or half to each: sum(da) + sum(db) = sum(dy);
              a gets it where it is chosen: sum(da) = sum(dy * (a_wins + tie / 2))
    """
    broadcasts = True

    def forward(self, a, b):
        self.save(a_wins=a > b, b_wins=a < b, tie=a == b)
        return self.xp.maximum(a, b)

    def backward(self, dy, a_wins, b_wins, tie):
        half = 0.5 * dy * tie
        return dy * a_wins + half, dy * b_wins + half

    samples = [Sample(distinct(*a), distinct(*b, offset=0.03)) for a, b in PAIRS[:4]] + [
        Sample(distinct(3, 5), 0.0), Sample(0.0, distinct(3, 5))]


class Minimum(Primitive):
    """a, b  ->  y

    forward   y = min(a, b)
    backward  da = dy where a < b    db = dy where b < a    half to each where a = b
    identity  each dy goes to a or b, or half to each: sum(da) + sum(db) = sum(dy);
              a gets it where it is chosen: sum(da) = sum(dy * (a_wins + tie / 2))
    """
    broadcasts = True

    def forward(self, a, b):
        self.save(a_wins=a < b, b_wins=a > b, tie=a == b)
        return self.xp.minimum(a, b)

    def backward(self, dy, a_wins, b_wins, tie):
        half = 0.5 * dy * tie
        return dy * a_wins + half, dy * b_wins + half

    samples = [Sample(distinct(*a), distinct(*b, offset=0.03)) for a, b in PAIRS[:4]] + [
        Sample(distinct(3, 5), 0.0), Sample(0.0, distinct(3, 5))]


class Where(Primitive):
    """a, b; mask  ->  y

    forward   y = a where mask, else b
    backward  da = dy where mask, else 0    db = 0 where mask, else dy
    identity  each dy goes to the input that was chosen:
              sum(da) = sum(dy * mask); sum(da) + sum(db) = sum(dy)
    """
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

    forward   y = min(max(x, low), high)
    backward  dx = dy where low <= x <= high, else 0
    identity  dx is dy where x was not clipped, else 0: sum(dx) = sum(dy * (x == y))
    """
    analytic = False

    def forward(self, x, *, low=None, high=None):
        mask = (x >= (-math.inf if low is None else low)) & (x <= (math.inf if high is None else high))
        y = x if low is None else self.xp.where(x < low, low, x)
        y = y if high is None else self.xp.where(y > high, high, y)
        self.save(mask=mask)
        return y

    def backward(self, dy, mask):
        return dy * mask

    samples = [
        Sample(distinct(3, 5), low=-0.3, high=0.4),
        Sample(distinct(3, 5), low=0.0),
        Sample(distinct(3, 5), high=0.0),
    ]
