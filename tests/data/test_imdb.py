"""Preparing IMDB from the archive, the folder and the hub; what is rejected, and why."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import types

import pytest

import bertfit.data.imdb
import bertfit.data.imdb_sources
from bertfit.data.imdb import prepare_imdb
from bertfit.errors import ConfigError, DataError, MissingDependencyError

FILES = {
    "README": b"Large Movie Review Dataset v1.0",
    "train/urls_neg.txt": b"".join(
        b"http://www.imdb.com/title/tt%07d/usercomments\n" % number for number in range(11)
    ),
    "train/neg/10_2.txt": b"Tenth.",
    "train/neg/2_4.txt": b"Second<br />caf\xc3\xa9 \xc2\x85",
    "train/pos/0_9.txt": b"Good  Film",
    "train/urls_pos.txt": b"http://www.imdb.com/title/tt12345678/usercomments\n",
    "train/unsup/0_0.txt": b"Who knows",
    "train/urls_unsup.txt": b"http://www.imdb.com/title/tt0000007/usercomments\n",
    "test/neg/0_1.txt": b"Bad",
    "test/urls_neg.txt": b"http://www.imdb.com/title/tt0000005/usercomments\n",
    "test/pos/0_10.txt": b"Best",
}


def make_archive(path, files=FILES, members=()):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"aclImdb/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return path


def make_folder(path, files=FILES):
    for name, content in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


@pytest.fixture
def archive(tmp_path):
    return make_archive(tmp_path / "aclImdb_v1.tar.gz")


@pytest.fixture
def output(tmp_path):
    return tmp_path / "output"


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def refuse(source, output, kind=DataError, **options) -> str:
    with pytest.raises(kind) as caught:
        prepare_imdb(source, output, **options)
    assert not [path for path in output.rglob("*") if path.name.endswith(".part")]
    return str(caught.value)


def test_the_archive_becomes_three_files(archive, output):
    prepare_imdb(archive, output)
    assert read(output / "imdb_train.jsonl") == [
        {
            "id": "train/neg/2_4",
            "text": "Second<br />café \x85",
            "label": "neg",
            "rating": 4,
            "movie": "tt0000002",
        },
        {
            "id": "train/neg/10_2",
            "text": "Tenth.",
            "label": "neg",
            "rating": 2,
            "movie": "tt0000010",
        },
        {
            "id": "train/pos/0_9",
            "text": "Good  Film",
            "label": "pos",
            "rating": 9,
            "movie": "tt12345678",
        },
    ]
    assert [row["id"] for row in read(output / "imdb_test.jsonl")] == [
        "test/neg/0_1",
        "test/pos/0_10",
    ]
    assert read(output / "imdb_unsup.jsonl") == [
        {
            "id": "train/unsup/0_0",
            "text": "Who knows",
            "label": None,
            "rating": None,
            "movie": "tt0000007",
        }
    ]


@pytest.mark.parametrize("inside", [".", "aclImdb"])
def test_the_folder_gives_what_the_archive_gives(archive, output, tmp_path, inside):
    prepare_imdb(archive, output / "archive")
    make_folder(tmp_path / "extracted" / inside)
    prepare_imdb(tmp_path / "extracted", output / "folder")
    for name in ("imdb_train.jsonl", "imdb_test.jsonl", "imdb_unsup.jsonl"):
        assert (output / "archive" / name).read_bytes() == (output / "folder" / name).read_bytes()


def test_tokens_are_lower_cased_words(archive, output):
    prepare_imdb(archive, output, text_format="tokens")
    assert sorted(path.name for path in output.iterdir()) == ["imdb_test.json", "imdb_train.json"]
    assert read(output / "imdb_train.json")[-1] == {"text": ["good", "film"], "label": "pos"}


def test_an_address_without_a_movie_moves_no_other(archive, output):
    addresses = FILES["train/urls_neg.txt"].replace(b"title/tt0000001", b"name/nm0000001")
    prepare_imdb(make_archive(archive, {**FILES, "train/urls_neg.txt": addresses}), output)
    movies = {row["id"]: row["movie"] for row in read(output / "imdb_train.jsonl")}
    assert movies["train/neg/2_4"] == "tt0000002"
    assert movies["train/neg/10_2"] == "tt0000010"


def test_what_differs_from_the_published_dataset_is_said(archive, output):
    counts = prepare_imdb(archive, output)
    assert counts.num_rows == {
        "imdb_train.jsonl": 3,
        "imdb_test.jsonl": 2,
        "imdb_unsup.jsonl": 1,
    }
    assert counts.num_per_shelf["train/neg"] == 2
    assert counts.differences == (
        "reviews in train/neg: 2; published: 12,500",
        "reviews in train/pos: 1; published: 12,500",
        "reviews in test/neg: 1; published: 12,500",
        "reviews in test/pos: 1; published: 12,500",
        "reviews without a movie in test/pos: 1",
        "reviews in train/unsup: 1; published: 50,000",
    )


def test_nothing_differs_in_the_whole_dataset(archive, output, monkeypatch):
    files = {**FILES, "test/urls_pos.txt": b"http://www.imdb.com/title/tt0000001/"}
    make_archive(archive, files)
    counts = {("train", "neg"): 2, ("train", "pos"): 1, ("test", "neg"): 1, ("test", "pos"): 1}
    monkeypatch.setattr(bertfit.data.imdb, "_OFFICIAL_COUNTS", counts)
    assert prepare_imdb(archive, output).differences == ()


def test_files_that_are_no_reviews_are_counted(archive, output):
    make_archive(archive, {**FILES, "train/pos/.DS_Store": b"\0", "train/pos/._0_9.txt": b"\0"})
    assert prepare_imdb(archive, output).num_skipped == 2


def test_a_source_without_unlabelled_reviews_gives_two_files(archive, output):
    make_archive(archive, {name: FILES[name] for name in FILES if "unsup" not in name})
    prepare_imdb(archive, output)
    assert sorted(path.name for path in output.iterdir()) == ["imdb_test.jsonl", "imdb_train.jsonl"]


def test_progress_is_reported(archive, output):
    heard = []
    prepare_imdb(archive, output, report=lambda *report: heard.append(report))
    size = archive.stat().st_size
    assert (f"reading {archive.name}", size, size) in heard
    assert ("writing imdb_train.jsonl", 3, 3) in heard


def test_a_file_of_an_earlier_source_is_told(archive, output, tmp_path):
    prepare_imdb(archive, output)
    labelled = {name: content for name, content in FILES.items() if "unsup" not in name}
    counts = prepare_imdb(make_folder(tmp_path / "new", labelled), output, overwrite=True)
    left = output / "imdb_unsup.jsonl"
    assert counts.differences[-1] == (
        f"{left} is of an earlier source; this one has no such reviews"
    )
    left.unlink()
    counts = prepare_imdb(tmp_path / "new", output, overwrite=True)
    assert not [told for told in counts.differences if "earlier" in told]


# The hub


@pytest.fixture
def hub(monkeypatch):
    splits = {
        "train": [{"text": "Bad", "label": 0}, {"text": "Good", "label": 1}],
        "test": [{"text": "Good", "label": 1}, {"text": "Bad", "label": 0}],
        "unsupervised": [{"text": "Hm", "label": -1}],
    }
    datasets = types.SimpleNamespace(load_dataset=lambda name: splits)
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    return datasets


def test_the_hub_gives_reviews_without_rating_and_movie(hub, output):
    differences = prepare_imdb("hub", output).differences
    assert not [one for one in differences if "movie" in one]  # as it never has them
    empty = {"rating": None, "movie": None}
    assert read(output / "imdb_test.jsonl") == [
        {"id": "test/neg/0", "text": "Bad", "label": "neg", **empty},
        {"id": "test/pos/0", "text": "Good", "label": "pos", **empty},
    ]
    assert read(output / "imdb_unsup.jsonl")[0]["id"] == "train/unsup/0"


def test_the_hub_needs_datasets(output, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert refuse("hub", output, MissingDependencyError) == (
        "the hub's copy of IMDB cannot be read without the package datasets\n"
        "pip install 'bertfit[hub]'"
    )


@pytest.mark.parametrize("kind", [ConnectionError, type("ProxyError", (Exception,), {})])
def test_a_hub_that_cannot_be_reached_is_said(hub, output, kind):
    def refuse_connection(_name):
        raise kind("no network")

    hub.load_dataset = refuse_connection
    assert refuse("hub", output) == (
        "stanfordnlp/imdb cannot be read from the hub: no network\n"
        "Give the path of aclImdb_v1.tar.gz instead."
    )


def test_a_label_that_the_hub_did_not_have_is_said(hub, output):
    hub.load_dataset(None)["test"].append({"text": "Meh", "label": 2})
    assert refuse("hub", output) == (
        "stanfordnlp/imdb on the hub has changed: it has the label 2; expected were 0 (neg), "
        "1 (pos), -1 (unsup)\nGive the path of aclImdb_v1.tar.gz instead."
    )


# What is refused


@pytest.mark.parametrize("name", ["/etc/passwd", "aclImdb/../../evil.txt"])
def test_a_path_that_leads_out_is_refused(archive, output, name):
    make_archive(archive, members=[tarfile.TarInfo(name)])
    assert refuse(archive, output) == (
        f"{archive}: member {name!r} has a path that leads out of the archive; "
        "the archive is not to be trusted"
    )


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(archive, output, kind):
    member = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
    member.type, member.linkname = kind, "/etc/passwd"
    make_archive(archive, members=[member])
    assert refuse(archive, output) == (
        f"{archive}: member 'aclImdb/train/pos/1_9.txt' is a link or a device; "
        "the archive is not to be trusted"
    )


def test_a_review_of_many_megabytes_is_refused(archive, output, monkeypatch):
    monkeypatch.setattr(bertfit.data.imdb_sources, "MAX_FILE_BYTES", 1_000)
    make_archive(archive, {**FILES, "train/pos/1_9.txt": b"x" * 1_001})
    message = "aclImdb/train/pos/1_9.txt has 1,001 bytes; at most 1,000 were expected"
    assert refuse(archive, output) == f"{archive}: {message}"


def test_so_is_one_in_a_folder(tmp_path, output, monkeypatch):
    monkeypatch.setattr(bertfit.data.imdb_sources, "MAX_FILE_BYTES", 1_000)
    folder = make_folder(tmp_path / "aclImdb", {**FILES, "train/pos/1_9.txt": b"a" * 1_001})
    message = refuse(folder, output)
    assert "1_9.txt has 1,001 bytes; at most 1,000 were expected" in message


def test_an_archive_without_end_is_refused(archive, output, monkeypatch):
    monkeypatch.setattr(bertfit.data.imdb_sources, "MAX_ARCHIVE_BYTES", 1_000)
    message = refuse(archive, output)
    assert message.startswith(f"{archive}: more than 1,000 bytes when unpacked\n")


def test_a_header_without_end_is_refused(archive, output, monkeypatch):
    """A header of this kind is read as a whole, and compressed it takes next to no space."""
    monkeypatch.setattr(bertfit.data.imdb_sources, "MAX_ARCHIVE_BYTES", 100_000)
    member = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
    member.pax_headers = {"comment": "x" * 10_000_000}
    make_archive(archive, members=[member])
    message = refuse(archive, output)
    assert message.startswith(f"{archive}: more than 100,000 bytes when unpacked\n")


@pytest.mark.parametrize("num_kept", [30, -30, -8])
def test_an_archive_that_is_cut_off_is_refused(archive, output, num_kept):
    archive.write_bytes(archive.read_bytes()[:num_kept])
    message = refuse(archive, output)
    assert message.startswith(f"{archive}: the archive is damaged or cut off: ")
    assert message.endswith("\nDownload it again.")


def test_an_archive_whose_checksum_is_wrong_is_refused(archive, output):
    content = bytearray(archive.read_bytes())
    content[-5] ^= 1
    archive.write_bytes(content)
    assert "damaged or cut off" in refuse(archive, output)


@pytest.mark.parametrize("header", [{"GNU.sparse.size": "x"}, {"GNU.sparse.map": "x,y"}])
def test_an_archive_with_numbers_that_are_none_is_refused(archive, output, header):
    member = tarfile.TarInfo("aclImdb/train/pos/1_9.txt")
    member.pax_headers = header
    make_archive(archive, members=[member])
    assert "damaged or cut off" in refuse(archive, output)


def test_a_name_of_thousands_of_digits_is_no_review(archive, output):
    """Python converts at most 4,300 digits to a number."""
    make_archive(archive, {**FILES, f"train/pos/{'1' * 5000}_9.txt": b"Good"})
    assert prepare_imdb(archive, output).num_skipped == 1


def test_what_is_no_archive_is_refused(archive, output):
    archive.write_bytes(b"PK a zip")
    message = f"{archive}: not a gzip archive; aclImdb_v1.tar.gz was expected"
    assert refuse(archive, output) == message


def test_gzip_of_something_else_is_refused(archive, output):
    archive.write_bytes(gzip.compress(b"text,label\n" * 100))
    assert "damaged or cut off" in refuse(archive, output)


def test_a_missing_source_is_refused(tmp_path, output):
    assert refuse(tmp_path / "acl", output) == (
        f"{tmp_path / 'acl'}: no such file or folder; aclImdb_v1.tar.gz or aclImdb was expected"
    )


def test_another_archive_is_refused_with_what_it_holds(archive, output):
    make_archive(archive, {f"{letter}.txt": b"" for letter in "abcdefg"})
    assert refuse(archive, output) == (
        f"{archive} holds no IMDB reviews: files like aclImdb/train/pos/0_9.txt were expected; "
        "found were aclImdb/a.txt, aclImdb/b.txt, aclImdb/c.txt, aclImdb/d.txt, aclImdb/e.txt "
        "and 2 more"
    )


@pytest.mark.parametrize(
    ("files", "found"), [({}, "it is empty"), ({"a.txt": b""}, "found were a.txt")]
)
def test_another_folder_is_refused_with_what_it_holds(tmp_path, output, files, found):
    (tmp_path / "folder").mkdir()
    make_folder(tmp_path / "folder", files)
    assert refuse(tmp_path / "folder", output).endswith(f"were expected; {found}")


def test_a_part_of_the_dataset_is_refused(archive, output):
    make_archive(archive, {name: FILES[name] for name in FILES if not name.startswith("test/pos")})
    assert refuse(archive, output) == (
        f"{archive} is not the whole of IMDB: there are no reviews in test/pos"
    )


def test_reviews_that_are_not_utf8_are_all_named(archive, output):
    files = {**FILES, "train/pos/1_9.txt": b"caf\xe9", "train/pos/2_9.txt": b"\xff"}
    make_archive(archive, files)
    assert refuse(archive, output).splitlines() == [
        f"{archive} cannot be prepared",
        (
            "  aclImdb/train/pos/1_9.txt: byte 0xe9 at offset 3 of the file is not UTF-8; "
            "re-save the file as UTF-8 (it may be in latin-1 or cp1252)"
        ),
        (
            "  aclImdb/train/pos/2_9.txt: byte 0xff at offset 0 of the file is not UTF-8; "
            "re-save the file as UTF-8 (it may be in latin-1 or cp1252)"
        ),
    ]


def test_a_review_that_occurs_twice_is_refused(archive, output):
    make_archive(archive, members=[tarfile.TarInfo("aclImdb/train/pos/0_9.txt")])
    assert refuse(archive, output).splitlines()[1:] == ["  train/pos/0_9: occurs 2 times"]


def test_files_that_are_there_are_not_replaced_unasked(archive, output):
    output.mkdir()
    (output / "imdb_test.jsonl").write_text("mine", encoding="utf-8")
    assert refuse(archive, output, ConfigError) == (
        f"already there: {output / 'imdb_test.jsonl'}\n"
        "Replace them with --overwrite, or name another folder."
    )
    assert (output / "imdb_test.jsonl").read_text(encoding="utf-8") == "mine"


def test_an_output_that_is_a_file_is_refused_before_the_archive_is_read(archive, output):
    """Reading the whole archive takes most of a minute."""
    output.write_text("mine", encoding="utf-8")
    heard = []
    with pytest.raises(NotADirectoryError) as caught:
        prepare_imdb(archive, output, report=lambda *report: heard.append(report))
    assert (caught.value.filename, heard) == (str(output), [])


def test_files_that_are_there_are_replaced_when_asked(archive, output):
    prepare_imdb(archive, output)
    (output / "imdb_test.jsonl").write_text("old", encoding="utf-8")
    prepare_imdb(archive, output, overwrite=True)
    assert len(read(output / "imdb_test.jsonl")) == 2


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_in_the_place_of_a_file_is_refused(archive, output, overwrite):
    (output / "imdb_train.jsonl").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"place of a file: .*imdb_train.jsonl"):
        prepare_imdb(archive, output, overwrite=overwrite)
    assert [path.name for path in output.iterdir()] == ["imdb_train.jsonl"]


def test_an_unknown_format_is_refused(archive, output):
    message = "text_format is 'xml'; 'text' or 'tokens' was expected"
    assert refuse(archive, output, ConfigError, text_format="xml") == message


def test_an_interruption_leaves_no_file(archive, output):
    def interrupt(name, done, total):
        if (name, done) == ("writing imdb_test.jsonl", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_imdb(archive, output, report=interrupt)
    assert not output.exists()


def test_a_full_disk_leaves_no_file(archive, output, monkeypatch):
    def fill_disk(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bertfit.data.imdb.json, "dump", fill_disk)
    with pytest.raises(OSError, match="No space left on device"):
        prepare_imdb(archive, output)
    assert not output.exists()
