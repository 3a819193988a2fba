"""Read the Large Movie Review Dataset (Maas et al. 2011) as published.

From the archive, which is streamed and never extracted, from the extracted folder, or from the hub.
Does not write anything.

Layout: `aclImdb/{train,test}/{pos,neg,unsup}/ID_RATING.txt`, and next to these folders
`urls_pos.txt` and so on, whose line ID (0-based) is the URL of the reviewed movie.
"""

from __future__ import annotations

import gzip
import re
import tarfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, cast

from bertfit.data.rows import describe_undecodable
from bertfit.errors import DataError, Fault, MissingDependencyError
from bertfit.files import refuse_hidden
from bertfit.wording import list_some

MAX_FILE_BYTES = 16 * 2**20
"""Far more than any review or list of URLs; protects memory from anything larger."""
MAX_ARCHIVE_BYTES = 2**30
"""Several times the size of the archive, unpacked. Headers that claim to be long count as well."""
NUM_FILES_PER_REPORT = 1_000
NUM_NAMES_SHOWN = 5
HUB_NAME = "stanfordnlp/imdb"

_HUB_SPLITS = (("train", "train"), ("test", "test"), ("train", "unsupervised"))
"""Split name here, and on the hub."""
_HUB_KINDS = {0: "neg", 1: "pos", -1: "unsup"}

_WANTED = re.compile(
    r"(?:^|/)(?P<split>train|test)/"
    r"(?:urls_(?P<urls>pos|neg|unsup)\.txt|(?P<kind>pos|neg|unsup)/(?P<file>[^/]+))$"
)
_REVIEW_FILE = re.compile(r"(?P<number>\d{1,9})_(?P<rating>\d{1,2})\.txt")
_MOVIE = re.compile(r"tt\d{7,}")

Report = Callable[[str, int, int], None]
"""Called with the name of the current step, the amount done and the total."""
Shelf = tuple[str, str]
"""Split (train, test) and kind (neg, pos, unsup)."""


@dataclass(frozen=True, slots=True)
class Review:
    """One review."""

    id: str
    """Such as train/neg/0_3; from the hub, which has no ratings, train/neg/0."""
    number: int
    text: str
    rating: int | None
    """1 to 10; None if unknown."""
    movie: str | None
    """The movie's id at imdb.com (tt0064354); None if unknown."""


@dataclass(slots=True)
class Reviews:
    """The contents of a source."""

    by_shelf: dict[Shelf, list[Review]] = field(default_factory=lambda: defaultdict(list))
    """Reviews of each split and kind, sorted by number."""
    num_skipped: int = 0
    """Files in the review folders that are not reviews, such as .DS_Store."""


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    content: bytes | None
    """None if the file is not needed and was not read."""


def read_published(path: Path, report: Report) -> Reviews:
    """Read the archive, the extracted folder, or the folder that contains it.

    Raises:
        DataError: The file does not exist, is damaged or unsafe, or is not IMDB.
    """
    if path.is_dir():
        return _gather(_iter_folder(path, report), str(path))
    if path.is_file():
        return _gather(_iter_archive(path, report), str(path))
    refuse_hidden(path)
    fault = "neither a file nor a folder" if path.exists() else "no such file or folder"
    message = f"{path}: {fault}; aclImdb_v1.tar.gz or aclImdb was expected"
    raise DataError(message)


def read_hub(report: Report) -> Reviews:
    """Read the copy on the hub, which lacks ratings and movies.

    Raises:
        MissingDependencyError: `datasets` is not installed.
        DataError: The hub cannot be reached, or its data set has changed.
    """
    try:
        import datasets
    except ImportError as error:
        message = "the hub's copy of IMDB cannot be read without the package datasets"
        raise MissingDependencyError(message, hint="pip install 'bertfit[hub]'") from error
    try:
        splits = datasets.load_dataset(HUB_NAME)
        parts = [(split, splits[name]) for split, name in _HUB_SPLITS]
    except Exception as error:  # a proxy, a timeout or a server's error is an HTTP library's own
        message = f"{HUB_NAME} cannot be read from the hub: {error}"
        raise DataError(message, hint="Give the path of aclImdb_v1.tar.gz instead.") from error
    reviews = Reviews()
    for place, (split, rows) in enumerate(parts):
        report(f"reading {HUB_NAME}", place, len(parts))
        for row in rows:
            kind = _HUB_KINDS.get(row["label"])
            if kind is None:
                raise _changed_on_hub(row["label"])
            shelf = reviews.by_shelf[split, kind]
            name = f"{split}/{kind}/{len(shelf)}"
            shelf.append(Review(name, len(shelf), row["text"], rating=None, movie=None))
    report(f"reading {HUB_NAME}", len(parts), len(parts))
    return reviews


def _changed_on_hub(label: object) -> DataError:
    known = ", ".join(f"{number} ({kind})" for number, kind in _HUB_KINDS.items())
    return DataError(
        f"{HUB_NAME} on the hub has changed: it has the label {label!r}; expected were {known}",
        hint="Give the path of aclImdb_v1.tar.gz instead.",
    )


def _iter_folder(path: Path, report: Report) -> Iterator[_File]:
    root = path / "aclImdb" if (path / "aclImdb").is_dir() else path
    files = [
        file
        for split in ("train", "test")
        for pattern in ("urls_*.txt", "pos/*", "neg/*", "unsup/*")
        for file in sorted((root / split).glob(pattern))
        if file.is_file()
    ]
    for done, file in enumerate(files):
        if done % NUM_FILES_PER_REPORT == 0:
            report(f"reading {root.name}", done, len(files))
        _check_size(file.name, file.stat().st_size, str(path))
        yield _File(file.relative_to(root).as_posix(), file.read_bytes())
    report(f"reading {root.name}", len(files), len(files))
    if not files:
        yield from (_File(file.name, None) for file in sorted(root.iterdir()))


def _iter_archive(path: Path, report: Report) -> Iterator[_File]:
    size = path.stat().st_size
    with path.open("rb") as compressed:
        if compressed.read(2) != b"\x1f\x8b":
            message = f"{path}: not a gzip archive; aclImdb_v1.tar.gz was expected"
            raise DataError(message)
        compressed.seek(0)
        try:
            for done, file in enumerate(_iter_members(compressed, str(path))):
                if done % NUM_FILES_PER_REPORT == 0:
                    report(f"reading {path.name}", min(compressed.tell(), size), size)
                yield file
        except DataError:
            raise
        # tarfile raises ValueError for numbers in a header that are none.
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
            message = f"{path}: the archive is damaged or cut off: {error}"
            raise DataError(message, hint="Download it again.") from error
    report(f"reading {path.name}", size, size)


def _iter_members(compressed: IO[bytes], source: str) -> Iterator[_File]:
    # gzip is opened separately: tarfile's own stream mode does not verify the checksum.
    with gzip.open(compressed, "rb") as unlimited:
        stream = _LimitedStream(unlimited, source)
        with tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|") as archive:
            for member in archive:
                _check_member(member, source)
                if not member.isfile() or _WANTED.search(member.name) is None:
                    yield _File(member.name, None)
                    continue
                _check_size(member.name, member.size, source)
                content = archive.extractfile(member)
                assert content is not None  # regular files have content
                yield _File(member.name, content.read())
        while stream.read(2**20):  # to the end, to verify the checksum
            pass


class _LimitedStream:
    """Reads a stream up to `MAX_ARCHIVE_BYTES`; more is an error, whatever part it belongs to."""

    def __init__(self, stream: gzip.GzipFile, source: str) -> None:
        self._stream = stream
        self._source = source
        self._num_left = MAX_ARCHIVE_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._num_left -= len(content)
        if self._num_left < 0:
            message = f"{self._source}: more than {MAX_ARCHIVE_BYTES:,} bytes when unpacked"
            raise DataError(message, hint="aclImdb_v1.tar.gz, as published, is far smaller.")
        return content


def _check_member(member: tarfile.TarInfo, source: str) -> None:
    """Reject members that the published archive does not have and a malicious one could."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        what = "has a path that leads out of the archive"
    elif not (member.isfile() or member.isdir()):
        what = "is a link or a device"
    else:
        return
    message = f"{source}: member {member.name!r} {what}; the archive is not to be trusted"
    raise DataError(message)


def _check_size(name: str, size: int, source: str) -> None:
    if size > MAX_FILE_BYTES:
        message = f"{source}: {name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} were expected"
        raise DataError(message)


def _gather(files: Iterator[_File], source: str) -> Reviews:
    """Collect the reviews by split and kind, each with its movie."""
    reviews = Reviews()
    addresses: dict[Shelf, list[str]] = {}
    other_names: list[str] = []
    faults: list[Fault] = []
    for file in files:
        match = _WANTED.search(file.name)
        if match is None or file.content is None:
            other_names.append(file.name)
        elif match["urls"]:
            shelf = (match["split"], match["urls"])
            addresses[shelf] = file.content.decode("utf-8", "replace").splitlines()
        else:
            _add_review(file.name, file.content, match, reviews=reviews, faults=faults)
    counts = Counter(review.id for shelf in reviews.by_shelf.values() for review in shelf)
    faults += [Fault(name, None, f"occurs {n} times") for name, n in counts.items() if n > 1]
    if faults:
        raise DataError(f"{source} cannot be prepared", faults=faults)
    if not reviews.by_shelf:
        raise _not_imdb(source, other_names)
    for shelf, unsorted_reviews in reviews.by_shelf.items():
        reviews.by_shelf[shelf] = _finish(unsorted_reviews, addresses.get(shelf, []))
    return reviews


def _add_review(
    name: str, content: bytes, place: re.Match[str], *, reviews: Reviews, faults: list[Fault]
) -> None:
    file = _REVIEW_FILE.fullmatch(place["file"])
    if file is None:
        reviews.num_skipped += 1
        return
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        faults.append(Fault(name, None, describe_undecodable(error, place="file")))
        return
    split, kind = place["split"], place["kind"]
    number, rating = int(file["number"]), int(file["rating"])
    review_id = f"{split}/{kind}/{number}_{rating}"
    is_rated = kind != "unsup"  # the rating in the names of unsup files is 0, which means none
    review = Review(review_id, number, text, rating=rating if is_rated else None, movie=None)
    reviews.by_shelf[split, kind].append(review)


def _finish(reviews: list[Review], addresses: list[str]) -> list[Review]:
    movies = [_MOVIE.search(address) for address in addresses]
    finished = []
    for review in sorted(reviews, key=lambda review: (review.number, review.id)):
        match = movies[review.number] if review.number < len(movies) else None
        movie = match[0] if match else None
        finished.append(Review(review.id, review.number, review.text, review.rating, movie))
    return finished


def _not_imdb(source: str, names: list[str]) -> DataError:
    found = f"found were {list_some(names, NUM_NAMES_SHOWN)}" if names else "it is empty"
    return DataError(
        f"{source} holds no IMDB reviews: files like aclImdb/train/pos/0_9.txt were expected; "
        f"{found}"
    )
