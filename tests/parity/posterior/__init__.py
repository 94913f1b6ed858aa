"""Posterior sampling against closed forms and recorded runs."""

from tests.parity.posterior import gaussian, mixture, official

CHECKS = gaussian.CHECKS + mixture.CHECKS + official.CHECKS
