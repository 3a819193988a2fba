"""bertfit: labelled text in, a text classifier that you can trust out.

Importing this package loads neither torch nor transformers: each name is loaded on first use.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bertfit import config as config
    from bertfit import errors as errors
    from bertfit.data.dataset import Columns
    from bertfit.data.imdb import prepare_imdb
    from bertfit.errors import BertfitError
    from bertfit.inference.prediction import Prediction
    from bertfit.inference.predictor import TextClassifier
    from bertfit.progress import Listener
    from bertfit.workflow.checking import CheckResult, check
    from bertfit.workflow.comparing import RunComparison, compare
    from bertfit.workflow.evaluating import Evaluation, evaluate
    from bertfit.workflow.importing import import_notebook
    from bertfit.workflow.reporting import report
    from bertfit.workflow.seeds import train_seeds
    from bertfit.workflow.suspecting import SuspectReport, find_suspects
    from bertfit.workflow.training import TrainResult, train

    __version__: str

__all__ = [
    "BertfitError",
    "CheckResult",
    "Columns",
    "Evaluation",
    "Listener",
    "Prediction",
    "RunComparison",
    "SuspectReport",
    "TextClassifier",
    "TrainResult",
    "__version__",
    "check",
    "compare",
    "evaluate",
    "find_suspects",
    "import_notebook",
    "prepare_imdb",
    "report",
    "train",
    "train_seeds",
]

_HOMES = {
    "BertfitError": "bertfit.errors",
    "CheckResult": "bertfit.workflow.checking",
    "Columns": "bertfit.data.dataset",
    "Evaluation": "bertfit.workflow.evaluating",
    "Listener": "bertfit.progress",
    "Prediction": "bertfit.inference.prediction",
    "RunComparison": "bertfit.workflow.comparing",
    "SuspectReport": "bertfit.workflow.suspecting",
    "TextClassifier": "bertfit.inference.predictor",
    "TrainResult": "bertfit.workflow.training",
    "check": "bertfit.workflow.checking",
    "compare": "bertfit.workflow.comparing",
    "evaluate": "bertfit.workflow.evaluating",
    "find_suspects": "bertfit.workflow.suspecting",
    "import_notebook": "bertfit.workflow.importing",
    "prepare_imdb": "bertfit.data.imdb",
    "report": "bertfit.workflow.reporting",
    "train": "bertfit.workflow.training",
    "train_seeds": "bertfit.workflow.seeds",
}
_MODULES = ("config", "errors")
"""Modules that are used by name, as in `except bertfit.errors.DataError`."""


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:  # noqa: ANN401 (whatever the name stands for)
        """Load a public name from the module that owns it."""
        if name == "__version__":
            return metadata.version("bertfit")
        if name in _MODULES:
            return importlib.import_module(f"bertfit.{name}")
        if name in _HOMES:
            return getattr(importlib.import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'bertfit' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, loaded or not, for completion in a shell."""
    return sorted({*__all__, *_MODULES, *(name for name in globals() if name.startswith("__"))})
