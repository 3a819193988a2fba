"""What the tests of training share."""

from __future__ import annotations

import numpy as np
import pytest

from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.modeling.classifier import fast_tokenizer
from bertfit.training.loop import TrainingData


@pytest.fixture(scope="session")
def encode_reviews():
    """Give a function that encodes reviews for a loaded model, as data to train it on."""

    def encode(loaded, reviews) -> TrainingData:
        texts = [row["text"] for row in reviews]
        encoded = encode_texts(texts, fast_tokenizer(loaded.tokenizer), EncodingRule(max_length=64))
        label_ids = np.array([int(row["label"] == "pos") for row in reviews])
        return TrainingData(encoded, label_ids, pad_id=loaded.tokenizer.pad_token_id)

    return encode
