// A step of AdamW on n elements, written over p, m and v: the formulas of minigrad/ops/adamw.py.
extern "C" __global__ void adamw(X* p, const X* g, X* m, X* v, long long n, X lr, X beta1, X beta2, X eps,
                                 X weight_decay, X c1, X c2) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    m[i] = beta1 * m[i] + (1 - beta1) * g[i];
    v[i] = beta2 * v[i] + (1 - beta2) * (g[i] * g[i]);
    X u = m[i] / c1 / (sqrt(v[i] / c2) + eps);
    p[i] -= lr * (u + weight_decay * p[i]);
}
