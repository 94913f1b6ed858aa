import re

import jax
import nbformat
import numpy as np
import pytest
from nbclient.exceptions import CellExecutionError

from diffusion_jax.data.imagenet import class_names
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.weights.files import Spec, save_weights
from experiments.notebooks.execute import NOTEBOOK, execute
from tests.tiny import TRUNK

SILENT = ('import importlib', '# @title Where the weights are')  # cells that print nothing where all is there
PICTURE = 'image/png'


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def without_outputs(notebook):
    for cell in code_cells(notebook):
        cell.outputs = []
    return notebook


def printed(cell):
    return ''.join(output.text for output in cell.outputs if output.output_type == 'stream')


def pictures(cell):
    return [output.data[PICTURE] for output in cell.outputs if PICTURE in output.get('data', {})]


def save_tiny_weights(folder):
    """Networks of one level, with parameters that nobody trained."""
    shape = TRUNK | {'image_channels': 3}
    networks = {
        'diffusion': (UNetConfig(**shape, num_classes=1000), DiffusionConfig()),
        'classifier': (ClassifierConfig(**shape), DiffusionConfig()),
    }
    rng = np.random.default_rng(0)
    for name, (network, process) in networks.items():
        params = jax.tree.map(
            lambda leaf: rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), param_shapes(network)
        )
        spec = Spec(network, process, classes=class_names())
        save_weights(folder / 'weights' / f'256x256_{name}.safetensors', spec, params)


@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    """The code cells after a run from top to bottom."""
    folder, notebook = tmp_path_factory.mktemp('notebook'), without_outputs(read())
    save_tiny_weights(folder)
    execute(notebook, folder)
    return code_cells(notebook)


@pytest.mark.slow
def test_every_figure_is_drawn(cells):
    figures = [cell for cell in cells if 'generation.show(' in cell.source]
    assert len(figures) == 5 and all(len(pictures(cell)) == 1 for cell in figures)
    assert len({pictures(cell)[0] for cell in figures}) == 5


@pytest.mark.slow
def test_classes_scales_and_noises_share_one_program(cells):
    drawn = [line for cell in cells for line in printed(cell).splitlines() if re.match(r'\s*[\d.]+ s,', line)]
    assert len(drawn) == 4 + 1 + 4 + 2
    assert 'to compile' in drawn[0]
    assert all('nothing compiled' in line for line in drawn[1:])


def test_weights_that_are_nowhere(tmp_path):
    notebook = without_outputs(read())
    with pytest.raises(CellExecutionError, match='weights/256x256_diffusion.safetensors'):
        execute(notebook, tmp_path)
    assert not any(pictures(cell) for cell in code_cells(notebook))


def test_the_committed_notebook_shows_a_clean_run():
    notebook = read()
    nbformat.validate(notebook)
    for cell in code_cells(notebook):
        assert bool(cell.outputs) != cell.source.startswith(SILENT)
        assert not any(
            output.output_type == 'error' or output.get('name') == 'stderr' for output in cell.outputs
        )
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    text = NOTEBOOK.read_text()
    assert not re.search(r'/(work|tmp|home|root|Users)/', text)
    assert len(text) < 1.5e6
