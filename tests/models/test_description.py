import dataclasses
import json

import pytest

from diffusion_jax.errors import UserError
from diffusion_jax.models import UNetConfig, describe_network, differences, network_differences, network_of
from tests.tiny import CLASSIFIER, CONDITIONAL_UNET, UNET

HALVES = UNetConfig(num_head_channels=None, channel_mult=(0.5, 1, 1), attention_resolutions=(16,))
DROPPED = dataclasses.replace(CONDITIONAL_UNET, label_dropout=0.1)
CONFIGS = [UNET, CONDITIONAL_UNET, DROPPED, CLASSIFIER, HALVES]


@pytest.mark.parametrize('config', CONFIGS)
def test_a_description_comes_back_from_json(config):
    assert network_of(json.loads(json.dumps(describe_network(config)))) == config


def test_how_a_network_is_computed_is_not_described():
    changed = dataclasses.replace(UNET, dtype='bfloat16', remat=True, dropout=0.1)
    assert describe_network(changed) == describe_network(UNET)
    assert network_of(describe_network(changed)) == UNET


def test_what_is_not_named_has_its_default():
    assert network_of({'kind': 'UNetConfig', 'model_channels': 192}) == UNetConfig(model_channels=192)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            {'kind': 'Transformer'},
            "kind is 'Transformer'; it must be one of 'UNetConfig', 'ClassifierConfig'",
        ),
        ({'kind': []}, 'kind is'),
        ({'depth': 3}, 'network.depth: no such setting; known are image_size'),
        ({'model_channels': '32'}, "model_channels is '32'; it must be a whole number"),
        ({'model_channels': True}, 'model_channels is True; it must be a whole number'),
        ({'image_size': [8, 8, 8]}, r'image_size is \[8, 8, 8\]; give height and width'),
        ({'image_size': 8}, 'image_size is 8; give height and width'),
        ({'channel_mult': [1, None]}, r'channel_mult is \[1, None\]; it must be numbers'),
        ({'num_classes': 1.5}, 'num_classes is 1.5; it must be a whole number or None'),
        ({'model_channels': 33}, 'group normalization needs a multiple of 32'),
    ],
)
def test_what_describes_no_network_is_named(change, message):
    with pytest.raises(UserError, match=message):
        network_of(describe_network(UNET) | change)


def test_a_description_is_an_object():
    with pytest.raises(UserError, match='must be a JSON object'):
        network_of([1])


def test_differences_name_both_sides():
    found, wanted = describe_network(UNET), describe_network(CONDITIONAL_UNET)
    assert differences(found, found) == []
    assert differences(found, wanted) == ['num_classes is None there and 10 in the config']
    assert differences({}, {'seed': 1}) == ['seed is None there and 1 in the config']


def test_networks_that_differ_in_label_dropout_share_parameters():
    assert network_differences(CONDITIONAL_UNET, DROPPED) == []
    assert network_differences(DROPPED, UNET) == ['num_classes is 10 there and None in the config']
