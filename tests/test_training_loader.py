"""Batches of training pictures: the same for a seed and step, from any number of threads, and always an end."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.labels import Sample  # noqa: E402
from calibration.pictures import Picture, network_input  # noqa: E402
from calibration.training.augmentation import Augmentation  # noqa: E402
from calibration.training.loader import Batch, Loader  # noqa: E402
from calibration.training.photometry import network_inputs  # noqa: E402
from calibration.training.picture_store import PictureStore  # noqa: E402
from streamer.common.errors import ConfigError  # noqa: E402
from streamer.frames.frame import Frame  # noqa: E402
from streamer.models.letterbox import Letterbox  # noqa: E402
from streamer.models.spec import spec_for  # noqa: E402
from streamer.sources.image_decoding import read_image  # noqa: E402
from tests.training_pictures import labelled, picture, write_pictures  # noqa: E402

SPEC = spec_for("nanodet-g_416").with_input_size((64, 64))
STRONG = Augmentation.strong()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return write_pictures(tmp_path_factory.mktemp("pictures"), 10)


def batches(samples: list[Sample], count: int, augmentation: Augmentation = STRONG, **options: int) -> list[Batch]:
    with Loader(samples, SPEC, augmentation, options.pop("batch", 4), options.pop("seed", 3), **options) as loader:  # type: ignore[arg-type]
        return [next(loader) for _ in range(count)]


def assert_equal(one: Batch, other: Batch) -> None:
    assert one.step == other.step
    for name in ("images", "indices"):
        assert torch.equal(getattr(one, name), getattr(other, name))
    for name in ("boxes", "labels", "is_valid", "is_ignored"):
        assert torch.equal(getattr(one.truth, name), getattr(other.truth, name))
    assert (one.colour is None) == (other.colour is None)
    assert one.colour is None or torch.equal(one.colour.values, other.colour.values)  # type: ignore[union-attr]


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("loader-")]


def test_batches_do_not_depend_on_threads(samples: list[Sample]) -> None:
    for one, four in zip(batches(samples, 12, workers=1), batches(samples, 12, workers=4), strict=True):
        assert_equal(one, four)


def test_batches_go_on_where_a_run_was_stopped(samples: list[Sample]) -> None:
    whole = batches(samples, 9, workers=2)
    for expected, resumed in zip(whole[5:], batches(samples, 4, workers=3, start_step=5), strict=True):
        assert_equal(expected, resumed)


def test_other_seeds_and_steps_give_other_batches(samples: list[Sample]) -> None:
    first, second = batches(samples, 2)
    (other,) = batches(samples, 1, seed=4)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


def test_a_picture_looks_different_each_time(samples: list[Sample]) -> None:
    made = batches(samples[:1], 3, Augmentation(translate=0.3), batch=2)
    looks = [image for batch in made for image in batch.images]
    assert not any(torch.equal(one, other) for number, one in enumerate(looks) for other in looks[:number])


def test_ranks_share_each_batch(samples: list[Sample]) -> None:
    whole = batches(samples, 3)
    shares = [batches(samples, 3, Augmentation(flip=0.5), rank=rank, world=2) for rank in range(2)]
    for step, batch in enumerate(whole):
        assert batch.indices[0::2].tolist() == shares[0][step].indices.tolist()
        assert batch.indices[1::2].tolist() == shares[1][step].indices.tolist()


def test_every_picture_is_seen_once_an_epoch(samples: list[Sample]) -> None:
    seen = [index for batch in batches(samples, 5, Augmentation.none()) for index in batch.indices.tolist()]
    assert Counter(seen[:10]) == Counter(seen[10:]) == Counter(range(10))
    assert seen[:10] != seen[10:]


def test_epochs_of_steps(samples: list[Sample]) -> None:
    with Loader(samples, SPEC, STRONG, 4) as loader:
        assert [loader.sampler.epoch_of(step) for step in range(6)] == [0, 0, 0, 1, 1, 2]
        assert [loader.sampler.first_step_of(epoch) for epoch in range(3)] == [0, 3, 5]
        assert loader.sampler.steps_an_epoch == 3


@pytest.mark.parametrize("count", [1, 3])
def test_batches_may_be_larger_than_the_set(samples: list[Sample], count: int) -> None:
    (batch,) = batches(samples[:count], 1, batch=8)
    assert set(batch.indices.tolist()) == set(range(count))


def test_without_augmentation_inputs_are_the_runtimes(samples: list[Sample]) -> None:
    batch = batches(samples, 1, Augmentation.none())[0]
    inputs = network_inputs(batch.images, SPEC, batch.colour)
    assert batch.images.dtype == torch.uint8 and inputs.dtype == torch.float32
    for row, index in enumerate(batch.indices.tolist()):
        frame = Frame(read_image(samples[index].image), "images", 0, 0.0, 0.0)
        letterbox = Letterbox.for_model(frame, SPEC)
        pixels = np.zeros((64, 64, 3), np.uint8)
        letterbox.apply(frame, pixels)
        assert np.array_equal(batch.images[row].numpy(), pixels)
        expected = network_input(Picture(samples[index], frame.size_wh, letterbox, pixels), SPEC)
        assert np.array_equal(inputs[row].numpy(), expected[0])
        assert batch.truth.labels[row, 0] == index % 2


def test_crowds_arrive_as_ignored_regions(samples: list[Sample]) -> None:
    crowded = [
        Sample(each.image, each.class_ids, each.boxes_cxcywh, np.ones(1, bool), each.areas) for each in samples[:2]
    ]
    truth = batches(crowded, 1, Augmentation.none())[0].truth
    assert truth.is_ignored.sum() == truth.is_valid.sum() == 4
    assert not truth.is_object.any()


def test_all_background_works(samples: list[Sample]) -> None:
    for settings in (Augmentation.none(), STRONG):
        truth = batches([Sample.of(each.image, []) for each in samples], 2, settings)[0].truth
        assert not truth.is_valid.any()
        assert truth.boxes.shape[1:] == (8, 4)


def test_settings_change_from_a_step_on_although_it_was_made_ahead(samples: list[Sample]) -> None:
    plain, strong = batches(samples, 6, Augmentation.none()), batches(samples, 6)
    with Loader(samples, SPEC, STRONG, 4, 3, workers=2, ahead=4) as loader:
        made = [next(loader)]
        loader.set_augmentation(Augmentation.none(), from_step=3)
        made += [next(loader) for _ in range(5)]
    for number, batch in enumerate(made):
        assert_equal(batch, (plain if number >= 3 else strong)[number])


def test_settings_changed_before_a_resumed_run_are_in_force(samples: list[Sample]) -> None:
    plain = batches(samples, 6, Augmentation.none())
    with Loader(samples, SPEC, STRONG, 4, 3, start_step=4) as loader:
        loader.set_augmentation(Augmentation.none(), from_step=3)
        assert_equal(next(loader), plain[4])


def spoil(folder: Path, count: int, spoilt: int) -> list[Sample]:
    samples = write_pictures(folder, count)
    for each in samples[:spoilt]:
        each.image.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return samples


def test_a_corrupt_picture_is_named_once_and_replaced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    samples = spoil(tmp_path, 10, 1)
    with caplog.at_level(logging.WARNING), Loader(samples, SPEC, STRONG, 4, 3, workers=4) as loader:
        made = [next(loader) for _ in range(5)]
        assert loader.unreadable == [samples[0].image]
    assert [record.message.count("000.png: skipped") for record in caplog.records] == [1]
    seen = Counter(index for batch in made for index in batch.indices.tolist())
    assert sum(seen.values()) == 20 and set(seen) == set(range(1, 10))
    for one, four in zip(batches(samples, 5, workers=1), made, strict=True):
        assert_equal(one, four)


@pytest.mark.parametrize("count", [2, 40])
def test_too_many_corrupt_pictures_are_refused(tmp_path: Path, count: int) -> None:
    samples = spoil(tmp_path, count, max(2, count // 10))
    with pytest.raises(ConfigError, match="pictures can't be read"), Loader(samples, SPEC, STRONG, count) as loader:
        for _ in range(3):
            next(loader)
    assert not loader_threads()


def test_a_set_of_one_corrupt_picture_is_refused(tmp_path: Path) -> None:
    with Loader(spoil(tmp_path, 1, 1), SPEC, STRONG, 4) as loader, pytest.raises(ConfigError, match="none of the pict"):
        next(loader)


def test_a_missing_file_counts_as_unreadable(tmp_path: Path) -> None:
    samples = write_pictures(tmp_path, 3)
    samples[1].image.unlink()
    with Loader(samples, SPEC, Augmentation.none(), 3) as loader:
        assert 1 not in next(loader).indices.tolist()


def test_errors_in_threads_reach_the_consumer(samples: list[Sample]) -> None:
    class Broken(PictureStore):
        def read(self, index: int) -> np.ndarray:
            raise ZeroDivisionError("in a thread")

    with Loader(samples, SPEC, STRONG, 4, store=Broken(samples, budget_bytes=0)) as loader:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError, match="in a thread"):
                next(loader)


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_closing_early_stops_all_threads(samples: list[Sample], taken: int) -> None:
    with Loader(samples, SPEC, STRONG, 4, workers=4) as loader:
        for _ in range(taken):
            next(loader)
        assert len(loader_threads()) == 4
    assert not loader_threads()
    loader.close()  # again does nothing
    with pytest.raises(ValueError, match="closed"):
        next(loader)


def test_an_error_of_the_consumer_stops_all_threads(samples: list[Sample]) -> None:
    with pytest.raises(KeyError), Loader(samples, SPEC, STRONG, 4) as loader:
        next(loader)
        raise KeyError
    assert not loader_threads()


def test_closing_ends_a_consumer_that_waits_in_another_thread(samples: list[Sample]) -> None:
    is_open = threading.Event()

    class Waiting(PictureStore):
        def read(self, index: int) -> np.ndarray:
            is_open.wait()
            return super().read(index)

    loader = Loader(samples, SPEC, STRONG, 4, workers=1, store=Waiting(samples, budget_bytes=0))
    said: list[BaseException] = []

    def consume() -> None:
        try:
            next(loader)
        except ValueError as error:
            said.append(error)

    consumer = threading.Thread(target=consume)
    consumer.start()
    loader.close()
    consumer.join(10)
    is_open.set()
    loader.close()  # waits for the thread
    assert [str(error) for error in said] == ["the loader is closed"]


@pytest.mark.parametrize(("augmentation", "side"), [(Augmentation.none(), 640), (Augmentation(flip=1.0), 128)])
def test_large_pictures_are_shrunk_to_twice_what_training_shows(
    tmp_path: Path, augmentation: Augmentation, side: int
) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), picture((640, 320)))
    with Loader([labelled(tmp_path / "a.png")], SPEC, augmentation, 1) as loader:
        batch = next(loader)
        assert max(loader.store.read(0).shape) == side
    assert batch.truth.boxes[0, 0].tolist() == pytest.approx(
        [19.2, 24, 32, 33.6] if side == 640 else [32, 24, 44.8, 33.6]
    )


def test_waiting_is_counted(samples: list[Sample]) -> None:
    with Loader(samples, SPEC, STRONG, 4) as loader:
        next(loader)
        assert loader.waited_s > 0


def test_wrong_numbers_are_refused(samples: list[Sample]) -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        Loader([], SPEC, STRONG, 4)
    with pytest.raises(ConfigError, match="multiple of 3"):
        Loader(samples, SPEC, STRONG, 4, world=3)
    with pytest.raises(ConfigError, match="seed"):
        Loader(samples, SPEC, STRONG, 4, -1)
    assert not loader_threads()
