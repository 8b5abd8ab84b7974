"""The notebook is stored as it was written, its code compiles, and it runs from top to bottom."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "mdeq_colab.ipynb"
# Few steps, and batches so small that each of the later gradients takes a moment.
REDUCED = """
TRAIN_STEPS, UNROLLED_STEPS, TEST_IMAGES = 6, 4, 12

import mdeq_jax.vision.config

load_whole = mdeq_jax.vision.config.load_config


def load_reduced(name):
    config = load_whole(name)
    config.data.batch_size = 8
    return config


mdeq_jax.vision.config.load_config = load_reduced
"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_stored_without_outputs_in_the_form_that_jupyter_writes():
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count] == []
    assert NOTEBOOK.read_text() == nbformat.writes(notebook) + "\n"


def test_what_it_imports_is_there():
    for cell in code_cells(nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)):
        for node in ast.walk(ast.parse(TransformerManager().transform_cell(cell.source), cell.id)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
                assert missing == [], node.module


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each code cell shows, by the cell's id; of a budget that teaches the model nothing."""
    scratch = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, nbformat.NO_CONVERT)
    (parameters,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    parameters.source += f"\nWORKDIR = {str(scratch / 'run')!r}\n{REDUCED}"
    folder = {"metadata": {"path": str(NOTEBOOK.parent)}}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TFDS_DATA_DIR", str(scratch / "data"))
        NotebookClient(notebook, timeout=600, resources=folder).execute()
    return {cell.id: cell.outputs for cell in code_cells(notebook)}


def printed(outputs):
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


@pytest.mark.slow
def test_nothing_is_installed_where_the_package_is(outputs):
    assert outputs["install"] == []


@pytest.mark.slow
def test_it_trains(outputs):
    assert re.fullmatch(r"[\d.]+% of the test images in \d+ s\n", printed(outputs["train"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("curves", "image/png"),
        ("formation", "image/gif"),
        ("traces", "image/png"),
        ("solvers", "image/png"),
    ],
)
def test_it_shows_pictures(outputs, cell, kind):
    assert [kind for output in outputs[cell] if kind in output.get("data", {})] == [kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "names"),
    [
        ("solvers", ["Picard", "Anderson", "Broyden"]),
        ("gradients", ["Exact", "Phantom", "JacobianFree", "Shine"]),
    ],
)
def test_it_compares(outputs, cell, names):
    head, *rows = [line.split() for line in printed(outputs[cell]).splitlines()]
    assert [row[0] for row in rows] == names
    assert {len(row) for row in rows} == {len(head)}


@pytest.mark.slow
def test_the_imported_model_is_the_authors(outputs):
    accuracy, difference = re.findall(r"[\d.e+-]+\d", printed(outputs["import"]))
    assert float(accuracy) == 100
    assert float(difference) < 1e-3
