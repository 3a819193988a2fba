"""Text cleaning, and the tokenizer that it is folded into."""

from __future__ import annotations

import json
import shutil

import pytest
import transformers
from tokenizers import Regex, Tokenizer, normalizers

from bertfit.data.cleaning import (
    choose_cleaning,
    clean_text,
    cleans_itself,
    find_html_break,
    fold_cleaning,
    unfold_cleaning,
)
from bertfit.data.long_texts import splits_at_spaces

TAGS = ("<br>", "<br/>", "<br />", "<BR>", "<Br/>", "</br>", "< br >")


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


@pytest.mark.parametrize("tag", TAGS)
def test_html_breaks_become_spaces(tag):
    assert clean_text(f"Great.{tag}Really.", "html_breaks") == "Great. Really."


def test_other_tags_stay():
    assert clean_text("<b>Great</b> <brief>", "html_breaks") == "<b>Great</b> <brief>"


def test_without_cleaning_text_stays_as_it_is():
    assert clean_text("Great.<br />", "none") == "Great.<br />"


def test_the_first_break_of_a_text_is_found():
    texts = ("a<br />b<br />", "a < b", "<brief>", "a", "")
    assert [find_html_break(text) for text in texts] == [1, None, None, None, None]


def test_breaks_are_cleaned_from_one_text_in_a_hundred_on():
    assert [choose_cleaning(share) for share in (0, 0.009, 0.01, 1)] == [
        "none",
        "none",
        "html_breaks",
        "html_breaks",
    ]


@pytest.mark.parametrize("tag", TAGS)
def test_a_folded_tokenizer_cleans_by_itself(tiny_model_dir, folder, tag):
    fold_cleaning(folder)
    plain, folded = (
        transformers.AutoTokenizer.from_pretrained(path) for path in (tiny_model_dir, folder)
    )
    dirty = f"a good{tag}film{tag}{tag}great"
    assert folded(dirty)["input_ids"] == plain(clean_text(dirty, "html_breaks"))["input_ids"]
    assert plain(dirty)["input_ids"] != folded(dirty)["input_ids"]


def test_folding_changes_nothing_but_breaks(tiny_model_dir, folder):
    fold_cleaning(folder)
    before, after = (
        transformers.AutoTokenizer.from_pretrained(path) for path in (tiny_model_dir, folder)
    )
    text = "A <b>good</b> film, not <brief> AND fine"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert (after.model_max_length, after.pad_token_id, after.cls_token_id) == (
        before.model_max_length,
        before.pad_token_id,
        before.cls_token_id,
    )


@pytest.mark.parametrize("has_others", [True, False])
def test_unfolding_gives_the_tokenizer_back(folder, has_others):
    path = str(folder / "tokenizer.json")
    plain = Tokenizer.from_file(path)
    if not has_others:
        plain.normalizer = None
        plain.save(path)
    fold_cleaning(folder)
    folded = Tokenizer.from_file(path)
    assert (cleans_itself(plain), cleans_itself(folded)) == (False, True)
    for _ in range(2):
        unfold_cleaning(folded)
        assert not cleans_itself(folded)
        texts = ["A<br />good < film", "BR<BR>", ""]
        ids = [[tokenizer.encode(text).ids for text in texts] for tokenizer in (plain, folded)]
        assert ids[0] == ids[1]


def test_a_tokenizer_with_an_empty_list_of_normalizers_does_not_clean(folder):
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.normalizer = normalizers.Sequence([])
    assert not cleans_itself(tokenizer)
    tokenizer.save(path)
    fold_cleaning(folder)
    assert cleans_itself(Tokenizer.from_file(path))


def test_the_step_is_written_in_what_all_kinds_of_patterns_have_in_common(folder):
    """transformers.js could not load a run: patterns of JavaScript have no flags within."""
    fold_cleaning(folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pattern = tokenizer["normalizer"]["normalizers"][0]["pattern"]["Regex"]
    assert "(?" not in pattern.replace("(?:", "")


def test_the_step_of_older_runs_is_known(folder):
    path = str(folder / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    step = normalizers.Replace(Regex(r"(?i)<\s*(?:/\s*)?br\s*(?:/\s*)?>"), " ")
    tokenizer.normalizer = normalizers.Sequence([step, tokenizer.normalizer])
    assert cleans_itself(tokenizer)
    assert splits_at_spaces(tokenizer)
    unfold_cleaning(tokenizer)
    assert not cleans_itself(tokenizer)


def test_folding_again_adds_nothing(folder):
    fold_cleaning(folder)
    once = (folder / "tokenizer.json").read_text()
    fold_cleaning(folder)
    assert (folder / "tokenizer.json").read_text() == once
