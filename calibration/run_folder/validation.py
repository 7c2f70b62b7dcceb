"""Writes all that is drawn of one model's detections in the validation pictures."""

from __future__ import annotations

from collections.abc import Sequence

from calibration.accuracy import Found
from calibration.agreement import SHOWN
from calibration.files import to_json, write_whole
from calibration.labels import Sample
from calibration.run_folder.confusion import ConfusionMatrix, confusion_matrix
from calibration.run_folder.confusion_plot import draw_confusion
from calibration.run_folder.curve_plots import draw_confidence, draw_precision_recall
from calibration.run_folder.curves import WANTED_PRECISION, DetectionCurves, detection_curves
from calibration.run_folder.drawings import draw_validation
from calibration.run_folder.folder import RunFolder


def write_validation(
    folder: RunFolder,
    samples: Sequence[Sample],
    found: Sequence[Found],
    names: Sequence[str],
    *,
    wanted_precision: float = WANTED_PRECISION,
) -> tuple[DetectionCurves, ConfusionMatrix]:
    """Writes the curves, as JSON too, the confusion matrix at the best threshold, and pictures with detections.

    Args:
        folder: of the run.
        samples: the validation pictures and their labels.
        found: their sizes and detections, in the same order, with scores down to about 0.05.
        names: the classes by class id.
        wanted_precision: the precision that a threshold is wanted for, 0 to 1.

    Raises:
        ConfigError: a file can't be written, or Matplotlib isn't installed.
    """
    curves = detection_curves(samples, found, names, wanted_precision=wanted_precision)
    best = curves.overall.best
    threshold = best.threshold if best else SHOWN
    matrix = confusion_matrix(samples, found, names, threshold)
    content = {"curves": curves.to_dict(), "confusion": matrix.to_dict()}
    write_whole(folder.curves, f"{to_json(content)}\n".encode())
    draw_precision_recall(curves, folder.precision_recall_picture)
    draw_confidence(curves, folder.confidence_picture)
    draw_confusion(matrix, folder.confusion_picture, normalised=False)
    draw_confusion(matrix, folder.normalised_confusion_picture, normalised=True)
    draw_validation(samples, found, names, folder.validation_picture(0), threshold=threshold)
    return curves, matrix
