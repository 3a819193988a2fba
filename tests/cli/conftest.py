"""Shared fixture of the command-line tests: no figures."""

from tests.undrawn import undrawn

__all__ = ["undrawn"]
