"""TensorFlow's graph. The real file is not available: these graphs have its names and its structure."""

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.evaluation.inception.graph_def import conv_scopes, read_graph
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


def test_gamma_is_used_only_if_the_graph_scales(write):
    assert_same(read_graph(write(graph_of(GAMMA, scaled=True))), GAMMA)
    assert_same(read_graph(write(graph_of(GAMMA, scaled=False))), STATE)


# The branches of each kind of block and their scopes, as in the released files.
TOWERS = {
    'A': 'branch1x1 conv, branch5x5_1 tower/conv, branch5x5_2 tower/conv_1, branch3x3dbl_1 tower_1/conv, '
    'branch3x3dbl_2 tower_1/conv_1, branch3x3dbl_3 tower_1/conv_2, branch_pool tower_2/conv',
    'B': 'branch3x3 conv, branch3x3dbl_1 tower/conv, branch3x3dbl_2 tower/conv_1, '
    'branch3x3dbl_3 tower/conv_2',
    'C': 'branch1x1 conv, branch7x7_1 tower/conv, branch7x7_2 tower/conv_1, branch7x7_3 tower/conv_2, '
    'branch7x7dbl_1 tower_1/conv, branch7x7dbl_2 tower_1/conv_1, branch7x7dbl_3 tower_1/conv_2, '
    'branch7x7dbl_4 tower_1/conv_3, branch7x7dbl_5 tower_1/conv_4, branch_pool tower_2/conv',
    'D': 'branch3x3_1 tower/conv, branch3x3_2 tower/conv_1, branch7x7x3_1 tower_1/conv, '
    'branch7x7x3_2 tower_1/conv_1, branch7x7x3_3 tower_1/conv_2, branch7x7x3_4 tower_1/conv_3',
    'E': 'branch1x1 conv, branch3x3_1 tower/conv, branch3x3_2a tower/mixed/conv, '
    'branch3x3_2b tower/mixed/conv_1, branch3x3dbl_1 tower_1/conv, branch3x3dbl_2 tower_1/conv_1, '
    'branch3x3dbl_3a tower_1/mixed/conv, branch3x3dbl_3b tower_1/mixed/conv_1, branch_pool tower_2/conv',
}
STEM = 'Conv2d_1a_3x3 conv, Conv2d_2a_3x3 conv_1, Conv2d_2b_3x3 conv_2'
STEM += ', Conv2d_3b_1x1 conv_3, Conv2d_4a_3x3 conv_4'
BLOCKS = 'Mixed_5b A, Mixed_5c A, Mixed_5d A, Mixed_6a B, Mixed_6b C, Mixed_6c C, Mixed_6d C, Mixed_6e C'
BLOCKS += ', Mixed_7a D, Mixed_7b E, Mixed_7c E'


def pairs(text):
    return [item.split() for item in text.split(', ')]


def test_scopes_are_those_of_the_released_files():
    expected = dict(pairs(STEM))
    for i, (block, kind) in enumerate(pairs(BLOCKS)):
        scope = f'mixed_{i}' if i else 'mixed'
        expected |= {f'{block}.{branch}': f'{scope}/{inner}' for branch, inner in pairs(TOWERS[kind])}
    assert conv_scopes() == expected and len(set(expected.values())) == 94


def find(graph, name):
    return next(node for node in graph.node if node.name == name)


def constant(graph, name):
    return find(graph, name).attr['value'].tensor


@pytest.mark.parametrize(
    ('damage', 'found'),
    [
        (lambda graph: graph.ClearField('node'), 'conv/Conv2D'),
        (
            lambda graph: setattr(find(graph, 'mixed_8/tower/conv/Conv2D'), 'name', 'm'),
            'mixed_8/tower/conv/Conv2D',
        ),
        (lambda graph: setattr(find(graph, 'softmax/logits/MatMul'), 'name', 'm'), 'softmax/logits/MatMul'),
        (lambda graph: setattr(find(graph, 'conv/batchnorm'), 'op', 'Relu'), 'conv/Conv2D'),
        (lambda graph: find(graph, 'conv/batchnorm').input.pop(), 'unpack'),
        (lambda graph: setattr(find(graph, 'conv_1/mean'), 'name', 'm'), 'conv_1/mean'),
        (lambda graph: constant(graph, 'conv/mean').tensor_shape.dim.add(size=9), 'reshape'),
        (
            lambda graph: constant(graph, 'conv/conv2d_params').CopyFrom(constant(graph, 'conv/mean')),
            'axes',
        ),
    ],
)
def test_another_graph_is_refused(write, damage, found):
    graph = graph_of(STATE)
    damage(graph)
    path = write(graph)
    with pytest.raises(UserError) as error:
        read_graph(path)
    assert error.value.where == str(path) and found in error.value.problem
    assert 'inception-2015-12-05.tgz' in error.value.remedy and '\n' not in str(error.value)


def test_a_damaged_file_is_refused(write):
    path = write(graph_of(STATE))
    content = path.read_bytes()
    for damaged in (b'no graph', content[: len(content) // 2], content[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(UserError) as error:
            read_graph(path)
        assert error.value.where == str(path) and 'complete' in error.value.problem
        assert '\n' not in str(error.value)
