"""What the steps of shrunk configs cost by estimate, kept in floors.json. After a change that moves less:

python -m tests.planning.floors
"""

import json
from pathlib import Path

import jax

from diffusion_jax.command_line import read_config
from diffusion_jax.config import read_without_images
from diffusion_jax.planning.cost import estimate
from diffusion_jax.planning.needs import PLANNED, make_program
from diffusion_jax.sharding import make_mesh

FILE = Path(__file__).with_suffix('.json')
SHRUNK = {'num_res_blocks': 1, 'channel_mult': '1,2'}
CONFIGS = {  # one in float32, one in bfloat16; attention at the lower of both levels
    'digits': SHRUNK | {'attention_resolutions': '4'},
    'imagenet64': SHRUNK | {'attention_resolutions': '32', 'model_channels': 64},
}
SAMPLERS = {'digits': 'ddim'}  # other than the config's, whose multistep sampler keeps one more estimate


def costs(config: str) -> dict[str, dict[str, int]]:
    """FLOPs, bytes moved and bytes of temporaries of a step on 8 images, for each stage."""
    networks = ('unet', 'classifier')
    changes = [
        f'--config.{name}.{key}={value}' for name in networks for key, value in CONFIGS[config].items()
    ]
    changes += [f'--config.{stage}.batch_size=8' for stage in PLANNED]
    if config in SAMPLERS:
        changes.append(f'--config.sample.sampler={SAMPLERS[config]}')
    experiment = read_without_images(read_config(config, changes))
    found = {}
    for stage in PLANNED:
        program = make_program(experiment, stage, make_mesh(devices=jax.devices()[:1]))
        cost = estimate(program.jitted.trace(*program.arguments).jaxpr.jaxpr, fused_attention=True)
        numbers = {
            'FLOPs': sum(cost.flops.values()),
            'bytes': cost.num_bytes,
            'temporaries': cost.temporaries,
        }
        found[stage] = {name: int(number) for name, number in numbers.items()}
    return found


if __name__ == '__main__':
    FILE.write_text(json.dumps({config: costs(config) for config in CONFIGS}, indent=1) + '\n')
