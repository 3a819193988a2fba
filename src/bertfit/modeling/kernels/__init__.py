"""Kernels of our own for a CUDA GPU, in Triton, which torch brings along and compiles by itself."""
