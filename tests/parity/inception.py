"""Inception v3 (2015-12-05) against its PyTorch port, with weights drawn by a rule instead of stored."""

from __future__ import annotations

import ast
import functools
import zlib

import jax
import numpy as np

from diffusion_jax.evaluation.inception import network
from diffusion_jax.evaluation.inception.resize import RESIZE
from diffusion_jax.evaluation.inception.sources import params_from_state, state_shapes
from tests.parity.case import Case, Check
from tests.parity.compare import compare
from tests.parity.models import assert_norm_close

FEATURES_RTOL = 1e-4
RESIZE_ATOL = 1e-5

features = jax.jit(network.features)


def check_inception(case: Case) -> None:
    arrays = case.arrays
    recorded = dict(key.split(' ', 1) for key in arrays['keys'])
    for name, shape in state_shapes().items():
        assert ast.literal_eval(recorded[name]) == shape
    params = params_by_rule(int(arrays['seed']))
    for i in range(sum(name.startswith('images_') for name in arrays)):
        x = jax.jit(RESIZE['tensorflow'])(arrays[f'images_{i}'])
        expected = arrays[f'resized_strided_{i}']
        stride = -(-x.shape[1] // expected.shape[1])
        compare('resized images', x[:, ::stride, ::stride], expected, atol=RESIZE_ATOL)
        pool, spatial = features(params, x)
        assert_norm_close('pool', pool, arrays[f'pool_{i}'], FEATURES_RTOL)
        assert_norm_close('spatial', spatial, arrays[f'spatial_{i}'].reshape(spatial.shape), FEATURES_RTOL)
        logits = network.logits(params, pool)
        assert_norm_close('logits', logits, arrays[f'logits_unbiased_{i}'], FEATURES_RTOL)


@functools.lru_cache
def params_by_rule(seed: int) -> network.Params:
    return params_from_state(state_by_rule(seed))


def state_by_rule(seed: int) -> dict[str, np.ndarray]:
    """A state_dict of random weights, under which activations keep their size."""
    return {name: _draw(seed, name, shape) for name, shape in state_shapes().items()}


def _draw(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    if name.endswith('running_var'):
        return np.float32(np.exp(0.1 * normal))
    if name.endswith(('running_mean', 'bias')):
        return np.float32(0.1 * normal)
    if name.endswith('bn.weight'):
        return np.float32(1 + 0.1 * normal)
    return np.float32(normal * np.sqrt(2 / np.prod(shape[1:])))


def _is_inception(case: Case) -> bool:
    return {'keys', 'images_0', 'pool_0', 'spatial_0'} <= set(case.meta.get('arrays', ()))


CHECKS = [Check('Inception', _is_inception, check_inception)]
