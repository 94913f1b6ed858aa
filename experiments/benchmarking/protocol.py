"""What a measured process and the one that asks it say to each other: lines of JSON. Needs only Python."""

import gc
import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Handler = Callable[..., dict[str, Any]]

OUT_OF_MEMORY = ('out of memory', 'resource_exhausted', 'failed to allocate')


def serve(handlers: dict[str, Handler]) -> None:
    """Answers requests, {"do": name, argument: value, …}, until stdin ends.

    An answer is what the handler returns, or an `error` in one line and whether it is of `memory`; then
    stderr has the traceback. What libraries print goes to stderr too.
    """
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = handlers[request.pop('do')](**request)
        except Exception as error:
            traceback.print_exc()
            answer = _described(error)
        gc.collect()
        print(json.dumps(answer), file=answers, flush=True)


def _described(error: Exception) -> dict[str, Any]:
    text = str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    memory = any(sign in text.lower() for sign in OUT_OF_MEMORY)
    said = 'out of memory' if memory else f'{type(error).__name__}: {lines[0] if lines else ""}'[:200]
    return {'error': said, 'memory': memory}
