"""Reads and rewrites ONNX graphs: foreign forms become one."""
