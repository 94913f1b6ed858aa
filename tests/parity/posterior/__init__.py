"""Posterior sampling against closed forms and recorded runs."""

from tests.parity.posterior import gaussian, mixture

CHECKS = gaussian.CHECKS + mixture.CHECKS
