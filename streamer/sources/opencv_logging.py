"""Silences OpenCV's own log: errors here say in one line what its warnings say in ten."""

from __future__ import annotations

import os

import cv2


def quiet_opencv() -> None:
    """Silences OpenCV's log for this process, unless the environment sets OPENCV_LOG_LEVEL."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
