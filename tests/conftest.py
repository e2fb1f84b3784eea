import gpt  # noqa: F401  (before NumPy: runs inside the test process and in others then compute with the same BLAS kernels)
