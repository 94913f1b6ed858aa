"""Names, defaults and limits of all options: results that were published depend on them."""

import pytest

from diffusion_jax.diffusion import inverse
from diffusion_jax.diffusion.guidance import GUIDANCES, MODIFIERS
from diffusion_jax.diffusion.parts import LARGEST, options
from diffusion_jax.diffusion.samplers import SAMPLERS, Sampler

INVERSE = {
    name: part for name, part in vars(inverse).items() if isinstance(part, type) and issubclass(part, Sampler)
}
PARTS = SAMPLERS | GUIDANCES | MODIFIERS | INVERSE

# Default, least and most, None for no limit; whole numbers are ints.
OPTIONS = {
    'ddim': {'eta': (0.0, 0, 1.0)},
    'heun': {
        's_churn': (0.0, 0, None),
        's_min': (0.0, 0, None),
        's_max': (None, 0, None),
        's_noise': (1.0, 0, None),
    },
    'dpmpp_3m': {'max_order': (3, 1, 3)},
    'dpmpp_2s': {'r1': (0.5, 0.001, 1.0)},
    'dpmpp_3s': {'r1': (0.3333333333333333, 0.001, 1.0), 'r2': (0.6666666666666666, 0.001, 1.0)},
    'dpmpp_2m_sde': {'eta': (1.0, 0, None)},
    'dpmpp_3m_sde': {'max_order': (3, 1, 3), 'eta': (1.0, 0, None)},
    'unipc': {'max_order': (3, 1, 3)},
    'unipc_bh1': {'max_order': (3, 1, 3)},
    'adams': {'max_order': (4, 1, 4)},
    'ipndm': {'max_order': (4, 1, 4)},
    'tfg': {'rho': (1.0, 0, None), 'mu': (0.25, 0, None), 'spread': (0.1, 0, None), 'eta': (1.0, 0, 1.0)},
    'smc': {'threshold': (1.0, 0, 1.0), 'every': (1, 1, None)},
    'elucd': {'gamma': (0.3, 0, None)},
    'classifier': {'scale': (1.0, 0, None)},
    'entropy': {'scale': (1.0, 0, None), 'floor': (0.01, 1e-06, None)},
    'mixture': {'scale': (1.0, 0, None)},
    'clean': {'scale': (1.0, 0, None)},
    'calibrated': {'scale': (1.0, 0, None), 'tau_1': (1.0, 0, None), 'tau_2': (0.5, 0, None)},
    'reconstruction': {'scale': (1.0, 0, None)},
    'threshold': {'percentile': (0.995, 0, 1.0)},
    'monte_carlo': {'scale': (1.0, 0, None), 'spread': (1.0, 0, None)},
    'ascent': {'scale': (1.0, 0, None)},
    'reward': {'scale': (1.0, 0, None)},
    'classifier_free': {'scale': (1.0, 0, None)},
    'icg': {'scale': (1.0, 0, None)},
    'auto': {'scale': (1.0, 0, None)},
    'pag': {'scale': (1.0, 0, None)},
    'sag': {'scale': (1.0, 0, None), 'blur': (3.0, 0.001, None), 'threshold': (1.0, 0, None)},
    'interval': {'low': (0.0, 0, None), 'high': (None, 0, None)},
    'reuse': {'every': (2, 1, None)},
    'normalized': {'strength': (1.0, 0, None)},
    'adam': {'strength': (0.1, 0, None), 'beta1': (0.9, 0, 0.999999), 'beta2': (0.999, 0, 0.999999)},
    'ramp': {'noisy': (0.0, 0, None), 'clean': (2.0, 0, None)},
    'rescale': {'phi': (0.7, 0, 1)},
    'apg': {'eta': (0.0, 0, 1), 'radius': (None, 0, None), 'momentum': (0.0, -1, 1)},
    'DAPS': {'rate': (0.0001, 0, None), 'last_rate': (0.01, 0, 1.0), 'ode_sigma': (0.01, 1e-06, None)},
    'DDRM': {'eta': (0.85, 0, 1.0), 'eta_b': (1.0, 0, 1.0)},
    'DPS': {'zeta': (0.3, 0, None)},
    'DDNM': {'eta': (0.85, 0, 1.0)},
    'DiffPIR': {'lam': (1.0, 0, None), 'zeta': (0.3, 0, 1.0)},
    'REDDiff': {'lam': (0.25, 0, None), 'rate': (0.1, 0, None)},
}


@pytest.mark.parametrize('name', PARTS)
def test_the_options_of_a_part(name):
    fields = options(PARTS[name])
    found = {
        key: (field.default, field.metadata['least'], field.metadata['most']) for key, field in fields.items()
    }
    unlimited = {key: tuple(None if v == LARGEST else v for v in values) for key, values in found.items()}
    assert unlimited == OPTIONS.get(name, {})
    for field in fields.values():
        assert field.metadata['whole'] == isinstance(field.default, int)
