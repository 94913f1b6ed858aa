"""Self-attention over the pixels of a feature map."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models.config import TrunkConfig
from diffusion_jax.models.layers import PRECISION, add_residual, linear
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.plan import Layer


def split_heads(qkv: jax.Array, num_heads: int, order: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """[B, N, 3C] to q, k and v, each [B, N, heads, C/heads]; for `order` see TrunkConfig.qkv_order."""
    batch, tokens, _ = qkv.shape
    if order == 'legacy':
        parts = jnp.split(qkv.reshape(batch, tokens, num_heads, -1), 3, axis=-1)
    else:
        parts = (part.reshape(batch, tokens, num_heads, -1) for part in jnp.split(qkv, 3, axis=-1))
    return tuple(parts)


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """softmax(q·kᵀ/sqrt(c))·v for each head: [B, M, heads, c], [B, N, heads, c] twice to [B, M, heads·c]."""
    if _flash_is_available(q):
        h = jax.nn.dot_product_attention(q, k, v, implementation='cudnn')
    else:
        h = jnp.einsum('bhmn,bnhc->bmhc', attention_weights(q, k), v, precision=PRECISION)
    return h.reshape(*h.shape[:2], -1)


def _flash_is_available(q: jax.Array) -> bool:
    """Whether cuDNN has a kernel that keeps the logits out of memory; the plain form is its reference."""
    return jax.default_backend() == 'gpu' and q.dtype == jnp.bfloat16 and q.shape[-1] % 8 == 0


@jax.custom_jvp
def attention_weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """softmax(q·kᵀ/sqrt(c)), [B, heads, M, N] in q's dtype; logits and softmax are in float32.

    q and k are scaled by c^(-1/4) each: their product stays small. The derivative is written by hand, so that
    what is kept for it, and its products with q and k, are in q's dtype as well; autodiff would make them
    float32.
    """
    scale = q.shape[-1] ** -0.25
    logits = jnp.einsum(
        'bmhc,bnhc->bhmn', q * scale, k * scale, precision=PRECISION, preferred_element_type=jnp.float32
    )
    return jax.nn.softmax(logits, axis=-1).astype(q.dtype)


@attention_weights.defjvp
def _attention_weights_jvp(primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    """dw = w·(ds − Σ w·ds), where s are the logits."""
    (q, k), (dq, dk) = primals, tangents
    weights = attention_weights(q, k)
    product = functools.partial(jnp.einsum, 'bmhc,bnhc->bhmn', precision=PRECISION)
    ds = q.shape[-1] ** -0.5 * (product(dq, k) + product(q, dk)).astype(jnp.float32)
    w = weights.astype(jnp.float32)
    return weights, (w * (ds - jnp.sum(w * ds, axis=-1, keepdims=True))).astype(q.dtype)


class Attention(nnx.Module):
    """Normalization, multi-head self-attention and an output projection around a skip connection."""

    def __init__(self, config: TrunkConfig, layer: Layer, rngs: nnx.Rngs):
        channels = layer.in_channels
        self.heads = layer.heads
        self.order = config.qkv_order
        self.rescale = config.rescale_residual
        self.norm = GroupNorm(channels, rngs)
        self.qkv = linear(channels, 3 * channels, rngs, config.dtype)
        self.out = linear(channels, channels, rngs, config.dtype, zero=True)

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        h = self.norm(x, silu=False).reshape(batch, height * width, channels)
        h = self.out(attend(*split_heads(self.qkv(h), self.heads, self.order)))
        return add_residual(x, h.reshape(x.shape), self.rescale)


class AttentionPool(nnx.Module):
    """One attention query, the mean of all pixels: [B, H, W, C] to [B, out_channels], H and W fixed."""

    def __init__(
        self, size: tuple[int, int], channels: int, num_heads: int, out_channels: int, rngs: nnx.Rngs
    ):
        tokens = size[0] * size[1] + 1
        init = nnx.initializers.normal(channels**-0.5)
        self.heads = num_heads
        self.position = nnx.Param(init(rngs.params(), (tokens, channels), jnp.float32))
        self.qkv = linear(channels, 3 * channels, rngs)
        self.out = linear(channels, out_channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        pixels = x.reshape(x.shape[0], -1, x.shape[-1])
        tokens = jnp.concatenate([pixels.mean(axis=1, keepdims=True), pixels], axis=1) + self.position[...]
        q, k, v = split_heads(self.qkv(tokens), self.heads, 'new')
        return self.out(attend(q[:, :1], k, v))[:, 0]
