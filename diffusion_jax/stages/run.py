"""What every stage is given."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import jax

from diffusion_jax.data.checking import check_images
from diffusion_jax.data.sources import Source, make_source
from diffusion_jax.experiment import Experiment
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.memory import out_of_memory


@dataclasses.dataclass(frozen=True)
class Run:
    """An experiment in its working directory.

    Attributes:
        mesh: all devices for a training, those of this host for any other stage.
        stop: whether the user or the machine has requested a stop.
        checked: the splits whose images were checked.
    """

    experiment: Experiment
    workdir: Path
    mesh: jax.sharding.Mesh
    stop: Callable[[], bool]
    stages: tuple[str, ...] = ()
    checked: set[str] = dataclasses.field(default_factory=set, repr=False)

    def source(self, split: str) -> Source:
        """The images of 'train' or 'test'. Raises UserError where they do not fit the config."""
        return make_source(self.experiment.data, split)

    def check_images(self, split: str) -> None:
        """Checks the images of a split, once; see `data.checking.check_images`."""
        if split not in self.checked:
            check_images(self.source(split), self.experiment.data, split, self.stop)
            self.checked.add(split)

    def on(self, mesh: jax.sharding.Mesh) -> 'Run':
        """The same run on another mesh."""
        return dataclasses.replace(self, mesh=mesh)

    def unguided(self, num_samples: int = 0) -> 'Run':
        """The same run with unguided samples, and with another number of them if one is given."""
        sample = self.experiment.sample
        number = num_samples or sample.num_samples
        sample = dataclasses.replace(sample, scale=0.0, guidance=SampleConfig.guidance, num_samples=number)
        return dataclasses.replace(self, experiment=dataclasses.replace(self.experiment, sample=sample))

    def batch_size(self, stage: str, num_images: int) -> int:
        """The batch size of a stage, reduced to the smallest that has all images."""
        configured = getattr(self.experiment, stage).batch_size
        return min(configured, -(-num_images // self.mesh.size) * self.mesh.size)

    def fits(self, part: str, setting: str, alternatives: str = '') -> AbstractContextManager[None]:
        """If the block runs out of memory, raises UserError with the part and the setting to lower."""
        section, _, key = setting.partition('.')
        value = getattr(getattr(self.experiment, section), key)
        return out_of_memory(part, f'lower config.{setting} ({value}){alternatives}')
