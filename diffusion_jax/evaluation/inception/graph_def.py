"""TensorFlow's classify_image_graph_def.pb, read without TensorFlow."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tensorboardX.proto.graph_pb2 import GraphDef
from tensorboardX.proto.node_def_pb2 import NodeDef

from diffusion_jax.errors import UserError, reason
from diffusion_jax.evaluation.inception.architecture import BLOCKS, STEM, Chain, Conv

LOGITS = 'softmax/logits/MatMul'
BATCH_NORM = 'BatchNormWithGlobalNormalization'


def read_graph(path: str | Path) -> dict[str, np.ndarray]:
    """The weights of a frozen graph, with the names and layouts of the PyTorch port.

    Only the names of convolutions and logits matter; other arrays are found by the graph's edges.
    Raises UserError if the file is damaged, or its graph is not Inception v3 of 2015-12-05.
    """
    remedy = 'use classify_image_graph_def.pb from inception-2015-12-05.tgz'
    graph = GraphDef()
    try:
        graph.ParseFromString(Path(path).read_bytes())
    except Exception as error:  # protobuf's exception type depends on its implementation
        raise UserError(f'{path}', f'is not a complete TensorFlow graph ({reason(error)})', remedy) from error
    nodes = {node.name: node for node in graph.node}
    batch_norms = {node.input[0]: node for node in graph.node if node.op == BATCH_NORM and node.input}
    state: dict[str, np.ndarray] = {}
    try:
        for name, scope in conv_scopes().items():
            batch_norm = batch_norms[f'{scope}/Conv2D']
            mean, variance, beta, gamma = (_constant(nodes, source) for source in batch_norm.input[1:])
            scaled = batch_norm.attr['scale_after_normalization'].b
            kernel = _constant(nodes, nodes[f'{scope}/Conv2D'].input[1])
            state |= {
                f'{name}.conv.weight': kernel.transpose(3, 2, 0, 1),
                f'{name}.bn.weight': gamma if scaled else np.ones_like(beta),
                f'{name}.bn.bias': beta,
                f'{name}.bn.running_mean': mean,
                f'{name}.bn.running_var': variance,
            }
        return state | {'fc.weight': _constant(nodes, nodes[LOGITS].input[1]).T}
    except (KeyError, IndexError, ValueError) as error:
        what = f'no {error}' if isinstance(error, KeyError) else reason(error)
        raise UserError(f'{path}', f'its graph is not Inception v3 of 2015-12-05 ({what})', remedy) from error


def _constant(nodes: Mapping[str, NodeDef], name: str) -> np.ndarray:
    """The float32 array of a Const node, also if Identity nodes are in between."""
    node = nodes[name.split(':')[0]]
    if node.op == 'Identity':
        return _constant(nodes, node.input[0])
    tensor = node.attr['value'].tensor
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_content:
        return np.frombuffer(tensor.tensor_content, '<f4').reshape(shape)
    values = np.array(tensor.float_val, np.float32)
    # TensorFlow may store a value once that all elements share.
    return np.full(shape, values[0]) if len(values) == 1 else values.reshape(shape)


def conv_scopes() -> dict[str, str]:
    """The PyTorch port's name of each of the 94 convolutions → its scope in TensorFlow's graph."""
    scopes = dict(_scopes(STEM, ''))
    for i, (name, block) in enumerate(BLOCKS.items()):
        prefix = f'{_numbered("mixed", i)}/'
        towers = 0
        for chain in block:
            inner = prefix
            if len(chain) > 1:
                inner += f'{_numbered("tower", towers)}/'
                towers += 1
            scopes |= {f'{name}.{conv}': scope for conv, scope in _scopes(chain, inner)}
    return scopes


def _scopes(chain: Chain, prefix: str) -> Iterator[tuple[str, str]]:
    """(name, scope) of the convolutions; TensorFlow numbers those that a scope names alike."""
    for i, conv in enumerate(step for step in chain if isinstance(step, Conv)):
        yield conv.name, f'{prefix}{_numbered("conv", i)}'
    for step in chain:
        if isinstance(step, list):
            yield from _scopes(tuple(conv for (conv,) in step), f'{prefix}mixed/')


def _numbered(name: str, index: int) -> str:
    return f'{name}_{index}' if index else name
