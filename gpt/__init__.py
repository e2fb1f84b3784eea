from gpt import blas

blas.choose()                           # before anything imports NumPy
