"""What each method samples on Gaussian data, against the posterior: its bias, to two digits.

The numbers are properties of the methods, derived in float64 (tests/parity/posterior). The table of
docs/inverse_problems.md has them.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.diffusion.inverse.laws import bias, methods

PAGE = Path(__file__).parents[3] / 'docs' / 'inverse_problems.md'
# Mean in the measured directions and in the others, then variance.
BIASES = {
    'PiGDM, DDIM': (0.36, 0.10, 1.25, 1.00),
    'PiGDM, DDPM': (0.39, 0.09, 1.42, 0.94),
    'DPS': (0.44, 0.19, 0.19, 0.83),
    'DDNM': (0.44, 0.02, 0.00, 0.71),
    'DDNM, ancestral': (0.44, 0.13, 0.00, 0.95),
    'DDRM': (0.03, 0.06, 0.30, 0.73),
    'DiffPIR': (0.06, 0.12, 0.73, 0.92),
    'RePaint': (0.44, 0.13, 0.00, 0.94),
    'RePaint, jumps': (0.44, 0.04, 0.00, 0.86),
    'DAPS': (0.94, 0.23, 2.38, 1.01),
}


def test_every_method_has_its_bias():
    assert BIASES.keys() == methods().keys()


@pytest.mark.parametrize('name', BIASES)
def test_bias(name):
    found = bias(name)
    tolerance = 0.03 if name == 'DPS' else 0.006
    np.testing.assert_allclose([*found.mean, *found.variance], BIASES[name], atol=tolerance)


def test_the_page_has_these_numbers():
    rows = re.findall(
        r'^\| `?([A-Za-z, ]+)`? \| ([\d.]+) / ([\d.]+) \| ([\d.]+) / ([\d.]+) \|', PAGE.read_text(), re.M
    )
    assert {name: tuple(map(float, values)) for name, *values in rows} == BIASES
