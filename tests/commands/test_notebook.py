"""The example notebook runs from its first cell to its last."""

import os
import sys
from pathlib import Path

import pytest
from conftest import REPO

NOTEBOOK = REPO / "docs" / "first_run.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning:zmq")
def test_the_notebook_runs_and_its_output_is_readable(tmp_path: Path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "it is kept without outputs"
    folder = tmp_path / "work"
    folder.mkdir()
    place = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=120, coalesce_streams=True, resources=place).execute()
    cells = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]

    trained, _, figure, *_, compared, refused = cells
    loading, progress = sorted(trained, key=lambda output: output.name)  # one block of plain lines
    assert (loading.text, progress.name) == ("Loading PyTorch …\n", "stdout")
    lines = progress.text.splitlines()
    assert len([line for line in lines if line.startswith("epoch ")]) == 2
    assert len(lines) < 50
    assert "image/png" in figure[0].data
    assert "The winner on val is" in compared[-1].text
    assert "resnet19" in refused[0].text
    assert len([*folder.glob("outputs/runs/*/*/metrics.json")]) == 2
