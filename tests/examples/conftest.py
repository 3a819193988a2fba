"""Shorter trainings in this process; the kernel of a notebook draws and resamples all."""

from tests.shorter import few_resamples, undrawn

__all__ = ["few_resamples", "undrawn"]
