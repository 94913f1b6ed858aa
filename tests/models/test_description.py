import dataclasses
import json

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig, describe_network, differences, network_differences, network_of
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, UNET

HALVES = UNetConfig(num_head_channels=None, channel_mult=(0.5, 1, 1), attention_resolutions=(16,))
DROPPED = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
GROUPED = dataclasses.replace(UNET, norm_groups=16)
CONFIGS = [UNET, CONDITIONAL_UNET, DROPPED, CLASSIFIER, HALVES, GROUPED]


@pytest.mark.parametrize('config', CONFIGS)
def test_a_description_comes_back_from_json(config):
    assert network_of(json.loads(json.dumps(describe_network(config)))) == config


def test_settings_of_the_computation_are_not_described():
    changed = dataclasses.replace(UNET, dtype='bfloat16', remat=True, dropout=0.1)
    assert describe_network(changed) == describe_network(UNET)
    assert network_of(describe_network(changed)) == UNET


def test_newer_settings_are_described_where_they_are_not_the_defaults():
    """So digests of files stay those of versions without them."""
    assert describe_network(CONDITIONAL_UNET).keys().isdisjoint({'label_dropout', 'norm_groups'})
    assert describe_network(DROPPED)['label_dropout'] == 0.1
    assert describe_network(GROUPED)['norm_groups'] == 16


def test_missing_settings_have_their_defaults():
    assert network_of({'kind': 'UNetConfig', 'model_channels': 192}) == UNetConfig(model_channels=192)


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'kind': 'Transformer'}, ['kind', 'Transformer', 'UNetConfig', 'ClassifierConfig']),
        ({'kind': []}, ['kind']),
        ({'depth': 3}, ['network.depth', 'image_size']),
        ({'model_channels': '32'}, ['model_channels', '32']),
        ({'model_channels': True}, ['model_channels', 'True']),
        ({'image_size': [8, 8, 8]}, ['image_size', '[8, 8, 8]']),
        ({'image_size': 8}, ['image_size', '8']),
        ({'channel_mult': [1, None]}, ['channel_mult', '[1, None]']),
        ({'num_classes': 1.5}, ['num_classes', '1.5']),
        ({'model_channels': 33}, ['channel_mult', '33']),
    ],
)
def test_invalid_descriptions(change, words):
    with pytest.raises(UserError) as error:
        network_of(describe_network(UNET) | change)
    assert all(word in str(error.value) for word in words)


def test_a_description_is_an_object():
    with pytest.raises(UserError, match=r'\[1\]'):
        network_of([1])


def test_differences_name_both_sides():
    found, wanted = describe_network(UNET), describe_network(CONDITIONAL_UNET)
    assert differences(found, found) == []
    assert differences(found, wanted) == ['num_classes is None there and 10 in the config']
    assert differences({}, {'seed': 1}) == ['seed is None there and 1 in the config']


def test_networks_that_differ_in_label_dropout_share_parameters():
    assert network_differences(CONDITIONAL_UNET, DROPPED) == []
    assert network_differences(DROPPED, UNET) == ['num_classes is 10 there and None in the config']


def test_networks_that_differ_in_groups_share_none():
    assert network_differences(UNET, GROUPED) == ['norm_groups is 32 there and 16 in the config']
