"""A GPT on minigrad, and the text and the runs to train it. Import it before NumPy: it configures NumPy's BLAS."""
from gpt import blas

blas.choose()
