"""Settings of the diffusion process and of what the network predicts."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DiffusionConfig:
    """The process with which a model is trained and sampled.

    Attributes:
        schedule: noise schedule, 'linear' (DDPM), 'cosine' (Improved DDPM) or 'edm'.
        num_timesteps: the number of steps of the process in training.
        rescale_timesteps: the network sees t·1000/num_timesteps instead of t.
        prediction: what the network's first half is: 'eps', 'x_0', 'v', 'previous_x' or 'edm' (EDM's
            preconditioning, which also scales the network's input).
        variance: 'fixed_small', 'fixed_large', 'learned' or 'learned_range'; a learned one doubles the
            network's output channels.
        loss: 'mse' (L_simple; hybrid where the variance is learned), 'rescaled_mse', 'kl' (L_vlb) or
            'rescaled_kl'.
    """

    schedule: str = 'linear'
    num_timesteps: int = 1000
    rescale_timesteps: bool = False
    prediction: str = 'eps'
    variance: str = 'learned_range'
    loss: str = 'mse'

    @property
    def levels(self) -> dict[str, Any]:
        """The settings that a classifier depends on: the noise at each t, and the t that it sees."""
        return {name: getattr(self, name) for name in ('schedule', 'num_timesteps', 'rescale_timesteps')}

    @property
    def learned_variance(self) -> bool:
        return self.variance in ('learned', 'learned_range')
