"""Encoded text is cached once, found again, and never confused with another."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import stat

import numpy as np
import pytest
import tokenizers

from bertfit.data import encoded_store
from bertfit.data.encoded_store import encode_or_reuse, find_store
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.leftovers import make_held_folder
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.tokenizer_files import fast_tokenizer
from tests.limits import limiting_files

RULE = EncodingRule(max_length=16)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir):
    return fast_tokenizer(load_classifier(str(tiny_model_dir), ["neg", "pos"]).tokenizer)


@pytest.fixture(scope="module")
def texts(make_reviews):
    return [row["text"] for row in make_reviews(40)]


@pytest.fixture(autouse=True)
def _keep_little_texts_too(monkeypatch):
    monkeypatch.setattr(encoded_store, "MIN_CHARACTERS", 1)


@pytest.fixture
def encode(tmp_path, tokenizer, texts):
    """Give a function that encodes through the store, and says whether it had to encode."""

    def run(texts=texts, rule=RULE, store=tmp_path / "store", problems=None):
        calls = []
        encoded = encode_or_reuse(
            texts,
            tokenizer,
            rule,
            store=store,
            on_progress=lambda done, total: calls.append(done),
            on_problem=None if problems is None else problems.append,
        )
        return encoded, bool(calls)

    return run


def assert_same(found, expected):
    for name in ("token_ids", "offsets", "full_lengths"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_the_second_time_nothing_is_encoded(encode, texts, tokenizer):
    expected = encode_texts(texts, tokenizer, RULE)
    first, was_encoded = encode()
    second, was_encoded_again = encode()
    assert (was_encoded, was_encoded_again) == (True, False)
    assert_same(first, expected)
    assert_same(second, expected)
    assert isinstance(first.token_ids, np.memmap)
    assert isinstance(second.token_ids, np.memmap)


def test_another_reading_of_special_tokens_is_encoded_anew(encode, tokenizer):
    texts = ["a good [SEP] film"]
    (first, _), (_, was_encoded_again) = encode(texts), encode(texts)
    tokenizer.encode_special_tokens = True
    try:
        other, was_encoded = encode(texts)
    finally:
        tokenizer.encode_special_tokens = False
    assert (was_encoded_again, was_encoded) == (False, True)
    assert other.token_ids.tolist() != first.token_ids.tolist()


@pytest.mark.parametrize(
    "change", [{"max_length": 12}, {"truncation": "tail"}, {"text_cleaning": "html_breaks"}]
)
def test_another_rule_is_another_entry(encode, texts, tokenizer, change):
    encode()
    rule = dataclasses.replace(RULE, **change)
    found, was_encoded = encode(rule=rule)
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, rule))


def test_another_version_of_the_tokenizers_is_another_entry(encode, monkeypatch):
    encode()
    monkeypatch.setattr(tokenizers, "__version__", "another")
    assert encode()[1] is True


def test_other_texts_are_another_entry_even_where_they_join_to_the_same(encode, tokenizer):
    encode(["a film", "good"])
    found, was_encoded = encode(["a ", "filmgood"])
    assert was_encoded
    assert_same(found, encode_texts(["a ", "filmgood"], tokenizer, RULE))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY broken", b"not an array"])
@pytest.mark.parametrize("name", ["token_ids.npy", "offsets.npy"])
def test_a_damaged_entry_is_built_anew(encode, tmp_path, texts, tokenizer, name, damage):
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    (entry / name).write_bytes(damage)
    found, was_encoded = encode()
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))
    assert encode()[1] is False


def test_an_entry_cut_short_is_built_anew(encode, tmp_path, texts, tokenizer):
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    np.save(entry / "token_ids.npy", np.zeros(3, dtype=np.int32))
    found, was_encoded = encode()
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))


@pytest.mark.parametrize("name", ["token_ids", "full_lengths"])
def test_an_entry_of_zeros_is_built_anew(encode, tmp_path, texts, tokenizer, name):
    """A machine that crashed may have kept the size of a file, but not what was in it."""
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    np.save(entry / f"{name}.npy", np.zeros_like(np.load(entry / f"{name}.npy")))
    found, was_encoded = encode()
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))


DAMAGES = {
    "ids below 0": ("token_ids", lambda ids: ids - 1000),
    "ids beyond the vocabulary": ("token_ids", lambda ids: ids + 100_000),
    "ids in two dimensions": ("token_ids", lambda ids: ids[None]),
    "ids in no dimension": ("token_ids", lambda ids: ids[0]),
    "ids that are strings": ("token_ids", lambda ids: ids.astype(str)),
    "offsets beyond the end": ("offsets", lambda offsets: offsets + (offsets > 0)),
    "offsets that begin later": ("offsets", lambda offsets: np.r_[1, offsets[1:]]),
    "offsets that end before": ("offsets", lambda offsets: np.r_[offsets[:-1], offsets[-1] - 1]),
    "offsets that go back": ("offsets", lambda offsets: np.r_[0, offsets[-2:0:-1], offsets[-1]]),
    "no offsets": ("offsets", lambda offsets: offsets[:0]),
    "few lengths": ("full_lengths", lambda lengths: lengths[:3]),
    "lengths that are too small": ("full_lengths", lambda lengths: lengths * 0),
}


@pytest.mark.parametrize(("name", "damage"), DAMAGES.values(), ids=DAMAGES)
def test_an_entry_that_was_not_made_so_is_built_anew(
    encode, tmp_path, texts, tokenizer, name, damage
):
    """Also if its digest is right: whoever may write there can compute it."""
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    np.save(entry / f"{name}.npy", damage(np.load(entry / f"{name}.npy")))
    (entry / "digest").write_text(encoded_store._digest_arrays(entry), encoding="ascii")
    found, was_encoded = encode()
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))


@pytest.mark.parametrize("name", ["token_ids", "offsets", "full_lengths"])
def test_an_entry_that_changed_is_built_anew(encode, tmp_path, texts, tokenizer, name):
    """Though it could have been made so."""
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    values = np.load(entry / f"{name}.npy")
    values[1] += 1 if name == "full_lengths" else -1
    np.save(entry / f"{name}.npy", values)
    found, was_encoded = encode()
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))


@pytest.mark.parametrize(("num_beyond", "is_known"), [(0, True), (1, False)])
def test_ids_of_a_vocabulary_with_a_gap_are_known_up_to_the_last(
    tmp_path, tokenizer, num_beyond, is_known
):
    settings = json.loads(tokenizer.to_str())
    last = tokenizer.get_vocab_size() + 7
    settings["model"]["vocab"]["film"] = last
    gapped = tokenizers.Tokenizer.from_str(json.dumps(settings))
    heard, expected = [], encode_texts(["a good film"], gapped, RULE)
    assert expected.token_ids.max() == last
    options = {"store": tmp_path / "store", "on_progress": lambda *count: heard.append(count)}
    encode_or_reuse(["a good film"], gapped, RULE, **options)
    (entry,) = (tmp_path / "store").iterdir()
    ids = np.load(entry / "token_ids.npy")
    ids[ids == last] += num_beyond
    np.save(entry / "token_ids.npy", ids)
    (entry / "digest").write_text(encoded_store._digest_arrays(entry), encoding="ascii")
    heard.clear()
    assert_same(encode_or_reuse(["a good film"], gapped, RULE, **options), expected)
    assert heard == ([] if is_known else [(1, 1)])


def test_a_pipe_in_the_store_is_not_waited_for(encode, tmp_path):
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    (entry / "digest").unlink()
    os.mkfifo(entry / "digest")
    assert encode()[1] is True


def test_a_pickle_in_the_store_is_not_read(encode, tmp_path):
    encode()
    (entry,) = (tmp_path / "store").iterdir()
    np.save(entry / "token_ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    assert encode()[1] is True


def test_a_store_that_cannot_be_written_costs_only_time(encode, tmp_path, texts, tokenizer):
    (tmp_path / "file").write_text("in the way")
    problems = []
    found, was_encoded = encode(store=tmp_path / "file" / "store", problems=problems)
    assert was_encoded
    assert_same(found, encode_texts(texts, tokenizer, RULE))
    assert len(problems) == 1
    assert problems[0].startswith("The encoded text is not kept for the next time: ")
    assert_same(encode(store=tmp_path / "file" / "store")[0], found)  # nobody listens


def test_a_full_disk_leaves_no_draft(encode, tmp_path):
    problems = []
    with limiting_files(130):
        encode(problems=problems)
    assert "File too large" in problems[0]
    assert list((tmp_path / "store").iterdir()) == []


def test_the_longest_unused_entries_make_room(encode, tmp_path, monkeypatch, texts):
    encode()
    (old,) = (tmp_path / "store").iterdir()
    monkeypatch.setattr(encoded_store, "MAX_BYTES", 1)
    encode([*texts, "more"])
    (left,) = (tmp_path / "store").iterdir()
    assert left != old


def test_what_was_used_last_is_kept(encode, tmp_path, monkeypatch):
    names = []
    for number, used in (("one", 100), ("two", 200)):
        encode([number])
        (entry,) = {*(tmp_path / "store").iterdir()} - set(names)
        os.utime(entry, (used, used))
        names.append(entry)
    encode(["one"])
    size = sum(file.stat().st_size for file in names[0].iterdir())
    monkeypatch.setattr(encoded_store, "MAX_BYTES", 2 * size)
    encode(["six"])
    assert [entry.exists() for entry in names] == [True, False]
    assert len(list((tmp_path / "store").iterdir())) == 2


def test_a_stray_file_does_not_keep_entries_from_making_room(encode, tmp_path, monkeypatch):
    encode()
    (old,) = (tmp_path / "store").iterdir()
    os.utime(old, (100, 100))
    (tmp_path / "store" / "stray").write_text("")
    monkeypatch.setattr(encoded_store, "MAX_BYTES", 1)
    encode(["more"])
    assert not old.exists()


def test_what_another_process_is_writing_stays(encode, tmp_path, monkeypatch):
    encode()
    monkeypatch.setattr(encoded_store, "MAX_BYTES", 1)
    draft, hold = make_held_folder(tmp_path / "store", ".draft-")
    with hold:
        (draft / "token_ids.npy").write_bytes(b"half of it")
        encode(["more"])
        assert (draft / "token_ids.npy").read_bytes() == b"half of it"


def test_an_entry_that_another_process_evicts_at_once_costs_nothing(
    encode, texts, tokenizer, monkeypatch
):
    monkeypatch.setattr(encoded_store, "_make_room", lambda _store, *, keep: shutil.rmtree(keep))
    assert_same(encode()[0], encode_texts(texts, tokenizer, RULE))


def test_entries_that_another_process_evicts_meanwhile_are_no_problem(
    encode, texts, tokenizer, monkeypatch
):
    def fail(_store, *, keep):
        raise FileNotFoundError(2, "No such file or directory", str(keep.with_name("another")))

    monkeypatch.setattr(encoded_store, "_make_room", fail)
    problems = []
    assert_same(encode(problems=problems)[0], encode_texts(texts, tokenizer, RULE))
    assert problems == []
    assert encode()[1] is False


def test_only_the_user_can_read_what_is_kept(encode, tmp_path):
    encode()
    for folder in (tmp_path / "store", *(tmp_path / "store").iterdir()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_little_text_is_not_kept(encode, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded_store, "MIN_CHARACTERS", 10**9)
    encode()
    assert not (tmp_path / "store").exists()


def test_without_a_store_nothing_is_kept(encode):
    assert encode(store=None)[1] is True
    assert encode(store=None)[1] is True


def test_the_store_is_found_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("BERTFIT_CACHE", str(tmp_path / "mine"))
    assert find_store() == tmp_path / "mine" / "encoded"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BERTFIT_CACHE", "~/mine")
    assert find_store() == tmp_path / "home" / "mine" / "encoded"
    monkeypatch.delenv("BERTFIT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_store() == tmp_path / "xdg" / "bertfit" / "encoded"
    for unset in ("relative", ""):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert find_store() == tmp_path / "home" / ".cache" / "bertfit" / "encoded"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert find_store() == tmp_path / "home" / ".cache" / "bertfit" / "encoded"


def test_a_user_without_a_home_has_no_cache(tmp_path, monkeypatch):
    """It was in a folder by the name "~", which nobody should have to remove."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BERTFIT_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert find_store() is None


def test_what_a_killed_writer_left_is_removed(encode, tmp_path, texts):
    encode()
    draft = tmp_path / "store" / ".draft-abc"
    draft.mkdir()
    (draft / "token_ids.npy").write_bytes(b"half of it")
    encode([*texts, "more"])
    assert not draft.exists()
    assert len(list((tmp_path / "store").iterdir())) == 2
