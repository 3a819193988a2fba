"""Shared fixtures of the training tests."""

from __future__ import annotations

import numpy as np
import pytest

from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.modeling.tokenizer_files import fast_tokenizer
from bertfit.training.loop import TrainingData


@pytest.fixture(scope="session")
def encode_reviews():
    """Return a function that encodes reviews as training data for a loaded model."""

    def encode(loaded, reviews) -> TrainingData:
        texts = [row["text"] for row in reviews]
        encoded = encode_texts(texts, fast_tokenizer(loaded.tokenizer), EncodingRule(max_length=64))
        label_ids = np.array([int(row["label"] == "pos") for row in reviews])
        return TrainingData(encoded, label_ids, pad_id=loaded.tokenizer.pad_token_id)

    return encode
