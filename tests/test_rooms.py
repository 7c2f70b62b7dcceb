"""The order of the rooms: no module imports from a room above its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

CLONE = Path(__file__).parent.parent
PACKAGE = CLONE / "streamer"
CALIBRATION = CLONE / "calibration"

# Bottom to top, as in docs/architecture.md.
ROOMS = (
    "common",
    "frames",
    "models",
    "cuda",
    "engines",
    "detector",
    "tracking",
    "sources",
    "sinks",
    "events",
    "runtime",
    "web",
    "app",
)
ENTRANCES = ("__init__.py", "__main__.py")  # above all rooms
# Bottom to top. The modules beside them are verbs, and what verbs and rooms share.
CALIBRATION_ROOMS = ("data", "run_folder", "training")


def imported(path: Path, package: str = "streamer") -> set[str]:
    """Returns the dotted names that a module imports from a package, imports for annotations included."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == package}


def test_no_import_runs_up() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for room in ROOMS
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for name in sorted(imported(path))
        if name != "streamer.__version__" and ROOMS.index(name.split(".")[1]) > ROOMS.index(room)
    ]
    assert not upward


def test_every_module_is_in_a_room() -> None:
    outside = (
        {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"data", "configs", "__pycache__"} - set(ROOMS)
    )
    assert not outside
    assert {path.name for path in PACKAGE.glob("*.py")} == set(ENTRANCES)


def test_rooms_exist() -> None:
    assert all((PACKAGE / room / "__init__.py").is_file() for room in ROOMS)


def test_no_import_of_calibration_runs_up() -> None:
    upward = [
        f"{path.relative_to(CALIBRATION)} imports {name}"
        for number, room in enumerate(CALIBRATION_ROOMS)
        for path in sorted((CALIBRATION / room).rglob("*.py"))
        for name in sorted(imported(path, "calibration"))
        if name.split(".")[1] in CALIBRATION_ROOMS[number + 1 :]
    ]
    assert not upward


def test_streamer_does_not_import_calibration() -> None:
    assert not [path for path in sorted(PACKAGE.rglob("*.py")) if imported(path, "calibration")]


def test_only_the_room_of_training_imports_torch() -> None:
    paths = [path for room in CALIBRATION_ROOMS[:-1] for path in sorted((CALIBRATION / room).rglob("*.py"))]
    assert paths
    assert not [path for path in paths if imported(path, "torch")]


def test_rooms_of_calibration_exist() -> None:
    found = {path.name for path in CALIBRATION.iterdir() if path.is_dir()} - {"__pycache__"}
    assert found == set(CALIBRATION_ROOMS)
    assert all((CALIBRATION / room / "__init__.py").is_file() for room in CALIBRATION_ROOMS)


def test_what_the_extra_quantize_is_for_needs_no_torch() -> None:
    verbs = ("quantize", "evaluate", "inspect_model", "import_model", "methods", "search", "gate", "check")
    code = f"import sys; sys.modules['torch'] = None\nimport {', '.join(f'calibration.{verb}' for verb in verbs)}"
    subprocess.run([sys.executable, "-c", code], cwd=CLONE, check=True, timeout=120)
