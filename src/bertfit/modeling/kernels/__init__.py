"""Custom Triton kernels for a CUDA GPU, compiled at run time by the Triton that torch installs."""
