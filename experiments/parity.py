"""Measure the errors of every recorded case that tests/test_golden.py checks, with their tolerances.

    python -m experiments.parity [--cases=tests/golden] [--out=experiments/results/parity]

Writes <out>.json and <out>.md, a table.
"""

import argparse
import dataclasses
import json
import os
import platform
from collections.abc import Iterable
from pathlib import Path

import flax
import jax
import numpy as np
import optax
from absl import logging

from tests.parity.case import Case
from tests.parity.compare import Comparison, recording
from tests.test_golden import CHECKS

HEADER = '| quantity | numbers | largest error | tolerance | relative to the largest | explained (largest) |'


def measure(folder: Path) -> dict[str, dict[str, list[Comparison]]]:
    """Runs every case; family → quantity → its comparisons."""
    table: dict[str, dict[str, list[Comparison]]] = {}
    for path in sorted(folder.glob('*.json')):
        case = Case(path)
        for check in (check for check in CHECKS if check.recognize(case)):
            logging.info('%s', case.name)
            with recording() as found:
                check.run(case)
            for comparison in found:
                table.setdefault(check.family, {}).setdefault(comparison.quantity, []).append(comparison)
    return table


def summarize(quantity: str, found: Iterable[Comparison]) -> Comparison:
    """One row: the largest errors and tolerances, the sums of the counts."""
    found = list(found)
    largest = {
        name: max(getattr(comparison, name) for comparison in found)
        for name in ('largest_absolute', 'largest_relative', 'rtol', 'atol', 'largest_explained')
    }
    return Comparison(
        quantity, count=sum(c.count for c in found), explained=sum(c.explained for c in found), **largest
    )


def to_markdown(machine: str, rows: dict[str, list[Comparison]]) -> str:
    lines = [machine, '']
    for family, comparisons in rows.items():
        lines += [f'**{family}**', '', HEADER, '|---|---|---|---|---|---|']
        for row in comparisons:
            tolerance = ' + '.join(
                part
                for part, used in ((f'{row.atol:.0e}', row.atol), (f'{row.rtol:.0e}·r', row.rtol))
                if used
            )
            name = row.quantity.replace('|', r'\|')
            explained = f'{row.explained} ({row.largest_explained:.1e})' if row.explained else ''
            lines.append(
                f'| {name} | {row.count:,} | {row.largest_absolute:.1e} | {tolerance or "equal"} '
                f'| {row.largest_relative:.1e} | {explained} |'
            )
        lines.append('')
    return '\n'.join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('--cases', type=Path, default=Path('tests/golden'))
    parser.add_argument('--out', type=Path, default=Path('experiments/results/parity'))
    arguments = parser.parse_args()
    table = measure(arguments.cases)
    rows = {
        family: [summarize(quantity, found) for quantity, found in quantities.items()]
        for family, quantities in sorted(table.items())
    }
    machine = (
        f'{jax.devices()[0].device_kind}, {platform.machine()}, {os.cpu_count()} cores; '
        f'Python {platform.python_version()}, JAX {jax.__version__}, Flax {flax.__version__}, '
        f'Optax {optax.__version__}, NumPy {np.__version__}'
    )
    result = {
        'machine': machine,
        'families': {family: [dataclasses.asdict(row) for row in found] for family, found in rows.items()},
    }
    arguments.out.with_suffix('.json').write_text(json.dumps(result, indent=1) + '\n')
    arguments.out.with_suffix('.md').write_text(to_markdown(machine, rows))


if __name__ == '__main__':
    main()
