"""Stage `sample` with populations of particles."""

import json
import shutil

import numpy as np
import pytest

from diffusion_jax import main
from tests.versions import VERSIONS


@pytest.mark.slow
def test_samples_of_populations(tmp_path):
    """Two batches of two populations each, of one label each; images are those of any other batch size."""
    shutil.copytree(VERSIONS[-1] / 'run', tmp_path / 'run')
    flags = [
        'main',
        f'--config={VERSIONS[-1] / "config.py"}',
        f'--workdir={tmp_path / "run"}',
        '--stage=sample',
    ]
    flags += [
        '--config.sample.sampler=smc:particles=4',
        '--config.sample.eta=0',
        '--config.sample.num_samples=16',
        '--config.sample.unguided=True',
    ]
    found = {}
    for size in (8, 16):
        assert (
            main.main([*flags, f'--config.sample.name=in_{size}', f'--config.sample.batch_size={size}']) == 0
        )
        paths = sorted((tmp_path / 'run' / 'samples' / f'in_{size}' / 'shards').iterdir())
        assert len(paths) == 16 // size
        files = [np.load(path) for path in paths]
        found[size] = [np.concatenate([file[name] for file in files]) for name in ('arr_0', 'arr_1')]
    np.testing.assert_array_equal(found[8][1], np.repeat([0, 1, 2, 3], 4))
    np.testing.assert_array_equal(found[16][1], found[8][1])
    np.testing.assert_allclose(found[8][0].astype(int), found[16][0].astype(int), rtol=0, atol=1)
    unguided = tmp_path / 'run' / 'samples' / 'in_16' / 'unguided'
    files = [np.load(path) for path in sorted((unguided / 'shards').iterdir())]
    np.testing.assert_array_equal(np.concatenate([file['arr_1'] for file in files]), found[16][1])
    assert json.loads((unguided / 'stamp.json').read_text())['sample']['sampler'] == 'ddpm'
    assert main.main([*flags, '--config.sample.name=other', '--config.sample.batch_size=6']) == 2
