"""Fingerprints: their content, and when an engine may replace another."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from onnx import helper

from streamer.common.errors import ConfigError
from streamer.engines.tensorrt.options import BuildOptions, cache_key, contains_code, differences, fingerprint
from streamer.engines.tensorrt.package import GpuModel, TensorRTPackage
from tests.tensorrt_models import float_model, save
from tests.tiny import tiny_model, tiny_spec

RTX = SimpleNamespace(__version__="1.7.0", ComputeCapability=SimpleNamespace(__members__={"SM89": None}))
PLAIN = SimpleNamespace(__version__="11.4.0")
GPU = GpuModel("NVIDIA L4", "sm89")


@pytest.fixture
def built(tmp_path: Path) -> dict[str, Any]:
    model = float_model(tmp_path / "a.onnx")
    options = BuildOptions(max_batch=4)
    return fingerprint(model, TensorRTPackage.TENSORRT_RTX, RTX, ("sm89", "sm120"), options, GPU)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_batch": 0}, "max_batch is at least 1, got 0"),
        ({"workspace_mib": -1}, "workspace_mib is at least 1, got -1"),
        ({"exclude_lean_runtime": True}, "only version-compatible engines contain a lean runtime"),
        ({"targets": ("ada",)}, "written sm89 or sm120, .* got 'ada'"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        BuildOptions(**options)


def test_json_preserves_it(built: dict[str, Any]) -> None:
    assert json.loads(json.dumps(built)) == built
    assert differences(json.loads(json.dumps(built)), built) == []


def test_it_names_model_package_and_options(tmp_path: Path, built: dict[str, Any]) -> None:
    model = float_model(tmp_path / "a.onnx")
    assert built["onnx_sha256"] == model.sha256
    assert (built["package"], built["package_version"]) == ("tensorrt-rtx", "1.7.0")
    assert built["targets"] == ["sm89", "sm120"]
    assert built["options"] == {
        "fp16": False,
        "max_batch": 4,
        "workspace_mib": 1024,
        "version_compatible": False,
        "hardware_compatible": False,
    }
    assert (built["gpu"], built["platform"]) == (None, None)


def test_a_package_that_builds_for_one_gpu_names_it(tmp_path: Path) -> None:
    model = float_model(tmp_path / "a.onnx")
    wanted = fingerprint(model, TensorRTPackage.TENSORRT, PLAIN, ("sm89",), BuildOptions(), GPU)
    assert wanted["gpu"] == "NVIDIA L4"
    assert wanted["platform"]


def test_calibration_is_taken_from_the_metadata(tmp_path: Path) -> None:
    proto = tiny_model(tiny_spec())
    model = save(tmp_path / "a.onnx", proto)
    assert (
        fingerprint(model, TensorRTPackage.TENSORRT_RTX, RTX, ("sm89",), BuildOptions(), None)["calibration_sha256"]
        is None
    )
    helper.set_model_props(model.proto, {"nanodet.int8_calibration_sha256": '"abc"'})
    wanted = fingerprint(model, TensorRTPackage.TENSORRT_RTX, RTX, ("sm89",), BuildOptions(), None)
    assert wanted["calibration_sha256"] == "abc"


def test_another_graph_of_the_same_file_differs(tmp_path: Path) -> None:
    model = float_model(tmp_path / "a.onnx")
    first = fingerprint(model, TensorRTPackage.TENSORRT_RTX, RTX, ("sm89",), BuildOptions(), None)
    model.proto.graph.node[0].name = "renamed"
    second = fingerprint(model, TensorRTPackage.TENSORRT_RTX, RTX, ("sm89",), BuildOptions(), None)
    assert differences(first, second) == ["graph_sha256"]


@pytest.mark.parametrize(
    "field",
    ["format", "onnx_sha256", "graph_sha256", "calibration_sha256", "package", "package_version", "gpu", "platform"],
)
def test_every_field_counts(built: dict[str, Any], field: str) -> None:
    stale = copy.deepcopy(built)
    stale[field] = "another"
    assert differences(stale, built) == [field]
    del stale[field]
    assert differences(stale, built) == [field]
    assert cache_key(built) != cache_key({**built, field: "another"})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fp16", True),
        ("max_batch", 3),
        ("max_batch", "4"),
        ("workspace_mib", 512),
        ("version_compatible", 1),
        ("hardware_compatible", None),
    ],
)
def test_every_option_counts(built: dict[str, Any], field: str, value: object) -> None:
    built["options"].update(version_compatible=False, hardware_compatible=False)
    stale = copy.deepcopy(built)
    stale["options"][field] = value
    assert differences(stale, built) == [field]


def test_more_than_wanted_fits(built: dict[str, Any]) -> None:
    wanted = copy.deepcopy(built)
    wanted["targets"] = ["sm120"]
    wanted["options"]["max_batch"] = 1
    assert differences(built, wanted) == []
    assert differences(wanted, built) == ["targets", "max_batch"]


@pytest.mark.parametrize("option", ["version_compatible", "hardware_compatible"])
def test_what_is_compatible_with_more_fits_but_not_the_reverse(built: dict[str, Any], option: str) -> None:
    more = copy.deepcopy(built)
    more["options"][option] = True
    assert differences(more, built) == []
    assert differences(built, more) == [option]


@pytest.mark.parametrize(
    ("version", "fits"),
    [
        ("1.7.0", True),
        ("1.6.9", True),
        ("1.7", True),
        ("0.9", True),
        ("1.7.0.1", False),
        ("1.10.0", False),
        ("2.0", False),
        (None, False),
        (17, False),
    ],
)
def test_a_version_compatible_engine_fits_no_earlier_version(
    built: dict[str, Any], version: object, fits: bool
) -> None:
    stale = copy.deepcopy(built)
    stale["package_version"] = version
    assert differences(stale, built) == ([] if version == "1.7.0" else ["package_version"])
    stale["options"]["version_compatible"] = True
    assert differences(stale, built) == ([] if fits else ["package_version"])


@pytest.mark.parametrize(("target", "fits"), [("sm75", False), ("sm80", True), ("sm120", True)])
def test_a_hardware_compatible_engine_fits_every_gpu_from_ampere_on(tmp_path: Path, target: str, fits: bool) -> None:
    model = float_model(tmp_path / "a.onnx")
    built = fingerprint(model, TensorRTPackage.TENSORRT, PLAIN, ("sm89",), BuildOptions(hardware_compatible=True), GPU)
    other = GpuModel("another", target)
    wanted = fingerprint(model, TensorRTPackage.TENSORRT, PLAIN, (target,), BuildOptions(), other)
    assert differences(built, wanted) == ([] if fits else ["gpu", "targets"])
    built["options"]["hardware_compatible"] = False
    assert differences(built, wanted) == ["gpu", "targets"]
    assert differences({**built, "platform": "win32-AMD64"}, wanted) == ["gpu", "platform", "targets"]


def test_without_its_lean_runtime_an_engine_fits_its_own_version_only(tmp_path: Path) -> None:
    model = float_model(tmp_path / "a.onnx")

    def made(**options: bool) -> dict[str, Any]:
        return fingerprint(model, TensorRTPackage.TENSORRT, PLAIN, ("sm89",), BuildOptions(**options), GPU)

    alone, wanted = made(version_compatible=True, exclude_lean_runtime=True), made(version_compatible=True)
    assert differences(alone, wanted) == []
    assert differences(alone, {**wanted, "package_version": "11.5.0"}) == ["package_version"]
    assert differences(alone, made()) == ["exclude_lean_runtime"]
    assert (contains_code(alone), contains_code(wanted), contains_code(made()), contains_code({})) == (
        False, True, False, False,
    )  # fmt: skip


def test_a_package_that_does_not_build_wants_an_engine_of_the_one_that_does(tmp_path: Path) -> None:
    model = float_model(tmp_path / "a.onnx")
    options = BuildOptions(version_compatible=True)
    wanted = fingerprint(model, TensorRTPackage.TENSORRT_LEAN, PLAIN, ("sm89",), options, GPU)
    assert wanted == fingerprint(model, TensorRTPackage.TENSORRT, PLAIN, ("sm89",), options, GPU)


@pytest.mark.parametrize("wrong", [None, "sm89", {}])
def test_damaged_fields_differ(built: dict[str, Any], wrong: object) -> None:
    assert "targets" in differences({**built, "targets": wrong}, built)
    assert differences({**built, "options": None}, built) == ["options"]
    assert differences({}, built) == [
        "format",
        "onnx_sha256",
        "graph_sha256",
        "calibration_sha256",
        "package",
        "package_version",
        "gpu",
        "platform",
        "targets",
        "options",
    ]


def test_the_key_is_the_same_everywhere(built: dict[str, Any]) -> None:
    shuffled = dict(reversed(built.items()))
    assert cache_key(built) == cache_key(shuffled)
    assert len(cache_key(built)) == 20
