"""Shared fixtures of the command-line tests: shorter trainings."""

from tests.shorter import built_once, few_resamples, measured, undrawn, unmeasured

__all__ = ["built_once", "few_resamples", "measured", "undrawn", "unmeasured"]
