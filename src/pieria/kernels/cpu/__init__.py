"""Kernels in C++ for processors, one source an op, compiled for several instruction sets.

They take raw pointers and shapes, link to nothing of torch, and share one pool of threads.
"""

DEVICES = ("cpu",)
