"""A script finds what stands beside it; so do its tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / 'experiments'))
