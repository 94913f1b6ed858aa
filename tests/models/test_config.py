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
    ('settings', 'message'),
    [
        (dict(image_size=(60, 64)), r'image_size, \(60, 64\).*divisible by 8'),
        (dict(image_size=(64, 0)), r'image_size is \(64, 0\).*positive'),
        (dict(model_channels=48), r'channel_mult 1 of model_channels 48 gives 48 channels.*multiple of 32'),
        (dict(channel_mult=(0.001, 1), attention_resolutions=()), 'gives 0 channels'),
        (dict(channel_mult=()), 'channel_mult is empty'),
        (dict(channel_mult=(1, float('nan'))), 'channel_mult is .*positive'),
        (dict(num_head_channels=48), 'num_head_channels is 48; it must divide the 256 channels'),
        (dict(num_head_channels=None, num_heads=3), 'num_heads is 3; it must divide the 256 channels'),
        (dict(num_head_channels=0), 'num_head_channels is 0; it must be positive'),
        (
            dict(attention_resolutions=(32, 12)),
            'attention_resolutions is 12; it must be one of 64, 32, 16, 8',
        ),
        (dict(qkv_order='old'), "qkv_order is 'old'; it must be one of 'legacy', 'new'"),
        (
            dict(dtype='float16'),
            "dtype is 'float16'; it must be one of 'float32', 'tensorfloat32', 'bfloat16'",
        ),
        (dict(dropout=1.0), 'dropout is 1.0'),
        (dict(num_res_blocks=0), 'num_res_blocks is 0'),
    ],
)
@pytest.mark.parametrize(('kind', 'check'), [(UNetConfig, check_unet), (ClassifierConfig, check_classifier)])
def test_refuses(kind, check, settings, message):
    with pytest.raises(UserError, match=message):
        check(kind(**settings))


def test_refuses_what_only_one_of_them_has():
    with pytest.raises(UserError, match='out_channels is 0'):
        check_unet(UNetConfig(out_channels=0))
    with pytest.raises(UserError, match='num_heads_upsample is 5; it must divide the 256 channels'):
        check_unet(UNetConfig(num_head_channels=None, num_heads_upsample=5))
    with pytest.raises(UserError, match='num_classes is -1'):
        check_unet(UNetConfig(num_classes=-1))
    with pytest.raises(UserError, match='label_dropout is 1.0; it must be at least 0 and below 1'):
        check_unet(UNetConfig(num_classes=10, label_dropout=1.0))
    with pytest.raises(UserError, match='label_dropout is 0.1; only a class-conditional network'):
        check_unet(UNetConfig(label_dropout=0.1))
    with pytest.raises(UserError, match="pool is 'mean'; it must be one of 'adaptive', 'attention'"):
        check_classifier(ClassifierConfig(pool='mean'))
