"""Several processes train one model: mpirun -n 4 python train.py --gradient_accumulation_steps=8

Each process computes the gradients of some of a step's micro-batches. The gradients are added in an order that depends
on the number of micro-batches alone, a binary tree: ((0 + 1) + (2 + 3)) + ... MPI only moves numbers: every addition is
made here. So the number of processes does not change a bit of the result.
"""
from minigrad.parallel.gradient_sum import GradientSum
from minigrad.parallel.world import World

__all__ = ["GradientSum", "World"]
