// y[rows[i]] += x[order[i]] for each i: rows (n,) ascending, x (n, width), y (..., width).
//
// The thread of the first i of a row and of a column adds all x of that row, in the order in which they stand: the sum
// has the same bits on every run, which atomic additions do not give.
extern "C" __global__ void add_at(const long long* rows, const long long* order, const X* x, Y* y,
                                  long long n, long long width) {
    long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    long long first = thread / width, column = thread % width;
    if (first >= n || (first > 0 && rows[first - 1] == rows[first])) return;
    long long row = rows[first];
    Y sum = y[row * width + column];
    for (long long i = first; i < n && rows[i] == row; ++i) sum += x[order[i] * width + column];
    y[row * width + column] = sum;
}
