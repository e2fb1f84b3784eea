"""Executors that run faster versions of the textbook's ops. Each folder registers one for its type of arrays.

A kernel computes what its op computes, up to rounding: tests compare the two on every sample and on random shapes. The
tape does not import this package; it finds the executors in minigrad.executor.EXECUTORS.
"""
import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    if _module.ispkg:                           # importing a folder registers its executor
        importlib.import_module(f"{__name__}.{_module.name}")
