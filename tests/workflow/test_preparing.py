"""What is noted of the texts before the first step."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from bertfit.config import TrainSettings
from bertfit.data.encoding import EncodedTexts, EncodingRule
from bertfit.data.findings import Finding
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.precision import choose_precision
from bertfit.workflow import preparing


@pytest.fixture
def listener():
    notes: list[str] = []
    return SimpleNamespace(notes=notes, note=notes.append)


@pytest.mark.parametrize(
    ("num_cut", "num_rows", "told"),
    [
        (17, 4800, "17 training rows (0.4 %) are longer and keep their head"),
        (1, 4800, "1 training row (under 0.1 %) is longer and keeps its head"),
        (4799, 4800, "4,799 training rows (over 99.9 %) are longer and keep their head"),
        (3, 3, "3 training rows (100 %) are longer and keep their head"),
    ],
)
def test_the_share_of_longer_texts_is_never_rounded_to_none_or_all(
    listener, num_cut, num_rows, told
):
    lengths = np.where(np.arange(num_rows) < num_cut, 9, 4)
    offsets = np.concatenate([[0], np.minimum(lengths, 6).cumsum()])
    encoded = EncodedTexts(np.zeros(offsets[-1], dtype=np.int32), offsets, lengths)
    preparing._note_text(encoded, EncodingRule(max_length=6), listener)
    (note,) = listener.notes
    assert note.endswith(f". {told}.")


@pytest.mark.parametrize(("count", "told"), [(2500, "100 %"), (2499, "over 99.9 %"), (34, "1.4 %")])
def test_the_share_of_texts_with_line_breaks_is_not_rounded_to_all(listener, count, told):
    found = Finding(
        kind="html_breaks",
        severity="minor",
        part="train",
        count=count,
        num_rows=2500,
        message="2,499 rows have HTML line breaks.",
        advice="None is needed.",
    )
    report = SimpleNamespace(findings=(found,))
    assert preparing._choose_cleaning(TrainSettings(), report, listener) == "html_breaks"
    (note,) = listener.notes
    assert note.startswith(f"HTML line breaks (<br />), which {told} of the training rows have, ")


@pytest.mark.parametrize(
    ("asked", "told"), [("auto", "off (the fast path is off)"), ("off", "off (asked for)")]
)
def test_who_turned_packing_off_is_told(tiny_model_dir, asked, told):
    loaded = load_classifier(str(tiny_model_dir), ("neg", "pos"))
    settings = dataclasses.replace(TrainSettings(), fast_path="off", packing=asked)
    precision = choose_precision("cpu", "float32")
    assert str(preparing.make_fast(loaded, settings, precision)[1]) == told


@pytest.mark.parametrize(
    ("tokens", "told"),
    [([], None), (["<user>"], "1 token of its tokenizer has"), (["<a>", "<b>"], "2 tokens of its")],
)
def test_tokens_without_an_embedding_are_warned_of(tiny_model_dir, listener, tokens, told):
    """The first text with one of them would end a prediction of thousands."""
    loaded = load_classifier(str(tiny_model_dir), ("neg", "pos"))
    num_known = loaded.model.get_input_embeddings().weight.shape[0]
    fillers = [f"<filler {at}>" for at in range(num_known - len(loaded.tokenizer))]
    loaded.tokenizer.add_tokens(fillers + tokens)
    preparing._note_model(loaded, listener)
    warnings = [note for note in listener.notes if note.startswith("WARNING")]
    assert len(warnings) == (told is not None)
    assert all(told in note for note in warnings)
