"""Dropout."""
from minigrad.ops.op import Fused
from minigrad.ops.sample import Sample
from minigrad.ops.sums import in_float32
from minigrad.random import Key, keep_mask


class Dropout(Fused):
    """x; p, key  ->  y

    forward   keep = 1 with probability 1 - p, else 0    y = x * keep / (1 - p)
    backward  dx = dy * keep / (1 - p)
    why       forward and backward use the same keep, which is drawn from the key. Dividing by 1 - p makes the expected
              value of y equal to x
    identity  for a fixed key y is linear in x: sum(dx * x) = sum(dy * y)
    source    Srivastava et al. 2014, "Dropout", with the scaling at training time
    """
    wide = True

    def forward(self, x, *, p, key):
        keep = self.keep_mask(key, x.shape, p)
        scale = 1.0 / (1.0 - p)
        self.save(keep=keep, scale=scale)
        return self.xp.where(keep, x, 0.0) * scale

    def backward(self, dy, keep, scale):
        return self.xp.where(keep, dy, 0.0) * scale

    @staticmethod
    @in_float32
    def composed(F, x, *, p, key):
        keep = keep_mask(key, x.shape, p)
        return F.where(x.xp.asarray(keep), x, 0.0) * (1.0 / (1.0 - p))

    samples = [
        Sample((3, 5), p=0.4, key=Key(seed=1)),
        Sample((2, 3, 5), p=0.1, key=Key(seed=1, step=2)),
        Sample((4,), p=0.0, key=Key(seed=0)),
    ]
