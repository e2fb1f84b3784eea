"""Executors that run faster versions of the textbook's ops. Each folder registers one for its type of arrays.

A kernel computes what its op computes, up to rounding: tests compare the two on every sample and on random shapes. The
tape does not import this package; it finds the executors in minigrad.executor.EXECUTORS.
"""
from minigrad.kernels import vector  # noqa: F401
