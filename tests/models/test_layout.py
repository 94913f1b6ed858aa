"""The architecture as data."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.models.layout import Layer, make_layout

CONFIG = UNetConfig(
    image_size=(16, 24),
    model_channels=64,
    channel_mult=(0.5, 1),
    num_res_blocks=2,
    attention_resolutions=(8,),
    num_head_channels=16,
)


def names(blocks):
    return [tuple(layer.name for layer in block) for block in blocks]


def test_encoder():
    assert names(make_layout(CONFIG).encoder) == [
        ('conv',),
        ('residual',),
        ('residual',),
        ('downsample',),
        ('residual', 'attention'),
        ('residual', 'attention'),
    ]
    assert make_layout(CONFIG).encoder[0] == (Layer('conv', 'conv', 3, 32),)
    assert make_layout(CONFIG).encoder[3] == (Layer('downsample', 'residual', 32, 32, resample='down'),)
    assert make_layout(CONFIG).encoder[4] == (
        Layer('residual', 'residual', 32, 64),
        Layer('attention', 'attention', 64, 64, heads=4),
    )


def test_decoder_mirrors_the_encoder():
    decoder = make_layout(CONFIG).decoder
    assert names(decoder) == [
        ('residual', 'attention'),
        ('residual', 'attention'),
        ('residual', 'attention', 'upsample'),
        ('residual',),
        ('residual',),
        ('residual',),
    ]
    # What comes from below and the skip connection, together.
    assert [block[0].in_channels for block in decoder] == [128, 128, 96, 96, 64, 64]
    assert [block[0].out_channels for block in decoder] == [64, 64, 64, 32, 32, 32]


def test_plain_resampling_has_layers_of_its_own():
    config = UNetConfig(resblock_updown=False)
    assert make_layout(config).encoder[3] == (Layer('downsample', 'downsample', 128, 128),)
    assert make_layout(config).decoder[2][-1] == Layer('upsample', 'upsample', 512, 512)


def test_middle_always_attends():
    middle = make_layout(UNetConfig(attention_resolutions=())).middle
    assert [layer.kind for layer in middle] == ['residual', 'attention', 'residual']


def test_classifier_is_the_unet_without_decoder():
    trunk = dict(image_size=(32, 32), channel_mult=(1, 2), attention_resolutions=(16,))
    unet, classifier = make_layout(UNetConfig(**trunk)), make_layout(ClassifierConfig(**trunk))
    assert classifier.encoder == unet.encoder
    assert classifier.middle == unet.middle
    assert classifier.decoder == ()


def test_upsampler_sees_twice_the_channels():
    assert make_layout(UNetConfig(low_res=True)).encoder[0][0].in_channels == 6


@pytest.mark.parametrize(
    ('settings', 'encoder_heads', 'decoder_heads'),
    [
        (dict(num_heads=2, num_head_channels=None), 2, 2),
        (dict(num_heads=2, num_head_channels=None, num_heads_upsample=4), 2, 4),
        (dict(num_heads=2, num_head_channels=16, num_heads_upsample=4), 8, 8),
    ],
)
def test_heads(settings, encoder_heads, decoder_heads):
    layout = make_layout(
        UNetConfig(image_size=(8, 8), channel_mult=(1,), attention_resolutions=(8,), **settings)
    )
    assert layout.encoder[1][1].heads == layout.middle[1].heads == encoder_heads
    assert layout.decoder[0][1].heads == decoder_heads


@given(
    mult=st.lists(st.sampled_from([0.5, 1, 2, 3]), min_size=1, max_size=5),
    num_res_blocks=st.integers(1, 4),
    resblock_updown=st.booleans(),
    attend=st.sets(st.sampled_from([4, 8, 16, 32, 64])),
)
def test_layers_fit_together(mult, num_res_blocks, resblock_updown, attend):
    layout = make_layout(
        UNetConfig(
            model_channels=64,
            channel_mult=tuple(mult),
            num_res_blocks=num_res_blocks,
            resblock_updown=resblock_updown,
            attention_resolutions=tuple(attend),
        )
    )
    channels, side, skips = 3, 64, []
    for block in layout.encoder:
        channels, side = follow(block, channels, side, attend)
        skips.append((channels, side))
    channels, side = follow(layout.middle, channels, side, {side})
    for block in layout.decoder:
        skip_channels, skip_side = skips.pop()
        assert skip_side == side
        channels, side = follow(block, channels + skip_channels, side, attend)
    assert not skips
    assert (channels, side) == (int(64 * mult[0]), 64)


def follow(block, channels, side, attend):
    """Channels and side after the block; attention stands behind a residual block exactly where asked for."""
    assert len({layer.name for layer in block}) == len(block)
    plain = [layer for layer in block if layer.kind == 'residual' and layer.resample is None]
    assert any(layer.kind == 'attention' for layer in block) == bool(plain and side in attend)
    for layer in block:
        assert layer.in_channels == channels
        channels = layer.out_channels
        if layer.kind == 'upsample' or layer.resample == 'up':
            side *= 2
        if layer.kind == 'downsample' or layer.resample == 'down':
            side //= 2
    return channels, side
