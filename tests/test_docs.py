"""The Python code of the README and of docs/sampling.md runs, and is as short as it says."""

import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion_jax.data.imagenet import class_names
from diffusion_jax.diffusion import denoiser, grids, guidance, samplers
from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.diffusion.grids import make_grid
from diffusion_jax.diffusion.samplers import loop
from diffusion_jax.generation import loading, options, sampling
from diffusion_jax.models import ClassifierConfig, UNetConfig, param_shapes
from diffusion_jax.sharding import make_mesh
from diffusion_jax.weights.files import Spec, save_weights
from diffusion_jax.weights.released import RELEASED
from tests.tiny import TRUNK
from tests.versions import VERSIONS

ROOT = Path(__file__).parent.parent
SAMPLING, README = ROOT / 'docs' / 'sampling.md', ROOT / 'README.md'
MOST_LINES = 12


def blocks(path):
    return re.findall(r'^```python\n(.*?)^```', path.read_text(), re.MULTILINE | re.DOTALL)


def test_blocks_are_short():
    for block in blocks(SAMPLING):
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= MOST_LINES, block


@pytest.fixture
def _one_device(monkeypatch):
    """Programs for one device compile faster than those for eight."""
    monkeypatch.setattr(loading, 'make_mesh', lambda: make_mesh(devices=jax.devices()[:1]))


@pytest.mark.usefixtures('_one_device')
def test_sampling(tmp_path, monkeypatch):
    """With a stored run in the place of runs/digits, and its weights."""
    version = VERSIONS[-1]
    shutil.copytree(version / 'run', tmp_path / 'runs' / 'digits')
    for name in ('diffusion.safetensors', 'classifier.safetensors'):
        shutil.copy(version / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    scope = {'__name__': 'sampling'}
    for number, block in enumerate(blocks(SAMPLING), 1):
        exec(compile(block, f'{SAMPLING.name}, block {number}', 'exec'), scope)
    model = scope['model']
    assert (tmp_path / 'threes.png').stat().st_size
    assert scope['other'].evaluations == 12
    assert scope['steps'].x_0.shape == (5, 8, 8, 8, 1) and len(scope['gradients']) == 5
    assert scope['x'].shape == (8, 8, 8, 1) and np.isfinite(scope['x']).all()
    completed, known = scope['completed'].images, scope['known']
    kept = np.abs((completed + 0.5) / 127.5 - 1 - np.asarray(known)) < 0.01
    assert kept[:, :, :4].all() and not kept[:, :, 4:].all()
    by_hand = np.asarray(scope['images']).astype(int)
    np.testing.assert_allclose(by_hand, model.sample(8, 3).images, rtol=0, atol=1)
    assert scope['gradient'].shape == (8, 8, 8, 1) and np.abs(scope['gradient']).max() > 0


def test_settings_of_the_table_exist():
    """Samplers, guidances and grids as they stand in the text, for the paper's two processes."""
    choice, grids_of_levels = SAMPLING.read_text().split('### Grids')

    def named(name, text):
        return re.findall(rf"{name}='([^']*)'", text)

    samplers_, guidances = named('sampler', choice), named('guidance', choice)
    assert len(samplers_) >= 3 and len(guidances) >= 3
    for text in samplers_:
        options.read_sampler(text)
    for text in guidances:
        assert options.read_guidance(text)
    checked = 0
    for row in choice.splitlines():
        for respacing in named('respacing', row):
            for schedule in ('cosine', 'linear'):
                make_grid(DiffusionConfig(schedule=schedule), respacing, *named('timesteps', row))
                checked += 1
    for texts in re.findall(r'^\| (`.*?) \|', grids_of_levels, re.MULTILINE):
        for text in re.findall('`([^`]*)`', texts):
            make_grid(DiffusionConfig(), text)
            checked += 1
    assert checked >= 12


def test_recipes_of_the_table_are_those_of_the_models():
    rows = re.findall(r'^\| (\w+) \| ([\d.]+) \| .* \| ([\d.]+) \| ', SAMPLING.read_text(), re.MULTILINE)
    assert len(rows) == 5
    for name, *scales in rows:
        (_, paper), (_, ddim) = RELEASED[name].recipes
        assert [paper.respacing, ddim.respacing] == ['250', 'ddim25']
        assert [recipe.guidance[0].scale for recipe in (paper, ddim)] == [float(scale) for scale in scales]


@pytest.mark.usefixtures('_one_device')
def test_readme(tmp_path, monkeypatch):
    """With networks of one level in the place of the released ones."""
    shape = TRUNK | {'image_channels': 3}
    networks = {
        'diffusion': UNetConfig(**shape, out_channels=6, num_classes=1000),
        'classifier': ClassifierConfig(**shape),
    }
    rng = np.random.default_rng(0)
    for name, network in networks.items():
        params = jax.tree.map(
            lambda leaf: rng.normal(scale=0.05, size=leaf.shape).astype(np.float32), param_shapes(network)
        )
        file, process = f'256x256_{name}', DiffusionConfig()
        spec = Spec(network, process, file, class_names())
        save_weights(tmp_path / f'{file}.safetensors', spec, params)
    monkeypatch.chdir(tmp_path)
    first, second = blocks(README)
    scope = {}
    exec(first, scope)
    assert (tmp_path / '25 steps.png').stat().st_size
    more = scope['more']
    assert more.evaluations == 25
    model, request = scope['model'], scope['model'].request(8, 207, recipe='paper-ddim', scale=6.0)
    keys = sampling.sample_keys(request.seed, request.index)
    scope = vars(samplers) | vars(denoiser) | vars(loop) | vars(guidance) | vars(grids) | vars(sampling)
    scope |= {
        'networks': model.networks,
        'params': model.params,
        'y': request.y,
        'scale': 6.0,
        'keys': keys,
        'x_T': loop.initial_noise(keys, (8, 8, 3)),
    }
    exec(second, scope)
    np.testing.assert_allclose(np.asarray(scope['images'], int), more.images, rtol=0, atol=1)
