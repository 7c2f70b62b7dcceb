"""The GPU path's parts: context, memory, streams, kernels, slots, NVDEC, inter-process handles.

Importing it imports no CUDA library. Any function here raises EngineError where CUDA, the driver, a package or memory
is missing or fails; docstrings name the other exceptions.
"""
