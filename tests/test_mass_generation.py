"""Many samples: killed at any moment, the program resumes to the same images."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from diffusion_jax.data.image_sets.archive import open_archive, open_samples
from tests.hosts import untrained
from tests.program import arguments, run


@pytest.mark.slow
def test_killed_at_random_moments_it_draws_the_same_images(tmp_path):
    change = untrained(tmp_path / 'diffusion.safetensors') | {'sample__num_samples': 1500}
    assert run(tmp_path / 'undisturbed', 'sample', **change) == 0
    command = [sys.executable, '-m', 'diffusion_jax.main']
    command += arguments(tmp_path / 'killed', 'sample', **change)[1:]
    folder = tmp_path / 'killed' / 'samples' / 'shards'
    drawn, moments = [], random.Random(0)
    for _ in range(20):
        before = len(list(folder.glob('*.npz')))
        program = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
        while program.poll() is None and len(list(folder.glob('*.npz'))) == before:
            pass  # until it has drawn something
        try:
            code = program.wait(moments.uniform(0, 0.5))
        except subprocess.TimeoutExpired:
            program.kill()
            code = program.wait()
        drawn.append(len(list(folder.glob('*.npz'))))
        if code == 0:
            break
    else:
        assert run(tmp_path / 'killed', 'sample', **change) == 0
    assert len(drawn) >= 3  # it was killed on the way
    undisturbed, killed = (open_samples(tmp_path / name / 'samples') for name in ('undisturbed', 'killed'))
    index = np.arange(1500)
    np.testing.assert_array_equal(killed.take(index), undisturbed.take(index))
    np.testing.assert_array_equal(killed.labels, index % 10)
    one_file = open_archive(tmp_path / 'killed' / 'samples' / 'samples.npz')
    np.testing.assert_array_equal(one_file.images, undisturbed.take(index))
