// sums[thread] = the sum of x^2 over every element i of x (n,) with i % threads = thread. The squares of float32 neither
// overflow nor underflow in double.
extern "C" __global__ void square_sum(const float* x, double* sums, long long n) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long long)gridDim.x * blockDim.x;
    double sum = 0;
    for (long long i = thread; i < n; i += threads) sum += (double)x[i] * x[i];
    sums[thread] = sum;
}
