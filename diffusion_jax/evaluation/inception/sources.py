"""Released files of Inception v3 (2015-12-05). The file type is detected from the contents."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

from diffusion_jax.errors import UserError, reason
from diffusion_jax.evaluation.inception.files import InceptionWeights, params_sha256
from diffusion_jax.evaluation.inception.graph_def import read_graph
from diffusion_jax.evaluation.inception.network import Params, param_shapes
from diffusion_jax.weights.arrays import check_finite
from diffusion_jax.weights.torch_files import STARTS, read_state

RELEASED = ('pt_inception-2015-12-05-6726825d.pth', 'classify_image_graph_def.pb')
REMEDY = f'use {RELEASED[0]} (pytorch-fid) or {RELEASED[1]} (TensorFlow)'
BATCH_NORM = ('weight', 'bias', 'running_mean', 'running_var')
EPSILON = 1e-3  # of the batch norms


def read_inception(path: str | Path) -> InceptionWeights:
    """Reads one of the released files; nothing in it is executed.

    Raises UserError if it is neither, is damaged, or needs PyTorch, which is missing.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f'{path}', f'cannot be read ({reason(error)})', REMEDY) from error
    if content.startswith(b'\x1f\x8b'):
        raise UserError(f'{path}', 'is a compressed archive', f'extract it and use its {RELEASED[1]}')
    if content.startswith(b'\n'):  # the first node of a graph
        state = read_graph(path)
    elif content.startswith(STARTS):
        state = read_state(path)
    else:
        raise UserError(f'{path}', 'is not a released file of Inception', REMEDY)
    try:
        with np.errstate(all='ignore'):  # check_finite names what is not finite
            params = params_from_state(state)
    except UserError as error:
        raise UserError(f'{path}', f'is not Inception v3 of 2015-12-05 ({error})', REMEDY) from error
    check_finite(path, traverse_util.flatten_dict(params, sep='/'))
    return InceptionWeights(params, params_sha256(params), path.name, hashlib.sha256(content).hexdigest())


def state_shapes() -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays that `params_from_state` reads, with PyTorch's names and layouts."""
    shapes = {}
    for key, leaf in traverse_util.flatten_dict(param_shapes(), sep='.').items():
        name, _, kind = key.rpartition('.')
        if name == 'logits':
            shapes['fc.weight'] = leaf.shape[::-1]
        elif kind == 'kernel':
            height, width, channels_in, channels = leaf.shape
            shapes[f'{name}.conv.weight'] = (channels, channels_in, height, width)
            shapes |= {f'{name}.bn.{kind}': (channels,) for kind in BATCH_NORM}
    return shapes


def params_from_state(arrays: Mapping[str, np.ndarray]) -> Params:
    """Our parameters from the PyTorch port's state_dict, batch norms folded into the convolutions.

    Other arrays are ignored: num_batches_tracked, and fc.bias, which the Inception score does not use.
    Raises UserError if an array is missing or has another shape.
    """
    params = {}
    for key, shape in state_shapes().items():
        if key not in arrays:
            raise UserError(key, 'is missing')
        if arrays[key].shape != shape:
            raise UserError(key, f'has the shape {arrays[key].shape}, not {shape}')
    for key in state_shapes():
        name, _, leaf = key.partition('.conv.')
        if leaf:
            params[f'{name}.kernel'], params[f'{name}.bias'] = fold(arrays, name)
    params['logits.kernel'] = np.ascontiguousarray(arrays['fc.weight'].T, np.float32)
    return traverse_util.unflatten_dict(params, sep='.')


def fold(arrays: Mapping[str, np.ndarray], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Kernel [kh, kw, in, out] and bias of a convolution and its batch norm; float64, cast once to float32.

    s·(W∗x − mean) + β = (s·W)∗x + (β − s·mean) with s = γ/√(var + ε).
    """
    weight, gamma, beta, mean, variance = (
        np.asarray(arrays[f'{name}.{part}'], np.float64)
        for part in ('conv.weight', *(f'bn.{kind}' for kind in BATCH_NORM))
    )
    scale = gamma / np.sqrt(variance + EPSILON)
    kernel = weight.transpose(2, 3, 1, 0) * scale
    return np.ascontiguousarray(kernel, np.float32), (beta - mean * scale).astype(np.float32)
