"""The objects detected in one frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Detections:
    """The objects found in one frame, best score first.

    Attributes:
        boxes_xyxy: (N, 4) float32, left, top, right, bottom in pixels of the source frame.
        scores: (N,) float32 in [0, 1].
        class_ids: (N,) int64, indices into the model's labels.
        is_reused: True if they are an earlier frame's because the detector skipped this one.

    Raises:
        ValueError: if the three arrays differ in length, or a shape is wrong.
    """

    boxes_xyxy: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    class_ids: npt.NDArray[np.int64]
    is_reused: bool = False

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
        for name, array in (("boxes_xyxy", boxes), ("scores", scores), ("class_ids", class_ids)):
            array = array.view()
            array.flags.writeable = False
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        return len(self.scores)

    def where(self, kept: npt.NDArray[np.bool_]) -> Detections:
        """Returns the objects for which `kept`, (N,) bool, is True."""
        return replace(self, boxes_xyxy=self.boxes_xyxy[kept], scores=self.scores[kept], class_ids=self.class_ids[kept])

    def reused(self) -> Detections:
        """Returns the same objects for a later frame that the detector skips."""
        return replace(self, is_reused=True)

    @classmethod
    def empty(cls) -> Detections:
        """Returns empty detections: arrays of shape (0, 4), (0,) and (0,)."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
