"""Which frames are worth labelling, and which look alike."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration.frame_choice import ChoiceRule, Chosen, FrameChooser, Reason
from calibration.picture_hash import hash_distance, picture_hash
from streamer.frames.detections import Detections
from streamer.frames.frame import Frame
from tests.media import picture

RULE = ChoiceRule(conf=0.4, band=0.15, every_s=1.0)
FPS = 10


def seen(*scores: float, left: float = 0.0, class_id: int = 0) -> Detections:
    boxes = [[left + 20 * i, 0, left + 20 * i + 10, 10] for i in range(len(scores))]
    ids = np.full(len(scores), class_id, np.int64)
    return Detections(np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), ids)


def frame(number: int, time_s: float) -> Frame:
    return Frame(np.full((4, 4, 3), number % 256, np.uint8), "door", number, time_s, 0.0)


def choose(
    found: list[Detections], rule: ChoiceRule = RULE, *, random: bool = False, times_s: list[float] | None = None
) -> list[Chosen]:
    chooser = FrameChooser(rule, np.random.default_rng(0), lambda: random)
    times_s = times_s or [index / FPS for index in range(len(found))]
    chosen = [chooser.add(frame(index, at), each) for index, (at, each) in enumerate(zip(times_s, found, strict=True))]
    return [each for each in [*chosen, *chooser.finish()] if each is not None]


def test_the_most_uncertain_frame_of_each_time_is_chosen() -> None:
    sure, edge, unsure = seen(0.9), seen(0.5), seen(0.41)
    chosen = choose([sure] * 3 + [edge, unsure, edge] + [sure] * 9 + [edge] + [sure] * 9)
    assert [(each.index, each.reasons) for each in chosen] == [
        (4, (Reason.NEAR_THRESHOLD,)),
        (15, (Reason.NEAR_THRESHOLD,)),
    ]
    assert (chosen[0].image == 4).all() and chosen[0].detections.scores.tolist() == pytest.approx([0.41])


def test_several_uncertain_objects_count_more_than_one() -> None:
    (chosen,) = choose([seen(0.4), seen(0.45, 0.45, 0.45), seen(0.4)])
    assert chosen.index == 1


def test_sure_frames_and_ones_without_objects_are_not_chosen() -> None:
    assert choose([seen(0.9, 0.1), seen(), seen(0.9)] * 30, times_s=[float(i) for i in range(90)]) == []
    assert choose([]) == []


def test_an_object_that_is_missed_or_found_in_one_frame_alone_flickers() -> None:
    there, gone = seen(0.9), seen()
    assert [(each.index, each.reasons) for each in choose([there] * 3 + [gone] + [there] * 3)] == [
        (3, (Reason.FLICKER,))
    ]
    assert [(each.index, each.reasons) for each in choose([gone] * 3 + [there] + [gone] * 3)] == [
        (3, (Reason.FLICKER,))
    ]
    assert choose([gone] * 3 + [there] * 4) == []  # one that comes and stays
    assert choose([there] * 3 + [gone] * 4) == []


def test_another_class_or_place_is_another_object() -> None:
    for other in (seen(0.9, class_id=1), seen(0.9, left=40)):
        (chosen,) = choose([seen(0.9)] * 3 + [other] + [seen(0.9)] * 3)
        assert (chosen.index, chosen.reasons) == (3, (Reason.FLICKER,))
    assert choose([seen(0.9, left=float(at)) for at in range(7)]) == []  # one that moves


def test_frames_far_apart_are_no_neighbours() -> None:
    assert choose([seen(0.9), seen(), seen(0.9)], times_s=[0.0, 1.0, 2.0]) == []


def test_a_random_frame_where_one_is_due() -> None:
    chosen = choose([seen(0.9)] * 40, random=True)
    assert len(chosen) >= 2 and {each.reasons for each in chosen} == {(Reason.RANDOM,)}
    places = {each.index - choose([seen(0.9)] * 10, random=True)[0].index for each in chosen}
    assert len(places) > 1


def test_all_frames_are_evenly_spaced_whatever_is_in_them() -> None:
    chosen = choose([seen(0.9), seen()] * 15, ChoiceRule(0.4, 0.15, 1.0, all_frames=True), random=True)
    assert [each.index for each in chosen] == [0, 10, 20]
    assert {each.reasons for each in chosen} == {(Reason.EVENLY,)}


def test_the_chosen_picture_is_a_copy() -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    chooser = FrameChooser(RULE, np.random.default_rng(0), lambda: False)
    chooser.add(Frame(pixels, "door", 0, 0.0, 0.0), seen(0.4))
    chooser.add(frame(1, 0.1), seen(0.9))
    pixels[:] = 255
    assert [each.image.max() for each in chooser.finish()] == [0]


@given(
    st.lists(
        st.tuples(st.floats(0, 1.5), st.lists(st.floats(0.0625, 1, width=32), max_size=3)), min_size=1, max_size=60
    ),
    st.floats(0.1, 5),
    st.booleans(),
    st.booleans(),
)
def test_chosen_frames_are_apart_and_in_order(
    given: list[tuple[float, list[float]]], every_s: float, all_frames: bool, random: bool
) -> None:
    times_s = np.cumsum([step for step, _ in given]).tolist()
    rule = ChoiceRule(0.4, 0.15, every_s, all_frames)
    chosen = choose([seen(*scores) for _, scores in given], rule, times_s=times_s, random=random)
    at = [each.time_s for each in chosen]
    assert all(after - before >= every_s - 1e-9 for before, after in pairwise(at))
    assert all(each.reasons for each in chosen)
    for each in chosen:
        if each.reasons == (Reason.NEAR_THRESHOLD,):
            assert (abs(each.detections.scores - 0.4) < 0.15 + 1e-6).any()


class TestHash:
    def test_noise_light_and_compression_change_little(self) -> None:
        random = np.random.default_rng(0)
        image = cv2.resize(picture(0b1010_0110_0101_1001), (640, 480))
        noisy = np.clip(image + random.normal(0, 12, image.shape) + 4, 0, 255).astype(np.uint8)
        packed = cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
        even = np.clip(np.full((480, 640, 3), 90) + random.normal(0, 12, (480, 640, 3)), 0, 255).astype(np.uint8)
        for one, other in ((image, noisy), (image, packed), (even, np.full_like(even, 94))):
            assert hash_distance(picture_hash(one), picture_hash(other)) < 0.01

    def test_an_object_that_comes_changes_more(self) -> None:
        road = np.full((480, 640, 3), 90, np.uint8)
        car = road.copy()
        car[200:300, 300:400] = 200
        moved = np.roll(car, 100, axis=1)
        hashes = [picture_hash(each) for each in (road, car, moved)]
        for one, other in ((0, 1), (1, 2)):
            assert hash_distance(hashes[one], hashes[other]) > 0.01

    def test_pictures_that_differ_have_a_distance_of_their_own(self) -> None:
        one, other = picture_hash(picture(1)), picture_hash(picture(30_000))
        assert hash_distance(one, one) == 0
        assert 0.02 < hash_distance(one, other) == hash_distance(other, one) <= 1
