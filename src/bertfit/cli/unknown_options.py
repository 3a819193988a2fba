"""Says of an option that a verb does not have what it is called here: a setting, for example."""

from __future__ import annotations

import difflib
from typing import Any

from typer.core import TyperCommand

_LEAST_LIKENESS = 0.75
_INPUTS = {"input", "input_file", "data", "data_file", "file", "infile"}
"""What others call the option for a file of rows."""


def _is_near(option: str, given: str) -> bool:
    """Return whether an option may be meant; click offers --help for --model."""
    likeness = difflib.SequenceMatcher(None, option, given).ratio()
    return option.startswith(given) or likeness >= _LEAST_LIKENESS


def _told(error: Any) -> str:  # noqa: ANN401 (as in Verb.parse_args)
    return str(error.message).rstrip(".")  # click 8.5 has a full stop there


class Verb(TyperCommand):
    """A command whose message about an unknown option tells how to write what was meant."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # noqa: ANN401 (typer keeps the type to itself)
        """Parse the arguments; see `click.Command.parse_args`."""
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            # NoSuchOption, which has no public name in typer.
            if hasattr(error, "option_name") and hasattr(error, "possibilities"):
                self._explain(error)
            raise

    def _explain(self, error: Any) -> None:  # noqa: ANN401 (as above)
        error.possibilities = [
            option for option in error.possibilities or () if _is_near(option, error.option_name)
        ]
        known = {option for param in self.params for option in param.opts}
        given = error.option_name.lstrip("-").replace("-", "_").lower()
        if self.name == "train":
            from bertfit.config import OTHER_NAMES, setting_names

            given = OTHER_NAMES.get(given, given)
            if given in setting_names() and f"--{given.replace('_', '-')}" not in known:
                error.message = f"{_told(error)}. It is a setting: --set {given}=VALUE"
                error.possibilities = []
        if f"--{given.replace('_', '-')}" in known:
            error.possibilities = [f"--{given.replace('_', '-')}"]
        elif given in _INPUTS and "--file" in known:
            error.possibilities = ["--file"]
        elif given in _INPUTS and "--data" in known:
            error.possibilities = ["--data"]
        elif given in _INPUTS and "data" in known:  # the argument's name
            error.message = f"{_told(error)}. Give the file itself, without an option"
            error.possibilities = []
