"""What is compared: every program of both sides, as a row to fill."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarking.flags import flags_of
from benchmarking.programs import read, with_networks

PARTS = ('guided_step', 'train')
BATCH_SIZES = {'imagenet256': 16, 'imagenet64': 64}  # of configs by name; others have 8


@dataclass
class Entry:
    """A row: one program of one side.

    Attributes:
        compiles: it is compiled before the clock runs.
        how: 'in turn' with the other programs of its part, or 'alone'.
        overflows: timed steps of training that had no effect, since float16 overflowed.
        answers: what its processes said of it.
    """

    config: str
    batch_size: int
    part: str
    side: str
    program: str
    job: dict[str, Any]
    compiles: bool
    seconds: list[float] = field(default_factory=list)
    how: str = ''
    overflows: int = 0
    error: str = ''
    answers: dict[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> bool:
        return self.side == 'ours'

    @property
    def late(self) -> bool:
        """It compiles when it is timed, after everything else."""
        return not self.ours and self.job['compile'] and not self.compiles

    @property
    def label(self) -> str:
        return f'{self.config} {self.part}: {self.side}, {self.program}'

    def failed(self, answer: dict[str, Any]) -> bool:
        """Whether an answer is an error; then it is noted, unless there are times already."""
        if 'error' not in answer:
            return False
        self.answers['stderr'] = answer.get('stderr', '')
        self.error = '' if self.seconds else answer['error']
        return True


def entries_of(configs: list[str], settings: list[str], batch_size: int | None, path: Path) -> list[Entry]:
    """All rows, the important ones first; UserError for a config that the authors' code cannot express."""
    found = []
    for config in configs:
        experiment, name = read(config, settings), Path(config).stem
        half = with_networks(experiment, dtype='bfloat16')
        released, float16 = flags_of(experiment, half=False), flags_of(experiment, half=True)
        size = batch_size or BATCH_SIZES.get(name, 8)
        for part in PARTS:

            def add(side: str, program: str, job: dict, compiles: bool, size=size, part=part, name=name):
                job = job | {'batch_size': size, 'part': part}
                found.append(Entry(name, size, part, side, program, job, compiles))

            ours = {'config': config, 'settings': settings}
            add('ours', 'defaults', ours | {'half': False}, True)
            same = experiment.unet == half.unet and (part == 'train' or experiment == half)
            if not same:
                add('ours', 'bfloat16', ours | {'half': True}, True)
            theirs = {'path': str(path.resolve())}
            add('authors', 'released flags', theirs | released | {'compile': False}, False)
            # Training has no classifier: float16 throughout is what the flags say already.
            if part != 'train' or not released['model']['use_fp16']:
                add('authors', 'float16', theirs | float16 | {'compile': False}, False)
            # Two trainings do not fit on a device while they compile, so that they do it when they are timed.
            add('authors', 'float16, torch.compile', theirs | float16 | {'compile': True}, part != 'train')
    return sorted(found, key=lambda entry: (not entry.ours and entry.job['compile'], PARTS.index(entry.part)))
