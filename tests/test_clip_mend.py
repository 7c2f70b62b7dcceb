"""What a folder of clips and its index disagree on, and how it is mended."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from streamer.app.cli import main
from streamer.common.errors import SinkError
from streamer.sinks.clips import database
from streamer.sinks.clips.clip import Clip
from streamer.sinks.clips.folder import ClipFolder
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.clips.mend import ClipFolderCheck, Kind, mend_at_start
from streamer.sinks.clips.probe import probe_video, read_lines
from streamer.sinks.files import open_file
from streamer.sinks.paths import OutputPaths
from tests.clip_files import clip
from tests.media import write_clip

LINE = '{"source": "front door", "detections": [{"label": "cat", "score": 0.5}, {"label": "car", "score": 0.9}]}\n'


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("film") / "film.mp4", 60, fps=30)


@pytest.fixture
def folder(tmp_path: Path, film: Path) -> Path:
    """Returns a folder with two whole clips of two seconds."""
    folder = tmp_path / "clips"
    folder.mkdir()
    with ClipIndex(folder, must_exist=False) as index:
        for at_s in (0.0, 60.0):
            made = clip(folder, "front_door", at_s, 2.0, "cat", "car")
            shutil.copy(film, made.video)
            for path in made.files[1:]:
                path.write_text(LINE)
            index.put(replace(made, source="front door"))
    return folder


def rows(folder: Path) -> list[Clip]:
    with ClipIndex(folder) as index:
        return index.find(limit=None)[::-1]


def found(folder: Path, *, mends: bool = False, is_quick: bool = False) -> list[tuple[Kind, str]]:
    check = ClipFolderCheck(folder, mends=mends, is_quick=is_quick)
    try:
        return [(finding.kind, finding.name) for finding in check.run()]
    finally:
        if check.index is not None:
            check.index.close()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(database.NAME)}


def test_a_folder_that_agrees_has_no_findings(folder: Path) -> None:
    assert found(folder) == [] and found(folder, mends=True) == []


def without_video(folder: Path) -> None:
    rows(folder)[0].video.unlink()


def with_an_unknown_video(folder: Path) -> None:
    with ClipIndex(folder) as index:
        index.remove(rows(folder)[0].id)


def with_a_wrong_length(folder: Path) -> None:
    put(folder, lambda first: replace(first, end_utc=first.begin_utc + timedelta(seconds=9)))


def not_complete(folder: Path) -> None:
    put(folder, lambda first: replace(first, is_complete=False))


def without_its_picture(folder: Path) -> None:
    snapshot = rows(folder)[0].snapshot
    assert snapshot is not None
    snapshot.unlink()


def with_an_unknown_picture(folder: Path) -> None:
    put(folder, lambda first: replace(first, snapshot=None))


def with_a_picture_of_nothing(folder: Path) -> None:
    (folder / "yard-20261123T120000.000Z.jpg").write_bytes(b"x")


def with_a_temporary_file(folder: Path) -> None:
    path = folder / ".nanodet-0123456789abcdef.part"
    path.write_bytes(b"x")
    os.utime(path, (time.time() - 3600, time.time() - 3600))


def with_a_video_that_cant_be_played(folder: Path) -> None:
    rows(folder)[0].video.write_bytes(b"no video")


def with_an_unknown_video_that_cant_be_played(folder: Path) -> None:
    (folder / "yard-20261123T120000.000Z.mp4").write_bytes(b"")


def without_an_index(folder: Path) -> None:
    (folder / database.NAME).unlink()


def with_a_damaged_index(folder: Path) -> None:
    content = bytearray((folder / database.NAME).read_bytes())
    content[100:4096] = b"\xff" * (4096 - 100)
    (folder / database.NAME).write_bytes(content)


def with_something_else_as_index(folder: Path) -> None:
    (folder / database.NAME).write_bytes(b"no database")


def put(folder: Path, change: Callable[[Clip], Clip]) -> None:
    first = rows(folder)[0]
    with ClipIndex(folder) as index:
        index.put(change(first))


@pytest.mark.parametrize(
    ("damage", "kinds"),
    [
        (without_video, [Kind.NO_VIDEO, *[Kind.ORPHAN] * 3]),
        (with_an_unknown_video, [Kind.NO_ROW]),
        (with_a_wrong_length, [Kind.WRONG_LENGTH]),
        (not_complete, [Kind.WRONG_LENGTH]),
        (without_its_picture, [Kind.WRONG_FILES]),
        (with_an_unknown_picture, [Kind.WRONG_FILES]),
        (with_a_picture_of_nothing, [Kind.ORPHAN]),
        (with_a_temporary_file, [Kind.TEMPORARY]),
        (with_a_video_that_cant_be_played, [Kind.UNPLAYABLE, Kind.NO_VIDEO, *[Kind.ORPHAN] * 3]),
        (with_an_unknown_video_that_cant_be_played, [Kind.UNPLAYABLE]),
        (without_an_index, [Kind.NO_INDEX, Kind.NO_ROW, Kind.NO_ROW]),
        (with_a_damaged_index, [Kind.DAMAGED_INDEX, Kind.NO_ROW, Kind.NO_ROW]),
        (with_something_else_as_index, [Kind.DAMAGED_INDEX, Kind.NO_ROW, Kind.NO_ROW]),
    ],
)
def test_what_disagrees_is_found_and_mended_and_no_video_is_deleted(
    folder: Path, damage: Callable[[Path], None], kinds: list[Kind]
) -> None:
    whole = {each.id: each for each in rows(folder)}
    damage(folder)
    before = sorted(path.read_bytes() for path in folder.glob("*.mp4*"))
    seen = names(folder)
    assert [kind for kind, _ in found(folder)][: len(kinds) - 3 or 1] == kinds[: len(kinds) - 3 or 1]
    assert names(folder) == seen, "a check changes nothing"
    assert [kind for kind, _ in found(folder, mends=True)] == kinds
    assert found(folder) == [] and found(folder, mends=True) == []
    assert sorted(path.read_bytes() for path in folder.glob("*.mp4*")) == before
    for each in rows(folder):
        assert each.video.is_file() and all(path.is_file() for path in each.files)
        assert abs(each.length_s - 2.0) < 0.1 and each.is_complete
        assert set(each.labels) == set(whole[each.id].labels) and each.source == "front door"


def test_a_row_is_made_from_the_files_alone(folder: Path) -> None:
    whole = rows(folder)
    without_an_index(folder)
    found(folder, mends=True)
    for before, after in zip(whole, rows(folder), strict=True):
        assert (after.id, after.source, after.begin_utc, after.files) == (
            before.id, before.source, before.begin_utc, before.files,
        )  # fmt: skip
        assert (after.best_label, after.best_score) == ("car", 0.9)


def test_a_row_that_leads_out_of_the_folder_is_deleted(folder: Path) -> None:
    with ClipIndex(folder) as index:
        index._connection.execute("UPDATE clip SET video = '../x.mp4' WHERE id = ?", (rows(folder)[0].id,))
    assert [kind for kind, _ in found(folder, mends=True)] == [Kind.WRONG_ROW, Kind.NO_ROW]
    assert found(folder) == [] and len(rows(folder)) == 2


def test_files_that_are_no_clips_are_left_alone(folder: Path) -> None:
    others = ["notes.txt", "yard.mp4", "yard-20261123T120000.000Z.jsonl", "x-20261399T120000.000Z.mp4", "a.jpg"]
    for name in others:
        (folder / name).write_bytes(b"x")
    (folder / "link-20261123T120000.000Z.mp4").symlink_to("/dev/null")
    (folder / "sub-20261123T120000.000Z.mp4").mkdir()
    seen = names(folder)
    assert found(folder, mends=True) == [] and names(folder) == seen


def test_young_temporary_files_are_left_alone(folder: Path) -> None:
    (folder / ".nanodet-0123456789abcdef.part").write_bytes(b"x")
    assert found(folder, mends=True) == []


def test_a_clip_that_is_being_written_is_left_alone(folder: Path) -> None:
    first = rows(folder)[0]
    put(folder, lambda each: replace(each, end_utc=each.begin_utc, is_complete=False))
    descriptor = open_file(first.video, os.O_RDWR)
    try:
        assert found(folder) == []
    finally:
        os.close(descriptor)
    assert [kind for kind, _ in found(folder)] == [Kind.WRONG_LENGTH]


def test_a_run_mends_at_its_start(folder: Path) -> None:
    without_video(folder)
    with_a_damaged_index(folder)
    with ClipFolder(folder, paths=OutputPaths()) as opened:
        assert len(opened.index.find()) == 1
    assert list(folder.glob("clips.sqlite.damaged-*"))


def test_a_start_does_not_read_videos_that_are_complete(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from streamer.sinks.clips import mend as module

    probed = []
    monkeypatch.setattr(module, "probe_video", lambda path: probed.append(path) or probe_video(path))
    mend_at_start(folder).close()
    assert probed == []
    not_complete(folder)
    mend_at_start(folder).close()
    assert probed == [rows(folder)[0].video]


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xff\n[1]\n{"detections": 3}\n{"detections": [3, {"label": 1, "score": 0.5}]}\n' + LINE.encode()
                     + b'{"source": "/etc/passwd"}\n{"half')  # fmt: skip
    facts = read_lines(path, "front_door")
    assert (facts.source, set(facts.labels), facts.best_label) == ("front door", {"cat", "car"}, "car")
    assert read_lines(tmp_path / "missing.jsonl", "x").source is None


def test_the_verb_lists(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", "list", str(folder)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == "2 clips" and "front door  cat, car  front_door-20261123T120100.000Z.mp4" in said[1]
    assert main(["clips", "list", str(folder), "--json", "--to", "2026-11-23T12:00:30"]) == 0
    (told,) = json.loads(capsys.readouterr().out)["clips"]
    assert told["id"] == "front_door-20261123T120000.000Z" and told["begin"] == "2026-11-23T12:00:00.000Z"
    assert main(["clips", "list", str(folder), "--label", "dog"]) == 0
    assert capsys.readouterr().out == "0 clips\n"


def test_the_verb_checks_and_mends(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", "check", str(folder)]) == 0
    assert capsys.readouterr().out == "folder and index agree\n"
    without_its_picture(folder)
    assert main(["clips", "check", str(folder)]) == 1
    assert "1 disagreement; --mend mends them" in capsys.readouterr().out
    assert main(["clips", "check", str(folder), "--mend", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["agree"] and told["findings"][0]["kind"] == "wrong_files" and told["findings"][0]["mended"]


def test_the_verb_explains_what_it_cant_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["clips", "list", str(tmp_path)]) == 1
    assert "there is no index of clips" in capsys.readouterr().err
    assert main(["clips", "check", str(tmp_path / "gone")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    with ClipFolder(folder, paths=OutputPaths()):
        assert main(["clips", "check", str(folder), "--mend"]) == 2
        assert "a run writes clips into" in capsys.readouterr().err
        assert main(["clips", "check", str(folder)]) == 0
    with_something_else_as_index(folder)
    assert main(["clips", "list", str(folder)]) == 1
    assert "clips check" in capsys.readouterr().err


def test_a_folder_that_cant_be_read_is_said(tmp_path: Path) -> None:
    check = ClipFolderCheck(tmp_path / "gone", mends=False)
    with pytest.raises(SinkError, match="can't check"):
        list(check.run())
