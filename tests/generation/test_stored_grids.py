"""Grids by name beside the weights: stored, found again, and refused where they cannot work."""

import dataclasses
import tempfile

import jax
import numpy as np
import pytest

from diffusion_jax import main, models
from diffusion_jax.command_line import parse_flags
from diffusion_jax.diffusion.recipe import Recipe
from diffusion_jax.generation.loading import describe
from diffusion_jax.generation.requests import read_recipe
from diffusion_jax.generation.stored_grids import save_grid, stored_grids
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.workdir import write_stamp
from tests.errors import refused
from tests.program import arguments
from tests.tiny import DIFFUSION, UNET

GRID = 'sigma:9,1,0.1'


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / 'model.safetensors'
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.param_shapes(UNET))
    save_weights(path, Spec(UNET, DIFFUSION), zeros)
    return path


def test_a_model_knows_its_grids_by_name(weights):
    save_grid(weights, 'fast', 'karras:7')
    save_grid(weights, 'gits-3', GRID)
    save_grid(weights, 'fast', 'karras:5')
    assert (weights.parent / 'model.respacings.json').exists()
    model, _ = describe(weights)
    assert model.grids == (('fast', 'karras:5'), ('gits-3', GRID))
    assert '; grids: fast, gits-3; ' in repr(model)
    assert read_recipe(model, None, respacing='gits-3').respacing == GRID
    assert read_recipe(model, Recipe(respacing='fast')).respacing == 'karras:5'
    with refused('respacing', 'gits-4', 'fast, gits-3'):
        read_recipe(model, None, respacing='gits-4')


def test_a_config_names_a_grid_of_its_run_or_of_a_pretrained_model(weights, tmp_path):
    def respacing(workdir, **changes):
        options = parse_flags(arguments(workdir, 'sample', sample__respacing='gits-3', **changes))
        return main._with_stored_grid(options)['sample']['respacing']

    save_grid(weights, 'gits-3', GRID)
    assert respacing(tmp_path / 'empty', pretrained__diffusion=weights) == GRID
    assert respacing(tmp_path / 'empty') == 'gits-3'  # which is refused when the config is read
    run = tmp_path / 'run'
    write_stamp(run / 'diffusion', {'diffusion': dataclasses.asdict(DIFFUSION)})
    (run / 'diffusion' / 'respacings.json').write_text('{"gits-3": "t:90,1"}')
    assert respacing(run) == 't:90,1'


def test_the_program_samples_on_a_stored_grid(weights, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(main, 'run_experiment', lambda experiment, *rest: seen.append(experiment))
    save_grid(weights, 'gits-3', GRID)
    flags = arguments(tmp_path, 'sample', sample__respacing='gits-3', pretrained__diffusion=weights)
    assert main.main(flags) == 0
    assert [experiment.sample.respacing for experiment in seen] == [GRID]
    options = parse_flags(flags)
    wrong = options._replace(config=options.config | {'sample': 3})
    assert main._with_stored_grid(wrong)['sample'] == 3  # which is refused when the config is read


def test_what_cannot_be_stored_or_read_is_refused(weights, monkeypatch):
    for name in ('250', 'ddim25', 'karras:9', '', 'a b', 3):
        with refused('name', name):
            save_grid(weights, name, GRID)
    with refused('respacing', 'sigma:'):
        save_grid(weights, 'fast', 'sigma:')
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, 'TemporaryFile', lambda dir: open(weights.parent / 'no' / 'folder', 'wb'))
        with refused('model.respacings.json', 'cannot be written'):
            save_grid(weights, 'fast', GRID)
    with refused('nothing.safetensors'):
        save_grid(weights.with_name('nothing.safetensors'), 'fast', GRID)
    assert stored_grids(weights) == {}
    weights.with_name('model.respacings.json').write_text('[1]')
    with refused('model.respacings.json', 'list'):
        describe(weights)
