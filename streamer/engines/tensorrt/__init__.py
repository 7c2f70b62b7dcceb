"""TensorRT and TensorRT-RTX engines: built from a model file, cached with a fingerprint. No module imports TensorRT."""
