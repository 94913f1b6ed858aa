"""No step costs more FLOPs, bytes or memory than floors.json says."""

import json

import pytest

from tests.planning.floors import CONFIGS, FILE, costs

TOLERANCE = 0.02  # of versions of JAX, whose functions differ


@pytest.mark.parametrize('config', CONFIGS)
def test_no_step_costs_more_than_before(config):
    floors = json.loads(FILE.read_text())[config]
    found = costs(config)
    assert found.keys() == floors.keys()
    for stage, numbers in found.items():
        for name, number in numbers.items():
            most = (1 + TOLERANCE) * floors[stage][name]
            assert number <= most, (
                f'{config}, {stage}: {name} rose from {floors[stage][name]:,} to {number:,}'
            )
