"""The GPU path's building blocks: context, buffers, kernels, lanes. Importing this package imports no CUDA library."""
