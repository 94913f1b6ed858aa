"""Orbax's and TensorStore's reports of errors that they also raise."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any


def keep_orbax_quiet() -> None:
    """Silences them. What cannot be written or read raises where we wait for it; threads of Orbax and
    TensorStore also report it for every array, later and from closed event loops, in thousands of lines.
    """
    for name in ('absl', 'asyncio'):
        logging.getLogger(name).addFilter(_is_news)
    warnings.filterwarnings('ignore', 'coroutine .* was never awaited', RuntimeWarning)
    sys.unraisablehook = _ignore_what_was_raised


def _is_news(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return 'orbax' not in record.pathname + text and 'never retrieved' not in text


def _ignore_what_was_raised(event: Any) -> None:
    if not any(text in str(event.exc_value) for text in ('Event loop is closed', 'reading array index')):
        sys.__unraisablehook__(event)
