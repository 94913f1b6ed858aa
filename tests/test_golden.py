"""Parity with public implementations: every recorded case of two folders.

`GOLDEN_DIR` (default tests/golden) and `METHODS_DIR` (default none; samplers, guidance, posterior sampling).
"""

import os
from pathlib import Path

import pytest

from tests.parity import class_guidance, data, diffusion, evaluation, inception, models, samplers, training
from tests.parity.case import Case

GOLDEN_DIR = Path(os.environ.get('GOLDEN_DIR', Path(__file__).parent / 'golden'))
FOLDERS = [GOLDEN_DIR, *([Path(os.environ['METHODS_DIR'])] if 'METHODS_DIR' in os.environ else [])]
CHECKS = diffusion.CHECKS + models.CHECKS + training.CHECKS + data.CHECKS + evaluation.CHECKS
CHECKS += inception.CHECKS + samplers.CHECKS + class_guidance.CHECKS


def parameters():
    found = []
    for path in [path for folder in FOLDERS for path in sorted(folder.glob('*.json'))]:
        case = Case(path)
        check = next((check for check in CHECKS if check.recognize(case)), None)
        slow = check is not None and check.slow(case)
        marks = [pytest.mark.slow] if slow else []
        found.append(pytest.param(case, check, id=case.name, marks=marks))
    return found


@pytest.mark.parametrize(('case', 'check'), parameters())
def test_golden(case, check):
    assert check is not None, 'no check reads cases of this kind'
    check.run(case)


def test_cases_are_found():
    for folder in FOLDERS:
        assert list(folder.glob('*.json')), f'no recorded case in {folder}'
