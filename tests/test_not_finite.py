"""A network whose output stops being finite while it runs: an error of the run on every CPU engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from streamer.app.cli import main
from tests.test_cli import lines_in, write_clip
from tests.tiny import tiny_model, tiny_spec

_BRIGHT = 0.0
"""Mean of the normalised input from which on the output isn't finite; the packaged picture stays below."""


def write_fragile(path: Path, tensor: str, numerator: float) -> Path:
    """Writes a tiny model whose `tensor` is NaN (numerator 0) or infinite in bright pictures."""
    spec = tiny_spec()
    model = tiny_model(spec)
    graph = model.graph
    for name, value in (("bright", _BRIGHT), ("numerator", numerator)):
        graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    concat, sigmoid = graph.node.pop(), graph.node.pop()
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["bright", "mean"], ["room"]),
            helper.make_node("Relu", ["room"], ["room or zero"]),
            helper.make_node("Div", ["numerator", "room or zero"], ["fault"]),
            helper.make_node("Add", [tensor, "fault"], [f"faulty {tensor}"]),
        ]
    )
    for node in (sigmoid, concat):
        graph.node.append(
            helper.make_node(
                node.op_type,
                [f"faulty {name}" if name == tensor else name for name in node.input],
                node.output,
                **{attribute.name: attribute.i for attribute in node.attribute},
            )
        )
    helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("tensor", "numerator"), [("logits", 0.0), ("bins", 0.0), ("bins", 1e-6)])
def test_a_run_whose_engine_fails_halfway_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str, tensor: str, numerator: float
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)  # black at first, bright at the end
    model = write_fragile(tmp_path / "fragile.onnx", tensor, numerator)
    lines = tmp_path / "o.jsonl"
    common = ("--source", clip, "--model", model, "--engine", engine, "--device", "cpu", "--output", lines)
    assert main([*map(str, common), "--max-frames", "5"]) == 0
    assert lines_in(lines) == 5
    lines.unlink()
    capsys.readouterr()
    assert main([*map(str, common), "--no-progress"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: the model 'tiny' produced NaN or Inf")
    assert said.count("\n") == 1
