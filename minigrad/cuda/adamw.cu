// A step of AdamW on n elements, written over p, m and v: the formulas of minigrad/ops/adamw.py. The host computes
// rest = 1 - beta and c = 1 - beta^t in double, because in float the difference of two close numbers is inexact.
extern "C" __global__ void adamw(X* p, const X* g, X* m, X* v, long long n, X lr, X beta1, X rest1, X c1,
                                 X beta2, X rest2, X c2, X eps, X weight_decay) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    m[i] = beta1 * m[i] + rest1 * g[i];
    v[i] = beta2 * v[i] + rest2 * (g[i] * g[i]);
    X u = m[i] / c1 / (sqrt(v[i] / c2) + eps);
    p[i] -= lr * (u + weight_decay * p[i]);
}
