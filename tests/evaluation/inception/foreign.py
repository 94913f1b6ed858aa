"""Weights of Inception as TensorFlow's graph, from a state_dict of the PyTorch port; of any shapes."""

import functools
import zlib

import numpy as np
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DT_FLOAT

from diffusion_jax.evaluation.inception.graph_def import conv_scopes

SCOPES = conv_scopes()


@functools.cache
def noise():
    return np.random.default_rng(0).standard_normal(2**22, np.float32)


def random_state(shapes):
    """Views of the same noise, each from another place on; variances are positive, gamma is 1."""
    state = {}
    for key, shape in shapes.items():
        start = zlib.crc32(key.encode()) % 2**20
        state[key] = noise()[start : start + int(np.prod(shape))].reshape(shape)
        if key.endswith('running_var'):
            state[key] = np.exp(state[key])
        if key.endswith('bn.weight'):
            state[key] = np.ones(shape, np.float32)
    return state


def tiny_shapes():
    """The network's keys, with few channels, and other numbers of them in each array."""
    shapes = {}
    for i, name in enumerate(SCOPES):
        shapes |= {f'{name}.conv.weight': (2 + i % 3, 1 + i % 2, 1, 3)}
        shapes |= {
            f'{name}.bn.{leaf}': (2 + i % 3,) for leaf in ('weight', 'bias', 'running_mean', 'running_var')
        }
    return shapes | {'fc.weight': (3, 5)}


def assert_same(state, other):
    assert list(state) == list(other)
    for key in state:
        np.testing.assert_array_equal(state[key], other[key], strict=True)


def graph_of(state, *, scaled=False):
    """A frozen graph, with more nodes than are read, as in the real one."""
    graph = GraphDef()

    def node(name, op, *inputs):
        new = graph.node.add(name=name, op=op)
        new.input.extend(inputs)
        return new

    def constant(name, array):
        tensor = node(name, 'Const').attr['value'].tensor
        tensor.dtype = DT_FLOAT
        for size in array.shape:
            tensor.tensor_shape.dim.add(size=size)
        if array.ndim > 1:
            tensor.tensor_content = array.astype('<f4').tobytes()
        else:
            tensor.float_val.extend(array[:1] if (array == array[0]).all() else array)

    for name, scope in SCOPES.items():
        constant(f'{scope}/conv2d_params', state[f'{name}.conv.weight'].transpose(2, 3, 1, 0))
        node(f'{scope}/read', 'Identity', f'{scope}/conv2d_params')
        node(f'{scope}/Conv2D', 'Conv2D', 'input', f'{scope}/read')
        constant(f'{scope}/beta', state[f'{name}.bn.bias'])
        constant(f'{scope}/gamma', state[f'{name}.bn.weight'] * (1 if scaled else 7))
        constant(f'{scope}/mean', state[f'{name}.bn.running_mean'])
        constant(f'{scope}/variance', state[f'{name}.bn.running_var'])
        inputs = [f'{scope}/{leaf}' for leaf in ('Conv2D', 'mean', 'variance', 'beta', 'gamma')]
        batch_norm = node(f'{scope}/batchnorm', 'BatchNormWithGlobalNormalization', *inputs)
        batch_norm.attr['scale_after_normalization'].b = scaled
        node(f'{scope}/CheckNumerics', 'CheckNumerics', f'{scope}/batchnorm')
        node(f'{scope}/control_dependency', 'Identity', f'{scope}/batchnorm', f'^{scope}/CheckNumerics')
        node(scope, 'Relu', f'{scope}/control_dependency')
    constant('softmax/weights', state['fc.weight'].T)
    node('softmax/logits/MatMul', 'MatMul', 'pool_3/_reshape', 'softmax/weights')
    constant('softmax/biases', np.zeros(len(state['fc.weight']), np.float32))
    node('softmax/logits', 'BiasAdd', 'softmax/logits/MatMul', 'softmax/biases')
    return graph
