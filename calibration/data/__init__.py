"""Labelled pictures to train on: a data.yaml, COCO or Pascal VOC files to splits, and what is wrong with them."""

from calibration.data.findings import Finding, Severity
from calibration.data.reading import TrainingData, read_data

__all__ = ["Finding", "Severity", "TrainingData", "read_data"]
