"""Checks of recorded cases: networks, their gradients and their weights."""

import dataclasses
import functools
import re
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion_jax import models
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.layers import timestep_embedding
from diffusion_jax.weights.reference import from_reference, reference_shapes, to_reference
from tests.parity.case import Case, Check
from tests.parity.compare import compare

OUTPUT_ATOL = 5e-5
GRADIENT_RTOL = 1e-3
EMBEDDING_ATOL = 5e-4
FULL_OUTPUT_RTOL = 1e-4
FULL_GRADIENT_RTOL = 1e-3


def config_from_arguments(module: str, arguments: Mapping[str, Any]) -> UNetConfig | ClassifierConfig:
    """Our config from the arguments of the authors' UNetModel, SuperResModel or EncoderUNetModel.

    They give attention resolutions as downsampling factors, and -1 for None.
    """
    size = arguments['image_size']
    head_channels = arguments['num_head_channels']
    trunk = dict(
        image_size=(size, size),
        image_channels=arguments['in_channels'],
        model_channels=arguments['model_channels'],
        channel_mult=tuple(arguments['channel_mult']),
        num_res_blocks=arguments['num_res_blocks'],
        attention_resolutions=tuple(size // factor for factor in arguments['attention_resolutions']),
        num_heads=arguments['num_heads'],
        num_head_channels=None if head_channels == -1 else head_channels,
        qkv_order='new' if arguments['use_new_attention_order'] else 'legacy',
        scale_shift_norm=arguments['use_scale_shift_norm'],
        resblock_updown=arguments['resblock_updown'],
        conv_resample=arguments['conv_resample'],
        dropout=arguments.get('dropout', 0.0),
    )
    if module == 'EncoderUNetModel':
        return ClassifierConfig(**trunk, num_classes=arguments['out_channels'], pool=arguments['pool'])
    heads_upsample = arguments['num_heads_upsample']
    return UNetConfig(
        **trunk,
        out_channels=arguments['out_channels'],
        num_classes=arguments['num_classes'],
        num_heads_upsample=None if heads_upsample == -1 else heads_upsample,
        low_res=module == 'SuperResModel',
    )


def config_from_release(
    module: str, arguments: Mapping[str, Any], flags: Mapping[str, Any]
) -> UNetConfig | ClassifierConfig:
    """Our config from the attributes of the authors' built network, and from flags for what it lacks."""
    prefix = 'classifier_' if module == 'EncoderUNetModel' else ''
    return config_from_arguments(
        module,
        {
            **arguments,
            # A built SuperResModel counts the low-resolution image among its channels.
            'in_channels': arguments['in_channels'] // (2 if module == 'SuperResModel' else 1),
            'attention_resolutions': arguments['attention_ds'],
            'use_scale_shift_norm': flags[f'{prefix}use_scale_shift_norm'],
            'resblock_updown': flags[f'{prefix}resblock_updown'],
            'use_new_attention_order': flags.get('use_new_attention_order', False),
            'num_classes': 1000 if flags.get('class_cond') else None,
            'pool': flags.get('classifier_pool'),
        },
    )


def load_network(weights: Case) -> tuple[UNetConfig | ClassifierConfig, dict[str, Any]]:
    """Config and parameters of a recorded network, from its weights case."""
    config = config_from_arguments(weights.meta['kind'], weights.meta['config'])
    return config, from_reference(config, weights.arrays)


def to_nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def to_nchw(x: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


def conditioning(case: Case) -> dict[str, np.ndarray]:
    """The optional inputs of a case, as keyword arguments of `apply`."""
    inputs = {'y': case.arrays['y']} if 'y' in case.arrays else {}
    if 'low_res' in case.arrays:
        inputs['low_res'] = to_nhwc(case.arrays['low_res'])
    return inputs


def check_unet(case: Case) -> None:
    config, params = load_network(case.sibling(case.meta['weights']))
    arrays, inputs = case.arrays, conditioning(case)
    x = to_nhwc(arrays['x'])

    def objective(params, x, t):
        out = models.apply(config, params, x, t, **inputs)
        return jnp.sum(out**2), out

    run = jax.jit(jax.value_and_grad(objective, argnums=(0, 1), has_aux=True))
    (_, out), (param_grads, x_grad) = run(params, x, arrays['t'])
    compare('outputs', to_nchw(out), arrays['out'], atol=OUTPUT_ATOL)
    assert_close('gradients by x', to_nchw(x_grad), arrays['grad_x'])
    check_param_grads(case, to_reference(config, param_grads), arrays['grad_norms'])
    if 't_int' in arrays:
        out = jax.jit(functools.partial(models.apply, config))(params, x, arrays['t_int'], **inputs)
        compare('outputs', to_nchw(out), arrays['out_int_t'], atol=OUTPUT_ATOL)

    if 'out_fp16_torso' in arrays:
        # bfloat16 has three bits less than the float16 that the authors computed with.
        config = dataclasses.replace(config, dtype='bfloat16')
        out = jax.jit(functools.partial(models.apply, config))(params, x, arrays['t'], **inputs)
        deviation = np.std(to_nchw(out) - arrays['out'])
        assert 0 < deviation < 2**3 * np.std(arrays['out_fp16_torso'] - arrays['out'])


def check_classifier(case: Case) -> None:
    config, params = load_network(case.sibling(case.meta['weights']))
    arrays = case.arrays
    y, t = arrays['y'], arrays['t']

    def log_prob(params, x):
        logits = models.apply(config, params, x, t)
        selected = jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=-1)[:, 0]
        return selected, logits

    @jax.jit
    def run(params, x):
        selected, pull_back, logits = jax.vjp(log_prob, params, x, has_aux=True)
        of_sum = pull_back(jnp.ones_like(selected))
        of_mean_cross_entropy = pull_back(-jnp.ones_like(selected) / len(selected))
        return logits, selected, of_sum[1], of_mean_cross_entropy[0]

    logits, selected, x_grad, param_grads = run(params, to_nhwc(arrays['x']))
    compare('logits', logits, arrays['logits'], atol=OUTPUT_ATOL)
    compare('log p(y|x_t)', selected, arrays['log_prob'], atol=OUTPUT_ATOL)
    compare('log p(y|x_t)', -selected, arrays['cross_entropy'], atol=OUTPUT_ATOL)
    assert_close('gradients by x', to_nchw(x_grad), arrays['grad_x'])
    check_param_grads(case, to_reference(config, param_grads), arrays['param_grad_norms'])


def check_param_grads(case: Case, grads: Mapping[str, np.ndarray], norms: np.ndarray) -> None:
    """Every gradient's norm, and some gradients in full; a recorded nan means that there is no gradient.

    Gradients that cancel exactly, as those of a bias before a norm, are rounding on both sides: they are held
    to a millionth of the largest norm.
    """
    floor = 1e-6 * np.nanmax(norms)
    ours = np.array([np.linalg.norm(grads[key].astype(np.float64)) for key in case.meta['grad_norm_keys']])
    compare("norms of parameters' gradients", ours, np.nan_to_num(norms), rtol=GRADIENT_RTOL, atol=floor)
    for name, recorded in case.arrays.items():
        if name.startswith('grad/'):
            assert_close('gradients by parameters', grads[name.removeprefix('grad/')], recorded, floor)


def assert_close(quantity: str, ours: np.ndarray, recorded: np.ndarray, floor: float = 0.0) -> None:
    """Within GRADIENT_RTOL of the largest element."""
    compare(quantity, ours, recorded, atol=GRADIENT_RTOL * np.abs(recorded).max() + floor)


def check_weights(case: Case) -> None:
    config, params = load_network(case)
    assert list(reference_shapes(config)) == case.meta['key_order']
    back = to_reference(config, params)
    for key in case.meta['key_order']:
        compare('weights, there and back', back[key], case.arrays[key], detail=key)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == case.meta['params']


def check_timestep_embedding(case: Case) -> None:
    for name, recorded in case.arrays.items():
        if name != 't':
            ours = timestep_embedding(jnp.asarray(case.arrays['t']), int(name.removeprefix('dim')))
            compare('timestep embeddings', ours, recorded, atol=EMBEDDING_ATOL, detail=name)


def weights_by_rule(seed: int, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The weights of a full-size network, which are generated instead of stored."""
    return {key: _draw(seed, key, shape) for key, shape in shapes.items()}


def _draw(seed: int, key: str, shape: tuple[int, ...]) -> np.ndarray:
    normal = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)
    if key.endswith('bias'):
        return np.float32(0.05 * normal)
    if key.endswith('positional_embedding'):
        return np.float32(0.1 * normal)
    if key == 'label_emb.weight':
        return np.float32(0.5 * normal)
    if len(shape) == 1:
        return np.float32(1 + 0.1 * normal)
    return np.float32(normal / np.sqrt(np.prod(shape[1:])))


def check_full_size(case: Case) -> None:
    meta, arrays = case.meta, case.arrays
    config = config_from_release(meta['module'], meta['module_args'], meta['resolved'])
    shapes = reference_shapes(config)
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == meta['total_params']
    params = from_reference(config, weights_by_rule(meta['seed'], shapes))
    draw = np.random.default_rng([meta['seed'], 1])
    x = to_nhwc(draw.standard_normal((1, config.image_channels, *config.image_size)).astype(np.float32))
    inputs = {}
    if isinstance(config, UNetConfig) and config.low_res:
        side = meta['resolved']['small_size']
        drawn = draw.standard_normal((1, config.image_channels, side, side)).astype(np.float32)
        inputs['low_res'] = to_nhwc(arrays.get('low_res', drawn))
    if isinstance(config, UNetConfig) and config.num_classes:
        inputs['y'] = jnp.array([meta['y']])
    t, stride = jnp.array([meta['t']]), meta['stride']
    if isinstance(config, UNetConfig):
        output = jax.jit(functools.partial(models.apply, config))(params, x, t, **inputs)
        ours = to_nchw(output)[:, :, ::stride, ::stride]
        assert_norm_close('output', ours, arrays['output_strided'], FULL_OUTPUT_RTOL)
        return

    @jax.jit
    @functools.partial(jax.grad, argnums=1, has_aux=True)
    def run(params, x):
        logits = models.apply(config, params, x, t)
        return jax.nn.log_softmax(logits)[0, meta['y']], logits

    gradient, logits = run(params, x)
    assert_norm_close('logits', logits, arrays['logits'], FULL_OUTPUT_RTOL)
    recorded = arrays['grad_log_prob_strided']
    ours = to_nchw(gradient)[:, :, ::stride, ::stride]
    assert_norm_close('gradient by x', ours, recorded, FULL_GRADIENT_RTOL)


def assert_norm_close(quantity: str, ours: np.ndarray, recorded: np.ndarray, rtol: float) -> None:
    """The difference's norm within rtol of the recorded norm."""
    error = np.linalg.norm(np.asarray(ours, np.float64) - recorded) / np.linalg.norm(recorded)
    compare(f"{quantity}, the error's norm as a share of the norm", error, 0.0, atol=rtol)


def _has(*names: str):
    return lambda case: set(names) <= set(case.meta.get('arrays', ()))


def _is_timestep_embedding(case: Case) -> bool:
    return any(re.fullmatch(r'dim\d+', name) for name in case.meta.get('arrays', ()))


def _is_full_size(case: Case) -> bool:
    return 'module_args' in case.meta


CHECKS = [
    Check('weights', lambda case: 'key_order' in case.meta, check_weights),
    Check('networks', _has('x', 't', 'out', 'grad_norms'), check_unet),
    Check('networks', _has('x', 't', 'logits', 'param_grad_norms'), check_classifier),
    Check('networks', _is_timestep_embedding, check_timestep_embedding),
    Check('networks at full size', _is_full_size, check_full_size, slow=_is_full_size),
]
