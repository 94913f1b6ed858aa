"""Settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from diffusion_jax.checks import one_of


@dataclass(frozen=True)
class EvaluateConfig:
    """Attributes:
    judge: 'digits_svm' has an independent classifier say how often a sample shows the digit that was asked
        for; '' does without.
    required_agreement: the share of the samples in samples/ on which the judge must agree; less is a failure.
    """

    judge: str = ''
    required_agreement: float = 0.0


def check_evaluate(config: EvaluateConfig) -> None:
    """Raises UserError for a setting that cannot work."""
    one_of('judge', config.judge, ('', 'digits_svm'))
