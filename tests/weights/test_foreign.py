"""Files of others: the layout of diffusers, 1x1 convolutions of other ranks, and what can be wrong."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig
from diffusion_jax.models.attention import split_heads
from diffusion_jax.stored_networks import describe_stored, load_stored
from diffusion_jax.weights import foreign, known
from diffusion_jax.weights.diffusers_layout import in_order
from diffusion_jax.weights.foreign import is_foreign, params_of, read_foreign, recognise
from diffusion_jax.weights.published import Released
from diffusion_jax.weights.reference import from_reference, reference_shapes
from diffusion_jax.weights.released import LINEAR
from tests.errors import refused

NETWORK = UNetConfig(
    image_size=(16, 16),
    model_channels=32,
    channel_mult=(1, 2, 2),
    num_res_blocks=2,
    attention_resolutions=(8, 4),
    num_head_channels=16,
    num_classes=5,
)
LEVELS, BLOCKS = 3, 2
HEADS = 16


def random_state(network=NETWORK):
    rng = np.random.default_rng(0)
    return {k: rng.standard_normal(s).astype(np.float32) for k, s in reference_shapes(network).items()}


RESIDUAL = {
    'norm1': 'in_layers.0',
    'conv1': 'in_layers.2',
    'time_emb_proj': 'emb_layers.1',
    'norm2': 'out_layers.0',
    'conv2': 'out_layers.3',
    'conv_shortcut': 'skip_connection',
}


def diffusers_state(state, legacy, levels=LEVELS, blocks=BLOCKS):
    """The layout of diffusers, written from its description: block by block, in the order of execution."""
    found = {}

    def copy(theirs, ours):
        for leaf in ('weight', 'bias'):
            if f'{ours}.{leaf}' in state:
                found[f'{theirs}.{leaf}'] = state[f'{ours}.{leaf}']

    def residual(theirs, ours):
        for name, module in RESIDUAL.items():
            copy(f'{theirs}.{name}', f'{ours}.{module}')

    def attention(theirs, ours):
        if f'{ours}.qkv.weight' not in state:
            return False
        copy(f'{theirs}.group_norm', f'{ours}.norm')
        copy(f'{theirs}.to_out.0', f'{ours}.proj_out')
        found[f'{theirs}.to_out.0.weight'] = found[f'{theirs}.to_out.0.weight'][..., 0]
        for leaf in ('weight', 'bias'):
            array = state[f'{ours}.qkv.{leaf}']
            array = array[..., 0] if leaf == 'weight' else array
            if legacy:  # thirds of the array as it is
                thirds = np.split(array, 3)
            else:  # queries, keys, values of all heads
                of_heads = [np.split(head, 3) for head in np.split(array, len(array) // (3 * HEADS))]
                thirds = [np.concatenate([head[i] for head in of_heads]) for i in range(3)]
            for name, third in zip('qkv', thirds, strict=True):
                found[f'{theirs}.to_{name}.{leaf}'] = third
        return True

    copy('time_embedding.linear_1', 'time_embed.0')
    copy('time_embedding.linear_2', 'time_embed.2')
    copy('class_embedding', 'label_emb')
    copy('conv_in', 'input_blocks.0.0')
    block = 1
    for level in range(levels):
        for i in range(blocks):
            residual(f'down_blocks.{level}.resnets.{i}', f'input_blocks.{block}.0')
            attention(f'down_blocks.{level}.attentions.{i}', f'input_blocks.{block}.1')
            block += 1
        if level < levels - 1:
            residual(f'down_blocks.{level}.downsamplers.0', f'input_blocks.{block}.0')
            block += 1
    residual('mid_block.resnets.0', 'middle_block.0')
    attention('mid_block.attentions.0', 'middle_block.1')
    residual('mid_block.resnets.1', 'middle_block.2')
    block = 0
    for level in range(levels):
        for i in range(blocks + 1):
            residual(f'up_blocks.{level}.resnets.{i}', f'output_blocks.{block}.0')
            attended = attention(f'up_blocks.{level}.attentions.{i}', f'output_blocks.{block}.1')
            block += 1
        if level < levels - 1:
            residual(f'up_blocks.{level}.upsamplers.0', f'output_blocks.{block - 1}.{1 + attended}')
    copy('conv_norm_out', 'out.0')
    copy('conv_out', 'out.2')
    assert sum(map(np.size, found.values())) == sum(map(np.size, state.values()))
    return found


@pytest.fixture
def listed(monkeypatch):
    """The tiny network as a published model, the only one."""
    models = {'tiny': Released(NETWORK, LINEAR)}
    monkeypatch.setattr(known, 'MODELS', models)
    monkeypatch.setattr(foreign, 'MODELS', models)
    foreign._describe.cache_clear()


def write(folder, state, config=None):
    path = folder / 'diffusion_pytorch_model.safetensors'
    save_file({key: np.ascontiguousarray(array) for key, array in state.items()}, path, {'format': 'pt'})
    if config is not None:
        (folder / 'config.json').write_text(json.dumps(config))
    return path


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('legacy', [True, False])
def test_the_layout_of_diffusers(tmp_path, listed, legacy):
    state = random_state()
    config = {'attention_head_dim': HEADS} | ({'attention_legacy_order': True} if legacy else {})
    path = write(tmp_path, diffusers_state(state, legacy), config)
    assert is_foreign(path)
    file = read_foreign(path)
    assert file.diffusers and recognise(file)[0].name == 'tiny'
    expected = from_reference(NETWORK, state)
    assert_same(params_of(file, NETWORK, 'it'), expected)
    spec = describe_stored(path)
    assert (spec.network, spec.diffusion, len(spec.digest)) == (NETWORK, LINEAR, 8)
    assert_same(load_stored(path, NETWORK)[0], expected)


def test_orders_of_qkv_are_told_by_the_config_beside_the_file(tmp_path, listed):
    state = random_state()
    path = write(tmp_path, diffusers_state(state, True))
    with refused('config.json', 'how attention is stored'):
        describe_stored(path)
    (tmp_path / 'config.json').write_text('{')
    with refused('config.json', 'cannot be read'):
        describe_stored(path)
    (tmp_path / 'config.json').write_text('{"attention_head_dim": 8}')
    with refused('config.json', 'attention_head_dim is 8', 'network is 16'):
        describe_stored(path)


def test_queries_keys_and_values_are_those_of_the_other_order():
    """For each of 4 heads, as the network splits them."""
    array = np.arange(3 * 4 * HEADS, dtype=np.float32)
    state = {'middle_block.1.qkv.bias': array, 'out.0.bias': array}
    new = in_order(state, 'legacy', 'new', HEADS)
    assert_same(new['out.0.bias'], array)
    assert_same(in_order(new, 'new', 'legacy', HEADS), state)
    ours, theirs = (
        split_heads(jnp.asarray(each['middle_block.1.qkv.bias']), 4, order)
        for each, order in ((state, 'legacy'), (new, 'new'))
    )
    assert_same(ours, theirs)


def test_a_linear_map_of_channels_may_be_a_convolution_of_any_rank():
    """qkv is [out, in, 1] in the authors' code, [out, in, 1, 1] in the consistency models'."""
    state = random_state()
    ranks = {k: v[..., None] if v.ndim == 3 else v for k, v in state.items()}
    assert any(array.shape[2:] == (1, 1) and '.qkv.' in key for key, array in ranks.items())
    assert_same(from_reference(NETWORK, ranks), from_reference(NETWORK, state))


def test_an_incomplete_file_is_one_line(tmp_path, listed):
    state = diffusers_state(random_state(), True)
    del state['mid_block.attentions.0.to_k.bias']
    state['conv_out.weight'] = state['conv_out.weight'][:3]
    path = write(tmp_path, state, {'attention_head_dim': HEADS, 'attention_legacy_order': True})
    with pytest.raises(UserError) as error:
        describe_stored(path)
    text = str(error.value)
    assert '\n' not in text and 'middle_block.1.qkv.bias' in text and '(6, 32, 3, 3) expected' in text
    assert 'tiny' in text


def test_queries_keys_and_values_of_different_widths_are_one_line(tmp_path, listed):
    state = diffusers_state(random_state(), True)
    for name in ('mid_block.attentions.0.to_k.weight', 'mid_block.attentions.0.to_v.bias'):
        state[name] = state[name][..., :-1]
    with refused('.safetensors', 'middle_block.1.qkv.weight: (192, 64, 1) expected', 'middle_block.1.k.'):
        describe_stored(write(tmp_path, state, {'attention_head_dim': HEADS}))


def test_what_is_damaged_or_not_finite(tmp_path, listed):
    state = diffusers_state(random_state(), True)
    state['conv_out.bias'] = np.full(6, np.nan, np.float32)
    path = write(tmp_path, state)
    with refused('diffusion_pytorch_model.safetensors', 'nan'):
        describe_stored(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert not is_foreign(path)
    with refused('diffusion_pytorch_model.safetensors', 'intact'):
        describe_stored(path)


def test_of_several_models_the_file_name_decides(tmp_path, monkeypatch):
    """ffhq_10m.pt and afhq_dog_4m.pt have one architecture."""
    models = {name: known.MODELS[name] for name in ('ffhq_10m', 'afhq_dog_4m')}
    monkeypatch.setattr(known, 'MODELS', models)
    network = models['ffhq_10m'].network
    state = {k: np.broadcast_to(np.float32(0), s) for k, s in reference_shapes(network).items()}
    monkeypatch.setattr(foreign, 'read_state', lambda path: state)
    for stem, name in (('ffhq_10m', 'ffhq_10m'), ('afhq_dog_4m', 'afhq_dog_4m'), ('faces', '')):
        spec, what = recognise(read_foreign(tmp_path / f'{stem}.pt'))
        assert spec.name == name and spec.network == network
        assert what == (
            name or 'ffhq_10m or afhq_dog_4m (with NAME before it, the file also keeps its recipes)'
        )
    del state['out.2.bias']
    with refused('ffhq_10m.pt', 'out.2.bias: (6,) expected, nothing found'):
        params_of(read_foreign(tmp_path / 'ffhq_10m.pt'), network, 'ffhq_10m')
