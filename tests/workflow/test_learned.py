"""Which rows a run has learned, by the digests of earlier runs too, or by all rows together."""

from __future__ import annotations

import hashlib
import unicodedata

import numpy as np
import pytest

import bertfit
from bertfit.data.dataset import Columns
from bertfit.data.readers import read_dataset
from bertfit.files import write_json
from bertfit.workflow.learned import find_known_rows, write_digests
from tests.step_listener import Recorder

LEARNED = ["A film", "Great.<br /><br />Really.", "cafe\u0301", "\u01f0 J\u030c", "so\u00adft"]
FOLDS = {
    "until 29 November": lambda text: " ".join(text.split()).casefold(),
    "until 1 December": lambda text: " ".join(text.replace("<br />", " ").split()).casefold(),
    "on 1 December": lambda text: unicodedata.normalize("NFC", FOLDS["until 1 December"](text)),
}


def read_rows(texts):
    dataset, _ = read_dataset([{"text": text, "label": "x"} for text in texts], Columns())
    return dataset


@pytest.fixture
def run(tmp_path):
    write_json(tmp_path / "bertfit.json", {"format_version": 1})
    return tmp_path


@pytest.mark.parametrize("form", FOLDS)
@pytest.mark.parametrize("name", ["trained_texts.npy", "validation_texts.npy"])
def test_texts_are_known_by_the_digests_of_earlier_runs(run, form, name):
    """A run of November knew none of its texts with breaks: a leak was not found."""
    contents = [FOLDS[form](text).encode() for text in LEARNED]
    digests = [hashlib.blake2b(content, digest_size=16).digest()[:8] for content in contents]
    np.save(run / name, np.frombuffer(b"".join(digests), dtype="<u8"))
    learned, chose = find_known_rows(run, read_rows(["new", *LEARNED[::-1], "caf\u00e8", "Gr<br>"]))
    known = chose if learned is None else learned.rows
    assert list(known) == [1, 2, 3, 4, 5]


def test_a_run_that_starts_from_an_earlier_one_knows_its_texts(run):
    base = run / "base"
    base.mkdir()
    write_json(base / "bertfit.json", {})
    content = FOLDS["until 29 November"](LEARNED[1]).encode()
    digest = hashlib.blake2b(content, digest_size=16).digest()[:8]
    np.save(base / "trained_texts.npy", np.frombuffer(digest, dtype="<u8"))
    write_digests(run, ["cafe\u0301", "both"], ["both", "b"], base=str(base))
    learned, chose = find_known_rows(run, read_rows([*LEARNED, "BOTH", "B ", "caf\u00e9"]))
    assert (list(learned.rows), chose) == ([1, 2, 5, 7], [6])


@pytest.mark.parametrize("key", ["fingerprint_as_read", "fingerprint"])
def test_without_digests_all_rows_together_are_known(run, key):
    """Of early runs, the rows as they were read had no fingerprint of their own."""
    rows = read_rows(LEARNED)
    known = {"source": "a.csv", key: rows.fingerprint()}
    write_json(run / "bertfit.json", {"format_version": 1, "data": {"train": known}})
    learned, _ = find_known_rows(run, rows)
    assert learned.told == "on rows of a.csv"
    assert find_known_rows(run, read_rows(LEARNED[:-1])) == (None, [])


def test_that_a_run_does_not_tell_its_texts_is_told(tiny_model_dir, make_reviews, tmp_path):
    run = tmp_path / "run"
    options = {"model": str(tiny_model_dir), "epochs": 1, "baseline": False}
    own_test = make_reviews(20, seed=2)
    bertfit.train(make_reviews(40), run, test=own_test, keep_texts=False, **options)
    told = f"{run} does not tell which texts it was trained on: whether these rows are among them"

    def judge(run, rows, **options):
        return bertfit.find_suspects(rows, run=run, **options)

    for work in (bertfit.evaluate, judge):
        for rows, is_told in ((make_reviews(40), False), (make_reviews(30, seed=1), True)):
            heard = Recorder()
            work(run, rows, listener=heard)
            assert any(note.startswith(told) for note in heard.notes) == is_told
    heard = Recorder()
    bertfit.evaluate(run, own_test, listener=heard)  # its report tells what leaked
    assert not any("does not tell" in note for note in heard.notes)
    bertfit.train(make_reviews(40), run, overwrite=True, **options)
    heard = Recorder()
    bertfit.evaluate(run, make_reviews(30, seed=1), listener=heard)
    assert not any("does not tell" in note for note in heard.notes)
