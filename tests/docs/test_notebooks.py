"""The notebooks are text that Jupyter opens, and they run from their first cell to the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupytext
import matplotlib.pyplot as plt
import nbformat
import pytest

from helpers.places import PROJECT

FOLDER = PROJECT / "docs/notebooks"
SMALL = {
    "records_to_model": {
        "COUNT, SIDE, EPOCHS = 300, 128, 10": "COUNT, SIDE, EPOCHS = 24, 64, 1",
        '"encoder": "resnet10t", "decoder": {"channels": [64, 32, 32, 16, 16]}': (
            '"encoder": "test_resnet", "decoder": {"channels": [8, 8, 8, 8, 8]}'
        ),
    },
    "scan_to_map": {"ROWS, COLUMNS = 400, 500": "ROWS, COLUMNS = 80, 96"},
}
"""In the order in which they are read, what makes them quick."""


def test_every_notebook_is_tested() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(SMALL)


@pytest.mark.slow
def test_notebooks_convert_and_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plt.switch_backend("agg")
    plt.close("all")  # what the examples of a page left open
    variables: dict[str, Any] = {}
    for name, changes in SMALL.items():
        jupytext.write(jupytext.read(FOLDER / f"{name}.py"), f"{name}.ipynb")
        notebook = nbformat.read(f"{name}.ipynb", nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        kinds = [cell.cell_type for cell in notebook.cells]
        assert kinds[0] == "markdown"
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
        for own, small in changes.items():
            assert text.count(own) == 1, own
            text = text.replace(own, small)
        variables = {}
        exec(compile(text, name, "exec"), variables)
        assert len(plt.get_fignums()) == 3
        plt.close("all")
    assert variables["predicted"].sizes["y"] == 80
    assert Path("contrails.gpkg").is_file()
