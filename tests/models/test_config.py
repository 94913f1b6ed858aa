"""Checks of network configs: every refusal names the setting, its value and what is allowed."""

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models import ClassifierConfig, UNetConfig, check_classifier, check_unet

# The released networks, and the authors' ablation baseline (paper, table 1).
GOOD = [
    UNetConfig(),
    UNetConfig(model_channels=192, num_res_blocks=3, dropout=0.1, num_classes=1000, qkv_order='new'),
    UNetConfig(
        image_size=(128, 128), model_channels=256, channel_mult=(1, 1, 2, 3, 4), num_head_channels=None
    ),
    UNetConfig(image_size=(512, 512), model_channels=256, channel_mult=(0.5, 1, 1, 2, 2, 4, 4)),
    UNetConfig(model_channels=48, norm_groups=16, num_head_channels=None),
    UNetConfig(image_size=(32, 48), channel_mult=(1, 2, 2, 2), attention_resolutions=(16, 8)),
    UNetConfig(model_channels=160, num_heads=1, num_head_channels=None, attention_resolutions=(16,)),
    # Heads of the decoder matter only where it attends, and only without a number of channels for each head.
    UNetConfig(num_heads_upsample=3),
    UNetConfig(num_classes=10, label_dropout=0.1),
    UNetConfig(attention_resolutions=(), num_head_channels=None, num_heads_upsample=3),
]


@pytest.mark.parametrize('config', GOOD)
def test_accepts(config):
    check_unet(config)


@pytest.mark.parametrize(
    ('settings', 'where', 'words'),
    [
        (dict(image_size=(60, 64)), 'channel_mult', ['(60, 64)', '8']),
        (dict(image_size=(64, 0)), 'image_size', ['(64, 0)']),
        (dict(model_channels=48), 'channel_mult', ['48 channels', '32']),
        (dict(model_channels=48, norm_groups=15), 'norm_groups', ['48 channels', '15']),
        (dict(norm_groups=0), 'norm_groups', ['got 0; must be positive']),
        (dict(channel_mult=(0.001, 1), attention_resolutions=()), 'channel_mult', ['0 channels']),
        (dict(channel_mult=()), 'channel_mult', ['empty']),
        (dict(channel_mult=(1, float('nan'))), 'channel_mult', ['nan']),
        (dict(num_head_channels=48), 'num_head_channels', ['48', '256']),
        (dict(num_head_channels=None, num_heads=3), 'num_heads', ['3', '256']),
        (dict(num_head_channels=0), 'num_head_channels', ['0']),
        (dict(attention_resolutions=(32, 12, 8)), 'attention_resolutions', ['12', '64, 32, 16, 8', ' 32,8']),
        (dict(attention_resolutions=(12,)), 'attention_resolutions', ['12', ' ()']),
        (dict(qkv_order='old'), 'qkv_order', ['old', 'legacy', 'new']),
        (dict(dtype='float16'), 'dtype', ['float16', 'float32', 'tensorfloat32', 'bfloat16']),
        (dict(dropout=1.0), 'dropout', ['1.0']),
        (dict(num_res_blocks=0), 'num_res_blocks', ['0']),
    ],
)
@pytest.mark.parametrize(('kind', 'check'), [(UNetConfig, check_unet), (ClassifierConfig, check_classifier)])
def test_refuses(kind, check, settings, where, words):
    assert_refused(check, kind(**settings), where, words)


@pytest.mark.parametrize(
    ('config', 'where', 'words'),
    [
        (UNetConfig(out_channels=0), 'out_channels', ['0']),
        (UNetConfig(num_head_channels=None, num_heads_upsample=5), 'num_heads_upsample', ['5', '256']),
        (UNetConfig(num_classes=-1), 'num_classes', ['-1']),
        (UNetConfig(num_classes=10, label_dropout=1.0), 'label_dropout', ['1.0']),
        (UNetConfig(label_dropout=0.1), 'label_dropout', ['0.1', 'class_conditional']),
        (ClassifierConfig(pool='mean'), 'pool', ['mean', 'adaptive', 'attention']),
        (ClassifierConfig(num_classes=0), 'num_classes', ['0']),
        (
            ClassifierConfig(model_channels=192, norm_groups=24, pool='spatial_v2'),
            'norm_groups',
            ['24', '2048'],
        ),
    ],
)
def test_refuses_settings_of_one_kind(config, where, words):
    assert_refused(check_unet if isinstance(config, UNetConfig) else check_classifier, config, where, words)


def assert_refused(check, config, where, words):
    with pytest.raises(UserError) as error:
        check(config)
    assert str(error.value).startswith(where)
    assert all(word in str(error.value) for word in words)
