"""Optimizer steps as ops: new parameter and moments from the old ones, differentiable with respect to every input.

Hyper-parameters are numbers or 0-d arrays. dm_all and dv_all are the whole gradients of m_new and v_new, including the
path through p_new.
"""
from minigrad.ops.op import Fused
from minigrad.ops.sample import Draw, Sample, fixed, positive, signed


class AdamW(Fused, name="adamw"):
    """p, g, m, v (...), lr, beta1, beta2, eps, weight_decay (); t  ->  p_new, m_new, v_new (...)

    forward   m_new = beta1 m + (1 - beta1) g    v_new = beta2 v + (1 - beta2) g^2
              c1 = 1 - beta1^t    c2 = 1 - beta2^t    r = sqrt(v_new / c2)    u = m_new / (c1 (r + eps))
              p_new = p - lr (u + weight_decay p)
    backward  dp = (1 - lr weight_decay) dp_new    dlr = -dp_new * (u + weight_decay p)
              dweight_decay = -lr dp_new * p    du = -lr dp_new    deps = -du * u / (r + eps)
              dm_all = dm_new + du / (c1 (r + eps))    dv_all = dv_new + deps / (2 c2 r)
              dg = (1 - beta1) dm_all + 2 (1 - beta2) g * dv_all    dm = beta1 dm_all    dv = beta2 dv_all
              dc1 = -du * u / c1    dc2 = -deps * r / (2 c2)
              dbeta1 = dm_all * (m - g) - t beta1^(t - 1) dc1    dbeta2 = dv_all * (v - g^2) - t beta2^(t - 1) dc2
    why       the decay is proportional to p itself and does not pass through the moments. m and v start at 0, so they
              are too small at first: dividing by c1 and c2 corrects that. Where v_new = 0 the gradient through the
              square root is set to 0
    identity  scaling g, m, sqrt(v) and eps by one factor scales the moments and leaves the step unchanged:
              sum(dg * g) + sum(dm * m) + 2 * sum(dv * v) - eps * sum(du * u / (r + eps))
              = sum(dm_new * m_new) + 2 * sum(dv_new * v_new)
    source    Loshchilov & Hutter 2019, "Decoupled weight decay regularization", algorithm 2, with the schedule in lr
    """
    broadcasts = True

    def forward(self, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        if not p.shape == g.shape == m.shape == v.shape:
            raise ValueError(f"adamw: p {p.shape}, g {g.shape}, m {m.shape} and v {v.shape} must have one shape")
        m_new = beta1 * m + (1.0 - beta1) * g
        v_new = beta2 * v + (1.0 - beta2) * (g * g)
        c1, c2 = 1.0 - beta1 ** t, 1.0 - beta2 ** t
        r = self.xp.sqrt(v_new / c2)
        u = m_new / c1 / (r + eps)
        self.save(p=p, g=g, m=m, v=v, u=u, r=r, c1=c1, c2=c2, lr=lr, beta1=beta1, beta2=beta2, eps=eps,
                  weight_decay=weight_decay, t=t)
        return p - lr * (u + weight_decay * p), m_new, v_new

    def backward(self, dp_new, dm_new, dv_new, p, g, m, v, u, r, c1, c2, lr, beta1, beta2, eps, weight_decay, t):
        dp = dp_new * (1.0 - lr * weight_decay)
        dlr = -dp_new * (u + weight_decay * p)
        dweight_decay = -dp_new * lr * p
        du = -lr * dp_new
        deps = -du * u / (r + eps)                                  # = dr
        dr_over_r = self.xp.where(r > 0.0, deps / self.xp.where(r > 0.0, r, 1.0), 0.0)
        dm_all = dm_new + du / (r + eps) / c1
        dv_all = dv_new + dr_over_r / (2.0 * c2)
        dg = (1.0 - beta1) * dm_all + (1.0 - beta2) * 2.0 * g * dv_all
        dm = beta1 * dm_all
        dv = beta2 * dv_all
        dc1 = -du * u / c1
        dc2 = -deps * r / (2.0 * c2)
        dbeta1 = dm_all * (m - g) - dc1 * t * beta1 ** (t - 1)
        dbeta2 = dv_all * (v - g * g) - dc2 * t * beta2 ** (t - 1)
        return dp, dg, dm, dv, dlr, dbeta1, dbeta2, deps, dweight_decay

    @staticmethod
    def composed(F, p, g, m, v, lr, beta1, beta2, eps, weight_decay, *, t):
        m_new = beta1 * m + (1.0 - beta1) * g
        v_new = beta2 * v + (1.0 - beta2) * (g * g)
        square = v_new / (1.0 - beta2 ** t)
        r = F.where(square > 0.0, F.sqrt(F.where(square > 0.0, square, 1.0)), 0.0)
        u = m_new / (1.0 - beta1 ** t) / (r + eps)
        return p - lr * (u + weight_decay * p), m_new, v_new

    _step: tuple[Draw, ...] = (signed(3, 5), signed(3, 5), signed(3, 5), positive(3, 5))
    _hyper = fixed(0.1), fixed(0.8), fixed(0.9), fixed(0.01), fixed(0.3)
    samples = [
        Sample(*_step, *_hyper, t=1),
        Sample(*_step, *_hyper, t=4),
        Sample(*_step, 0.1, 0.8, 0.9, 0.01, 0.3, t=3),
    ]


class SGD(Fused, name="sgd"):
    """p, g, m (...), lr, momentum, weight_decay (); nesterov  ->  p_new, m_new (...)

    forward   d = g + weight_decay p    m_new = momentum m + d
              u = d + momentum m_new [if nesterov]    u = m_new [if not nesterov]    p_new = p - lr u
    backward  dlr = -dp_new * u    du = -lr dp_new    dm_all = dm_new + momentum du [if nesterov]
              dm_all = dm_new + du [if not nesterov]    dd = dm_all + du [if nesterov]    dd = dm_all [if not nesterov]
              dmomentum = dm_all * m + du * m_new [if nesterov]    dmomentum = dm_all * m [if not nesterov]
              dp = dp_new + weight_decay dd    dg = dd    dm = momentum dm_all    dweight_decay = dd * p
    why       p_new depends on p directly, and through the decay on d too: dp has a term for each way
    identity  for fixed hyper-parameters the step is linear in p, g and m:
              sum(dp * p) + sum(dg * g) + sum(dm * m) = sum(dp_new * p_new) + sum(dm_new * m_new)
    source    Sutskever et al. 2013, "On the importance of initialization and momentum", in PyTorch's form
    """
    broadcasts = True

    def forward(self, p, g, m, lr, momentum, weight_decay, *, nesterov=False):
        if not p.shape == g.shape == m.shape:
            raise ValueError(f"sgd: p {p.shape}, g {g.shape} and m {m.shape} must have one shape")
        d = g + weight_decay * p
        m_new = momentum * m + d
        u = d + momentum * m_new if nesterov else m_new
        self.save(p=p, m=m, m_new=m_new, u=u, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
        return p - lr * u, m_new

    def backward(self, dp_new, dm_new, p, m, m_new, u, lr, momentum, weight_decay, nesterov):
        dlr = -dp_new * u
        du = -lr * dp_new
        dm_all = dm_new + (du * momentum if nesterov else du)
        dd = dm_all + du if nesterov else dm_all
        dmomentum = dm_all * m + du * m_new if nesterov else dm_all * m
        return dp_new + weight_decay * dd, dd, momentum * dm_all, dlr, dmomentum, dd * p

    @staticmethod
    def composed(F, p, g, m, lr, momentum, weight_decay, *, nesterov=False):
        d = g + weight_decay * p
        m_new = momentum * m + d
        return p - lr * (d + momentum * m_new if nesterov else m_new), m_new

    _step: tuple[Draw, ...] = (signed(3, 5), signed(3, 5), signed(3, 5))
    samples = [
        Sample(*_step, fixed(0.1), fixed(0.8), fixed(0.3)),
        Sample(*_step, fixed(0.1), fixed(0.8), fixed(0.3), nesterov=True),
        Sample(*_step, 0.1, 0.8, 0.3),
    ]
