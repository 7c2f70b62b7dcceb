"""The index of a folder of clips: what is found in it, what survives, and who may write it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from streamer.common.errors import SinkError
from streamer.sinks.base import WriteError
from streamer.sinks.clips import database
from streamer.sinks.clips.clip import parse_name
from streamer.sinks.clips.database import DamagedIndexError
from streamer.sinks.clips.index import ClipIndex
from streamer.sinks.files import open_file
from tests.clip_files import NOON, clip
from tests.test_sinks_video_broken import file_size_limit


@pytest.fixture
def index(tmp_path: Path) -> ClipIndex:
    return ClipIndex(tmp_path, must_exist=False)


def test_what_is_put_is_found_again_whole(index: ClipIndex, tmp_path: Path) -> None:
    wanted = clip(tmp_path, "front_door", 1.25, 8.5, "person", "car")
    bare = replace(clip(tmp_path, "yard", 60), snapshot=None, detections=None, captions=None, best_label=None,
                   best_score=None, labels=(), is_complete=False)  # fmt: skip
    index.put(wanted)
    index.put(bare)
    index.flush()
    assert index.get(wanted.id) == wanted and index.get(bare.id) == bare
    assert index.get("other") is None and index.get("' OR 1 --") is None
    index.close()
    with ClipIndex(tmp_path) as again:
        assert again.find() == [bare, wanted]


def test_clips_are_found_by_source_label_and_time_the_newest_first(index: ClipIndex, tmp_path: Path) -> None:
    with index:
        made = [clip(tmp_path, "a", 0, 10, "person"), clip(tmp_path, "b", 100, 10, "car", "person"),
                clip(tmp_path, "a", 200, 10, "car", complete=False)]  # fmt: skip
        for each in made:
            index.put(each)
        index.flush()

        def at(seconds: float) -> timedelta:
            return NOON + timedelta(seconds=seconds)

        assert index.find() == made[::-1]
        assert index.find(limit=1) == [made[2]] and index.find(limit=0) == []
        assert index.find(source="a") == [made[2], made[0]]
        assert index.find(label="person") == [made[1], made[0]]
        assert index.find(label="person", source="a") == [made[0]]
        assert index.find(from_utc=at(105)) == [made[2], made[1]]
        assert index.find(from_utc=at(110.001)) == [made[2]]
        assert index.find(to_utc=at(100)) == [made[1], made[0]]
        assert index.find(from_utc=at(20), to_utc=at(90)) == []
        assert index.find(is_complete=False) == [made[2]]
        assert index.find(label="nothing") == []


def test_a_clip_that_is_put_again_has_one_row(index: ClipIndex, tmp_path: Path) -> None:
    with index:
        first = clip(tmp_path, complete=False)
        for length_s in range(20):
            index.put(replace(first, end_utc=NOON + timedelta(seconds=length_s), labels=("cat", "person")))
        last = replace(first, labels=("car",), is_complete=True)
        index.put(last)
        index.flush()
        assert index.find() == [last] and index.find(label="cat") == []
        index.remove(first.id)
        index.flush()
        assert index.find() == []


def test_many_clips_keep_their_labels(index: ClipIndex, tmp_path: Path) -> None:
    with index:
        for number in range(1200):
            index.put(clip(tmp_path, "door", number, 1, f"label {number}"))
        index.flush()
        assert [found.labels for found in index.find(limit=None)] == [(f"label {n}",) for n in reversed(range(1200))]


def test_deleting_removes_files_and_row(index: ClipIndex, tmp_path: Path) -> None:
    with index:
        wanted, other = clip(tmp_path), clip(tmp_path, at_s=50)
        for each in (wanted, other):
            index.put(each)
            for path in each.files:
                path.write_bytes(b"x")
        index.flush()
        assert index.delete(wanted.id) and not index.delete(wanted.id) and not index.delete("../x")
        assert index.find() == [other]
        left = {path.name for path in tmp_path.iterdir() if not path.name.startswith(database.NAME)}
        assert left == {path.name for path in other.files}


def test_a_clip_that_is_being_written_is_not_deleted(index: ClipIndex, tmp_path: Path) -> None:
    with index:
        wanted = clip(tmp_path, complete=False)
        index.put(wanted)
        index.flush()
        descriptor = open_file(wanted.video, os.O_RDWR | os.O_CREAT)
        with pytest.raises(SinkError, match="still being written"):
            index.delete(wanted.id)
        os.close(descriptor)
        assert index.delete(wanted.id)


@pytest.mark.parametrize("name", ["../door-20261123T120000.000Z.mp4", "/etc/passwd", "", "a/b.mp4", "other.mp4", None])
def test_a_row_that_leads_out_of_the_folder_is_not_found(index: ClipIndex, tmp_path: Path, name: str | None) -> None:
    with index:
        wanted = clip(tmp_path)
        index.put(wanted)
        index.flush()
        with sqlite3.connect(tmp_path / database.NAME) as other:
            if name is not None:
                other.execute("UPDATE clip SET video = ?", (name,))
            other.execute("UPDATE clip SET snapshot = '../x.jpg'")
        other.close()
        found = index.find()
        assert (found == []) if name is not None else ([each.snapshot for each in found] == [None])


def test_rows_that_one_process_puts_are_seen_by_another(index: ClipIndex, tmp_path: Path) -> None:
    with index, ClipIndex(tmp_path) as other:
        index.put(clip(tmp_path))
        index.flush()
        assert other.find() == [clip(tmp_path)]
        other.remove(clip(tmp_path).id)
        other.flush()
        assert index.find() == []


_WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
from streamer.sinks.clips.index import ClipIndex
from tests.clip_files import clip
folder = Path(sys.argv[1])
index = ClipIndex(folder, must_exist=False)
number = 0
while True:
    index.put(clip(folder, at_s=number))
    index.flush()
    print(number, flush=True)
    number += 1
"""


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    for wanted in (1, 7):
        folder = tmp_path / str(wanted)
        folder.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", _WRITES_UNTIL_KILLED, str(folder)], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            for _ in range(wanted):
                last = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        with ClipIndex(folder) as index:
            assert {each.id for each in index.find(limit=None)} >= {clip(folder, at_s=n).id for n in range(last + 1)}


def test_a_full_disk_loses_no_row_once_there_is_room(index: ClipIndex, tmp_path: Path) -> None:
    with file_size_limit((tmp_path / database.NAME).stat().st_size // 2):
        for number in range(50):
            index.put(clip(tmp_path, at_s=number))
        with pytest.raises(WriteError, match="clips check --mend"):
            index.flush()
    index.flush()
    assert len(index.find()) == 50
    index.close()


def test_several_threads_may_write_and_read(index: ClipIndex, tmp_path: Path) -> None:
    def work(source: str) -> None:
        for number in range(30):
            index.put(clip(tmp_path, source, number))
            index.find(source=source)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    index.flush()
    assert len(index.find(limit=None)) == 120
    index.close()
    index.close()


def test_an_index_is_only_made_on_request(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match="there is no index of clips"):
        ClipIndex(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_damaged_index_says_what_mends_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / database.NAME).write_bytes(content)
    with pytest.raises(DamagedIndexError, match=f"clips check {tmp_path} --mend"):
        ClipIndex(tmp_path)


def test_another_programs_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / database.NAME) as other:
        other.execute("CREATE TABLE notes (text)")
    other.close()
    with pytest.raises(DamagedIndexError, match="another program"):
        ClipIndex(tmp_path)


def test_an_older_schema_is_brought_up_to_date_and_a_newer_one_refused(
    index: ClipIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.put(clip(tmp_path))
    index.close()
    newer = (*database._MIGRATIONS, ("ALTER TABLE clip ADD COLUMN track TEXT",))
    with monkeypatch.context() as patched:
        patched.setattr(database, "_MIGRATIONS", newer)
        for _ in range(2):
            with ClipIndex(tmp_path) as migrated:
                assert migrated.find() == [clip(tmp_path)]
    with pytest.raises(SinkError, match="newer version of this program"):
        ClipIndex(tmp_path)


def test_a_migration_that_fails_changes_nothing(
    index: ClipIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.put(clip(tmp_path))
    index.close()
    broken = (*database._MIGRATIONS, ("ALTER TABLE clip ADD COLUMN track TEXT", "ALTER TABLE gone ADD COLUMN x"))
    with monkeypatch.context() as patched:
        patched.setattr(database, "_MIGRATIONS", broken)
        with pytest.raises(SinkError):
            ClipIndex(tmp_path)
    with ClipIndex(tmp_path) as again:
        assert again.find() == [clip(tmp_path)]


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("door-20261123T120000.000Z.mp4", "door"),
        ("a-b-20261123T120000.000Z.jsonl", "a-b"),
        ("x-20261123T120000.000Z-20261123T120000.000Z.mkv", "x-20261123T120000.000Z"),
        ("door-20261323T120000.000Z.mp4", None),
        ("door-20261123T120000.000Z.mp4.part", None),
        ("-20261123T120000.000Z.mp4", None),
        ("door.mp4", None),
    ],
)
def test_a_name_says_source_and_time(name: str, source: str | None) -> None:
    found = parse_name(name)
    assert (None if found is None else (found.source, found.begin_utc)) == (source and (source, NOON))
