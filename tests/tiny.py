"""Networks and settings as small as they get, for tests that are about something else."""

from diffusion_jax.diffusion.config import DiffusionConfig
from diffusion_jax.generation.config import SampleConfig
from diffusion_jax.models import ClassifierConfig, UNetConfig
from diffusion_jax.training.config import TrainConfig

TRUNK = {
    'image_size': (8, 8),
    'image_channels': 1,
    'model_channels': 32,
    'channel_mult': (1,),
    'num_res_blocks': 1,
    'attention_resolutions': (),
    'num_head_channels': 32,
}
UNET = UNetConfig(**TRUNK, out_channels=2)
CONDITIONAL_UNET = UNetConfig(**TRUNK, out_channels=2, num_classes=10)
UPSAMPLER = UNetConfig(**TRUNK, out_channels=2, low_res=True)
CLASSIFIER = ClassifierConfig(**TRUNK, num_classes=10, pool='attention')
DIFFUSION = DiffusionConfig(schedule='cosine', num_timesteps=100, loss='rescaled_mse')
SAMPLE = SampleConfig(sampler='ddim', respacing='ddim5', scale=2.0, num_samples=10, batch_size=4)
TRAIN = TrainConfig(num_steps=20, batch_size=16, learning_rate=1e-3, ema_rates=(0.9, 0.99))
