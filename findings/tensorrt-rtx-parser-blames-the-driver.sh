#!/usr/bin/env bash
# One would expect a parser's error to say what is wrong with the graph. On a machine without a GPU, where TensorRT-RTX is documented to build engines for named architectures, its ONNX parser adds "CUDA driver version is insufficient for CUDA runtime version" to the description of any node that it refuses, and the logger gets it as an ERROR of its own.
# A program that shows the last error, or the whole description, sends its user to install a driver for a model that no driver helps; here a valid DequantizeLinear of an int32 bias. The lines that name cudaError have to be left out (streamer/engines/tensorrt/builder.py).
set -euo pipefail
[ "$(uname -sm)" = "Linux x86_64" ] || { echo "SKIP: the pinned wheels are for Linux on x86_64"; exit 0; }
[ ! -e /dev/nvidiactl ] || { echo "SKIP: this machine has a GPU"; exit 0; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check "tensorrt-rtx-cu13==1.7.1.116" "onnx==1.23.2" "numpy==2.4.6"
"$work/venv/bin/python" - <<'PY'
import platform
import sys

import numpy as np
import onnx
import tensorrt_rtx as trt
from onnx import TensorProto, helper, numpy_helper


def model(dtype):
    """A bias of type `dtype`, dequantised and added: valid ONNX for int8 and for int32."""
    constants = [
        numpy_helper.from_array(np.arange(4, dtype=dtype), "bias"),
        numpy_helper.from_array(np.float32(0.5), "scale"),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["bias", "scale"], ["offset"], name="dequantise"),
        helper.make_node("Add", ["x", "offset"], ["y"], name="add"),
    ]
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4])] for name in "xy"]
    graph = helper.make_graph(nodes, "bias", *ports, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made.SerializeToString()


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)
        self.errors = []

    def log(self, severity, message):
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
            self.errors.append(" ".join(message.split()))


logger = Logger()
builder = trt.Builder(logger)
print("Python", platform.python_version(), "onnx", onnx.__version__, "TensorRT-RTX", trt.__version__)


def parse(dtype):
    logger.errors.clear()
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    accepted = parser.parse(model(dtype))
    described = " ".join(parser.get_error(0).desc().split()) if parser.num_errors else ""
    return accepted, described, list(logger.errors)


accepted, described, errors = parse(np.int8)
print("int8 :", "parsed" if accepted else "refused", "with", len(errors), "errors")
fine = accepted and not errors
accepted, described, errors = parse(np.int32)
print("int32:", "parsed" if accepted else "refused")
print("  the node's description:", described)
for error in errors:
    print("  logged:", error)
blamed = "CUDA driver version is insufficient" in described and any("cudaError" in error for error in errors)
print("a graph without faults is parsed without a GPU:", fine)
print("the driver is blamed for the graph's fault:", not accepted and blamed)
sys.exit(0 if fine and not accepted and blamed else 1)
PY
