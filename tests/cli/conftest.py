"""Shared fixtures of the command-line tests: shorter trainings."""

from tests.shorter import few_resamples, measured, undrawn, unmeasured

__all__ = ["few_resamples", "measured", "undrawn", "unmeasured"]
