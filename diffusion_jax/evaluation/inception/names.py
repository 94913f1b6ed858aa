"""The PyTorch port's state_dict to our parameters, batch norms folded into the convolutions."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from flax import traverse_util

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.network import Params, param_shapes

EPSILON = 1e-3  # of TensorFlow's batch norms


def state_shapes() -> dict[str, tuple[int, ...]]:
    """The arrays that `params_from_state` reads, with their shapes: PyTorch's names and layouts."""
    shapes = {}
    for (*path, leaf), array in traverse_util.flatten_dict(param_shapes()).items():
        name = '.'.join(path)
        if name == 'logits':
            shapes['fc.weight'] = array.shape[::-1]
        elif leaf == 'kernel':
            height, width, channels_in, channels = array.shape
            shapes[f'{name}.conv.weight'] = (channels, channels_in, height, width)
            for statistic in ('weight', 'bias', 'running_mean', 'running_var'):
                shapes[f'{name}.bn.{statistic}'] = (channels,)
    return shapes


def params_from_state(arrays: Mapping[str, np.ndarray]) -> Params:
    """Our parameters. Folded in float64 and cast once to float32.

    Arrays of other names are ignored: num_batches_tracked, and fc.bias, which Inception scores do without.

    Raises:
      UserError: an array is missing or has another shape.
    """
    for name, shape in state_shapes().items():
        if name not in arrays:
            raise UserError(f'{name} is missing')
        if arrays[name].shape != shape:
            raise UserError(f'{name} has the shape {arrays[name].shape}, not {shape}')
    params = {}
    for path in dict.fromkeys(path[:-1] for path in traverse_util.flatten_dict(param_shapes())):
        if path == ('logits',):
            params[*path, 'kernel'] = np.ascontiguousarray(arrays['fc.weight'].T, np.float32)
        else:
            params[*path, 'kernel'], params[*path, 'bias'] = fold(arrays, '.'.join(path))
    return traverse_util.unflatten_dict(params)


def fold(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [kh, kw, in, out] and bias: s·(W∗x − mean) + β = (s·W)∗x + (β − s·mean), s = γ/√(var + ε)."""
    weight, gamma, beta, mean, variance = (
        np.asarray(arrays[f'{name}.{part}'], np.float64)
        for part in ('conv.weight', 'bn.weight', 'bn.bias', 'bn.running_mean', 'bn.running_var')
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return np.ascontiguousarray(kernel, np.float32), np.float32(beta - mean * scale)
