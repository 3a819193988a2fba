"""What several tests of models need."""

from __future__ import annotations

import pytest

from bertfit.modeling.first_token import wanting_logits


@pytest.fixture
def for_logits():
    """Let models that a test calls compute as `compute_logits` does: nothing but logits counts."""
    with wanting_logits():
        yield
