"""Encoder and middle: what the UNet and the classifier share."""

from typing import Any

import jax
from flax import nnx

from diffusion_jax.models.attention import Attention
from diffusion_jax.models.config import ClassifierConfig, TrunkConfig, UNetConfig
from diffusion_jax.models.layers import Downsample, ResidualBlock, TimeEmbedding, Upsample, conv3x3
from diffusion_jax.models.layout import Block, make_layout

LAYERS = {
    'conv': lambda config, layer, rngs: conv3x3(layer.in_channels, layer.out_channels, rngs, config.dtype),
    'residual': ResidualBlock,
    'attention': Attention,
    'downsample': Downsample,
    'upsample': Upsample,
}


class Sequence(nnx.Module):
    """The layers of one block.

    `index` is that of the block in the network: every residual block draws its own dropout.
    """

    def __init__(self, config: TrunkConfig, block: Block, index: int, rngs: nnx.Rngs):
        self.block = block
        self.index = index
        self.remat = config.remat
        for layer in block:
            setattr(self, layer.name, LAYERS[layer.kind](config, layer, rngs))

    def __call__(self, *h: jax.Array, embedding: jax.Array, key: jax.Array | None) -> jax.Array:
        """h may be split along the channels, if the first layer is a residual block."""
        keys: Any = len(self.block) * [None]
        if key is not None:
            keys = jax.random.split(jax.random.fold_in(key, self.index), len(self.block))
        for layer, layer_key in zip(self.block, keys, strict=True):
            run = getattr(self, layer.name).__call__
            if self.remat and layer.kind in ('residual', 'attention'):
                run = jax.checkpoint(run)
            h = (run(*h, embedding=embedding, key=layer_key) if layer.kind == 'residual' else run(*h),)
        return h[0]


def sequences(config: TrunkConfig, blocks: tuple[Block, ...], start: int, rngs: nnx.Rngs) -> nnx.Dict:
    """`block_0`, `block_1`, … of an encoder or decoder; `start` is the index of the first in the network."""
    return nnx.Dict(
        {f'block_{i}': Sequence(config, block, start + i, rngs) for i, block in enumerate(blocks)}
    )


class Trunk(nnx.Module):
    """Time embedding, encoder and middle."""

    def __init__(self, config: UNetConfig | ClassifierConfig, rngs: nnx.Rngs):
        layout = make_layout(config)
        self.dtype = config.array_dtype
        self.time_embedding = TimeEmbedding(config.model_channels, rngs)
        self.encoder = sequences(config, layout.encoder, 0, rngs)
        self.middle = Sequence(config, layout.middle, len(layout.encoder), rngs)

    def encode(self, x: jax.Array, embedding: jax.Array, key: jax.Array | None) -> tuple[jax.Array, list]:
        """The outputs of the middle and of each encoder block for x [B, H, W, C], in the network's dtype."""
        h, skips = x.astype(self.dtype), []
        for i in range(len(self.encoder)):
            h = self.encoder[f'block_{i}'](h, embedding=embedding, key=key)
            skips.append(h)
        return self.middle(h, embedding=embedding, key=key), skips
