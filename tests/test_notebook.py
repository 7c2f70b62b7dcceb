"""The notebook of examples/: it runs, and what is stored of its outputs is small."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def outputs(cells: list[Any]) -> list[Any]:
    return [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]


def kinds(cells: list[Any]) -> list[list[str]]:
    return [sorted(output.get("data", {"stream": ""})) for output in outputs(cells)]


def test_its_outputs_are_stored_and_small() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert NOTEBOOK.stat().st_size < 100_000
    assert [kind for each in kinds(cells) for kind in each].count("image/jpeg") == 1
    assert all(cell["execution_count"] for cell in cells if cell["cell_type"] == "code")
    assert not [output for output in outputs(cells) if output["output_type"] in ("error", "stream")]
    assert not any(cell["metadata"] for cell in cells)


@pytest.mark.slow
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs pip install '.[notebook]'")
    pytest.importorskip("ipykernel", reason="needs pip install '.[notebook]'")
    nbformat = pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    stored = kinds(notebook.cells)
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert kinds(notebook.cells) == stored
