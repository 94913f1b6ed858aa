"""TensorFlow's graph. The real file is not here: these graphs have its names and its structure."""

import numpy as np
import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.graph_def import read_graph
from diffusion_jax.evaluation.inception.scopes import SCOPES
from tests.evaluation.inception.foreign import assert_same, graph_of, random_state, tiny_shapes

STATE = random_state(tiny_shapes())
GAMMA = {key: array * 3 if key.endswith('bn.weight') else array for key, array in STATE.items()}


@pytest.fixture
def write(tmp_path):
    def write(graph):
        path = tmp_path / 'classify_image_graph_def.pb'
        path.write_bytes(graph.SerializeToString())
        return path

    return write


def test_a_graph_is_read_bit_for_bit(write):
    assert_same(read_graph(write(graph_of(STATE))), STATE)


def test_gamma_counts_only_where_the_graph_says_so(write):
    assert_same(read_graph(write(graph_of(GAMMA, scaled=True))), GAMMA)
    assert_same(read_graph(write(graph_of(GAMMA, scaled=False))), STATE)


def test_a_folded_normalisation_is_a_bias(write):
    state = read_graph(write(graph_of(STATE, folded=True)))
    for name in SCOPES:
        scale = state[f'{name}.bn.weight'] / np.sqrt(state[f'{name}.bn.running_var'] + 1e-3)
        assert (scale == 1).all() and not state[f'{name}.bn.running_mean'].any()
        for leaf in ('conv.weight', 'bn.bias'):
            np.testing.assert_array_equal(state[f'{name}.{leaf}'], STATE[f'{name}.{leaf}'])


def find(graph, name):
    return next(node for node in graph.node if node.name == name)


def change(graph, node, **fields):
    for field, value in fields.items():
        setattr(find(graph, node), field, value)


def constant(graph, name):
    return find(graph, name).attr['value'].tensor


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda graph: graph.ClearField('node'), r'has no conv/Conv2D \(0 nodes\)'),
        (
            lambda graph: change(graph, 'mixed_8/tower/conv/Conv2D', name='m'),
            'has no mixed_8/tower/conv/Conv2D',
        ),
        (lambda graph: change(graph, 'softmax/logits/MatMul', name='m'), 'has no softmax/logits/MatMul'),
        (lambda graph: change(graph, 'conv/batchnorm', op='Relu'), "nothing normalises 'conv/Conv2D'"),
        (lambda graph: find(graph, 'conv/batchnorm').input.pop(), "'conv/batchnorm' has 4 inputs"),
        (
            lambda graph: change(graph, 'conv_1/mean', name='\n'),
            "has the input 'conv_1/mean', which is no node",
        ),
        (
            lambda graph: change(graph, 'conv_1/mean', op='Relu'),
            "'conv_1/mean' is no constant of type float32",
        ),
        (lambda graph: setattr(constant(graph, 'conv/mean'), 'dtype', 3), "'conv/mean' is no constant"),
        (
            lambda graph: constant(graph, 'conv/mean').tensor_shape.dim.add(size=9),
            r"'conv/mean' has 2 values for the shape \(2, 9\)",
        ),
        (
            lambda graph: constant(graph, 'conv/conv2d_params').CopyFrom(constant(graph, 'conv/mean')),
            r"the kernel of 'conv/Conv2D' has the shape \(2,\)",
        ),
    ],
)
def test_another_graph_is_named(write, damage, message):
    graph = graph_of(STATE)
    damage(graph)
    with pytest.raises(UserError, match=f'def.pb: its graph is not Inception v3 .*{message}') as error:
        read_graph(write(graph))
    assert '\n' not in str(error.value)


def test_another_epsilon_is_named(write):
    with pytest.raises(UserError, match="the epsilon of 'conv/batchnorm' is 1e-05 and not 0.001"):
        read_graph(write(graph_of(STATE, epsilon=1e-5)))


def test_a_node_that_comes_from_itself_is_named(write):
    graph = graph_of(STATE, folded=True)
    find(graph, 'conv/read').input[0] = 'conv/read'
    with pytest.raises(UserError, match="'conv/read' comes from itself"):
        read_graph(write(graph))


def test_a_damaged_file_is_named(write):
    path = write(graph_of(STATE))
    content = path.read_bytes()
    for damaged in (b'no graph', content[: len(content) // 2], content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r'def.pb: no frozen graph .* not whole') as error:
            read_graph(path)
        assert '\n' not in str(error.value)
