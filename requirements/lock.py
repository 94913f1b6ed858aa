"""Writes the lock files in this folder: the exact versions that pip chooses for the bounds of setup.py.

`make lock` runs it with the oldest Python that the project supports, whose versions newer ones can install
too, and with the newest. There are no hashes, so that one file serves Linux and macOS.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LOCKS = {
    (3, 11): {
        'runtime.lock': ['.'],
        'dev.lock': ['.[dev]'],
        'oldest.lock': [
            '.[dev]',
            'flax==0.12.6',
            'jax==0.8.3',
            'lmdb==1.4.*',
            'ml-collections==1.0.*',
            'numpy==2.0.*',
            'optax==0.2.8',
            'pillow==10.4.*',
            'scikit-learn==1.5.*',
            'tensorboardX==2.6.2.*',
        ],
    },
    (3, 13): {'newest.lock': ['.[dev]']},
}


def resolve(requirements: list[str]) -> dict[str, str]:
    """Name → version of everything that pip would install into an empty environment, without the project."""
    with tempfile.NamedTemporaryFile() as report:
        pip = [sys.executable, '-m', 'pip', 'install', '--quiet', '--dry-run', '--ignore-installed']
        subprocess.run([*pip, '--report', report.name, *requirements], cwd=FOLDER.parent, check=True)
        packages = [item['metadata'] for item in json.load(report)['install']]
    versions = {re.sub(r'[-_.]+', '-', item['name']).lower(): item['version'] for item in packages}
    del versions['diffusion-jax']
    return versions


def main() -> None:
    python = sys.version_info[:2]
    if python not in LOCKS:
        known = ' or '.join('.'.join(map(str, version)) for version in LOCKS)
        sys.exit(f'lock files are made with Python {known}, not {".".join(map(str, python))}')
    for name, requirements in LOCKS[python].items():
        lines = [f'# pip install {" ".join(requirements)}, resolved by `make lock`']
        lines += [f'{package}=={version}' for package, version in sorted(resolve(requirements).items())]
        (FOLDER / name).write_text('\n'.join(lines) + '\n')
        print(f'requirements/{name}: {len(lines) - 1} packages')


if __name__ == '__main__':
    main()
