"""The notebook of the documentation runs from its first cell to its last, in a real kernel."""

from pathlib import Path

import matplotlib
import nbformat
import pytest
import ray
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parent.parent / "docs" / "inpainting.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*(zmq|asyncio|event loop).*")
def test_notebook_runs_and_shows_what_it_promises(ray_local, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # Nothing of Jupyter's is left in the user's.
    monkeypatch.setenv("MPLCONFIGDIR", matplotlib.get_cachedir())  # It has the list of fonts.
    monkeypatch.setenv("RAY_ADDRESS", ray.get_runtime_context().gcs_address)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 2
    texts = [output["data"].get("text/plain", "") for output in shown if "data" in output]
    assert any(text.startswith("Inpainter(") for text in texts)
    assert set(eval(texts[-1])) == {3, 6}
