"""The JSON Schemas of lines and reports, what is really written, and the page that describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.report import REPORT_VERSION, GpuReport, RunError
from streamer.sinks.jsonl import LINE_VERSION, LineFormat
from tests.media import write_clip, write_image
from tests.test_cli import model, run  # noqa: F401 - `model` is a fixture
from tests.test_stats import REPORT

PAGE = Path(__file__).parent.parent / "docs" / "json.md"


def schema(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(files("streamer.data").joinpath(f"schemas/{name}.schema.json").read_text())
    return read


def check(value: object, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema isn't installed: pip install '.[dev]'")
    jsonschema.Draft202012Validator.check_schema(schema(name))
    jsonschema.Draft202012Validator(schema(name)).validate(value)


def objects_of(part: Any) -> Iterator[dict[str, Any]]:
    """Yields each description of an object within a schema."""
    if isinstance(part, dict):
        if "properties" in part:
            yield part
        for value in part.values():
            yield from objects_of(value)
    elif isinstance(part, list):
        for value in part:
            yield from objects_of(value)


@pytest.mark.parametrize("name", ["jsonl", "report"])
def test_the_page_describes_every_key(name: str) -> None:
    text = PAGE.read_text(encoding="utf-8")
    for described in objects_of(schema(name)):
        for key, about in described["properties"].items():
            assert any(f"{before}{key}` |" in text for before in ("`", ".")), key
            if "description" in about:
                assert about["description"] in text, key


def test_the_versions_are_those_of_the_code() -> None:
    assert schema("jsonl")["properties"]["version"]["const"] == LINE_VERSION
    assert schema("report")["properties"]["version"]["const"] == REPORT_VERSION


def strict(part: Any) -> Any:
    """Returns a schema that also refuses keys that it doesn't describe."""
    if isinstance(part, dict):
        closed = {key: strict(value) for key, value in part.items()}
        return {**closed, "additionalProperties": False} if "properties" in part else closed
    return [strict(value) for value in part] if isinstance(part, list) else part


def check_strictly(value: object, name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema isn't installed: pip install '.[dev]'")
    jsonschema.Draft202012Validator(strict(schema(name))).validate(value)


def test_what_the_program_writes_is_described(tmp_path: Path, model: Path) -> None:  # noqa: F811
    write_clip(tmp_path / "a.mp4", 9)
    write_image(tmp_path / "b.png", 3)
    arguments = ("--source", "a.mp4", "--source", "b.png", "--model", model, "--conf", "0", "--detect-every", "2")
    done = run(tmp_path, *arguments, "--output", "{source}.jsonl", "--report", "report.json")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for name in "ab" for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert len(lines) == 10 and any("held" in line for line in lines) and any(line["name"] for line in lines)
    for line in lines:
        check_strictly(line, "jsonl")
    check_strictly(json.loads((tmp_path / "report.json").read_text()), "report")
    again = run(tmp_path, *arguments, "--output", "null", "--report", "report.json")
    assert again.returncode == 0, "an earlier report is replaced"


@given(
    st.lists(
        st.tuples(st.floats(0, 1), *[st.floats(-1e4, 1e4, width=32)] * 4), max_size=5
    ),
    st.booleans(),
    st.booleans(),
    st.none() | st.text(max_size=9),
)  # fmt: skip
def test_any_line_is_described(
    rows: list[tuple[float, ...]], live: bool, rounded: bool, name: str | None
) -> None:  # fmt: skip
    table = np.array(rows, np.float64).reshape(-1, 5)
    detections = Detections(table[:, 1:], table[:, 0], np.zeros(len(rows), np.int64))
    frame = Frame(np.zeros((64, 96, 3), np.uint8), "door", 7, 0.25, 0.0, name)
    line = json.loads(LineFormat(["person"], live=live, rounded=rounded).text(frame, detections))
    check_strictly(line, "jsonl")


def test_a_report_of_failures_and_several_gpus_is_described() -> None:
    engine = replace(REPORT.engine, model_sha256="0" * 64, fallbacks=("GPU: out of memory",))
    gpus = (GpuReport("cuda:0", engine, ("door",), True), GpuReport("cuda:1", engine, (), False))
    sources = (replace(REPORT.sources[0], gave_way=3, recorded_bytes=123, recorded_gb_a_day=1.25, clips=2),)
    failed = replace(REPORT, engine=engine, gpus=gpus, sources=sources, errors=(RunError("out.mp4", "disk full"),))
    for report in (failed, replace(failed, latency_ms=None)):
        check_strictly(json.loads(json.dumps(report.to_json())), "report")


@pytest.mark.parametrize(
    "change", [{"version": 2}, {"pts_s": "0"}, {"captured_at": "today"}, {"detections": [{"label": "person"}]}]
)
def test_the_schema_refuses_what_is_no_line(change: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema isn't installed: pip install '.[dev]'")
    frame = Frame(np.zeros((64, 96, 3), np.uint8), "door", 7, 0.25, 0.0)
    line = json.loads(LineFormat(["person"], live=True).text(frame, Detections.empty()))
    check(line, "jsonl")
    with pytest.raises(jsonschema.ValidationError):
        check({**line, **change}, "jsonl")
