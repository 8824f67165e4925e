"""The notebook for free GPUs, run by a kernel of Jupyter with a tiny model.

It needs nbclient and ipykernel, which are no dependencies: -m slow runs it where they are.
"""

from __future__ import annotations

import os
import sys
import zipfile
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebook" / "voice.ipynb"
TINY = """
CORPUS, SIZE, BASE, STEPS = {corpus!r}, "tiny", "", 4
"""


@pytest.mark.slow
def test_cells_lead_from_a_corpus_to_a_voice(
    spoken_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat = pytest.importorskip("nbformat")
    client = pytest.importorskip("nbclient")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    cells = [cell for cell in book.cells if cell.id != "install"]  # what the tests run in has it
    after = next(i for i, cell in enumerate(cells) if cell.id == "choose") + 1
    cells.insert(after, nbformat.v4.new_code_cell(TINY.format(corpus=str(spoken_corpus))))
    book.cells = cells
    resources = {"metadata": {"path": str(tmp_path)}}
    client.NotebookClient(book, timeout=600, resources=resources).execute()
    spoken = next(cell for cell in cells if cell.id == "speak")
    assert any("text/html" in output.get("data", {}) for output in spoken.outputs)
    with zipfile.ZipFile(tmp_path / "my_voice.zip") as packed:
        assert {"acoustic.onnx", "vocoder.onnx", "index.html"} <= set(packed.namelist())
