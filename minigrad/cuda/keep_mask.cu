// Philox-4x64-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), with the bits of
// minigrad.random.bits. The block with counter (b + 1, 0, micro, step) and key (seed, stream) has four words of 64 bits,
// the random integers of elements 8 b to 8 b + 7: each word two, the lower half first. keep[i] = integer i >= threshold.
typedef unsigned long long word;

__device__ void philox(word c[4], word k0, word k1) {
    for (int round = 0; round < 10; ++round) {
        word high0 = __umul64hi(0xD2E7470EE14C6C93ull, c[0]), low0 = 0xD2E7470EE14C6C93ull * c[0];
        word high1 = __umul64hi(0xCA5A826395121157ull, c[2]), low1 = 0xCA5A826395121157ull * c[2];
        c[0] = high1 ^ c[1] ^ k0;
        c[1] = low1;
        c[2] = high0 ^ c[3] ^ k1;
        c[3] = low0;
        k0 += 0x9E3779B97F4A7C15ull;
        k1 += 0xBB67AE8584CAA73Bull;
    }
}

extern "C" __global__ void keep_mask(word seed, word stream, word micro, word step, word threshold, long long n,
                                     bool* keep) {
    long long block = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    word c[4] = {(word)block + 1, 0, micro, step};
    philox(c, seed, stream);
    for (int j = 0; j < 8 && 8 * block + j < n; ++j)
        keep[8 * block + j] = (unsigned int)(c[j / 2] >> 32 * (j % 2)) >= threshold;
}
