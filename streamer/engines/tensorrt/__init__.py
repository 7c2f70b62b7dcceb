"""Engines of TensorRT and TensorRT-RTX: built from a model file, cached with a fingerprint, and loaded.

No module here imports TensorRT; `TensorRTPackage.load` does. Functions raise EngineError where a package, a GPU, a
build or a file fails, ConfigError for options that don't fit package or graph, ModelError for unsupported graphs.
"""
