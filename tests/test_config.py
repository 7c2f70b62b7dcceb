from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamer.app.config import SourceOverrides, StreamConfig, read_config
from streamer.common.errors import ConfigError
from streamer.detector.filter_options import BoxSize, ClassThresholds, FilterOptions, MaskPicture, Polygon
from streamer.models.spec import configs_dir
from streamer.sinks.options import QUALITIES, Retention
from streamer.sources.spec import SourceSpec


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults() -> None:
    config = read_config(None, {})
    assert config.source == (SourceSpec.parse("sample"),)
    assert config.output == ()
    assert config.model == "nanodet-g_416"


def test_command_line_wins_over_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "conf: 0.2\niou: 0.5\nmodel_config: x.yaml\n")
    config = read_config(path, {"conf": 0.7})
    assert (config.conf, config.iou, config.model_config_file) == (0.7, 0.5, Path("x.yaml"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("source: clip.mp4", ("clip.mp4",)),
        ("source: 0", ("0",)),
        ("source: [0, b.mp4]", ("0", "b.mp4")),
        ("source: {door: 'rtsp://a/1', yard: 2}", ("door=rtsp://a/1", "yard=2")),
        ("source: {front door: a.mp4, t\u00fcre: b.mp4, 1: 2}", ("front door=a.mp4", "t\u00fcre=b.mp4", "1=2")),
    ],
)
def test_sources_may_be_one_many_or_named(tmp_path: Path, text: str, wanted: tuple[str, ...]) -> None:
    assert read_config(written(tmp_path, text), {}).source == tuple(map(SourceSpec.parse_named, wanted))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sorce: 0", "unknown key 'sorce'; did you mean 'source'"),
        ("wishes: {a: {priority: 1}}", "unknown key 'wishes'"),
        ("conf: 7", "conf: .*less than or equal to 1.*7"),
        ("conf: .nan", "conf"),
        ("conf: high", "conf: .*'high'"),
        ("policy: newest", "policy: .*'newest'"),
        ("max_frames: 0", "max_frames"),
        ("duration: -1", "duration"),
        ("depth: 0", "depth"),
        ("depth: 1000000000", "depth: input should be less than or equal to 256"),
        ('report: "a\\0.json"', "report: a name can't contain a zero byte"),
        ('source: [a, "\\0"]', "source: a name can't contain a zero byte"),
        ("source: []", "at least one source"),
        ("source: {door: null}", "source: wanted a URI for 'door'"),
        (f"conf: {'x' * 5000}", r"got '[x.]{40,60}'$"),
        ("source:", "source: wanted one value or a list, got None"),
        ("output: null", 'output: an unquoted null is an empty value in YAML: write "null" in quotes'),
        ("output: [out.mp4, null]", "output: an unquoted null is an empty value"),
        ("camera_size: big", "WIDTHxHEIGHT"),
        ("segment: 10x", "segment: wanted a length of time such as 90s, 10m or 24h, got '10x'"),
        ("segment: 0", "segment: .*greater than 0"),
        ("segment: .inf", "segment"),
        (
            "segment: 10m\nretain: 500",
            "retain: wanted an age such as 24h, a size such as 50GB, or what stays free.*, got 500",
        ),
        (
            "segment: 10m\nretain: 50G",
            "retain: wanted an age such as 24h, a size such as 50GB, or what stays free.*, got '50G'",
        ),
        ("retain: 24h", "retain needs segment.*add --segment 10m"),
        ("quality: hihg", "quality: wanted low, medium, high, best or a number from 1 to 100; did you mean 'high'"),
        ("quality: 0", "quality: wanted low, medium, high, best or a number from 1 to 100, got 0"),
        ("quality: 101", "quality: wanted"),
        ("quality: [1]", "quality: wanted"),
        ("encoder: h256", "encoder: wanted auto, h264, h265 or a name of --list encoders; did you mean 'h265'"),
        ("source: {a: {uri: 0, encoder: x}}", "source.a.encoder: wanted auto, h264, h265 or a name of --list encoders"),
        ("audio: maybe", "audio: wanted yes or no, got 'maybe'"),
        ("layout: stacked", "layout: .*'stacked'"),
        ("source: {a: [1, 2]}\nclasses: 3.5", "classes"),
        ("- a\n- b", "keys and values"),
        ("a: [", "not a YAML file: .*line"),
        ("conf: 0.2\nconf: 0.3", r"has the key 'conf' twice \(line 1, line 2\): leave one out"),
        ("source:\n  door: 0\n  yard: 1\n  'door': 2", r"has the key 'door' twice \(line 2, line 4\)"),
        ("source: {door: {uri: 0, priority: 1, priority: 2}}", r"has the key 'priority' twice \(line 1\)"),
        ("a: &a {b: *a}", "nested too deep"),
        ("[" * 60 + "]" * 60, "nested too deep"),
        ("conf: yes", "conf: input should be a valid number.* got 'yes'"),
        ("conf: true", "conf: can't be true or false, got True"),
        ("max_frames: on", "max_frames: .*'on'"),
        ("max_frames: true", "max_frames: can't be true or false"),
        ("camera_size: [true, 480]", "camera_size: can't be true or false"),
        ("source: {door: {uri: 0, max_fps: true}}", "source.door: max_fps: can't be true or false"),
        ("source: {true: 0}", "a source's name is a word, got True: put it in quotes"),
        ("source: {null: 0}", "a source's name is a word, got None"),
        ("source: {a/b: 0}", "no source can be named 'a/b': it has one of = /"),
        ("source: {a=b: 0}", "no source can be named 'a=b'"),
        ("source: {'': 0}", "no source can be named '': it begins or ends with a space"),
        ('source: {"a\\tb": 0}', "no source can be named .*can't be printed"),
        ("duration: 10:30", "duration: .*'10:30'"),
        ("max_frames: 0o17", "max_frames: .*'0o17'"),
        ("tls_verify: [a.pem]", "tls_verify: wanted yes, no, or a file of authorities, got a list of 1"),
        ("tls_verify:", "tls_verify: wanted yes, no, or a file.*got None"),
        ("tls_verify: ''", "tls_verify: wanted yes, no, or a file"),
        ("classes: []", "classes: wanted at least one label.*leave it out"),
        ("classes: ''", "classes: wanted at least one label"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
        ("a: !!bool x", "not a YAML file"),
        ("a: !!timestamp x", "not a YAML file"),
        ("[" * 5000, "nested too deep"),
        ("1: b", "has the key 1, wanted a word"),
        ("a: !!python/object:os.system {}", "not a YAML file"),
    ],
)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        read_config(written(tmp_path, text), {})
    assert "\n" not in str(caught.value)


def test_segments_are_written_as_people_say_them(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "segment: 10m\nretain: 50GB\nlayout: separate\n"), {})
    assert (config.segment, config.retain, config.layout) == (600, Retention(size_bytes=50 * 10**9), "separate")
    config = read_config(written(tmp_path, "segment: 90\nretain: null\n"), {})
    assert (config.segment, config.retain, config.layout) == (90, None, "tiled")
    config = read_config(None, {"segment": "1.5h", "retain": "24h"})
    assert (config.segment, config.retain) == (5400, Retention(age_s=86_400))
    for written_as, quality in (("low", 42), ("High", 68), ("best", 90), ("80", 80), (1, 1), (100, 100)):
        assert read_config(None, {"quality": written_as}).quality == quality
    assert StreamConfig().quality == 52
    assert StreamConfig(segment=1, retain=Retention(age_s=1)).retain == Retention(age_s=1)


def test_empty_file_is_no_options(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, ""), {}) == StreamConfig()


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read"):
        read_config(tmp_path / "none.yaml", {})


def test_binary_file(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError):
        read_config(path, {})


def test_a_value_that_holds_itself_over_and_over_is_not_written_out(tmp_path: Path) -> None:
    levels = "".join(f"l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 12))
    with pytest.raises(ConfigError, match="larger than 4 MiB with its aliases") as caught:
        read_config(written(tmp_path, f"l0: &l0 [x]\n{levels}conf: *l11\n"), {})
    assert len(str(caught.value)) < 20_000  # 9 ** 11 values in full


def test_a_long_word_that_is_repeated_is_not_written_out(tmp_path: Path) -> None:
    text = f"l0: &l0 {'x' * 100_000}\nclasses: [{', '.join(['*l0'] * 200)}]\n"
    with pytest.raises(ConfigError, match="larger than 4 MiB with its aliases"):
        read_config(written(tmp_path, text), {})


def test_anchors_are_taken(tmp_path: Path) -> None:
    text = "source:\n  door: &camera {uri: '0', max_fps: 5}\n  yard: {<<: *camera, uri: '1'}\n"
    config = read_config(written(tmp_path, text), {})
    assert [(spec.name, str(spec)) for spec in config.source] == [("door", "0"), ("yard", "1")]
    assert config.overrides_for("yard").max_fps == 5


def test_words_that_yaml_would_make_something_else_of_stay_words(tmp_path: Path) -> None:
    text = "source: {no: a.mp4, on: b.mp4, 12: 12:30, 007: 2024-01-01}\nclasses: [no, off]\noverlay: off\n"
    config = read_config(written(tmp_path, text), {})
    assert [f"{spec.name}={spec}" for spec in config.source] == ["no=a.mp4", "on=b.mp4", "12=12:30", "007=2024-01-01"]
    assert config.classes == ("no", "off")
    assert config.overlay is False


def test_numbers_are_decimal(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, "max_frames: 010\nduration: 1_000\nconf: .5\niou: 1.\n"), {})
    assert (config.max_frames, config.duration, config.conf, config.iou) == (10, 1000, 0.5, 1)


@given(st.text(max_size=60))
def test_any_text_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read_config(path, {})
    except ConfigError as error:
        assert "\n" not in str(error)


KEYS = [field.alias or name for name, field in StreamConfig.model_fields.items()]
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=12), ANY_VALUE, max_size=4))
def test_any_values_are_a_config_or_a_config_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.yaml"
    path.write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    try:
        config = read_config(path, {})
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1 and str(error).isprintable()
    else:
        assert read_config(None, dict(zip(KEYS, dict(config).values(), strict=True))) == config


YAML_WORDS = (
    *("a", "source", "conf", "null", "0x_", "2020-99-99", ": ", "- ", "? ", ", ", "[", "]", "{", "}", "'", '"', "\\x"),
    *("\n", "  ", "\t", "\u2028", "&a ", "*a", "<<: ", "!!bool ", "!!timestamp ", "|", ">", "#", "%", "---", "..."),
)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(YAML_WORDS), max_size=12).map("".join))
def test_any_yaml_is_a_config_or_a_config_error(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "yaml.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        read_config(path, {})
    except ConfigError as error:
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize("path", sorted((configs_dir() / "streams").glob("*.yaml")), ids=lambda path: path.stem)
def test_packaged_stream_configs_are_valid(path: Path) -> None:
    assert read_config(path, {}).source


def test_a_source_may_have_overrides(tmp_path: Path) -> None:
    text = "source: {door: {uri: rtsp://a/1, max_fps: 5, priority: 2}, yard: 0}\nmax_fps: 10\ndetect_every: 3\n"
    config = read_config(written(tmp_path, text), {})
    assert [f"{spec.name}={spec}" for spec in config.source] == ["door=rtsp://a/1", "yard=0"]
    usual = SourceOverrides(
        quality=QUALITIES["medium"], encoder="auto", audio=True, record=(), detect_every=3, policy="auto", conf=0.4,
        ignore_at="bottom", clip_frames=3, clip_before=5.0, clip_after=5.0, clip_max=300.0, clip_overlay=False,
        track="off",
    )  # fmt: skip
    assert config.overrides_for("door") == usual.model_copy(update={"max_fps": 5, "priority": 2})
    assert config.overrides_for("yard") == usual.model_copy(update={"max_fps": 10})


def test_a_source_may_report_other_detections(tmp_path: Path) -> None:
    text = """
source:
  door: {uri: 0, conf: "person=0.6,0.3", classes: person, min_size: 5%, top_k: 3, ignore_at: centre}
  yard: {uri: 1, ignore: [[[0, 0], [0.5, 0], [0.5, 1]], mask.png], min_size: 0}
  pond: 2
conf: {person: 0.5, default: 0.2}
ignore: "0,0 9,0 9,9"
min_size: 32x64
"""
    config = read_config(written(tmp_path, text), {})
    door, yard, pond = (config.overrides_for(name).filter_options for name in ("door", "yard", "pond"))
    area = Polygon(((0, 0), (9, 0), (9, 9)))
    assert door == FilterOptions(
        ClassThresholds(0.3, (("person", 0.6),)), ("person",), BoxSize(0.05, 0.05), None, (area,), "centre", 3
    )
    assert yard.ignore == (Polygon(((0, 0), (0.5, 0), (0.5, 1))), MaskPicture(Path("mask.png")))
    assert yard.min_size == BoxSize(0, 0)
    assert pond == FilterOptions(ClassThresholds(0.2, (("person", 0.5),)), None, BoxSize(32, 64), None, (area,))
    told = read_config(None, {"conf": "car=0.5", "ignore": ["0,0 1,0 1,1", "m.png"], "max_size": "0.5", "top_k": "2"})
    assert told.conf == ClassThresholds(0.4, (("car", 0.5),))
    assert (len(told.ignore or ()), told.max_size, told.top_k) == (2, BoxSize(0.5, 0.5), 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("conf: person=2", "conf: wanted a score from 0 to 1, also by class as in person=0.5,car=0.3,0.4; '2' is none"),
        ("source: {door: {uri: 0, conf: 7}}", "source.door.conf: input should be less than or equal to 1, got 7"),
        (
            "source: {door: {uri: 0, min_size: big}}",
            "source.door.min_size: wanted a size in pixels such as 32",
        ),
        (
            "ignore: [[0, 0], [1, 1]]",
            "ignore: a polygon wants x,y of three corners or more, such as '0,0",
        ),
        ("top_k: 0", "top_k: input should be greater than or equal to 1, got 0"),
        ("ignore_at: top", "ignore_at: input should be 'bottom' or 'centre'"),
    ],
)
def test_a_wrong_choice_of_detections_is_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config(written(tmp_path, text), {})
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_source_may_be_recorded_in_its_own_way(tmp_path: Path) -> None:
    text = "source: {door: {uri: 0, quality: low, encoder: H.265, audio: no}, yard: 1}\nquality: high\n"
    config = read_config(written(tmp_path, text), {"audio": "yes"})
    door, yard = config.overrides_for("door"), config.overrides_for("yard")
    assert (door.quality, door.encoder, door.audio) == (QUALITIES["low"], "h265", False)
    assert (yard.quality, yard.encoder, yard.audio) == (QUALITIES["high"], "auto", True)
    assert not read_config(None, {"audio": "off"}).audio and not read_config(None, {"audio": False}).audio


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("source: {door: {max_fps: 5}}", "wanted a URI for 'door'"),
        ("source: {door: {uri: 0, max_fbs: 5}}", "unknown key 'source.door.max_fbs'; did you mean 'max_fps'"),
        ("source: {door: 0}\noverrides: true", "overrides: can't be true or false, got True"),
        ("source: {door: {uri: 0, max_fps: 0}}", "source.door.max_fps: input should be greater than 0, got 0"),
        ("source: {door: 0}\noverrides: 5", "overrides: input should be a valid dictionary, got 5"),
        ("source: {1: {uri: 0, max_fps: 0}}", "source.1.max_fps: input should be greater than 0, got 0"),
        ("source: {door: 0}\noverrides: {door: {max_fps: 0}}", "overrides.door.max_fps: input should be greater than"),
    ],
)
def test_overrides_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        read_config(written(tmp_path, text), {})
