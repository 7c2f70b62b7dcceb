"""A network whose output stops being finite while it runs: an error of the run on every CPU engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.test_cli import run, write_clip
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
    last = graph.node.pop()
    graph.node.extend(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Sub", ["bright", "mean"], ["room"]),
            helper.make_node("Relu", ["room"], ["room or zero"]),
            helper.make_node("Div", ["numerator", "room or zero"], ["fault"]),
            helper.make_node("Add", [tensor, "fault"], [f"faulty {tensor}"]),
            helper.make_node("Concat", [f"faulty {x}" if x == tensor else x for x in last.input], ["output"], axis=2),
        ]
    )
    helper.set_model_props(model, spec.to_metadata())
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(("tensor", "numerator"), [("scores", 0.0), ("bins", 0.0), ("bins", 1e-6)])
def test_a_run_whose_engine_fails_halfway_ends_with_one_line(
    tmp_path: Path, engine: str, tensor: str, numerator: float
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 20)  # black at first, bright at the end
    model = write_fragile(tmp_path / "fragile.onnx", tensor, numerator)
    common = ("--source", clip, "--model", model, "--engine", engine, "--device", "cpu", "--output", "o.jsonl")
    whole = run(tmp_path, *common, "--max-frames", "5")
    assert whole.returncode == 0, whole.stderr
    done = run(tmp_path, *common, "--no-progress")
    assert done.returncode == 1, (done.stdout, done.stderr)
    (line,) = [line for line in done.stderr.splitlines() if "aren't finite" in line]
    assert line.startswith("error: the model 'tiny' gives numbers that aren't finite")
    assert "Traceback" not in done.stderr
