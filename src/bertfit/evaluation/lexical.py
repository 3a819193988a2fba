"""The machinery of the lexical baseline: n-grams to TF-IDF to logistic regression.

Owns the settings of both steps. When to use them, and what for, is in baseline.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

MAX_FEATURES = 300_000
"""Most frequent n-grams kept; bounds the memory of one weight vector per class."""
MAX_ITERATIONS = 300
"""Steps of L-BFGS; IMDB needs about 50."""
INVERSE_REGULARIZATION = 10.0
MIN_ROWS_FOR_PRUNING = 1_000
"""Below this many rows an n-gram seen in one row only is kept."""

_CJK = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
_TOKEN_PATTERN = rf"[{_CJK}]|[^\W{_CJK}]+"
"""Words of one letter or more; Chinese and Japanese, written without spaces, by character."""


def vectorize(
    texts: Sequence[str],
) -> tuple[TfidfVectorizer | None, csr_matrix | None, str | None]:
    """Fit a TF-IDF vectorizer that finds something in the texts.

    Returns:
        The vectorizer and the (n, V) features, both None where the texts are empty; and a note of
        what was not done as usual, None where all was.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = {"ngram_range": (1, 2), "token_pattern": _TOKEN_PATTERN}
    characters = {"ngram_range": (1, 3), "analyzer": "char"}
    pruned = 2 if len(texts) >= MIN_ROWS_FOR_PRUNING else 1
    no_words = "no words in the texts: n-grams of characters were counted instead"
    for options, note in (
        (words | {"min_df": pruned}, None),
        (words, None),
        (characters, no_words),
    ):
        vectorizer = TfidfVectorizer(
            lowercase=True,
            strip_accents=None,
            sublinear_tf=True,
            max_features=MAX_FEATURES,
            dtype=np.float32,
            **options,
        )
        try:
            return vectorizer, vectorizer.fit_transform(texts), note
        except ValueError:  # what scikit-learn raises for an empty vocabulary
            continue
    return None, None, "the texts are empty"


def fit_classifier(
    features: csr_matrix, label_ids: NDArray[np.int64]
) -> tuple[LogisticRegression, bool]:
    """Fit logistic regression to (n, V) features and (n,) label ids of at least two classes.

    Returns:
        The classifier, and whether it converged within `MAX_ITERATIONS`; nothing is warned of.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    classifier = LogisticRegression(C=INVERSE_REGULARIZATION, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(features, label_ids)
    return classifier, bool(np.max(classifier.n_iter_) < MAX_ITERATIONS)
