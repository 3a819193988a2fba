"""Run README.md: every ```bash command and ```python block, with a tiny model and tiny files.

The commands run unchanged through the entry point of the command line, except that trainings get
the tiny model and one epoch (later options override earlier ones), and the import of the notebook's
folder gets the tiny model's shape. Blocks marked ```console are about make, and are checked against
the Makefile.
"""

from __future__ import annotations

import io
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bertfit.cli.main import main
from tests.shorter import shorten_trainings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TINY_TRAINING = "--epochs 1 --max-length 64"
TINY_IMPORT = "--num-heads 2 --max-length 64"


def find_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def find_commands() -> list[str]:
    return [line for block in find_blocks("bash") for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_model_dir, make_reviews, write_csv) -> Path:
    """A working folder with the files that README speaks of, and the tiny model as `tiny`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_model_dir, tmp_path / "tiny")
    for seed, name in enumerate(("reviews.csv", "test.csv", "new.csv")):
        write_csv(tmp_path / name, make_reviews(60, seed=seed))
    for block in find_blocks("toml"):
        name = block.splitlines()[0].removeprefix("# ")
        (tmp_path / name).write_text(block, encoding="utf-8")
    write_imdb_archive(tmp_path / "aclImdb_v1.tar.gz", make_reviews)
    write_notebook_folder(tmp_path / "notebook", tiny_model_dir)
    return tmp_path


def write_imdb_archive(path: Path, make_reviews: Callable[..., list[dict[str, str]]]) -> None:
    """Write a small archive in the official layout: reviews, and the addresses of their films."""
    with tarfile.open(path, "w:gz") as archive:
        for seed, split in enumerate(("train", "test")):
            rows = make_reviews(40, seed=10 + seed)
            for kind, rating in (("neg", 2), ("pos", 9)):
                texts = [row["text"] for row in rows if row["label"] == kind]
                addresses = [
                    f"http://www.imdb.com/title/tt{number // 2:07}/usercomments\n"
                    for number in range(len(texts))
                ]
                files = {f"{kind}/{i}_{rating}.txt": text for i, text in enumerate(texts)}
                files[f"urls_{kind}.txt"] = "".join(addresses)
                for name, content in files.items():
                    member = tarfile.TarInfo(f"aclImdb/{split}/{name}")
                    member.size = len(content.encode())
                    archive.addfile(member, io.BytesIO(content.encode()))


def write_notebook_folder(folder: Path, tiny_model_dir: Path) -> None:
    """Write what the notebook leaves: a state dict of BertModel + linear layer, and a tokenizer."""
    import torch
    from transformers import AutoTokenizer, BertForSequenceClassification
    from transformers.utils import logging

    folder.mkdir()
    logging.set_verbosity_error()
    model = BertForSequenceClassification.from_pretrained(tiny_model_dir)
    state = {key.replace("classifier.", "out."): value for key, value in model.state_dict().items()}
    torch.save(state, folder / "model.pth")
    AutoTokenizer.from_pretrained(tiny_model_dir).save_pretrained(folder / "tokenizer")


def substitute(command: str) -> list[str]:
    words = shlex.split(command)
    assert words[0] == "bertfit", f"README's bash blocks hold bertfit's commands, not {command!r}"
    if words[1] == "train":
        return [*words, *shlex.split(TINY_TRAINING), "--model", "tiny"]
    return [*words, *shlex.split(TINY_IMPORT)] if words[1] == "import" else words


def test_every_command_ends_well(folder, monkeypatch, capsys):
    first_training = next(filter(re.compile("bertfit train").match, find_commands()))
    for command in find_commands():
        monkeypatch.setattr(sys, "argv", substitute(command))
        code: object = None
        try:
            main()
        except SystemExit as end:
            code = end.code
        output = capsys.readouterr()
        assert code in {0, None}, f"{command}\n{output.err}"
        assert output.out or output.err, f"{command} says nothing"
        if command == first_training:
            shorten_trainings(monkeypatch)
    assert len((folder / "predictions.csv").read_text().splitlines()) == 61
    for run in ("mine", "tuned", "notebook", "imported", "imdb"):
        assert (folder / "runs" / run / "bertfit.json").is_file()
    table = README.partition("## What a run holds")[2]
    named = set(re.findall(r"`([a-z_]+\.[a-z]+)`", table.partition("\n\nA run appears")[0]))
    assert named <= {path.name for path in (folder / "runs" / "mine").iterdir()}
    assert len(named) == 15


def test_python_blocks_run(folder, monkeypatch, capsys):
    import bertfit

    train = bertfit.train
    monkeypatch.setattr(
        bertfit,
        "train",
        lambda *args, **options: train(*args, **{**options, "model": "tiny", "epochs": 1}),
    )
    shorten_trainings(monkeypatch)
    blocks = find_blocks("python")
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})  # noqa: S102 (our own README)
    lines = capsys.readouterr().out.splitlines()
    assert len(blocks) == 2
    assert lines[0].endswith("epoch 1 is the only one") or "runs/python" in lines[0]
    assert re.fullmatch(r"\d+\.\d% \(\d+\.\d% to \d+\.\d%\)", lines[1])
    assert [line.split()[0] in {"neg", "pos"} for line in lines[2:4]] == [True, True]
    assert "'label'" in lines[4]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\$ make ([a-z-]+)", "\n".join(find_blocks("console")), re.MULTILINE)
    assert targets == ["demo", "test"]
    assert [target for target in targets if f"\n{target}:" not in makefile] == []


def test_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
