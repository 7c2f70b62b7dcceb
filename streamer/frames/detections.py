"""The objects detected in one frame."""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from streamer.common.errors import nearest
from streamer.frames.palette import class_colour

if TYPE_CHECKING:
    from supervision import Detections as SupervisionDetections

Rows: TypeAlias = "slice | Sequence[int] | Sequence[bool] | npt.NDArray[np.bool_] | npt.NDArray[np.integer[Any]]"

NO_TRACK = -1
"""In `Detections.track_ids`: the object has no id, or not yet."""

_MOST_SHOWN = 10  # objects in a repr


class Detection(NamedTuple):
    """One object.

    Attributes:
        box_xyxy: left, top, right, bottom in pixels of the source frame.
        score: 0 to 1.
        class_id: index into the model's labels.
        label: the class's name; the id in digits where the labels aren't known.
        track_id: the same for one object in frame after frame, from 1; None where it has none, or not yet.
    """

    box_xyxy: tuple[float, float, float, float]
    score: float
    class_id: int
    label: str
    track_id: int | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Detections:
    """The objects found in one frame, best score first.

    Example:
        >>> import numpy as np
        >>> boxes = np.array([[10, 20, 110, 220], [0, 150, 60, 190]])
        >>> found = Detections(boxes, np.array([0.9, 0.55]), np.array([0, 2]), labels=("person", "bicycle", "car"))
        >>> found
        Detections(2: person 0.90, car 0.55)
        >>> found[0].label, found.filter(classes=["car"]).boxes_xyxy.tolist(), len(found[:1])
        ('person', [[0.0, 150.0, 60.0, 190.0]], 1)

    Attributes:
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels of the source frame.
        scores: (N,) float32 in [0, 1].
        class_ids: (N,) int64, indices into the model's labels.
        is_reused: True if they are an earlier frame's because the detector skipped this one.
        labels: the model's class names by class id; empty where they aren't known.
        track_ids: (N,) int64, `NO_TRACK` for objects without an id; None where nothing is tracked.

    Raises:
        ValueError: if the arrays differ in length, or a shape is wrong.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    is_reused: bool = False
    labels: tuple[str, ...] = ()
    track_ids: npt.NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes_xyxy, np.float32)
        scores = np.asarray(self.scores, np.float32)
        class_ids = np.asarray(self.class_ids, np.int64)
        n = len(scores) if scores.ndim == 1 else -1
        if boxes.shape != (n, 4) or class_ids.shape != (n,):
            raise ValueError(
                f"wanted boxes (N, 4), scores (N,) and class_ids (N,), "
                f"got {boxes.shape}, {scores.shape} and {class_ids.shape}"
            )
        arrays: dict[str, npt.NDArray[Any]] = {"boxes_xyxy": boxes, "scores": scores, "class_ids": class_ids}
        if self.track_ids is not None:
            arrays["track_ids"] = np.asarray(self.track_ids, np.int64)
            if arrays["track_ids"].shape != (n,):
                raise ValueError(f"wanted track_ids (N,) for {n} boxes, got {arrays['track_ids'].shape}")
        for name, array in arrays.items():
            array = array.view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    @classmethod
    def empty(cls, labels: tuple[str, ...] = ()) -> Detections:
        """Returns empty detections: arrays of shape (0, 4), (0,) and (0,)."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), labels=labels)

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Detection]:
        """Yields one `Detection` after the other, best score first."""
        rows = zip(
            self.boxes_xyxy.tolist(), self.scores.tolist(), self.class_ids.tolist(), self.ids_or_none(), strict=True
        )
        for box, score, class_id, track_id in rows:
            yield Detection(tuple(box), score, class_id, self._label(class_id), track_id)

    def ids_or_none(self) -> list[int | None]:
        """Returns the track id of each object, None where it has none."""
        if self.track_ids is None:
            return [None] * len(self)
        return [None if track_id == NO_TRACK else track_id for track_id in self.track_ids.tolist()]

    @overload
    def __getitem__(self, rows: int) -> Detection: ...

    @overload
    def __getitem__(self, rows: Rows) -> Detections: ...

    def __getitem__(self, rows: int | Rows) -> Detection | Detections:
        """Returns one `Detection` for a number; for a slice, numbers or (N,) bool, those as `Detections`.

        Raises:
            IndexError: if there is no such object, or a mask has another length.
        """
        if isinstance(rows, (int, np.integer)):
            class_id = int(self.class_ids[rows])
            left, top, right, bottom = self.boxes_xyxy[rows].tolist()
            score, track_id = float(self.scores[rows]), self.ids_or_none()[rows]
            return Detection((left, top, right, bottom), score, class_id, self._label(class_id), track_id)
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        if isinstance(chosen, np.ndarray) and not chosen.size and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.int64)  # an empty list
        return replace(
            self,
            boxes_xyxy=self.boxes_xyxy[chosen],
            scores=self.scores[chosen],
            class_ids=self.class_ids[chosen],
            track_ids=None if self.track_ids is None else self.track_ids[chosen],
        )

    @property
    def areas(self) -> npt.NDArray[np.float32]:
        """(N,) float32: the boxes' areas in square pixels."""
        sides = np.maximum(self.boxes_xyxy[:, 2:] - self.boxes_xyxy[:, :2], 0)
        return np.asarray(sides[:, 0] * sides[:, 1], np.float32)

    def filter(
        self,
        *,
        classes: Collection[str | int] | str | int | None = None,
        min_score: float = 0.0,
        min_area: float = 0.0,
        max_area: float = float("inf"),
    ) -> Detections:
        """Returns the objects for which all of this is true.

        Args:
            classes: labels, in any case, or class ids to keep, or one; None keeps all.
            min_score: lowest score to keep, 0 to 1.
            min_area: smallest area to keep, in square pixels of the frame.
            max_area: largest area to keep.

        Raises:
            ValueError: if a label isn't among `labels`; the nearest is named.
        """
        areas = self.areas
        kept = (self.scores >= np.float32(min_score)) & (areas >= min_area) & (areas <= max_area)
        if classes is not None:
            each = [classes] if isinstance(classes, (str, int)) else classes
            kept &= np.isin(self.class_ids, [self._class_id(name) for name in each])
        return self[kept]

    def where(self, kept: npt.NDArray[np.bool_]) -> Detections:
        """Returns the objects for which `kept`, (N,) bool, is True."""
        return self[kept]

    def reused(self) -> Detections:
        """Returns the same objects for a later frame that the detector skips."""
        return replace(self, is_reused=True)

    def to_dict(self) -> dict[str, Any]:
        """Returns what JSON can hold: ``{"detections": [{"label", "class_id", "score", "box_xyxy"}, ...]}``.

        The keys are those of a JSON line, with ``"held": true`` if the detections are reused, and ``"track_id"`` for
        objects that have one. Numbers aren't rounded.
        """
        objects = [
            {"label": one.label, "class_id": one.class_id, "score": one.score, "box_xyxy": list(one.box_xyxy)}
            | ({} if one.track_id is None else {"track_id": one.track_id})
            for one in self
        ]
        return {**({"held": True} if self.is_reused else {}), "detections": objects}

    def to_supervision(self) -> SupervisionDetections:
        """Returns copies as `supervision.Detections`, with the labels as ``data["class_name"]``, and ids where tracked.

        Raises:
            ImportError: if supervision isn't installed.
        """
        import supervision

        return supervision.Detections(
            xyxy=self.boxes_xyxy.copy(),
            confidence=self.scores.copy(),
            class_id=self.class_ids.copy(),
            tracker_id=None if self.track_ids is None else self.track_ids.copy(),
            data={"class_name": np.array([self._label(class_id) for class_id in self.class_ids.tolist()], dtype=str)},
        )

    @classmethod
    def from_supervision(cls, detections: SupervisionDetections, labels: Sequence[str] = ()) -> Detections:
        """Returns copies of a `supervision.Detections`, best score first; the way back from `to_supervision`.

        Args:
            detections: its masks, its data and metadata are left out. A box without a score has 1, without a class 0.
            labels: class names by class id.
        """
        n = len(detections)
        scores = (
            np.ones(n, np.float32) if detections.confidence is None else np.array(detections.confidence, np.float32)
        )
        order = np.argsort(-scores, kind="stable")
        class_ids = np.zeros(n, np.int64) if detections.class_id is None else np.array(detections.class_id)
        track_ids = None if detections.tracker_id is None else np.array(detections.tracker_id, np.int64)[order]
        boxes = np.array(detections.xyxy, np.float32)
        return cls(boxes[order], scores[order], class_ids[order], labels=tuple(labels), track_ids=track_ids)

    def __repr__(self) -> str:
        shown = [
            f"{one.label}{'' if one.track_id is None else f' #{one.track_id}'} {one.score:.2f}"
            for one in self[:_MOST_SHOWN]
        ]
        shown += [f"{len(self) - _MOST_SHOWN} more"] if len(self) > _MOST_SHOWN else []
        reused = ", reused" if self.is_reused else ""
        return f"Detections({len(self)}{': ' if shown else ''}{', '.join(shown)}{reused})"

    def _repr_html_(self) -> str:
        """Returns a small table for notebooks, with each class in the colour of its box."""
        rows = []
        for one in self[:_MOST_SHOWN]:
            blue, green, red = class_colour(one.class_id)
            box = ", ".join(f"{side:.0f}" for side in one.box_xyxy)
            mark = f'<span style="color:rgb({red},{green},{blue})">&#9632;</span>'
            rows.append(
                f"<tr><td>{mark} {html.escape(one.label)}</td><td>{one.score:.2f}</td><td>{html.escape(box)}</td></tr>"
            )
        if len(self) > _MOST_SHOWN:
            rows.append(f'<tr><td colspan="3">{len(self) - _MOST_SHOWN} more</td></tr>')
        head = "<tr><th>label</th><th>score</th><th>left, top, right, bottom</th></tr>"
        caption = f"{len(self)} detections{', reused' if self.is_reused else ''}"
        return f"<table><caption>{caption}</caption>{head if rows else ''}{''.join(rows)}</table>"

    def _label(self, class_id: int) -> str:
        return self.labels[class_id] if 0 <= class_id < len(self.labels) else str(class_id)

    def _class_id(self, name: str | int) -> int:
        if not isinstance(name, str):
            return int(name)
        ids = [index for index, label in enumerate(self.labels) if label == name]
        ids += [index for index, label in enumerate(self.labels) if label.casefold() == name.casefold()]
        if not ids:
            known = nearest(name, self.labels) if self.labels else ": the labels aren't known here, give its class id"
            raise ValueError(f"there is no class {name!r}{known}")
        return ids[0]


Keep: TypeAlias = Callable[[Detections, tuple[int, int]], Detections]
"""Drops detections of a frame of that width and height which aren't to be reported."""
