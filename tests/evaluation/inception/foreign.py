"""Writes weights of Inception as others do: TensorFlow's graph, NVIDIA's archive and pickle; without them.

All take the PyTorch port's state_dict. The shapes of its arrays do not matter to the formats.
"""

import functools
import io
import pickle
import sys
import types
import zipfile
import zlib
from collections import OrderedDict
from unittest import mock

import numpy as np
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.types_pb2 import DT_FLOAT

from diffusion_jax.evaluation.inception.scopes import SCOPES

LEAVES = {'conv.weight': 'weight', 'bn.bias': 'beta', 'bn.running_mean': 'mean', 'bn.running_var': 'var'}


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


def graph_of(state, *, scaled=False, folded=False, epsilon=1e-3):
    """A frozen graph. Beside what is read, it has nodes as in the real one that must not matter."""
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
        node(f'{scope}/Conv2D', 'Conv2D', 'input', f'{scope}/{"read" if folded else "conv2d_params"}')
        constant(f'{scope}/beta', state[f'{name}.bn.bias'])
        if folded:
            node(f'{scope}/batchnorm', 'BiasAdd', f'{scope}/Conv2D', f'{scope}/beta')
        else:
            constant(f'{scope}/gamma', state[f'{name}.bn.weight'] * (1 if scaled else 7))
            constant(f'{scope}/mean', state[f'{name}.bn.running_mean'])
            constant(f'{scope}/variance', state[f'{name}.bn.running_var'])
            inputs = [f'{scope}/{leaf}' for leaf in ('Conv2D', 'mean', 'variance', 'beta', 'gamma')]
            normalisation = node(f'{scope}/batchnorm', 'BatchNormWithGlobalNormalization', *inputs)
            normalisation.attr['variance_epsilon'].f = epsilon
            normalisation.attr['scale_after_normalization'].b = scaled
        node(f'{scope}/CheckNumerics', 'CheckNumerics', f'{scope}/batchnorm')
        node(f'{scope}/control_dependency', 'Identity', f'{scope}/batchnorm', f'^{scope}/CheckNumerics')
        node(scope, 'Relu', f'{scope}/control_dependency')
    constant('softmax/weights', state['fc.weight'].T)
    node('softmax/logits/MatMul', 'MatMul', 'pool_3/_reshape', 'softmax/weights')
    constant('softmax/biases', np.zeros(len(state['fc.weight']), np.float32))
    node('softmax/logits', 'BiasAdd', 'softmax/logits/MatMul', 'softmax/biases')
    return graph


def nvidia_state(state):
    """NVIDIA's keys."""
    arrays = {}
    for name, scope in SCOPES.items():
        block, *inner = scope.split('/')
        layer = [block, '_'.join(inner)] if block in ('mixed_9', 'mixed_10') else [block, *inner]
        arrays |= {'.'.join(['layers', *layer, to]): state[f'{name}.{leaf}'] for leaf, to in LEAVES.items()}
    return arrays | {'output.weight': state['fc.weight'], 'output.bias': np.zeros(3, np.float32)}


def torchscript_of(state):
    """The bytes of an archive of torch.jit.save."""
    root, arrays = nest(nvidia_state(state), Scripted, lambda array: Tensor(array))
    buffer, file = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(buffer, 'w') as archive, pytorch():
        pickler = pickle.Pickler(file, 2)
        pickler.persistent_id = lambda value: (
            ('storage', FloatStorage, str(arrays.index(value.tensor)), 'cpu', value.tensor.array.size)
            if isinstance(value, Storage)
            else None
        )
        pickler.dump(root)
        archive.writestr('inception/data.pkl', file.getvalue())
        archive.writestr('inception/constants.pkl', b'')
        for i, tensor in enumerate(arrays):
            archive.writestr(f'inception/data/{i}', tensor.array.tobytes())
    return buffer.getvalue()


def pickle_of(state):
    """The bytes of a pickle of modules, some of which are of StyleGAN's persistent classes."""
    root, _ = nest(nvidia_state(state), Persistent, Parameter)
    with pytorch():
        return pickle.dumps(root)


def nest(arrays, module, tensor):
    """A module with arrays as their keys say, and all tensors."""
    root, tensors = module(), []
    for key, array in arrays.items():
        *path, leaf = key.split('.')
        parent = root
        for name in path:
            parent = parent.children().setdefault(
                name, module() if name.startswith('conv') else module.inner()
            )
        tensors.append(tensor(array))
        parent.arrays()[leaf] = tensors[-1]
    return root, tensors


class Scripted:
    """A module as TorchScript pickles it: all are attributes."""

    def __init__(self):
        self.training = False

    @classmethod
    def inner(cls):
        return cls()

    def children(self):
        return self.__dict__

    arrays = children


class Module:
    """A module as Python pickles it."""

    def __init__(self):
        self.training, self._parameters = False, {'bias': None}
        self._buffers, self._modules = OrderedDict(), OrderedDict()

    def children(self):
        return self._modules

    def arrays(self):
        return self._parameters


class Persistent(Module):
    """A module whose class is in the pickle as source code."""

    inner = Module

    def arrays(self):
        return self._buffers

    def __reduce__(self):
        meta = {'type': 'class', 'version': 6, 'module_src': 'raise SystemExit', 'state': self.__dict__}
        return execute, (meta,)


def execute(*_):
    raise AssertionError('something foreign was called')


class Storage:
    def __init__(self, tensor):
        self.tensor = tensor

    def __reduce__(self):
        array = self.tensor.array.ravel()
        file = io.BytesIO()
        for value in (0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}, self, ['94']):
            pickler = pickle.Pickler(file, 2)
            pickler.persistent_id = lambda value: (
                ('storage', FloatStorage, '94', 'cuda:0', array.size, None) if value is self else None
            )
            pickler.dump(value)
        file.write(len(array).to_bytes(8, 'little') + array.astype('<f4').tobytes())
        return _load_from_bytes, (file.getvalue(),)


class Tensor:
    def __init__(self, array):
        self.array = array

    def __reduce__(self):
        array = np.ascontiguousarray(self.array)
        strides = tuple(stride // 4 for stride in array.strides)
        return _rebuild_tensor_v2, (Storage(self), 0, array.shape, strides, False, OrderedDict())


class Parameter(Tensor):
    def __reduce__(self):
        return _rebuild_parameter, (Tensor(self.array), True, OrderedDict())


def pytorch():
    """Makes the names of PyTorch that stand in its pickles importable."""
    modules = {name: types.ModuleType(name) for name in ('torch', 'torch._utils', 'torch.storage')}
    for value in (FloatStorage, _load_from_bytes, _rebuild_tensor_v2, _rebuild_parameter):
        setattr(modules[value.__module__], value.__name__, value)
    return mock.patch.dict(sys.modules, modules)


def _named(module, name):
    function = types.FunctionType(execute.__code__, {}, name)
    function.__module__, function.__qualname__ = module, name
    return function


FloatStorage = type('FloatStorage', (), {'__module__': 'torch'})
_load_from_bytes = _named('torch.storage', '_load_from_bytes')
_rebuild_tensor_v2 = _named('torch._utils', '_rebuild_tensor_v2')
_rebuild_parameter = _named('torch._utils', '_rebuild_parameter')
