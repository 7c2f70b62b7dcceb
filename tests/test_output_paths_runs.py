"""What a run's sources write where, as they are added, removed and exchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from streamer.app.config import SourceOverrides, StreamConfig
from streamer.app.stream_factory import StreamFactory
from streamer.common.errors import ConfigError, SinkError
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from streamer.runtime.stream_spec import StreamSpec
from streamer.sinks import OutputSpec
from streamer.sources.spec import SourceSpec
from tests.fakes import wait_for
from tests.media import picture, write_clip

named = SourceSpec.parse_named
NOTHING = Detections.empty()


def frame(number: int = 0, source: str = "door") -> Frame:
    return Frame(picture(number), source, number, number / 30, 0.0)


@contextmanager
def opened(config: StreamConfig) -> Iterator[tuple[StreamFactory, list[StreamSpec]]]:
    """A run's sources and outputs, without the run."""
    with StreamFactory(config) as opener, ExitStack() as stack:
        yield opener, opener.open_streams(opener.open_sources(stack), ("thing",), stack)


def open_stream(opener: StreamFactory, config: StreamConfig, spec: SourceSpec) -> StreamSpec:
    """Opens a source while the run goes on, and its outputs."""
    source = opener.open_source(config, spec)
    try:
        return opener.open_stream(config, source)
    except BaseException:
        source.close()
        raise


def write_all(plan: StreamSpec, count: int = 3) -> list[Path]:
    """Writes frames to a plan's outputs and closes them with their source; returns the files."""
    for number in range(count):
        for _, sink in plan.sinks:
            sink.write(frame(number, plan.source.info.name), NOTHING)
    for _, sink in plan.sinks:
        sink.close()
    plan.source.close()
    return [path for _, sink in plan.sinks for path in sink.written]


@pytest.fixture
def clips(tmp_path: Path) -> list[Path]:
    """Three sources."""
    return [write_clip(tmp_path / f"{name}.mp4", 2) for name in "abc"]


@pytest.mark.parametrize("output", ["out.mp4", "out.jsonl", "out/", "out.mkv"])
def test_another_source_leaves_what_the_one_before_has_written(output: str, tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=(f"{tmp_path}/{output}",), decode="cpu")
    with opened(config) as (opener, plans):
        (first,) = write_all(plans[0])
        before = first.read_bytes() if first.is_file() else sorted(first.iterdir())
        opener.release_name("a")
        (second,) = write_all(open_stream(opener, config, named(f"b={clips[1]}")), 1)
        opener.release_name("b")
        (third,) = write_all(open_stream(opener, config, named(str(clips[2]))), 1)
    assert (first.read_bytes() if first.is_file() else sorted(first.iterdir())) == before
    stem, _, ending = output.strip("/").partition(".")
    assert [path.name for path in (first, second, third)] == [
        f"{stem}{number}{'.' if ending else ''}{ending}" for number in ("", "-2", "-3")
    ]
    assert all(path.exists() for path in (second, third))


def test_a_source_added_to_a_run_with_one_video_gets_its_own(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=(f"{tmp_path}/wall.mp4",), decode="cpu")
    with opened(config) as (opener, plans):
        plans[0].sinks[0][1].write(frame(), NOTHING)
        size = (tmp_path / "wall.mp4").stat().st_size
        added = open_stream(opener, config, named(f"b={clips[1]}"))
        assert write_all(added) == [tmp_path / "wall-2.mp4"]
        assert (tmp_path / "wall.mp4").stat().st_size == size
        write_all(plans[0])
    assert (tmp_path / "wall.mp4").stat().st_size > size


def test_exchanging_all_sources_of_a_tiled_video_begins_another(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(
        source=(named(f"a={clips[0]}"), named(f"b={clips[1]}")),
        output=(f"{tmp_path}/wall.mp4",),
        decode="cpu",
        pace="source",
    )
    with opened(config) as (opener, plans):
        for plan in plans:
            plan.sinks[0][1].write(frame(), NOTHING)
        wait_for((tmp_path / "wall.mp4").exists)
        for name in "ab":
            opener.release_name(name)
        for plan in plans:
            plan.sinks[0][1].close()
        content = (tmp_path / "wall.mp4").read_bytes()
        added = open_stream(opener, config, named(f"c={clips[2]}"))
        assert write_all(added) == [tmp_path / "wall-2.mp4"]
    assert (tmp_path / "wall.mp4").read_bytes() == content


def test_outputs_of_ones_own_that_change_and_come_back(tmp_path: Path, clips: list[Path]) -> None:
    def with_output(name: str) -> StreamConfig:
        return config.model_copy(
            update={"overrides": {"a": SourceOverrides(output=(OutputSpec.parse(f"{tmp_path}/{name}"),))}}
        )

    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=("null",), decode="cpu")
    with opened(with_output("x.jsonl")) as (opener, plans):
        written = write_all(plans[0])
        for name in ("y.jsonl", "x.jsonl"):
            opener.release_name("a")
            written += write_all(open_stream(opener, with_output(name), named(f"a={clips[0]}")))
    assert [path.name for path in written] == ["x.jsonl", "y.jsonl", "x-2.jsonl"]
    assert [len(path.read_text().splitlines()) for path in written] == [3, 3, 3]


def test_sources_with_the_same_safe_name_get_separate_files(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a_b={clips[0]}"),), output=(f"{tmp_path}/{{source}}.jsonl",), decode="cpu")
    with opened(config) as (opener, plans):
        (first,) = write_all(plans[0])
        opener.release_name("a_b")
        (second,) = write_all(open_stream(opener, config, named(str(write_clip(tmp_path / "a b.mp4", 2)))))
    assert [first.name, second.name] == ["a_b.jsonl", "a_b-2.jsonl"]


def test_what_the_run_has_read_is_no_output_later(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=("null",), decode="cpu")
    content = clips[0].read_bytes()
    with opened(config) as (opener, _):
        opener.release_name("a")
        wrong = config.model_copy(
            update={"overrides": {"b": SourceOverrides(output=(OutputSpec.parse(str(clips[0])),))}}
        )
        with pytest.raises(ConfigError, match="is also the source"):
            open_stream(opener, wrong, named(f"b={clips[1]}"))
    assert clips[0].read_bytes() == content


def test_what_the_run_is_writing_is_no_source(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=(f"{tmp_path}/out.mp4",), decode="cpu")
    with opened(config) as (opener, plans):
        write_all(plans[0])
        with pytest.raises(ConfigError, match="is also the source"):
            open_stream(opener, config, named(f"b={tmp_path / 'out.mp4'}"))


def test_outputs_of_a_replacement_are_checked_before_the_old_ones_are_closed(tmp_path: Path, clips: list[Path]) -> None:
    config = StreamConfig(source=(named(f"a={clips[0]}"),), output=(OutputSpec.parse("null"),), decode="cpu")
    with opened(config) as (opener, _):
        for output, kind, words in (
            (f"{tmp_path}/none/out.mp4", SinkError, "there is no folder"),
            (f"{tmp_path}/none/pictures/", SinkError, "there is no folder"),
            (str(clips[0]), ConfigError, "is also the source"),
        ):
            overrides = {"a": SourceOverrides(output=(OutputSpec.parse(output),))}
            with pytest.raises(kind, match=words):
                opener.check_outputs(config.model_copy(update={"overrides": overrides}), "a")
        before = sorted(tmp_path.iterdir())
        overrides = {"a": SourceOverrides(output=(OutputSpec.parse(f"{tmp_path}/new.mp4"),))}
        opener.check_outputs(config.model_copy(update={"overrides": overrides}), "a")
        assert sorted(tmp_path.iterdir()) == before
