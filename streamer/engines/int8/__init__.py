"""Q/DQ networks in INT8 on any NVIDIA GPU, by the project's own kernels.

`lowering` turns an ONNX graph into `network` nodes, `schedule` puts them in order and places their tensors,
`program` makes kernel launches of them, and `tiles` chooses each convolution's tile by measuring.
"""
