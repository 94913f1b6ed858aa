"""Networks as pure functions: `init` makes parameters, `apply` computes outputs.

Parameters are a plain nested dict of float32 arrays:

    time_embedding/{linear_in, linear_out}/{kernel, bias}
    label_embedding/embedding                              UNet with classes
    encoder/block_0/conv/{kernel, bias}
    encoder/block_i/residual/{norm_in, conv_in, embedding, norm_out, conv_out, skip}/{scale | kernel, bias}
    encoder/block_i/attention/{norm, qkv, out}/...
    encoder/block_i/downsample/...                         between levels: a residual block or one conv
    middle/{residual_in, attention, residual_out}/...
    decoder/block_i/{residual, attention, upsample}/...    UNet
    norm_out, conv_out                                     UNet
    head/...                                               classifier

Kernels are [height, width, in, out], and [in, out] where they act on single pixels.
"""

import dataclasses
import functools
from typing import Any

import jax
from flax import nnx

from diffusion_jax.models.classifier import Classifier
from diffusion_jax.models.config import (
    NULL_CLASS,
    ClassifierConfig,
    TrunkConfig,
    UNetConfig,
    check_classifier,
    check_unet,
)
from diffusion_jax.models.description import describe_network, differences, network_differences, network_of
from diffusion_jax.models.layout import attention_blocks
from diffusion_jax.models.unet import UNet

Params = dict[str, Any]
NETWORKS = {UNetConfig: UNet, ClassifierConfig: Classifier}


def init(config: UNetConfig | ClassifierConfig, key: jax.Array) -> Params:
    """Initial parameters: PyTorch's distributions, and zeros at the end of residual paths.

    Under `jax.jit` their last bits differ.
    """
    return nnx.to_pure_dict(nnx.state(_build(config, key), nnx.Param))


def apply(
    config: UNetConfig | ClassifierConfig,
    params: Params,
    x: jax.Array,
    t: jax.Array,
    y: jax.Array | None = None,
    *,
    low_res: jax.Array | None = None,
    key: jax.Array | None = None,
    identity: tuple[str, ...] = (),
) -> jax.Array:
    """The output of a network for images x [B, H, W, C], in [-1, 1] when clean, at times t [B].

    Args:
      t: int or float, from 0 for clean images to 1000 for noise.
      y: labels [B], int, from 0 to num_classes − 1, or NULL_CLASS (−1): no class embedding is added. Required
        by a UNet with classes, ignored by other networks.
      low_res: [B, h, w, C], enlarged bilinearly to the size of x. Required by upsamplers, ignored by others.
      key: for dropout; without it there is none.
      identity: static, names of `attention_blocks` in which each pixel attends to itself alone.

    Returns:
      UNet: [B, H, W, out_channels]; classifier: logits [B, num_classes]; float32. H and W may differ from
      the config's image_size if all levels can be halved and the head is not attention pooling.
    """
    return nnx.merge(_graph(config, identity), params)(x, t, y, low_res, key)


def apply_with_attention(
    config: UNetConfig,
    params: Params,
    x: jax.Array,
    t: jax.Array,
    y: jax.Array | None = None,
    *,
    low_res: jax.Array | None = None,
    block: str = 'middle',
) -> tuple[jax.Array, jax.Array]:
    """The output of `apply`, and the attention that pixels of a block receive, float32 [B, h, w], of mean 1.

    block: one of `attention_blocks`.
    """
    network: Any = nnx.merge(_graph(dataclasses.replace(config, remat=False), received=block), params)
    output = network(x, t, y, low_res, None)
    return output, _attention(network, block).received[...]


def param_shapes(config: UNetConfig | ClassifierConfig) -> Params:
    """The parameters as jax.ShapeDtypeStruct; needs no device."""
    return jax.eval_shape(lambda: init(config, jax.random.key(0)))


def _build(config: UNetConfig | ClassifierConfig, key: jax.Array) -> nnx.Module:
    return NETWORKS[type(config)](config, rngs=nnx.Rngs(params=key))


@functools.lru_cache
def _graph(
    config: UNetConfig | ClassifierConfig, identity: tuple[str, ...] = (), received: str | None = None
) -> nnx.GraphDef:
    network: Any = nnx.eval_shape(lambda: _build(config, jax.random.key(0)))
    for name in identity:
        _attention(network, name).identity = True
    if received is not None:
        _attention(network, received).keeps_received = True
    return nnx.graphdef(network)


def _attention(network: Any, name: str) -> Any:
    """The attention layer of one of `attention_blocks`."""
    part, _, index = name.partition('.')
    block = getattr(network, part)
    return (block[f'block_{index}'] if index else block).attention
