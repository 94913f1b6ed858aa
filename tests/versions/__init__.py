"""What older versions wrote; see README.md."""

from pathlib import Path

VERSIONS = sorted(path.parent for path in Path(__file__).parent.glob('*/config.py'))
STAMPS = sorted(stamp for version in VERSIONS for stamp in version.glob('run/**/stamp.json'))
