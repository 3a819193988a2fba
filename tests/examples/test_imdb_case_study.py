"""All cells of the case study run, on small files and with a tiny model."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")

NOTEBOOK = Path(__file__).parents[2] / "examples" / "imdb_case_study.ipynb"


def read_notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def write_reviews(path: Path, rows, split: str) -> None:
    """Write rows as `bertfit prepare imdb` does: id, text, label, rating, movie."""
    ratings = {"neg": 2, "pos": 9}
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            rating = ratings[row["label"]]
            name = f"{split}/{row['label']}/{number}_{rating}"
            file.write(json.dumps({"id": name, "rating": rating, **row}) + "\n")


def test_the_notebook_is_stored_without_outputs():
    notebook = read_notebook()
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.outputs or cell.execution_count for cell in code] == [None] * len(code)


@pytest.fixture
def cells(tmp_path, monkeypatch, tiny_model_dir, make_reviews):
    """Give the cells, for small files and a tiny model, in a folder of their own."""
    data = tmp_path / "imdb"
    data.mkdir()
    write_reviews(data / "imdb_train.jsonl", make_reviews(80, seed=1), "train")
    write_reviews(data / "imdb_test.jsonl", make_reviews(40, seed=2), "test")
    monkeypatch.setenv("BERTFIT_IMDB_DIR", str(data))
    monkeypatch.chdir(tmp_path)
    notebook = read_notebook()
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    assert notebook.cells[first].metadata.tags == ["parameters"]
    smaller = f"MODEL, EPOCHS, MAX_LENGTH = {str(tiny_model_dir)!r}, 1, 12"
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(smaller))
    return notebook


def check_what_was_printed(printed: str) -> None:
    assert "Positive (" in printed or "Negative (" in printed
    assert any(name in printed for name in ("TF-IDF", "NB-SVM", "majority class"))
    assert "Labels: neg → 0, pos → 1." in printed
    assert Path("runs", "imdb_case_study", "bertfit.json").is_file()


def test_all_cells_run(cells):
    printed, namespace = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        for cell in cells.cells:
            if cell.cell_type == "code":
                code = cell.source.replace("%matplotlib inline", "")
                exec(compile(code, cell.id, "exec"), namespace)  # noqa: S102 (our own notebook)
    check_what_was_printed(printed.getvalue())


@pytest.mark.slow
def test_the_notebook_runs_and_draws_its_plots(cells, monkeypatch, tmp_path):
    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    # The kernel is no test: its plots are drawn inline, as a reader's are.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    nbclient = pytest.importorskip("nbclient")
    client = nbclient.NotebookClient(
        cells, timeout=100, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    assert len(find_outputs(cells, "image/png")) == 3
    check_what_was_printed("\n".join(find_outputs(cells, "text/plain")))


def find_outputs(notebook, kind: str) -> list[str]:
    """Return the data of one MIME type, and for text/plain all that was printed too."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.output_type == "stream" and kind == "text/plain":
                found.append(output.text)
            found += [value for name, value in output.get("data", {}).items() if name == kind]
    return found
