"""Parity with public implementations: every recorded case of two folders.

`GOLDEN_DIR` (default tests/golden) and `METHODS_DIR` (default none; samplers, guidance, posterior sampling).
"""

import os
from pathlib import Path

import pytest

from tests.parity import (
    class_guidance,
    data,
    diffusion,
    evaluation,
    inception,
    models,
    particles,
    posterior,
    samplers,
    solver_tables,
    training,
    training_free,
)
from tests.parity.case import Case

GOLDEN_DIR = Path(os.environ.get('GOLDEN_DIR', Path(__file__).parent / 'golden'))
FOLDERS = [GOLDEN_DIR, *([Path(os.environ['METHODS_DIR'])] if 'METHODS_DIR' in os.environ else [])]
MODULES = class_guidance, data, diffusion, evaluation, inception, models, particles, posterior, samplers
MODULES += solver_tables, training, training_free
CHECKS = [check for module in MODULES for check in module.CHECKS]


def parameters():
    found = []
    for path in [path for folder in FOLDERS for path in sorted(folder.glob('*.json'))]:
        case = Case(path)
        for i, check in enumerate([check for check in CHECKS if check.recognize(case)] or [None]):
            slow = check is not None and check.slow(case)
            marks = [pytest.mark.slow] if slow else []
            name = f'{case.name}-{check.family}' if i else case.name  # a case may be of several families
            found.append(pytest.param(case, check, id=name, marks=marks))
    return found


@pytest.mark.parametrize(('case', 'check'), parameters())
def test_golden(case, check):
    assert check is not None, 'no check reads cases of this kind'
    check.run(case)


def test_cases_are_found():
    for folder in FOLDERS:
        assert list(folder.glob('*.json')), f'no recorded case in {folder}'
