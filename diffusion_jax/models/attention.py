"""Self-attention over the pixels of a feature map."""

import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models.config import TrunkConfig
from diffusion_jax.models.layers import add_residual, linear
from diffusion_jax.models.layout import Layer
from diffusion_jax.models.normalization import GroupNorm


def split_heads(qkv: jax.Array, num_heads: int, order: str) -> tuple[jax.Array, ...]:
    """[..., 3C] to q, k and v, each [..., heads, C/heads]; for `order` see TrunkConfig.qkv_order."""
    if order == 'legacy':
        return tuple(jnp.split(qkv.reshape(*qkv.shape[:-1], num_heads, -1), 3, axis=-1))
    return tuple(part.reshape(*part.shape[:-1], num_heads, -1) for part in jnp.split(qkv, 3, axis=-1))


def attend(q: jax.Array, k: jax.Array, v: jax.Array, precision: str = 'highest') -> jax.Array:
    """softmax(q·kᵀ/sqrt(c))·v for each head: [B, M, heads, c], [B, N, heads, c] twice to [B, M, heads·c].

    In bfloat16 on a GPU a cuDNN kernel does not store the logits. It supports first derivatives in reverse
    mode only.
    """
    if q.dtype == jnp.bfloat16 and has_flash_attention(q.shape[-1]):
        h = jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
    else:
        weights = attention_weights(q, k, precision)
        h = jnp.einsum('bhmn,bnhc->bmhc', weights, v, precision=precision)
    return h.reshape(*h.shape[:2], -1)


def has_flash_attention(head_size: int) -> bool:
    """Whether cuDNN has the kernel: on CUDA GPUs since Ampere, for heads of at most 128 channels."""
    device = jax.config.jax_default_device or jax.devices()[0]  # type: ignore[attr-defined]  # made at import
    capability = str(getattr(device, 'compute_capability', ''))  # '9.0'; of an AMD GPU such as 'gfx90a'
    recent = re.fullmatch(r'\d+\.\d+', capability) is not None and float(capability) >= 8
    return recent and head_size % 8 == 0 and head_size <= 128


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def attention_weights(q: jax.Array, k: jax.Array, precision: str) -> jax.Array:
    """softmax(q·kᵀ/sqrt(c)), [B, heads, M, N] in q's dtype; logits and softmax are in float32.

    q and k are scaled by c^(-1/4) each to keep products small. With autodiff the residuals and products of
    the derivative would be in float32; in the custom rule they are in q's dtype.
    """
    scale = q.shape[-1] ** -0.25
    product = functools.partial(jnp.einsum, 'bmhc,bnhc->bhmn', precision=precision)
    logits = product(q * scale, k * scale, preferred_element_type=jnp.float32)
    return jax.nn.softmax(logits, axis=-1).astype(q.dtype)


@attention_weights.defjvp
def _attention_weights_jvp(precision: str, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """dw = w·(ds − Σ w·ds), where s are the logits."""
    (q, k), (dq, dk) = primals, tangents
    weights = attention_weights(q, k, precision)
    product = functools.partial(jnp.einsum, 'bmhc,bnhc->bhmn', precision=precision)
    ds = q.shape[-1] ** -0.5 * (product(dq, k) + product(q, dk)).astype(jnp.float32)
    w = weights.astype(jnp.float32)
    return weights, (w * (ds - jnp.sum(w * ds, axis=-1, keepdims=True))).astype(q.dtype)


class Attention(nnx.Module):
    """Normalization, multi-head self-attention and an output projection around a skip connection.

    With `identity` each pixel attends to itself alone: the heads' outputs are v. With `keeps_received` the
    layer keeps the attention that each pixel receives, the mean over heads and the sum over pixels that
    attend: `received`, float32 [B, H, W], of mean 1.
    """

    identity: bool = False
    keeps_received: bool = False

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels = layer.in_channels
        self.heads: Any = layer.heads
        self.order = config.qkv_order
        self.precision = config.precision
        self.rescale = config.rescale_residual
        self.norm = GroupNorm(channels, config.norm_groups)
        self.qkv = linear(channels, 3 * channels, rngs, config.dtype)
        self.out = linear(channels, channels, rngs, config.dtype, zero=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = self.norm(x, silu=False).reshape(batch, height * width, channels)
        # Three products with the kernel split: splitting the result of one product would copy it.
        params: Any = self.qkv.kernel, self.qkv.bias
        kernels, biases = (
            split_heads(param[...].astype(h.dtype), self.heads, self.order) for param in params
        )
        product = functools.partial(jnp.einsum, 'bnc,chd->bnhd', precision=self.precision)
        q, k, v = (product(h, kernel) + bias for kernel, bias in zip(kernels, biases, strict=True))
        if self.keeps_received:
            weights = attention_weights(q, k, self.precision).astype(jnp.float32)
            self.received = nnx.Intermediate(weights.mean(axis=1).sum(axis=1).reshape(batch, height, width))
        h = self.out(v.reshape(h.shape) if self.identity else attend(q, k, v, self.precision))
        return add_residual(x, h.reshape(x.shape), self.rescale)


class AttentionPool(nnx.Module):
    """Attention with one query, the mean of all pixels: [B, H, W, C] to [B, out_channels], H and W fixed."""

    def __init__(self, pixels: int, channels: int, num_heads: int, out_channels: int, rngs: nnx.Rngs):
        init = nnx.initializers.normal(channels**-0.5)
        self.heads = num_heads
        self.position = nnx.Param(init(rngs.params(), (pixels + 1, channels), jnp.float32))
        self.qkv = linear(channels, 3 * channels, rngs)
        self.out = linear(channels, out_channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1) + self.position[...]
        q, k, v = split_heads(self.qkv(tokens), self.heads, 'new')
        return self.out(attend(q[:, :1], k, v))[:, 0]
