import jax
import pytest

from tests.generation.shared import make_guided, make_model


@pytest.fixture(scope='session')
def model():
    return make_model()


@pytest.fixture(scope='session')
def guided_model():
    return make_guided()


@pytest.fixture
def compilations():
    """The names of the functions that were compiled during the test."""
    names = []

    def listener(event, duration, **details):
        if event == '/jax/core/compile/backend_compile_duration':
            names.append(details.get('fun_name', ''))

    jax.monitoring.register_event_duration_secs_listener(listener)
    yield names
    jax.monitoring.unregister_event_duration_listener(listener)
