"""Shared fixtures of all tests: no network, a tiny encoder, and small labelled data.

The environment is set before anything imports torch or huggingface_hub, which read it only once.
"""

from __future__ import annotations

import csv
import gc
import importlib.util
import ipaddress
import os
import random
import signal
import socket
import string
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest

EMPTY_HUB_CACHE = tempfile.TemporaryDirectory(prefix="bertfit-hub-cache-")

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # tests marked network are run with 0
os.environ["HF_HUB_CACHE"] = EMPTY_HUB_CACHE.name  # the same on every machine: empty
os.environ["BERTFIT_CACHE"] = EMPTY_HUB_CACHE.name  # not the user's own
os.environ["BERTFIT_OPERATORS"] = "off"  # tests of them use the fixture `operators`
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["NO_COLOR"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
if not Path("/dev/nvidiactl").exists():  # interpret GPU kernels on the CPU, slowly
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Shared machines may stall. Each run draws other examples, so that few a run are many in all.
hypothesis.settings.register_profile("unhurried", deadline=None, max_examples=20)
hypothesis.settings.load_profile("unhurried")

POSITIVE = ("good", "great", "fine")
NEGATIVE = ("bad", "awful", "poor")
NEUTRAL = ("a", "the", "is", "was", "of", "and", "very", "film", "movie", "plot", "acting")
WORDS = (*NEUTRAL, *POSITIVE, *NEGATIVE, "not")


def pytest_configure() -> None:
    """Enable signals that tests send: a shell's background jobs start with SIGINT ignored.

    So do programs started by nohup with SIGHUP.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Spare Python from looking through the libraries' half a million objects again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Skip tests of Triton kernels where there is no Triton."""
    if importlib.util.find_spec("triton") is not None:
        return
    for item in items:
        if item.get_closest_marker("triton") is not None:
            item.add_marker(pytest.mark.skip(reason="Triton is not installed"))


def pytest_unconfigure() -> None:
    """Remove the empty hub cache; thaw what Triton wants to see freed at the end."""
    EMPTY_HUB_CACHE.cleanup()
    gc.unfreeze()


@pytest.fixture
def operators(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enable the compiled operators, built once for all tests; skip if they are unavailable."""
    from bertfit.modeling.operators import loading

    monkeypatch.delenv(loading.SWITCH)
    plan = loading.load_operators(build=True)
    if not plan.is_on:
        pytest.skip(f"no compiled operators here: {plan.reason}")
    yield
    loading.forget_operators()


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail on connections to other machines, and on DNS look-ups."""
    if request.node.get_closest_marker("network"):
        return
    connect, connect_ex, getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def refuse_unless_local(host: object) -> None:
        if not _is_loopback(host):
            pytest.fail(f"a test without the mark `network` reached for {host!r}")

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple):  # a Unix socket's address is a path
            refuse_unless_local(address[0])
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        if isinstance(address, tuple):
            refuse_unless_local(address[0])
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        refuse_unless_local(host)
        return getaddrinfo(host, *args, **kwargs)

    monkeypatch.setattr(socket.socket, "connect", guarded_connect)
    monkeypatch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
    monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)


def _is_loopback(host: object) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost", "0.0.0.0", "::"}:  # noqa: S104 (compared, not bound to)
        return True
    try:
        return ipaddress.ip_address(str(name)).is_loopback
    except ValueError:
        return False


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Hugging Face folder (weights, config, tokenizer) of a BERT with 2,424 parameters.

    It has 2 layers, width 8, 2 heads, 64 positions, and a lower-case WordPiece vocabulary of WORDS
    and letters, which covers every word of a to z. Like encoders from the hub, it has no
    classification head. It is shared by all tests: copy it before changing anything in it.
    """
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    letters = [letter for letter in string.ascii_lowercase if letter not in WORDS]
    continued = [f"##{letter}" for letter in string.ascii_lowercase]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *WORDS, ".", ",", *letters, *continued]
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
    )
    path = tmp_path_factory.mktemp("models") / "tiny-bert"
    token_ids = {token: token_id for token_id, token in enumerate(vocabulary)}
    BertTokenizerFast(vocab=token_ids, model_max_length=64).save_pretrained(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def make_wider_model(
    tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Return a function that makes a model folder like `tiny_model_dir`, of other sizes."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    def make(*, seed: int = 0, **sizes: float) -> Path:
        path = tmp_path_factory.mktemp("models") / "bert"
        tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
        tokenizer.save_pretrained(path)
        config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=64, **sizes)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            BertModel(config).save_pretrained(path)
        return path

    return make


@pytest.fixture(scope="session")
def make_reviews() -> Callable[..., list[dict[str, str]]]:
    """Return a function that makes linearly separable labelled reviews.

    `make_reviews(num_rows=120, seed=0)` returns rows with text, label (neg or pos, in equal
    numbers) and movie (five rows each, with both labels). Texts are distinct and have 3 to 12
    WORDS; a negative one has a word of NEGATIVE and none of POSITIVE, and vice versa.
    """
    return _make_reviews


def _make_reviews(num_rows: int = 120, *, seed: int = 0) -> list[dict[str, str]]:
    generator = random.Random(seed)
    texts: dict[str, str] = {}
    while len(texts) < num_rows:
        label, telling = (("neg", NEGATIVE), ("pos", POSITIVE))[len(texts) % 2]
        words = generator.choices(NEUTRAL, k=generator.randint(2, 11))
        words.insert(generator.randint(0, len(words)), generator.choice(telling))
        texts.setdefault(" ".join(words), label)
    return [
        {"text": text, "label": label, "movie": f"movie {row // 5}"}
        for row, (text, label) in enumerate(texts.items())
    ]


@pytest.fixture(scope="session")
def write_csv() -> Callable[[Path, Sequence[Mapping[str, object]]], Path]:
    """Return a function that writes rows, all with the keys of the first, and returns the path."""

    def write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        return path

    return write


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Return the folder of real data sets named by BERTFIT_DATA, or skip the test."""
    name = os.environ.get("BERTFIT_DATA")
    if not name:
        pytest.skip("BERTFIT_DATA does not name a folder with the real data sets")
    path = Path(name)
    if not path.is_dir():
        pytest.skip(f"BERTFIT_DATA is {name!r}, which is not a folder")
    return path
