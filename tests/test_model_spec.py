"""Model descriptions: YAML in, metadata out and back, and what decoding reads from them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from streamer.common.errors import ConfigError, ModelError
from streamer.models.spec import ModelSpec, configs_dir, network_names, packaged_config, parse_size_wh, spec_for

NETWORKS = (
    "nanodet-efficientnet-lite0",
    "nanodet-efficientnet-lite1",
    "nanodet-efficientnet-lite2",
    "nanodet-g",
    "nanodet-m",
    "nanodet-m-0.5x",
    "nanodet-m-1.5x",
    "nanodet-plus-m",
    "nanodet-plus-m-1.5x",
    "nanodet-repvgg-a0",
)


def described(**changes: Any) -> dict[str, Any]:
    content = yaml.safe_load(packaged_config("nanodet-plus-m").read_text(encoding="utf-8"))
    return {**content, **changes}


def read(folder: Path, content: object) -> ModelSpec:
    path = folder / "mine.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return ModelSpec.from_yaml(path)


def test_every_network_has_a_description_under_its_own_name() -> None:
    assert network_names() == NETWORKS
    assert [ModelSpec.from_yaml(packaged_config(name)).name for name in NETWORKS] == list(NETWORKS)


@pytest.mark.parametrize(
    ("name", "points", "channels", "first", "last"),
    [
        ("nanodet-m_320", 2100, 112, (4, 4, 8), (304, 304, 32)),
        ("nanodet-g_416", 3549, 124, (4, 4, 8), (400, 400, 32)),
        ("nanodet-plus-m_320", 2125, 112, (0, 0, 8), (256, 256, 64)),
        ("nanodet-plus-m_160x128", 426, 112, (0, 0, 8), (128, 64, 64)),
        ("nanodet-m_75x100", 10 * 13 + 5 * 7 + 3 * 4, 112, (4, 4, 8), (80, 112, 32)),
    ],
)
def test_anchor_points(name: str, points: int, channels: int, first: tuple[int, ...], last: tuple[int, ...]) -> None:
    spec = spec_for(name)
    anchors = spec.anchor_points()
    assert (spec.num_points, spec.output_channels) == (points, channels)
    assert (anchors.shape, anchors.dtype) == ((points, 3), np.float32)
    assert (tuple(anchors[0]), tuple(anchors[-1])) == (first, last)
    assert tuple(anchors[1] - anchors[0]) == (8, 0, 0), "points run along the row"


def test_coco_labels_are_in_official_order() -> None:
    labels = spec_for("nanodet-m_320").labels
    assert (len(labels), labels[0], labels[2], labels[79]) == (80, "person", "car", "toothbrush")


def test_families_differ_in_what_halves_accuracy_when_mixed_up() -> None:
    old, plus = spec_for("nanodet-m_320"), spec_for("nanodet-plus-m_320")
    assert (old.anchor_offset, old.keep_ratio) == (0.5, True)
    assert (plus.anchor_offset, plus.keep_ratio) == (0.0, False)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nanodet-m", "did you mean 'nanodet-m_"),
        ("nanodet-mm_320", "'nanodet-m_320'"),
        ("yolo_320", "--list models"),
        ("nanodet-m_", "got ''"),
        ("nanodet-m_big", "320 or 416x320; got 'big'"),
        ("nanodet-m_0", "got '0'"),
        ("nanodet-m_16", "wanted an input of 32 to 4096 pixels a side, got 16x16"),
        ("nanodet-m_99999", "got 99999x99999"),
        ("../nanodet-m_320", "no model is named"),
    ],
)
def test_a_wrong_model_name_is_refused(name: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        spec_for(name)
    assert says in str(caught.value)


def test_packaged_config_names_the_nearest_network() -> None:
    with pytest.raises(ConfigError, match="did you mean 'nanodet-g'"):
        packaged_config("nanodetg")


@pytest.mark.parametrize(("text", "size_wh"), [("320", (320, 320)), ("416x320", (416, 320))])
def test_input_size(text: str, size_wh: tuple[int, int]) -> None:
    assert parse_size_wh(text) == size_wh


@pytest.mark.parametrize("text", ["", "x", "320x", "-320", "3.5", "320x320x3", "٣٢٠", "320 "])
def test_a_wrong_input_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="W or WxH"):
        parse_size_wh(text)


def test_configs_are_found_in_a_checkout_and_in_an_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "streamer"
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr("streamer.models.spec.__file__", str(package / "models" / "spec.py"))
    assert configs_dir() == tmp_path / "configs"
    (package / "configs").mkdir(parents=True)
    assert configs_dir() == package / "configs"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"stride": 8}, "unknown key 'stride'; did you mean 'strides'?"),
        ({"strides": []}, "strides"),
        ({"strides": [8, 16, 16, 64]}, "strides: strides ascend"),
        ({"strides": [4, 8, 16]}, "strides 8, 16, 32 and any further doublings, got [4, 8, 16]"),
        ({"strides": [8, 16]}, "8, 16, 32"),
        ({"input_size_wh": [31, 320]}, "input_size_wh.0"),
        ({"input_size_wh": [320]}, "input_size_wh"),
        ({"input_size_wh": "320"}, "input_size_wh"),
        ({"reg_max": True}, "reg_max"),
        ({"reg_max": 0}, "reg_max"),
        ({"std_bgr": [57.0, 0.0, 58.0]}, "std_bgr.1"),
        ({"mean_bgr": [float("nan"), 0.0, 0.0]}, "mean_bgr.0"),
        ({"anchor_offset": 2}, "anchor_offset"),
        ({"activation": "PReLU"}, "activation"),
        ({"keep_ratio": "maybe"}, "keep_ratio"),
        ({"family": "yolo"}, "family"),
        ({"family": "nanodet"}, "family nanodet has the neck 'pan', got 'ghost_pan'"),
        ({"checkpoint_sha256": "abc"}, "checkpoint_sha256"),
        ({"labels": []}, "labels"),
        ({"labels": ["car", "car"]}, "'car' occurs twice"),
        ({"labels": ["car", " "]}, "label 1 is empty"),
        ({"labels": ["car", 3]}, "labels.1"),
        ({"labels": ["car", "x" * 201]}, "label 1 has 201 characters, 200 at most"),
        ({"labels": "imagenet"}, "'coco', a list of names, or the path of a .txt file; got 'imagenet'"),
        ({"labels": "missing.txt"}, "missing.txt': No such file"),
        ({"labels": "a\0b.txt"}, "labels: can't read"),
        ({"network": {"backbone": {"type": "vgg"}}}, "network.backbone"),
    ],
)
def test_a_wrong_yaml_value_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, described(**changes))
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}: ") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "key", "value", "says"),
    [
        ("backbone", "stage_chanels", [1, 2, 3], "unknown key 'network.backbone.stage_chanels'"),
        ("backbone", "stage_channels", [115, 232, 464], "network.backbone.stage_channels.0"),
        ("neck", "kernel", 4, "network.neck.kernel: a kernel is odd, got 4"),
        ("head", "convs", 0, "network.head.convs"),
    ],
)
def test_a_wrong_value_within_the_network_is_refused(
    tmp_path: Path, place: str, key: str, value: object, says: str
) -> None:
    content = described()
    content["network"][place][key] = value
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, content)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "key 'name' is missing"),
        ("- a\n- b\n", "should hold keys and values, got a list"),
        ("name: [", "is not a YAML file"),
        ("name: !!timestamp x\n", "is not a YAML file"),
        ("!!timestamp 2020-01-01: x\n", "has the key datetime.date(2020, 1, 1), wanted a word"),
        ("name: &a [*a]\n", "nested too deep"),
        ("name: x\nname: y\n", "has the key 'name' twice (line 1, line 2)"),
        ("name: x\n", "key 'family' is missing"),
    ],
)
def test_a_file_that_is_no_description_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_and_a_binary_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        ModelSpec.from_yaml(tmp_path / "none.yaml")
    (tmp_path / "weights.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        ModelSpec.from_yaml(tmp_path / "weights.yaml")


METADATA = spec_for("nanodet-m_320").to_metadata()
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(list(ModelSpec.model_fields)) | st.text(max_size=8), ANY_VALUE, max_size=3))
def test_any_values_are_a_description_or_an_error_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    try:
        spec = read(tmp_path_factory.getbasetemp(), described(**changes))
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert ModelSpec.from_metadata(spec.to_metadata()) == spec


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from([*ModelSpec.model_fields, "format_version"]), st.text(max_size=12), min_size=1))
def test_any_metadata_is_a_description_or_an_error_in_one_line(changes: dict[str, str]) -> None:
    try:
        spec = ModelSpec.from_metadata(METADATA | {f"nanodet.{key}": text for key, text in changes.items()})
    except ModelError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert ModelSpec.from_metadata(spec.to_metadata()) == spec


@pytest.mark.parametrize(("word", "meant"), [("yes", True), ("Off", False), ("true", True)])
def test_booleans_may_be_written_as_in_yaml_1_1(tmp_path: Path, word: str, meant: bool) -> None:
    text = packaged_config("nanodet-m").read_text(encoding="utf-8").replace("keep_ratio: true", f"keep_ratio: {word}")
    assert read(tmp_path, text).keep_ratio is meant


def test_aliases_of_a_description_are_not_written_out_beyond_measure(tmp_path: Path) -> None:
    levels = "".join(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 12))
    with pytest.raises(ConfigError, match="larger than 4 MiB with its aliases"):
        read(tmp_path, f"l0: &l0 [x]\n{levels}labels: *l11\n")


def test_labels_as_a_list_and_as_a_file_beside_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("gear \nspare wheel\n\n", encoding="utf-8")
    wanted = ("gear", "spare wheel")
    assert read(tmp_path, described(labels=list(wanted))).labels == wanted
    assert read(tmp_path, described(labels="names.txt")).labels == wanted


def test_a_foreign_model_needs_no_network(tmp_path: Path) -> None:
    content = described()
    del content["network"]
    assert read(tmp_path, {**content, "strides": [8, 16]}).network is None


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValidationError):
        spec_for("nanodet-m_320").reg_max = 3  # type: ignore[misc]


specs = st.builds(
    ModelSpec,
    name=st.text(min_size=1),
    family=st.sampled_from(["nanodet", "nanodet-plus"]),
    input_size_wh=st.tuples(st.integers(32, 4096), st.integers(32, 4096)),
    keep_ratio=st.booleans(),
    mean_bgr=st.tuples(*[st.floats(allow_nan=False, allow_infinity=False)] * 3),
    std_bgr=st.tuples(*[st.floats(min_value=1e-3, allow_infinity=False)] * 3),
    strides=st.sets(st.integers(1, 256), min_size=1, max_size=5).map(lambda strides: tuple(sorted(strides))),
    reg_max=st.integers(1, 32),
    anchor_offset=st.floats(0, 1),
    activation=st.sampled_from(["LeakyReLU", "ReLU"]),
    labels=st.lists(st.text(min_size=1, max_size=200).filter(str.strip), min_size=1, unique=True).map(tuple),
    checkpoint_sha256=st.none() | st.text("0123456789abcdef", min_size=64, max_size=64),
)


@given(specs)
def test_metadata_gives_back_the_same_spec(spec: ModelSpec) -> None:
    assert ModelSpec.from_metadata(spec.to_metadata()) == spec


@pytest.mark.parametrize("network", NETWORKS)
def test_metadata_carries_the_network_and_lets_other_keys_be(network: str) -> None:
    spec = spec_for(f"{network}_320")
    metadata = spec.to_metadata()
    assert all(key.startswith("nanodet.") for key in metadata)
    assert ModelSpec.from_metadata({**metadata, "author": "someone", "nanodet.precision": "int8"}) == spec


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"nanodet.format_version": None}, "--model-config"),
        ({"nanodet.format_version": "2"}, "format version '2', this program reads 1"),
        ({"nanodet.strides": None}, "lacks 'nanodet.strides'"),
        ({"nanodet.strides": "[8, 16"}, "damaged at 'nanodet.strides'"),
        ({"nanodet.strides": "[" * 100_000}, "damaged at 'nanodet.strides'"),
        ({"nanodet.labels": "[" * 900 + "]" * 900}, "damaged"),
        ({"nanodet.labels": json.dumps(["person", "x" * 200_000])}, "label 1 has 200000 characters, 200 at most"),
        ({"nanodet.strides": "[32, 16, 8]"}, "strides"),
        ({"nanodet.labels": '"person"'}, "labels"),
        ({"nanodet.std_bgr": "[1, 1, 0]"}, "std_bgr.2"),
    ],
)
def test_damaged_metadata_is_refused(changes: dict[str, str | None], says: str) -> None:
    metadata = {**spec_for("nanodet-m_320").to_metadata(), **changes}
    with pytest.raises(ModelError) as caught:
        ModelSpec.from_metadata({key: value for key, value in metadata.items() if value is not None})
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_metadata_values_are_json() -> None:
    metadata = spec_for("nanodet-m_320").to_metadata()
    assert json.loads(metadata["nanodet.input_size_wh"]) == [320, 320]
    assert json.loads(metadata["nanodet.checkpoint_sha256"]) is None


def test_no_network_or_engine_is_imported() -> None:
    code = "import sys, streamer.models.spec; print(sorted({'torch', 'onnx', 'openvino'} & set(sys.modules)))"
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


OPTIONS = {"channel_order": "RGB", "padding": "top-left", "nms": "diou", "class_agnostic": True, "order": "boxes-first"}


def test_options_go_into_the_metadata_only_where_they_differ() -> None:
    spec = spec_for("nanodet-m_320")
    assert not [key for key in spec.to_metadata() if key.removeprefix("nanodet.") in (*OPTIONS, "scores")]
    changed = spec.model_copy(update=OPTIONS)
    assert ModelSpec.from_metadata(changed.to_metadata()) == changed
    assert ModelSpec.from_metadata(spec.to_metadata()) == spec


def saved(tmp_path: Path, **changes: object) -> Path:
    content = spec_for("nanodet-m_320").model_dump(mode="json") | {"network": None} | changes
    path = tmp_path / "m.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_means_of_values_0_to_1_are_multiplied(tmp_path: Path) -> None:
    path = saved(tmp_path, pixel_range=1, mean_bgr=[0.4, 0.5, 0.6], std_bgr=[0.2, 0.2, 0.4])
    spec = ModelSpec.from_yaml(path)
    assert spec.mean_bgr == pytest.approx((102, 127.5, 153))
    assert spec.std_bgr == pytest.approx((51, 51, 102))
    assert ModelSpec.from_yaml(saved(tmp_path, pixel_range=255)) == ModelSpec.from_yaml(saved(tmp_path))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"pixel_range": 2}, "pixel_range is 1 or 255"),
        ({"pixel_range": True}, "pixel_range is 1 or 255"),
        ({"pixel_rang": 1}, "unknown key 'pixel_rang'; did you mean 'pixel_range'"),
        ({"padding": "left"}, "padding: .*'centre' or 'top-left'"),
        ({"nms": "soft"}, "nms: .*'iou' or 'diou'"),
        ({"channel_order": "rgb"}, "channel_order: .*'BGR' or 'RGB'"),
        ({"activation": ""}, "activation: "),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ModelSpec.from_yaml(saved(tmp_path, **changes))


def test_a_file_that_is_not_rebuilt_may_have_any_activation(tmp_path: Path) -> None:
    assert ModelSpec.from_yaml(saved(tmp_path, activation="Mish")).activation == "Mish"
    network = spec_for("nanodet-m_320").model_dump(mode="json")["network"]
    with pytest.raises(ConfigError, match="a network has no activation 'Mish'"):
        ModelSpec.from_yaml(saved(tmp_path, activation="Mish", network=network))
