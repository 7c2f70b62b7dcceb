"""The cameras that the operating system lists, without opening one."""

from __future__ import annotations

from pathlib import Path

_CLASS_DIR = Path("/sys/class/video4linux")


def cameras(class_dir: Path = _CLASS_DIR) -> dict[int, str]:
    """Returns number -> name of the video devices that Linux lists in `class_dir`; empty on other systems."""
    found: dict[int, str] = {}
    for entry in class_dir.glob("video*"):
        number = entry.name.removeprefix("video")
        if number.isdigit():
            try:
                found[int(number)] = (entry / "name").read_text(encoding="utf-8", errors="replace").strip()
            except OSError:  # unplugged meanwhile
                continue
    return dict(sorted(found.items()))


def cameras_text(class_dir: Path = _CLASS_DIR) -> str:
    """Returns the cameras as the end of a sentence: ``cameras here: 0 (Webcam C920)``."""
    listed = ", ".join(f"{number} ({name})" for number, name in cameras(class_dir).items())
    return f"cameras here: {listed}" if listed else "the system reports no camera"
