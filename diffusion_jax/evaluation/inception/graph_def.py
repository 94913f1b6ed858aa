"""TensorFlow's classify_image_graph_def.pb, read without TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.node_def_pb2 import NodeDef
from tensorboardX.proto.types_pb2 import DT_FLOAT

from diffusion_jax.errors import UserError, reason
from diffusion_jax.evaluation.inception.names import EPSILON
from diffusion_jax.evaluation.inception.scopes import SCOPES, Convolution, port_state

LOGITS = 'softmax/logits/MatMul'
NORMALISATION = 'BatchNormWithGlobalNormalization'
# Operations that hand on their first input as it is.
_TRANSPARENT = ('Identity', 'CheckNumerics')
# Their names → the scopes that they are in.
_CONVOLUTIONS = {f'{scope}/Conv2D': scope for scope in SCOPES.values()}


def read_graph(path: str | Path) -> dict[str, np.ndarray]:
    """The weights in a frozen graph, by the names and in the layouts of the PyTorch port (`names.py`).

    Arrays are found by what they are connected to; only the names of convolutions and of the logits matter.

    Raises:
        UserError: the file is damaged, or its graph is not Inception v3 of 2015-12-05.
    """
    graph = GraphDef()
    try:
        graph.ParseFromString(Path(path).read_bytes())
    except Exception as error:  # protobuf's, which one depends on how it was built
        raise UserError(
            f'{path}: no frozen graph of TensorFlow, or one that is not whole ({reason(error)})'
        ) from error
    nodes = {node.name: node for node in graph.node}
    try:
        missing = [name for name in [*_CONVOLUTIONS, LOGITS] if name not in nodes]
        if missing:
            raise UserError(f'has no {missing[0]} ({len(nodes)} nodes)')
        followers = _followers(nodes)
        convolutions = {
            scope: _convolution(nodes, nodes[name], followers.get(name))
            for name, scope in _CONVOLUTIONS.items()
        }
        return port_state(convolutions, _constant(nodes, nodes[LOGITS], 1).T)
    except UserError as error:
        raise UserError(
            f'{path}: its graph is not Inception v3 of 2015-12-05 ({error}); '
            'give the classify_image_graph_def.pb that is in inception-2015-12-05.tgz'
        ) from error


def _followers(nodes: Mapping[str, NodeDef]) -> dict[str, NodeDef]:
    """A convolution's name → the node that normalises its output, or adds a bias to it."""
    kinds = (NORMALISATION, 'BiasAdd', 'Add')
    return {_source(nodes, node, 0).name: node for node in nodes.values() if node.op in kinds}


def _convolution(nodes: Mapping[str, NodeDef], conv: NodeDef, follower: NodeDef | None) -> Convolution:
    """A convolution and what follows it. A bias alone is a normalisation that was folded into the kernel."""
    kernel = _constant(nodes, conv, 1)
    if kernel.ndim != 4:
        raise UserError(f'the kernel of {conv.name!r} has the shape {kernel.shape}')
    kernel = kernel.transpose(3, 2, 0, 1)
    if follower is None:
        raise UserError(f'nothing normalises {conv.name!r}')
    if follower.op != NORMALISATION:
        beta = _constant(nodes, follower, 1)
        variance = np.full(beta.shape, 1 - EPSILON)  # float64: its root, EPSILON added, is exactly 1
        return Convolution(kernel, np.ones_like(beta), beta, np.zeros_like(beta), variance)
    epsilon = follower.attr['variance_epsilon'].f
    if np.float32(epsilon) != np.float32(EPSILON):
        raise UserError(f'the epsilon of {follower.name!r} is {epsilon:g} and not {EPSILON}')
    mean, variance, beta, gamma = (_constant(nodes, follower, i) for i in (1, 2, 3, 4))
    if not follower.attr['scale_after_normalization'].b:
        gamma = np.ones_like(beta)
    return Convolution(kernel, gamma, beta, mean, variance)


def _source(nodes: Mapping[str, NodeDef], node: NodeDef, index: int) -> NodeDef:
    """The node that an input comes from; transparent ones are passed."""
    for _ in range(len(nodes)):
        if index >= len(node.input):
            raise UserError(f'{node.name!r} has {len(node.input)} inputs')
        name = node.input[index].split(':')[0]
        if name not in nodes:
            raise UserError(f'{node.name!r} has the input {name!r}, which is no node')
        node, index = nodes[name], 0
        if node.op not in _TRANSPARENT:
            return node
    raise UserError(f'{node.name!r} comes from itself')


def _constant(nodes: Mapping[str, NodeDef], node: NodeDef, index: int) -> np.ndarray:
    """The float32 array that an input is."""
    source = _source(nodes, node, index)
    tensor = source.attr['value'].tensor
    if source.op != 'Const' or tensor.dtype != DT_FLOAT:
        raise UserError(f'{source.name!r} is no constant of type float32')
    shape = tuple(dim.size for dim in tensor.tensor_shape.dim)
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, '<f4', len(tensor.tensor_content) // 4)
    else:
        values = np.array(tensor.float_val, np.float32)
    if len(values) not in (1, math.prod(shape)) or min(shape, default=1) < 1:
        raise UserError(f'{source.name!r} has {len(values)} values for the shape {shape}')
    # TensorFlow may write a value once that all elements share.
    return values.reshape(shape) if len(values) == math.prod(shape) else np.broadcast_to(values, shape)
