"""What a protocol says of samples."""

import dataclasses

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.evaluation.protocol import sampling_protocol


def test_steps_of_a_grid_of_nearest_timesteps_that_repeats_a_level():
    stamp = {
        'sample': {'respacing': 'sigma:5,5,1', 'timesteps': 'nearest'},
        'process': dataclasses.asdict(DiffusionConfig()),
        'diffusion': {},
    }
    assert sampling_protocol(stamp)['steps'] == 3
