"""Layers parsed from builders' logs."""

from __future__ import annotations

import pytest

from streamer.engines.tensorrt.layers import Layer, parse_layers, read_layers, summary

RTX_LOG = (
    "Layers:\n"
    "Name: __mye1_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0,"
    " Metadata: \n"
    "Name: /a/Conv_myl0_1, LayerType: correlation, Inputs: [ { Name: q, Dimensions: [-1,32,8,8], Strides: [1,2,3,4],"
    " StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], Constants: [ { Name: w,"
    " Dimensions: [8,32,3,3], Datatype: Int8, Format: (NHWC) }, { Name: s, Dimensions: [1,8,1,1], Datatype: Float,"
    " Format: (NHWC) }], Outputs: [ { Name: y, Dimensions: [-1,8,8,8], Datatype: Float, Format: (NHWC) }], TacticName:"
    " , StreamId: 0, Metadata: [ONNX Layer: /a/Conv]\x1e[ONNX Layer: DQ_1]\n"
    "Name: __mye2, LayerType: signal, Inputs: [], Constants: [], Outputs: [], TacticName: , StreamId: 0, EventId: 1,"
    " Metadata: \n"
    "\n"
    "I/O Tensors:\n"
    " Name: images, IOMode: Input, DataType: Float, Dimensions: [-1,3,320,320]"
)
TENSORRT_10_LOG = (
    "Layers:\n"
    "Name: w + q + /b/Conv, LayerType: CaskConvolution, Inputs: [ { Name: in, Location: Device, Dimensions: [4,64,8,8],"
    " Format/Datatype: Thirty-two wide channel vectorized row major Int8 format }], Outputs: [ { Name: out, Location:"
    " Device, Dimensions: [4,64,8,8], Format/Datatype: Channel major FP16 format where channel % 8 == 0 }],"
    ' ParameterType: Convolution, Weights: {"Type": "Int8", "Count": 864}, Bias: {"Type": "Float", "Count": 32},'
    " TacticName: x, TacticValue: 0x1, StreamId: 0, Metadata: [ONNX Layer: /b/Conv]\n"
    "Name: copy, LayerType: Reformat, Inputs: [ { Name: a, Dimensions: [1,3], Format/Datatype: Half }], Outputs: [ {"
    " Name: b, Dimensions: [1,3], Format/Datatype: Row major linear FP32 }]"
)


def test_tensorrt_rtx() -> None:
    assert parse_layers([RTX_LOG]) == (
        Layer("/a/Conv_myl0_1", "correlation", "INT8", "FP32+INT8", "FP32", ("/a/Conv", "DQ_1")),
    )


def test_tensorrt_10() -> None:
    assert parse_layers([TENSORRT_10_LOG]) == (
        Layer("w + q + /b/Conv", "CaskConvolution", "INT8", "INT8", "FP16", ("/b/Conv",)),
        Layer("copy", "Reformat", "FP16", "", "FP32", ()),
    )


def test_layers_in_separate_messages() -> None:
    lines = TENSORRT_10_LOG.split("\n")
    assert parse_layers(lines) == parse_layers([TENSORRT_10_LOG])


@pytest.mark.parametrize(
    ("tensors", "precision"),
    [
        ("{ Name: a, Datatype: Int8 }, { Name: b, Datatype: Half }", "FP16+INT8"),
        ("{ Name: a, Datatype: BFloat16 }", "BF16"),
        ("{ Name: a, Datatype: FP8 }", "FP8"),
        ("{ Name: a, Datatype: E8M0 }", "E8M0"),
        ("{ Name: a, Format/Datatype: N/A due to dynamic shapes }", "unknown"),
        ("{ Name: a, Dimensions: [1] }", "unknown"),
    ],
)
def test_unreported_precisions_are_unknown(tensors: str, precision: str) -> None:
    (layer,) = parse_layers([f"Name: x, LayerType: y, Inputs: [ {tensors}], Outputs: [ {tensors}]"])
    assert (layer.inputs, layer.outputs, layer.precision) == (precision, precision, precision)


def test_a_kernel_that_only_writes() -> None:
    (layer,) = parse_layers(["Name: x, LayerType: y, Inputs: [], Outputs: [ { Name: a, Datatype: Float }]"])
    assert layer.precision == "none > FP32"


@pytest.mark.parametrize("messages", [[], [""], ["Total Weights Memory: 3 bytes"], ["Name: x, LayerType: "]])
def test_no_layers_reported(messages: list[str]) -> None:
    assert parse_layers(messages) == ()
    assert "unknown" in summary(())


RTX_JSON = r"""{"Layers": [
  {"Name": "__mye1_myl0_0", "LayerType": "shape_call", "Inputs": [], "Constants": [], "Outputs": [], "TacticName": "",
   "StreamId": 0, "Metadata": ""},
  {"Name": "/a/Conv_myl0_1", "LayerType": "correlation",
   "Inputs": [{"Name": "q", "Dimensions": [-1,32,8,8], "Strides": [1,2,3,4], "StrideOrder": [3,0,2,1],
     "Datatype": "Int8", "Format": "(NHWC) Channel major format"}],
   "Constants": [{"Name": "w", "Dimensions": [8,32,3,3], "Datatype": "Int8", "Format": "(NHWC)"},
     {"Name": "s", "Dimensions": [1,8,1,1], "Datatype": "Float", "Format": "(NHWC)"}],
   "Outputs": [{"Name": "y", "Dimensions": [-1,8,8,8], "Datatype": "Float", "Format": "(NHWC)"}],
   "TacticName": "", "StreamId": 0, "Metadata": "[ONNX Layer: /a/Conv]\x1e[ONNX Layer: DQ_1]"}],
 "I/O Tensors": [{"Name": "images", "IOMode": "Input", "DataType": "Float", "Dimensions": [-1,3,320,320]}]}
""".replace("\\x1e", "\x1e")
TENSORRT_10_JSON = """{"Layers": [
  {"Name": "w + q + /b/Conv", "LayerType": "CaskConvolution",
   "Inputs": [{"Name": "in", "Location": "Device", "Dimensions": [4,64,8,8],
     "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
   "Outputs": [{"Name": "out", "Location": "Device", "Dimensions": [4,64,8,8],
     "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
   "ParameterType": "Convolution", "Weights": {"Type": "Int8", "Count": 864}, "Bias": {"Type": "Float", "Count": 32},
   "TacticName": "x", "TacticValue": "0x1", "StreamId": 0, "Metadata": "[ONNX Layer: /b/Conv]"},
  {"Name": "copy", "LayerType": "Reformat",
   "Inputs": [{"Name": "a", "Dimensions": [1,3], "Format/Datatype": "Half"}],
   "Outputs": [{"Name": "b", "Dimensions": [1,3], "Format/Datatype": "Row major linear FP32"}]}],
 "Bindings": ["in", "out"]}
"""


@pytest.mark.parametrize(("json", "log"), [(RTX_JSON, RTX_LOG), (TENSORRT_10_JSON, TENSORRT_10_LOG)])
def test_the_inspectors_json_tells_what_its_lines_tell(json: str, log: str) -> None:
    layers = read_layers(json)
    assert layers == parse_layers([log])
    assert layers


@pytest.mark.parametrize(
    "information",
    [
        "",
        "[]",
        "{",
        '"x"',
        '{"Layers": null}',
        '{"Layers": ["conv1", "conv2"], "Bindings": []}',
        '{"Layers": [{"Name": "wait", "LayerType": "wait", "Inputs": [], "Outputs": []}]}',
    ],
)
def test_an_inspector_that_describes_nothing(information: str) -> None:
    assert read_layers(information) == ()


@pytest.mark.parametrize(
    ("tensors", "precision"),
    [
        ('[{"Name": "a", "Datatype": "E8M0"}]', "E8M0"),
        ('[{"Name": "a", "Format/Datatype": "N/A due to dynamic shapes"}]', "unknown"),
        ('[{"Name": "a", "Dimensions": [1]}]', "unknown"),
        ('["a"]', "unknown"),
    ],
)
def test_unreported_precisions_in_json_are_unknown(tensors: str, precision: str) -> None:
    (layer,) = read_layers(f'{{"Layers": [{{"Name": "x", "Inputs": {tensors}, "Outputs": []}}]}}')
    assert (layer.inputs, layer.weights, layer.outputs, layer.kind) == (precision, "", "none", "unknown")


def test_summary_counts() -> None:
    layers = parse_layers([RTX_LOG, TENSORRT_10_LOG, RTX_LOG])
    assert summary(layers) == "4 kernels: 2 INT8 > FP32, 1 INT8 > FP16, 1 FP16 > FP32"
