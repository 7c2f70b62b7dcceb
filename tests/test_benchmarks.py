"""The benchmark: its arithmetic, its clip, its tables, and one short run of everything."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import clips, cpu_isa, memory, run
from benchmarks.bound import STAGES, bound_fps
from benchmarks.contenders import Contender, LoopBody, onnxruntime_of, openvino_of
from benchmarks.measure import Figures, Miscounted, Round, Spread, measure
from benchmarks.quality import psnr_db, psnr_of
from benchmarks.table import markdown_table, write_section
from streamer.common.errors import ConfigError
from streamer.detector import DEFAULT_MODEL, open_detector
from streamer.models.file import load_model
from streamer.models.letterbox import Letterbox
from streamer.models.postprocess import Postprocessor
from streamer.models.zoo import resolve_model
from streamer.sources import open_source
from tests.media import number_of, picture, write_clip
from tests.tiny import tiny_spec, write_tiny


def _times(video: Path) -> list[int]:
    with av.open(str(video)) as container:
        return [frame.pts for frame in container.decode(video=0) if frame.pts is not None]


# --- arithmetic ---


@pytest.mark.parametrize(
    ("cores", "stages", "fps"),
    [(2, {"decode": 0.002, "detect": 0.006, "encode": 0.002}, 200.0), (1, {"detect": 0.01}, 100.0)],
)
def test_bound_is_cores_over_the_sum_of_stages(cores: int, stages: dict[str, float], fps: float) -> None:
    assert bound_fps(cores, stages) == pytest.approx(fps)


@pytest.mark.parametrize(("cores", "stages"), [(0, {"detect": 0.01}), (2, {}), (2, {"detect": 0.0})])
def test_bound_refuses_what_has_none(cores: int, stages: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted at least one core"):
        bound_fps(cores, stages)


def test_figures_are_medians_of_whole_runs() -> None:
    figures = Figures("x", None, [Round(100, 1.0, 2.0, 0.0), Round(100, 2.0, 1.0, 0.5), Round(100, 4.0, 4.0)])
    assert figures.fps == Spread(50.0, 25.0, 100.0)
    assert figures.cpu_ms_per_frame == Spread(20.0, 10.0, 40.0)
    assert figures.others_cores == 0.5
    assert Figures("x", None, [Round(1, 1.0, 1.0)]).others_cores is None


@pytest.mark.parametrize(("error", "db"), [(0.0, math.inf), (255.0**2, 0.0), (65.025, 30.0)])
def test_psnr_of_a_mean_squared_error(error: float, db: float) -> None:
    assert psnr_db(error) == pytest.approx(db)


# --- the clip ---


def test_clip_is_footage_in_order_and_looped_until_long_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "SIZE_WH", (96, 64))
    footage = [write_clip(tmp_path / "one.mp4", 3), write_clip(tmp_path / "two.mp4", 2)]
    assert clips.write_clip(footage, tmp_path / "clip.mp4", 7) == 5
    with av.open(str(tmp_path / "clip.mp4")) as container:
        numbers = [number_of(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    assert numbers == [0, 1, 2, 0, 1, 0, 1]
    assert clips.count_frames(tmp_path / "clip.mp4") == 7


def test_clip_shorter_than_its_footage_repeats_nothing(tmp_path: Path) -> None:
    footage = [write_clip(tmp_path / "one.mp4", 4)]
    assert clips.write_clip(footage, tmp_path / "clip.mp4", 3) == 3
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate) == (*clips.SIZE_WH, clips.FPS)


def test_repeated_clip_has_every_frame_at_its_own_time(tmp_path: Path) -> None:
    once = write_clip(tmp_path / "once.mp4", 6, codec_options={"bf": "2", "preset": "medium"})
    clips.repeat_clip(once, tmp_path / "thrice.mp4", 3)
    times = _times(tmp_path / "thrice.mp4")
    assert len(times) == clips.count_frames(tmp_path / "thrice.mp4") == 18
    assert len(set(np.diff(times).tolist())) == 1


def test_footage_without_shared_clips_is_the_sample_for_a_smoke_run_only(tmp_path: Path) -> None:
    assert [path.name for path in clips.find_footage(tmp_path, smoke=True)] == ["sample.mp4"]
    with pytest.raises(ConfigError, match="--clip FILE"):
        clips.find_footage(tmp_path, smoke=False)


def test_clip_may_begin_anywhere_in_its_footage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "SIZE_WH", (96, 64))
    footage = [write_clip(tmp_path / "one.mp4", 5)]
    clips.write_clip(footage, tmp_path / "clip.mp4", 4, first=3)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        numbers = [number_of(frame.to_ndarray(format="bgr24")) for frame in container.decode(video=0)]
    assert numbers == [3, 4, 0, 1]


# --- measuring ---


class _Copier(Contender):
    name = "copier"

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def run(self, clip: Path, output: Path) -> int:
        write_clip(output, self._frames)
        return self._frames


def test_a_contender_that_writes_every_frame_is_timed(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    one = measure(_Copier(5), clip, tmp_path / "out.mp4")
    assert one.frames == 5
    assert one.wall_s > 0 and one.cpu_s > 0


@pytest.mark.parametrize("written", [4, 6])
def test_lost_or_repeated_frames_give_no_figure(tmp_path: Path, written: int) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 5)
    with pytest.raises(Miscounted, match=f"copier: the clip has 5 frames, it says {written}, its file holds {written}"):
        measure(_Copier(written), clip, tmp_path / "out.mp4")


def test_psnr_tells_a_true_video_from_a_wrong_one(tmp_path: Path) -> None:
    video = write_clip(tmp_path / "clip.mp4", 4, codec_options={"crf": "5"})
    mean, worst = psnr_of(video, {0: picture(0), 3: picture(3)})
    assert mean >= worst > 30
    mean, worst = psnr_of(video, {0: picture(0), 3: picture(60)})
    assert worst < mean < 30
    with pytest.raises(ValueError, match="holds 1 of them"):
        psnr_of(video, {0: picture(0), 4: picture(4)})


def test_loop_body_feeds_what_our_own_engines_compute_on_and_draws_what_is_found(tmp_path: Path) -> None:
    spec = tiny_spec()
    model = load_model(write_tiny(tmp_path / "tiny.onnx", spec))
    fed: list[npt.NDArray[np.float32]] = []

    def network(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        fed.append(image)
        output = np.zeros((spec.num_points, spec.output_channels), np.float32)
        output[27, 1] = 0.9  # a car at the middle of the first level
        return output

    frame = np.full((48, 96, 3), (10, 20, 30), np.uint8)
    drawn = LoopBody(model, network)(frame)
    assert drawn is frame
    assert (frame != (10, 20, 30)).any()
    (image,) = fed
    assert image.shape == (1, 3, 64, 64) and image.dtype == np.float32
    wanted = (np.array([10, 20, 30]) - spec.mean_bgr) / spec.std_bgr
    np.testing.assert_allclose(image[0, :, 32, 32], wanted, rtol=1e-5)
    np.testing.assert_allclose(image[0, :, 0, 0], -np.array(spec.mean_bgr) / spec.std_bgr, rtol=1e-5)


@pytest.mark.parametrize("package", ["onnxruntime", "openvino"])
def test_peers_compute_the_packaged_model_as_we_do(package: str) -> None:
    pytest.importorskip(package)
    model = load_model(resolve_model(DEFAULT_MODEL)[0])
    with open_source("sample") as source:
        frame = next(islice(source, 240, None))
    with open_detector(device="cpu", conf=0.5) as detector:
        ((_, ours),) = detector.stream([frame])
        precision = detector.info.precision
    runtime = onnxruntime_of(model) if package == "onnxruntime" else openvino_of(model, precision)
    outputs: list[npt.NDArray[np.float32]] = []
    network = runtime.load()

    def kept(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        outputs.append(network(image))
        return outputs[-1]

    LoopBody(model, kept)(frame.image.copy())
    letterbox = Letterbox.fit(frame.size_wh, model.spec.input_size_wh, model.spec.keep_ratio)
    theirs = Postprocessor(model.spec, 0.4, 0.6)(outputs[0], letterbox)
    assert len(ours) >= 2
    for box, class_id in zip(ours.boxes_xyxy, ours.class_ids, strict=True):
        same = theirs.boxes_xyxy[theirs.class_ids == class_id]
        assert len(same) and np.abs(same - box).max(axis=1).min() < 40


# --- what is printed ---


def test_table_is_aligned_and_its_rows_are_whole() -> None:
    assert markdown_table(["name", "n"], [["a", "1"], ["longer", "22"]]).splitlines() == [
        "| name   |   n |",
        "| ------ | --: |",
        "| a      |   1 |",
        "| longer |  22 |",
    ]
    with pytest.raises(ValueError, match="wanted 2 cells, got 1"):
        markdown_table(["name", "n"], [["a"]])


def test_section_replaces_what_stands_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- x begin -->\nold\n<!-- x end -->\nafter\n")
    write_section(page, "x", "new")
    write_section(page, "x", "newer\n")
    assert page.read_text() == "before\n<!-- x begin -->\nnewer\n<!-- x end -->\nafter\n"


def test_section_makes_a_page_but_spoils_none(tmp_path: Path) -> None:
    write_section(tmp_path / "new.md", "x", "text")
    assert (tmp_path / "new.md").read_text() == "<!-- x begin -->\ntext\n<!-- x end -->\n"
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ConfigError, match="lacks the marks"):
        write_section(page, "x", "text")
    assert page.read_text() == "no marks"


def test_report_holds_every_contender_against_ours() -> None:
    figures = [
        Figures("(a) ours", None, [Round(100, 1.0, 1.5, 0.0)], (40.0, 35.5), 2_000_000),
        Figures("(b) loop", 1.8, [Round(100, 2.0, 2.5, 0.25)], (39.0, 38.0), 1_000_000),
        Figures("(c) slow", 1.3, [Round(100, 1.25, 1.5, 0.0)]),
    ]
    stages = dict.fromkeys(STAGES, 0.25e-2)
    text = run.report(run.Comparison("net", "openvino f32", figures, stages, ["(d) x: vidgear not installed"], 90.0))
    (row,) = (line for line in text.splitlines() if line.startswith("| (b) loop"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == ["(b) loop", "50.0", "50.0 - 50.0", "25.0", "0.25", "2.00", "39.0 / 38.0", "1.0"]
    assert "(a) / (b) loop: 2.00, wanted 1.8: reached" in text
    assert "(a) / (c) slow: 1.25, wanted 1.3: missed" in text
    assert "PSNR of (a), dB: 40.00, wanted 36: reached" in text
    assert "Left out: (d) x: vidgear not installed." in text
    assert "= 10.00 CPU ms a frame)" in text


def test_memory_report_holds_the_last_sample_against_the_first() -> None:
    text = memory.report("dir/net.onnx", {2000: 100 * 2**20, 20000: 103 * 2**20})
    (row,) = (line for line in text.splitlines() if line.startswith("| 20,000"))
    assert [cell.strip() for cell in row.strip("|").split("|")] == ["20,000", "103.0", "+3.00%"]
    assert "Growth +3.00%; wanted at most +2%." in text


# --- whole runs ---


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--frames", "-1"], ["--frames", "x"]])
def test_bad_usage_ends_with_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run.main(arguments)
    assert ended.value.code == 2


def test_a_missing_clip_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--clip", str(tmp_path / "none.mp4")]) == 1
    assert "none.mp4" in capsys.readouterr().err


@pytest.mark.slow
def test_smoke_run_measures_everything_on_the_sample(tmp_path: Path) -> None:
    (sample,) = clips.find_footage(tmp_path, smoke=True)
    model = write_tiny(tmp_path / "tiny.onnx", tiny_spec())
    page, figures = tmp_path / "page.md", tmp_path / "figures.json"
    arguments = [
        "--smoke",
        "--clip",
        str(sample),
        "--frames",
        "20",
        "--model",
        str(model),
        "--markdown",
        str(page),
        "--json",
        str(figures),
    ]
    assert run.main(arguments) == 0
    (found,) = json.loads(figures.read_text())["models"]
    names = [contender["name"][:3] for contender in found["contenders"]] + [left[:3] for left in found["left_out"]]
    assert sorted(names) == ["(a)", "(b)", "(c)", "(c)", "(d)"]
    for contender in found["contenders"]:
        assert contender["fps"]["median"] > 0
        assert contender["psnr_db"][0] > 20
    assert set(found["stages_cpu_s"]) == set(STAGES)
    assert "from sample.mp4" in page.read_text()


@pytest.mark.slow
def test_memory_is_sampled_all_along_a_run(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.onnx", tiny_spec())
    figures = tmp_path / "figures.json"
    arguments = ["--frames", "200", "--model", str(model), "--json", str(figures)]
    assert memory.main([*arguments, "--clip", "streamer/data/sample.mp4"]) == 0
    samples = json.loads(figures.read_text())["rss_bytes"]
    assert len(samples) == 10
    assert all(int(frames) >= 20 * (place + 1) for place, frames in enumerate(samples))


def test_the_table_of_instruction_sets_has_a_row_for_each() -> None:
    medians = {
        (engine, isa, threads, model): value
        for engine, isa in (("openvino", "AVX2"), ("onnxruntime", "DEFAULT"))
        for threads in (1, 2)
        for model, value in zip(cpu_isa.PAIR, (30.0, 12.0), strict=True)
    }
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in cpu_isa.table(medians, (1, 2)).splitlines()]
    assert rows[2] == ["openvino, AVX2", "30.0", "12.0", "2.50", "30.0", "12.0", "2.50"]
    assert rows[3][0] == "onnxruntime, all of this processor"
