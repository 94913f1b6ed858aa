"""The classifier p(y|x_t) of noisy images: the UNet's encoder and middle, and a head (paper, section 4)."""

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models.attention import AttentionPool
from diffusion_jax.models.config import HIDDEN, ClassifierConfig
from diffusion_jax.models.layers import linear
from diffusion_jax.models.layout import heads, level_channels, make_layout
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.trunk import Trunk


class AdaptiveHead(nnx.Module):
    """A linear map of the mean over all pixels, initially zero."""

    def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs):
        channels = level_channels(config)[-1]
        self.norm = GroupNorm(channels, config.norm_groups)
        self.out = linear(channels, config.num_classes, rngs, zero=True)

    def __call__(self, h: jax.Array, skips: list) -> jax.Array:
        return self.out(self.norm(h.astype(jnp.float32)).mean(axis=(1, 2)))


class AttentionHead(nnx.Module):
    """Attention pooling, the head of the paper."""

    def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs):
        channels = level_channels(config)[-1]
        height, width = (side // 2 ** (len(config.channel_mult) - 1) for side in config.image_size)
        self.norm = GroupNorm(channels, config.norm_groups)
        num_heads = heads(config, channels)
        self.pool = AttentionPool(height * width, channels, num_heads, config.num_classes, rngs)

    def __call__(self, h: jax.Array, skips: list) -> jax.Array:
        return self.pool(self.norm(h.astype(jnp.float32)))


class SpatialHead(nnx.Module):
    """A perceptron on the spatial means of every encoder block and of the middle.

    Between its layers 'spatial' has a ReLU, 'spatial_v2' group normalization and SiLU.
    """

    def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs):
        layout = make_layout(config)
        features = sum(block[-1].out_channels for block in (*layout.encoder, layout.middle))
        self.linear = linear(features, HIDDEN, rngs)
        self.norm = GroupNorm(HIDDEN, config.norm_groups) if config.pool == 'spatial_v2' else None
        self.out = linear(HIDDEN, config.num_classes, rngs)

    def __call__(self, h: jax.Array, skips: list) -> jax.Array:
        features = [feature.astype(jnp.float32).mean(axis=(1, 2)) for feature in (*skips, h)]
        h = self.linear(jnp.concatenate(features, axis=-1))
        return self.out(self.norm(h) if self.norm else nnx.relu(h))


HEADS = {
    'adaptive': AdaptiveHead,
    'attention': AttentionHead,
    'spatial': SpatialHead,
    'spatial_v2': SpatialHead,
}


class Classifier(Trunk):
    """Encoder, middle and head; labels and low-resolution images are ignored."""

    def __init__(self, config: ClassifierConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        self.head = HEADS[config.pool](config, rngs)

    def __call__(
        self, x: jax.Array, t: jax.Array, y: None, low_res: None, key: jax.Array | None
    ) -> jax.Array:
        h, skips = self.encode(x, self.time_embedding(t), key)
        return self.head(h, skips)
