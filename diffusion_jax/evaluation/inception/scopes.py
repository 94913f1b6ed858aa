"""The convolutions of Inception v3: what TensorFlow's graph calls them, and what the PyTorch port does.

Both names are certain: `classify_image_graph_def.pb` has the first, pt_inception-2015-12-05-6726825d.pth the
second. NVIDIA's files keep the first, written otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

# Of each kind of block: the port's branches and the scopes within the block's.
_A = {
    'branch1x1': 'conv',
    'branch5x5_1': 'tower/conv',
    'branch5x5_2': 'tower/conv_1',
    'branch3x3dbl_1': 'tower_1/conv',
    'branch3x3dbl_2': 'tower_1/conv_1',
    'branch3x3dbl_3': 'tower_1/conv_2',
    'branch_pool': 'tower_2/conv',
}
_B = {
    'branch3x3': 'conv',
    'branch3x3dbl_1': 'tower/conv',
    'branch3x3dbl_2': 'tower/conv_1',
    'branch3x3dbl_3': 'tower/conv_2',
}
_C = {
    'branch1x1': 'conv',
    'branch7x7_1': 'tower/conv',
    'branch7x7_2': 'tower/conv_1',
    'branch7x7_3': 'tower/conv_2',
    'branch7x7dbl_1': 'tower_1/conv',
    'branch7x7dbl_2': 'tower_1/conv_1',
    'branch7x7dbl_3': 'tower_1/conv_2',
    'branch7x7dbl_4': 'tower_1/conv_3',
    'branch7x7dbl_5': 'tower_1/conv_4',
    'branch_pool': 'tower_2/conv',
}
_D = {
    'branch3x3_1': 'tower/conv',
    'branch3x3_2': 'tower/conv_1',
    'branch7x7x3_1': 'tower_1/conv',
    'branch7x7x3_2': 'tower_1/conv_1',
    'branch7x7x3_3': 'tower_1/conv_2',
    'branch7x7x3_4': 'tower_1/conv_3',
}
_E = {
    'branch1x1': 'conv',
    'branch3x3_1': 'tower/conv',
    'branch3x3_2a': 'tower/mixed/conv',
    'branch3x3_2b': 'tower/mixed/conv_1',
    'branch3x3dbl_1': 'tower_1/conv',
    'branch3x3dbl_2': 'tower_1/conv_1',
    'branch3x3dbl_3a': 'tower_1/mixed/conv',
    'branch3x3dbl_3b': 'tower_1/mixed/conv_1',
    'branch_pool': 'tower_2/conv',
}
_STEM = {
    'Conv2d_1a_3x3': 'conv',
    'Conv2d_2a_3x3': 'conv_1',
    'Conv2d_2b_3x3': 'conv_2',
    'Conv2d_3b_1x1': 'conv_3',
    'Conv2d_4a_3x3': 'conv_4',
}
_BLOCKS = {
    'Mixed_5b': ('mixed', _A),
    'Mixed_5c': ('mixed_1', _A),
    'Mixed_5d': ('mixed_2', _A),
    'Mixed_6a': ('mixed_3', _B),
    'Mixed_6b': ('mixed_4', _C),
    'Mixed_6c': ('mixed_5', _C),
    'Mixed_6d': ('mixed_6', _C),
    'Mixed_6e': ('mixed_7', _C),
    'Mixed_7a': ('mixed_8', _D),
    'Mixed_7b': ('mixed_9', _E),
    'Mixed_7c': ('mixed_10', _E),
}

# The port's name of each of the 94 convolutions → TensorFlow's scope.
SCOPES = _STEM | {
    f'{block}.{branch}': f'{scope}/{inner}'
    for block, (scope, branches) in _BLOCKS.items()
    for branch, inner in branches.items()
}


class Convolution(NamedTuple):
    """A convolution and its batch normalisation, as PyTorch stores them: kernel [out, in, height, width]."""

    kernel: np.ndarray
    gamma: np.ndarray
    beta: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def port_state(convolutions: Mapping[str, Convolution], logits: np.ndarray) -> dict[str, np.ndarray]:
    """The port's state_dict, without what no result rests on (counters, the bias of the logits).

    Args:
        convolutions: by TensorFlow's scope, all of them.
        logits: [1008, 2048].
    """
    state = {}
    for name, scope in SCOPES.items():
        layer = convolutions[scope]
        state |= {
            f'{name}.conv.weight': layer.kernel,
            f'{name}.bn.weight': layer.gamma,
            f'{name}.bn.bias': layer.beta,
            f'{name}.bn.running_mean': layer.mean,
            f'{name}.bn.running_var': layer.variance,
        }
    return state | {'fc.weight': logits}
