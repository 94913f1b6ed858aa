"""What each method samples on Gaussian data, against the posterior: its bias, to two digits.

The numbers are properties of the methods, derived in float64 (tests/parity/posterior). The table of
docs/exactness.md and docs/inverse_problems.md have them.
"""

import re
from pathlib import Path

import numpy as np
import pytest

from tests.diffusion.inverse.laws import bias, methods, mixture, mode_weights, model

DOCS = Path(__file__).parents[3] / 'docs'
# Mean in the measured directions and in the others, then variance.
BIASES = {
    'exact p(y|x_t), DDIM': (0.01, 0.00, 0.91, 0.96),
    'exact p(y|x_t), DDPM': (0.01, 0.01, 1.10, 1.01),
    'PiGDM, SMC': (0.04, 0.01, 0.98, 0.91),  # the target is that of the chain of 100 steps
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
    assert BIASES.keys() == methods(model()).keys()


@pytest.mark.parametrize('name', BIASES)
def test_bias(name):
    found = bias(name)
    tolerance = 0.03 if name in ('DPS', 'PiGDM, SMC') else 0.006
    np.testing.assert_allclose([*found.mean, *found.variance], BIASES[name], atol=tolerance)


def numbers(page, row):
    """The biases in a page, by method; row: the cells between its name and its biases."""
    pattern = row + r'\| ([\d.]+) / ([\d.]+) \| ([\d.]+) / ([\d.]+) \|'
    text = (DOCS / page).read_text().replace(r'\|', '|')
    return {name: tuple(map(float, values)) for name, *values in re.findall(pattern, text, re.MULTILINE)}


def test_the_pages_have_these_numbers():
    assert numbers('exactness.md', r'^\| ([A-Za-z(|_), ]+) \| \d+ ') == BIASES
    of_problems = numbers('inverse_problems.md', r'^\| ([A-Za-z, ]+) ')
    assert len(of_problems) == 10 and of_problems.items() <= BIASES.items()


@pytest.mark.parametrize('name', ['exact p(y|x_t), DDIM', 'PiGDM, SMC'])
def test_the_modes_of_a_mixture_have_their_weights(name):
    weights, errors = mode_weights(name)
    assert (np.abs(weights - mixture().posterior(1.0)[0]) < 4 * errors).all()


def test_guidance_alone_does_not_choose_among_modes():
    weights, errors = mode_weights('PiGDM, DDIM')
    assert (np.abs(weights - mixture().posterior(1.0)[0]) > 10 * errors).all()
