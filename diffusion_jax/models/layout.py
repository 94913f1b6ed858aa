"""The architecture as data: the layers of a network in the order in which they run.

The constructors of the networks and the table of the authors' key names read it.
"""

from typing import NamedTuple

from diffusion_jax.models.config import ClassifierConfig, TrunkConfig, UNetConfig


class Layer(NamedTuple):
    """One layer of a block; `name` is its key in the parameters, unique within the block."""

    name: str
    kind: str  # 'conv' | 'residual' | 'attention' | 'downsample' | 'upsample'
    in_channels: int
    out_channels: int
    heads: int | None = None  # of an attention
    resample: str | None = None  # of a residual block: 'down' | 'up'


Block = tuple[Layer, ...]


class Layout(NamedTuple):
    """Each encoder block adds a skip connection; each decoder block takes the latest one that is left."""

    encoder: tuple[Block, ...]
    middle: Block
    decoder: tuple[Block, ...]  # empty for a classifier


def level_channels(config: TrunkConfig) -> tuple[int, ...]:
    """Channels at each level, the finest first."""
    return tuple(int(mult * config.model_channels) for mult in config.channel_mult)


def heads(config: TrunkConfig, channels: int) -> int:
    """The number of attention heads in the encoder, the middle and the classifier's head."""
    return channels // config.num_head_channels if config.num_head_channels else config.num_heads


def make_layout(config: UNetConfig | ClassifierConfig) -> Layout:
    """The layers of a network (paper, section 3)."""
    low_res = isinstance(config, UNetConfig) and config.low_res
    encoder = _encoder(config, config.image_channels * (2 if low_res else 1))
    channels = level_channels(config)[-1]
    middle = (
        Layer('residual_in', 'residual', channels, channels),
        Layer('attention', 'attention', channels, channels, heads(config, channels)),
        Layer('residual_out', 'residual', channels, channels),
    )
    decoder = _decoder(config, encoder) if isinstance(config, UNetConfig) else ()
    return Layout(encoder, middle, decoder)


def attention_blocks(config: UNetConfig | ClassifierConfig) -> tuple[str, ...]:
    """The names of the blocks that have self-attention: 'encoder.7', 'middle', 'decoder.0', …"""
    layout = make_layout(config)
    named = {f'encoder.{i}': block for i, block in enumerate(layout.encoder)} | {'middle': layout.middle}
    named |= {f'decoder.{i}': block for i, block in enumerate(layout.decoder)}
    return tuple(name for name, block in named.items() if any(layer.kind == 'attention' for layer in block))


def _encoder(config: TrunkConfig, in_channels: int) -> tuple[Block, ...]:
    channels = level_channels(config)
    blocks: list[Block] = [(Layer('conv', 'conv', in_channels, channels[0]),)]
    current = channels[0]
    for level, width in enumerate(channels):
        if level > 0:
            blocks.append((_resample(config, 'down', current),))
        for _ in range(config.num_res_blocks):
            residual = Layer('residual', 'residual', current, width)
            blocks.append((residual, *_attention(config, level, width, heads(config, width))))
            current = width
    return tuple(blocks)


def _decoder(config: UNetConfig, encoder: tuple[Block, ...]) -> tuple[Block, ...]:
    channels = level_channels(config)
    skips = [block[-1].out_channels for block in encoder]
    blocks = []
    current = channels[-1]
    for level, width in reversed(list(enumerate(channels))):
        for i in range(config.num_res_blocks + 1):
            residual = Layer('residual', 'residual', current + skips.pop(), width)
            block = (residual, *_attention(config, level, width, _decoder_heads(config, width)))
            if level > 0 and i == config.num_res_blocks:
                block += (_resample(config, 'up', width),)
            blocks.append(block)
            current = width
    return tuple(blocks)


def _attention(config: TrunkConfig, level: int, channels: int, num_heads: int) -> Block:
    """An attention layer, if the level's resolution is one of `attention_resolutions`."""
    if min(config.image_size) // 2**level not in config.attention_resolutions:
        return ()
    return (Layer('attention', 'attention', channels, channels, num_heads),)


def _resample(config: TrunkConfig, direction: str, channels: int) -> Layer:
    name = f'{direction}sample'
    if config.resblock_updown:
        return Layer(name, 'residual', channels, channels, resample=direction)
    return Layer(name, name, channels, channels)


def _decoder_heads(config: UNetConfig, channels: int) -> int:
    if config.num_head_channels is None and config.num_heads_upsample is not None:
        return config.num_heads_upsample
    return heads(config, channels)
