from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from calibration.run_folder.folder import RunFolder, new_run_folder, open_run_folder
from calibration.run_folder.results_table import COLUMNS, EpochResult, ResultsTable, read_results
from streamer.common.errors import ConfigError


class TestFolder:
    def test_numbers_go_up_also_past_gaps_and_files(self, tmp_path: Path) -> None:
        assert new_run_folder(tmp_path / "runs").path == tmp_path / "runs/train-1"
        (tmp_path / "runs/train-7").mkdir()
        (tmp_path / "runs/train-8").write_text("")
        (tmp_path / "runs/train-9x").mkdir()
        (tmp_path / "runs/swap-20").mkdir()
        assert new_run_folder(tmp_path / "runs").path.name == "train-9"
        assert new_run_folder(tmp_path / "runs", "swap").path.name == "swap-21"

    def test_a_run_that_starts_at_the_same_time_takes_another_number(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        list_folder = Path.iterdir

        def list_then_start_others(path: Path) -> Iterator[Path]:
            found = list(list_folder(path))
            for number in (1, 2):
                (path / f"train-{number}").mkdir()
            return iter(found)

        monkeypatch.setattr(Path, "iterdir", list_then_start_others)
        assert new_run_folder(tmp_path).path.name == "train-3"

    @pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a b", "train\n"])
    def test_names_that_are_no_plain_names(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match="plain name"):
            new_run_folder(tmp_path, name)
        assert not list(tmp_path.iterdir())

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        with pytest.raises(ConfigError, match="runs: can't make the folder of the run: .*move it or choose another"):
            new_run_folder(tmp_path / "runs")

    @pytest.mark.parametrize(
        ("number", "remedy"),
        [(errno.ENOSPC, "free some space"), (errno.EACCES, "choose a folder that you may write to")],
    )
    def test_full_disks_and_missing_rights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
    ) -> None:
        def refuse(*_: Any, **__: Any) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(ConfigError, match=rf"can't make the folder.*{remedy}") as raised:
            new_run_folder(tmp_path / "runs")
        assert "\n" not in str(raised.value)

    def test_opening(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such folder; give the folder of a training run"):
            open_run_folder(tmp_path / "none")
        with pytest.raises(ConfigError, match=r"holds no args\.yaml"):
            open_run_folder(tmp_path)
        RunFolder(tmp_path).write_args({"a": 1})
        assert open_run_folder(tmp_path).read_args() == {"a": 1}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


class TestArgs:
    @given(args=st.dictionaries(st.text(), plain, max_size=5))
    def test_read_back_exactly(self, args: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
        folder = RunFolder(tmp_path_factory.mktemp("run"))
        folder.write_args(args)
        back = folder.read_args()
        assert back == args
        assert json.dumps(back, sort_keys=True) == json.dumps(args, sort_keys=True)  # True is not 1, 1.0 is not 1

    def test_is_sorted_and_readable(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.write_args(
            {"model": "nanodet-g_416", "data": Path("a/data.yaml"), "lr": 1e-05, "size": (416, 416), "名": "帽"}
        )
        text = folder.args.read_text(encoding="utf-8")
        assert text.splitlines() == [
            "data: a/data.yaml",
            "lr: 1.0e-05",
            "model: nanodet-g_416",
            "size:",
            "- 416",
            "- 416",
            "名: 帽",
        ]

    @pytest.mark.parametrize(
        ("content", "said"), [(b"a: [", "isn't YAML"), (b"- 1", "keys and values"), (b"\xff\xfe\xfd", "isn't YAML")]
    )
    def test_a_damaged_file(self, tmp_path: Path, content: bytes, said: str) -> None:
        folder = RunFolder(tmp_path)
        folder.args.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"args\.yaml: .*{said}"):
            folder.read_args()

    def test_no_code_is_run(self, tmp_path: Path) -> None:
        folder = RunFolder(tmp_path)
        folder.args.write_text("!!python/object/apply:os.system ['true']")
        with pytest.raises(ConfigError, match="isn't YAML"):
            folder.read_args()
        with pytest.raises(yaml.YAMLError):
            folder.write_args({"x": object()})


numbers = st.none() | st.floats()
results = st.builds(
    EpochResult,
    epoch=st.just(0),
    step=st.integers(0, 10**9),
    **{name: numbers for name in COLUMNS if name not in ("epoch", "step")},
)
runs = st.lists(results, min_size=1, max_size=6).map(
    lambda rows: [replace(row, epoch=number) for number, row in enumerate(rows, start=1)]
)


def finite(result: EpochResult) -> EpochResult:
    """Returns the result as the table keeps it: what isn't finite wasn't measured."""
    figures = {name: getattr(result, name) for name in COLUMNS}
    return EpochResult(**{
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    })  # fmt: skip


def table_of(path: Path, rows: list[EpochResult]) -> ResultsTable:
    table = ResultsTable(path, auxiliary=True)
    for row in rows:
        table.append(row)
    return table


class TestResultsTable:
    @given(rows=runs)
    def test_reads_back_what_was_written(
        self, rows: list[EpochResult], tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        table = table_of(tmp_path_factory.mktemp("run") / "results.csv", rows)
        assert list(read_results(table.path)) == [finite(row) for row in rows]

    @given(rows=runs, cut=st.floats(0, 1), later=results)
    def test_a_row_after_a_cut_at_any_byte(
        self, rows: list[EpochResult], cut: float, later: EpochResult, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        table = table_of(tmp_path_factory.mktemp("run") / "results.csv", rows)
        content = table.path.read_bytes()
        kept = content[: round(cut * len(content))]
        table.path.write_bytes(kept)
        whole = [finite(row) for row in rows[: max(0, kept.count(b"\n") - 1)]]
        assert list(read_results(table.path)) == whole
        later = replace(later, epoch=len(rows) + 1)
        table.append(later)
        assert list(read_results(table.path)) == [*whole, finite(later)]
        assert table.path.read_bytes().startswith(b"epoch,step,")

    @given(rows=runs, last=st.integers(0, 8))
    def test_resuming_trims_later_epochs(
        self, rows: list[EpochResult], last: int, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        table = table_of(tmp_path_factory.mktemp("run") / "results.csv", rows)
        with table.path.open("ab") as file:
            file.write(b"3,17,cut off")
        wanted = tuple(finite(row) for row in rows if row.epoch <= last)
        assert table.trim(last) == wanted
        assert read_results(table.path) == wanted
        assert table.path.read_bytes().endswith(b"\n")

    @given(content=st.binary(max_size=200))
    def test_any_bytes_give_results_or_one_line(self, content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("run") / "results.csv"
        path.write_bytes(content)
        try:
            read = read_results(path)
        except ConfigError as error:
            assert "results.csv" in str(error) and "\n" not in str(error)
        else:
            assert read == ()

    @given(lines=st.lists(st.text('0123456789.,-eE naif"\r\0\u2028', max_size=40), max_size=5))
    def test_damaged_rows_are_passed_over(self, lines: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
        path = tmp_path_factory.mktemp("run") / "results.csv"
        path.write_bytes("".join(f"{line}\n" for line in ["epoch,step,AP", *lines, "99999999999999999,7,50"]).encode())
        read = read_results(path)
        assert read[-1] == EpochResult(99999999999999999, 7, AP=50.0)
        epochs = [result.epoch for result in read]
        assert epochs == sorted(set(epochs))

    def test_columns_and_empty_cells(self, tmp_path: Path) -> None:
        table = ResultsTable(tmp_path / "results.csv", auxiliary=False)
        table.append(EpochResult(1, 20, time_s=3.5, lr=0.1, loss=float("nan"), AP=float("inf"), aux_qfl=1.0))
        header, row = table.path.read_text().splitlines()
        assert header.startswith("epoch,step,time_s,lr,loss,qfl,bbox,dfl,AP,AP50,AP75,int8_AP,")
        assert row == "1,20,3.5,0.1" + "," * (header.count(",") - 3)

    def test_spreadsheets_and_unknown_columns(self, tmp_path: Path) -> None:
        path = tmp_path / "results.csv"
        path.write_bytes(b'\xef\xbb\xbfnote, AP ,epoch\r\n"a, b",41.5,1\r\n\r\nx,lots,2\r\nx,1\r\nx,nan,-3\r\n')
        assert read_results(path) == (EpochResult(1, 0, AP=41.5), EpochResult(2, 0))

    def test_an_earlier_epoch_replaces_what_follows_it(self, tmp_path: Path) -> None:
        path = tmp_path / "results.csv"
        path.write_text("epoch,step,AP\n1,10,1\n2,20,2\n3,30,3\n2,20,2.5\n")
        assert [result.AP for result in read_results(path)] == [1, 2.5]

    def test_missing_and_foreign_files(self, tmp_path: Path) -> None:
        assert read_results(tmp_path / "none.csv") == ()
        assert ResultsTable(tmp_path / "none.csv", auxiliary=False).trim(3) == ()
        assert not (tmp_path / "none.csv").exists()
        (tmp_path / "other.csv").write_text("a,b\n1,2\n")
        with pytest.raises(ConfigError, match=r"other\.csv: not a table of results"):
            read_results(tmp_path / "other.csv")

    def test_a_full_disk_leaves_the_earlier_rows(self, tmp_path: Path) -> None:
        table = table_of(tmp_path / "results.csv", [EpochResult(1, 10, AP=20.0)])
        before = table.path.read_bytes()
        resource = pytest.importorskip("resource", reason="limits the size of files, on Unix")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, limits[1]))
        try:
            with pytest.raises(ConfigError, match=r"results\.csv: can't add a row: No space left on device; free some"):
                table.append(EpochResult(2, 20, AP=30.0))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert table.path.read_bytes() == before
        table.append(EpochResult(2, 20, AP=30.0))
        assert [result.epoch for result in read_results(table.path)] == [1, 2]

    def test_a_folder_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"results\.csv: can't add a row: No such file"):
            ResultsTable(tmp_path / "gone/results.csv", auxiliary=False).append(EpochResult(1, 1))
