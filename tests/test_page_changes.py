"""What was changed on the live page: merged into a configuration, written beside it and read back."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest

from streamer.app.config import StreamConfig, read_config
from streamer.app.page_changes import PageChanges, kept_changes, page_file
from streamer.common.errors import ConfigError
from streamer.detector.filter_options import ClassThresholds
from streamer.web.api_models import Kept, RunSettings, StreamChanges

FLEET = "source: {door: {uri: rtsp://192.0.2.1/1, conf: 0.6, classes: [car]}, yard: rtsp://192.0.2.2/1}\nconf: 0.5\n"
SECRET = "rtsp://admin:hunter2pass@192.0.2.3/1"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.yaml"
    path.write_text(FLEET)
    return path


@pytest.fixture
def config(config_file: Path) -> StreamConfig:
    return read_config(config_file, {})


def changed(**of_door: Any) -> PageChanges:
    return PageChanges().with_source("door", Kept(changes=StreamChanges(**of_door)))


def test_nothing_changes_nothing(config: StreamConfig) -> None:
    assert PageChanges().applied_to(config) == config
    assert PageChanges().is_empty


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"conf": 0.3}, "conf", 0.3),
        ({"conf": {"person": 0.5, "*": 0.2}}, "conf", ClassThresholds(0.2, (("person", 0.5),))),
        ({"classes": ("person", "3")}, "classes", ("person", "3")),
        ({"top_k": 3}, "top_k", 3),
        ({"max_fps": 5}, "max_fps", 5.0),
        ({"detect_every": 4}, "detect_every", 4),
        ({"priority": -2}, "priority", -2),
        ({"overlay": False}, "overlay", False),
    ],
)
def test_what_is_changed_of_a_source_wins(config: StreamConfig, changes: dict[str, Any], key: str, value: Any) -> None:
    found = changed(**changes).applied_to(config)
    assert getattr(found.overrides_for("door"), key) == value
    assert found.overrides_for("yard") == config.overrides_for("yard")
    if key != "classes":
        assert found.overrides_for("door").classes == ("car",)


def test_all_classes_can_be_asked_for_where_the_file_names_some(config: StreamConfig) -> None:
    assert changed(classes=("*",)).applied_to(config).overrides_for("door").filter_options.classes is None


def test_settings_of_the_run_hold_where_a_source_has_nothing_of_its_own(config: StreamConfig) -> None:
    found = PageChanges().with_settings(RunSettings(conf=0.7, overlay=True, language="zh")).applied_to(config)
    assert found.overrides_for("yard").conf == 0.7
    assert found.overrides_for("door").conf == 0.6
    assert found.overrides_for("door").overlay is True


def test_sources_are_added_and_removed(config: StreamConfig) -> None:
    changes = PageChanges().with_source("new", Kept(uri=SECRET)).with_source("yard", Kept(removed=True))
    found = changes.applied_to(config)
    assert [spec.name for spec in found.source] == ["door", "new"]
    assert found.source[1].uri.reveal() == SECRET
    assert changes.summary == "new (added), yard (removed)"
    with pytest.raises(ConfigError, match="leave no source"):
        PageChanges().with_source("yard", Kept(removed=True)).applied_to(
            config.model_copy(update={"source": config.source[1:]})
        )


def test_what_the_file_does_not_name_any_more_waits(config: StreamConfig) -> None:
    changes = changed(conf=0.3)
    without = config.model_copy(update={"source": config.source[1:], "overrides": {}})
    assert changes.applied_to(without) == without
    assert changes.applied_to(config).overrides_for("door").conf == 0.3


def test_changes_are_taken_back(config: StreamConfig) -> None:
    one = StreamChanges(conf=0.3, top_k=2)
    assert one.changed(StreamChanges(conf=None)).kept == {"top_k": 2}
    assert one.changed(StreamChanges.model_validate({"conf": None, "max_fps": 4.0})).kept == {
        "top_k": 2,
        "max_fps": 4.0,
    }
    assert changed(conf=0.3).with_source("door", None).is_empty
    assert changed(conf=0.3).with_source("door", Kept()).is_empty


def test_they_come_back_from_the_file(config_file: Path) -> None:
    path = page_file(config_file)
    assert path.name == "fleet.page.yaml"
    changes = (
        changed(conf={"person": 0.5, "*": 0.2}, classes=("person", "no", "0.5"), min_size="5%x10%", overlay=True)
        .with_source("new", Kept(uri=SECRET, changes=StreamChanges(top_k=1)))
        .with_source("yard", Kept(removed=True))
        .with_settings(RunSettings(conf=0.25, language="zh"))
    )
    changes.write(path, config_file)
    assert PageChanges.read(path) == changes
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().startswith("# Changed on the live page; wins over fleet.yaml.")
    assert [each.name for each in config_file.parent.iterdir() if each not in (path, config_file)] == []
    PageChanges().write(path, config_file)
    assert not path.exists()
    assert PageChanges.read(path).is_empty


def test_the_start_says_what_is_kept(config_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert kept_changes(None) is None and kept_changes(config_file) is None
    changed(conf=0.3).with_source("new", Kept(uri=SECRET)).write(page_file(config_file), config_file)
    assert kept_changes(config_file) is not None
    (line,) = caplog.messages
    assert "fleet.page.yaml wins over fleet.yaml: door (conf), new (added)" in line
    assert "hunter2pass" not in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("source: {door: {conf: 7}}", "conf: input should be less than or equal to 1"),
        ("source: {door: {uri: '${HOME}'}}", "a reference such as"),
        ("source: {door: {classes: ['${HOME}']}}", "a reference such as"),
        ("source: {door: {output: x.mp4}}", "output: extra inputs"),
        ("source: {door: 3}", "wanted keys and values"),
        ("source: [door]", "wanted keys and values"),
        ("source: {'a/b': {conf: 0.4}}", "no source can be named"),
        ("settings: {conf: yes}", "conf"),
        ("more: 3", "unknown key 'more'"),
    ],
)
def test_a_wrong_file_is_refused_by_name(config_file: Path, text: str, says: str) -> None:
    path = page_file(config_file)
    path.write_text(text)
    with pytest.raises(ConfigError, match=says) as raised:
        PageChanges.read(path)
    assert "fleet.page.yaml" in str(raised.value)


def test_no_value_of_a_wrong_file_is_shown(config_file: Path) -> None:
    page_file(config_file).write_text(f"source: {{door: {{uri: ['{SECRET}']}}}}")
    with pytest.raises(ConfigError) as raised:
        PageChanges.read(page_file(config_file))
    assert "hunter2pass" not in str(raised.value)
