"""The UNet of diffusion models (paper, section 3), and with a low-resolution image the upsampler."""

import jax
import jax.numpy as jnp
from flax import nnx

from diffusion_jax.models.config import NULL_CLASS, UNetConfig
from diffusion_jax.models.layers import OutputConv
from diffusion_jax.models.layout import level_channels, make_layout
from diffusion_jax.models.normalization import GroupNorm
from diffusion_jax.models.trunk import Trunk, sequences


class UNet(Trunk):
    """Encoder, middle and decoder with skip connections."""

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        super().__init__(config, rngs)
        layout = make_layout(config)
        channels = level_channels(config)[0]
        self.num_classes = config.num_classes
        self.low_res = config.low_res
        if config.num_classes is not None:
            self.label_embedding = nnx.Embed(
                config.num_classes,
                4 * config.model_channels,
                embedding_init=nnx.initializers.normal(1.0),
                rngs=rngs,
            )
        self.decoder = sequences(config, layout.decoder, len(layout.encoder) + 1, rngs)
        self.norm_out = GroupNorm(channels, config.norm_groups)
        self.conv_out = OutputConv(config, channels)

    def __call__(
        self,
        x: jax.Array,
        t: jax.Array,
        y: jax.Array | None,
        low_res: jax.Array | None,
        key: jax.Array | None,
    ) -> jax.Array:
        if self.low_res:
            assert low_res is not None
            # resize interpolates along every axis that changes: only height and width may.
            shape = (low_res.shape[0], *x.shape[1:3], low_res.shape[-1])
            x = jnp.concatenate([x, jax.image.resize(low_res, shape, 'bilinear')], axis=-1)
        embedding = self.time_embedding(t)
        if self.num_classes is not None:
            assert y is not None
            embedding += jnp.where((y == NULL_CLASS)[:, None], 0, self.label_embedding(y))
        h, skips = self.encode(x, embedding, key)
        for i, skip in enumerate(reversed(skips)):
            h = self.decoder[f'block_{i}'](h, skip, embedding=embedding, key=key)
        return self.conv_out(self.norm_out(h))
