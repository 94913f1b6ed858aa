"""Run the notebook from top to bottom and store its output.

    python experiments/notebooks/shrunk.py runs/shrunk/weights
    python experiments/notebooks/execute.py runs/shrunk

The second command replaces the notebook. Both need the extras `dev` and `experiments`.
"""

import argparse
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).with_name('imagenet256.ipynb')


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Fills in the outputs of all cells. The folder, in which they run, holds the weights.

    Raises:
        CellExecutionError: from a cell that failed; those after it were not run.
    """
    NotebookClient(
        notebook,
        timeout=600,
        resources={'metadata': {'path': str(folder)}},
        record_timing=False,
        coalesce_streams=True,
    ).execute()
    for cell in notebook.cells:
        for output in cell.get('outputs', ()):
            output.get('data', {}).pop('image/jpeg', None)  # Pillow gives every picture as a PNG, too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('folder', type=Path, help='where the notebook runs; holds weights/')
    folder = parser.parse_args().folder
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata = notebook.metadata.copy()
    execute(notebook, folder)
    notebook.metadata = metadata  # without the versions of this Python
    nbformat.write(notebook, NOTEBOOK)


if __name__ == '__main__':
    main()
