import gpt  # noqa: F401  (before NumPy: runs in this process and in others then compute with the same BLAS)
