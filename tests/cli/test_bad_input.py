"""Bad input of every kind: a message and an exit code, never a traceback.

Generates docs/bad-input.md, which `BERTFIT_UPDATE_DOCS=1 pytest -k is_written` rewrites.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import shlex
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bertfit.cli.main import main
from bertfit.modeling.classifier import load_classifier
from bertfit.modeling.saving import save_model

DOCS = Path(__file__).parents[2] / "docs" / "bad-input.md"
HEADER = """# What bad input gives

Made by `tests/cli/test_bad_input.py`, which runs every command below and checks its message and
its exit code. Exit codes: 2 a setting or an argument, 3 data, 4 a model, 5 a run, 6 training,
7 a missing package, 8 a leak under --strict, 1 anything else (such as a full disk), 130 Ctrl-C.
"""


@dataclass(frozen=True)
class Case:
    """A command line, the files that it meets, and what must come of it."""

    what: str
    command: str
    exit_code: int
    message: str
    files: Callable[[Path], None] | None = None
    stdin: bytes = b""


def text(name: str, content: str | bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)

    return write


def both(*writers: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for writer in writers:
            writer(folder)

    return write


GOOD_ROWS = "text,label\n" + "good film,pos\nbad film,neg\n" * 10
TRAIN = "train bad.csv --model tiny --output run"
GOOD = "train good.csv --model tiny --output run"
good = text("good.csv", GOOD_ROWS)


def data_case(what: str, content: str | bytes, message: str, extra: str = "") -> Case:
    return Case(what, f"{TRAIN} {extra}".strip(), 3, message, text("bad.csv", content))


def setting_case(what: str, options: str, message: str, exit_code: int = 2) -> Case:
    return Case(what, f"{GOOD} {options}", exit_code, message, good)


def write_link_archive(folder: Path) -> None:
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("aclImdb/train/pos/0_9.txt")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)


def write_climbing_archive(folder: Path) -> None:
    with tarfile.open(folder / "aclImdb_v1.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("aclImdb/../../evil.txt")
        archive.addfile(member, io.BytesIO())


class Evil:
    """Pickled, it would make a file when it is read."""

    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def write_pickle(folder: Path) -> None:
    (folder / "nb" / "tokenizer").mkdir(parents=True)
    (folder / "nb" / "model.pth").write_bytes(pickle.dumps(Evil()))


def write_damaged_run(content: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        shutil.copytree(folder / "tiny", folder / "damaged")
        (folder / "damaged" / "bertfit.json").write_text(content, encoding="utf-8")

    return write


def write_damaged_threshold(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "damaged")
    record = {
        "format_version": 1,
        "encoding": {"max_length": 16},
        "threshold": {"value": 1.5},
    }
    (folder / "damaged" / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")


def write_two_runs(kept: str | None) -> Callable[[Path], None]:
    """Write runs a and b that were tested on rows of their own, with these kept predictions."""

    def write(folder: Path) -> None:
        for name in ("a", "b"):
            shutil.copytree(folder / "tiny", folder / name)
            record = {
                "format_version": 1,
                "label_names": ["neg", "pos"],
                "data": {"test": {"source": f"{name}.csv", "fingerprint": name}},
            }
            (folder / name / "bertfit.json").write_text(json.dumps(record), encoding="utf-8")
            if kept is not None:
                path = folder / name / "test_predictions.jsonl"
                path.write_text(kept, encoding="utf-8")

    return write


KEPT_ROW = json.dumps(
    {
        "line": 2,
        "group": None,
        "label": "pos",
        "probabilities": [0.4, 0.6],
        "num_tokens": 3,
        "truncated": False,
    }
)


def write_newer_run(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "newer")
    (folder / "newer" / "bertfit.json").write_text('{"format_version": 99}', encoding="utf-8")


def write_broken_model(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "broken")
    (folder / "broken" / "config.json").write_text("{", encoding="utf-8")


def write_pickled_model(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "pickled")
    (folder / "pickled" / "model.safetensors").unlink()
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"pickle")


def write_model_of_few_words(folder: Path) -> None:
    shutil.copytree(folder / "tiny", folder / "foreign")
    model = load_classifier(str(folder / "tiny")).model
    model.resize_token_embeddings(6)
    save_model(model, folder / "foreign")


CASES = [
    Case("a file that is not there", TRAIN, 3, "no such file"),
    Case("a folder for a file", "train tiny --model tiny --output run", 3, "folder"),
    Case(
        "a kind of file that is not read",
        "train t.xlsx --output run",
        3,
        ".parquet",
        text("t.xlsx", "x"),
    ),
    data_case("an empty file", "", "empty"),
    data_case("a header and no rows", "text,label\n", "no rows"),
    data_case("a text column misspelt", GOOD_ROWS, "Did you mean 'text'?", "--text-column texxt"),
    data_case(
        "a label column misspelt", GOOD_ROWS, "Did you mean 'label'?", "--label-column lable"
    ),
    data_case("a group column that is not there", GOOD_ROWS, "'movie'", "--group-column movie"),
    data_case("no text column", "a,label\ngood,pos\nbad,neg\n", "--text-column"),
    data_case("no label column", "text,b\ngood,pos\nbad,neg\n", "--label-column"),
    data_case("a header that names a column twice", "text,text,label\na,b,pos\n", "text"),
    data_case("an empty text", GOOD_ROWS + ",pos\n", "bad.csv:22: the text is empty"),
    data_case("a missing label", GOOD_ROWS + "fine film,\n", "bad.csv:22: the label is missing"),
    data_case("a row with too few fields", GOOD_ROWS + "fine film\n", "bad.csv:22:"),
    data_case("a row with too many fields", GOOD_ROWS + "fine, film,pos\n", "bad.csv:22:"),
    data_case("bytes that are not UTF-8", GOOD_ROWS.encode() + b"caf\xe9,pos\n", "UTF-8"),
    data_case("a NUL byte", GOOD_ROWS + "a\0b,pos\n", "bad.csv:22:"),
    data_case("a quote that is never closed", GOOD_ROWS + '"fine film,pos\n', "bad.csv:22:"),
    Case(
        "a validation file with one class",
        f"{GOOD} --validation half.csv",
        3,
        "one class only",
        both(good, text("half.csv", "text,label\nlovely,pos\nnice,pos\n")),
    ),
    data_case("a single class", "text,label\ngood,pos\nfine,pos\n", "at least 2 labels"),
    data_case("several faults at once", GOOD_ROWS + ",pos\nfine\nx,\n", "3 problems"),
    data_case(
        "nothing left after skipping",
        "text,label\n,pos\n,neg\n",
        "no row can be used",
        "--on-bad-row skip",
    ),
    data_case("a class with one row", GOOD_ROWS + "fine film,mixed\n", "mixed"),
    data_case(
        "a class whose rows are one group",
        "text,label,m\n" + "good film,pos,a\n" * 9 + "bad film,neg,b\n" * 9,
        "group",
        "--group-column m",
    ),
    Case(
        "a broken JSON line",
        "train bad.jsonl --output run",
        3,
        "bad.jsonl:2:",
        text(
            "bad.jsonl",
            '{"text": "good", "label": 1}\n{"text": "bad", \n{"text": "bad", "label": 0}\n',
        ),
    ),
    Case(
        "a JSON line that is no object",
        "train bad.jsonl --output run",
        3,
        "bad.jsonl:2:",
        text("bad.jsonl", '{"text": "good", "label": 1}\n[1]\n{"text": "bad", "label": 0}\n'),
    ),
    Case(
        "a JSON array that is cut off",
        "train bad.json --output run",
        3,
        "the JSON array is damaged",
        text("bad.json", '[\n{"text": "good", "label": 1},\n'),
    ),
    Case(
        "a key that a JSON line lacks",
        "train bad.jsonl --output run",
        3,
        "bad.jsonl:2:",
        text(
            "bad.jsonl",
            '{"text": "good", "label": 1}\n{"txt": "bad", "label": 0}\n{"text": "x", "label": 0}\n',
        ),
    ),
    Case(
        "a label that is a list",
        "train bad.jsonl --output run",
        3,
        "list",
        text(
            "bad.jsonl",
            '{"text": "a", "label": 1}\n{"text": "b", "label": [0]}\n{"text": "c", "label": 0}\n',
        ),
    ),
    Case(
        "a damaged .gz file",
        "train bad.csv.gz --output run",
        3,
        "gzip",
        text("bad.csv.gz", gzip.compress(GOOD_ROWS.encode() * 99)[:60]),
    ),
    Case(
        "a damaged Parquet file",
        "train bad.parquet --output run",
        3,
        "Parquet",
        text("bad.parquet", "PAR1"),
    ),
    Case(
        "a validation label that training lacks",
        f"{GOOD} --validation v.csv",
        3,
        "Did you mean 'pos'?",
        both(good, text("v.csv", "text,label\ngood,poss\nbad,neg\n")),
    ),
    Case(
        "a test label that training lacks",
        f"{GOOD} --test t.csv",
        3,
        "t.csv:2:",
        both(good, text("t.csv", "text,label\ngood,fine\nbad,neg\n")),
    ),
    Case(
        "a model folder that is not there",
        "train good.csv --model ./nothing --output run",
        4,
        "does not exist",
        good,
    ),
    Case(
        "a file for a model", "train good.csv --model good.csv --output run", 4, "is a file", good
    ),
    Case(
        "a folder that is no model",
        "train good.csv --model empty --output run",
        4,
        "config.json",
        both(good, lambda folder: (folder / "empty").mkdir()),
    ),
    Case(
        "a hub name without a network",
        "train good.csv --model no/model --output run",
        4,
        "--model embedded",
        good,
    ),
    Case(
        "a damaged config.json",
        "train good.csv --model broken --output run",
        4,
        "broken",
        both(good, write_broken_model),
    ),
    Case(
        "pickled weights",
        "train good.csv --model pickled --output run",
        4,
        "safetensors",
        both(good, write_pickled_model),
    ),
    Case(
        "a model with the tokenizer of another",
        "train good.csv --model foreign --output run",
        4,
        "embeddings for 6 tokens",
        both(good, write_model_of_few_words),
    ),
    setting_case("more tokens than the model reads", "--max-length 999", "reads at most 64", 4),
    setting_case("a setting that does not exist", "--set epoch=3", "Did you mean 'epochs'?"),
    setting_case("a setting without a value", "--set epochs", "key=value"),
    setting_case("a setting of the wrong type", "--set epochs=many", "epochs: expected int"),
    setting_case("several settings out of range", "--set dropout=2 --set epochs=0", "dropout"),
    setting_case("a learning rate that is no number", "--set learning_rate=nan", "learning_rate"),
    setting_case("a recipe that does not exist", "--recipe notebok", "Did you mean 'notebook'?"),
    setting_case("a truncation that does not exist", "--truncation middle", "head+tail"),
    setting_case("an aim that is none", "--set threshold_aim=precision", "recall>=0.9 or cost:"),
    setting_case("a cost without its second half", "--set threshold_aim=cost:5", "cost:FP,FN"),
    setting_case("a recall above 1", "--set threshold_aim=recall>=95", "at most 1"),
    setting_case("a calibration of no known kind", "--set calibration=platt", "temperature"),
    Case(
        "a threshold for three classes",
        f"{TRAIN} --set threshold_aim=f1",
        2,
        "between two classes, the data has 3",
        text("bad.csv", GOOD_ROWS + "fine film,mixed\n" * 10),
    ),
    setting_case("a switch that is neither on nor off", "--set strict=maybe", "true or false"),
    setting_case(
        "a test set that leaks, where strictness was asked for",
        "--test good.csv --strict",
        "LEAK: 20 of 20 test rows",
        8,
    ),
    setting_case(
        "duplicates that are all there is",
        "--test good.csv --drop-duplicates",
        "no row is left after dropping",
        3,
    ),
    Case(
        "a strict check of a test set that leaks",
        "check good.csv --test good.csv --model tiny --strict",
        8,
        "--drop-duplicates",
        good,
    ),
    Case("a file to check that is not there", "check no.csv --model tiny", 3, "no such file"),
    Case(
        "a bad row to check",
        "check bad.csv --model tiny",
        3,
        "bad.csv:22: the text is empty",
        text("bad.csv", GOOD_ROWS + ",pos\n"),
    ),
    Case("no model to check with", "check good.csv --model ./nothing", 4, "does not exist", good),
    Case(
        "a check for more tokens than the model reads",
        "check good.csv --model tiny --max-length 999",
        4,
        "reads at most 64",
        good,
    ),
    Case(
        "a check for too few tokens",
        "check good.csv --model tiny --max-length 1",
        2,
        "--max-length: expected a number at least 4",
        good,
    ),
    setting_case("a settings file that is not there", "--config no.toml", "does not exist"),
    Case(
        "a settings file that is not TOML",
        f"{GOOD} --config s.toml",
        2,
        "TOML",
        both(good, text("s.toml", "epochs 3")),
    ),
    Case(
        "an unknown setting in a file",
        f"{GOOD} --config s.toml",
        2,
        "Did you mean",
        both(good, text("s.toml", "learning_rat = 3")),
    ),
    Case(
        "a wrong value in a file of settings",
        f"{GOOD} --config s.toml",
        2,
        "file s.toml: epochs: expected int or none, got '3'",
        both(good, text("s.toml", 'epochs = "3"')),
    ),
    setting_case("a device that is not there", "--device cuda:7", "CUDA"),
    setting_case("a device of no known kind", "--device gpu", "expected auto, cpu, cuda"),
    setting_case("an option that does not exist", "--epoch 3", "No such option"),
    Case("no --output", "train good.csv", 2, "--output", good),
    Case("a verb that does not exist", "trian good.csv", 2, "trian", good),
    Case(
        "an output folder that is no run",
        "train good.csv --model tiny --output tiny",
        5,
        "not a run",
        good,
    ),
    Case("a run that is not there", "evaluate nothing good.csv", 5, "does not exist", good),
    Case(
        "a folder that is no run",
        "evaluate empty good.csv",
        5,
        "bertfit.json",
        both(good, lambda folder: (folder / "empty").mkdir()),
    ),
    Case(
        "a damaged bertfit.json",
        "evaluate damaged good.csv",
        5,
        "cannot be read",
        both(good, write_damaged_run("{")),
    ),
    Case(
        "a run of a newer format", "evaluate newer good.csv", 5, "99", both(good, write_newer_run)
    ),
    Case(
        "a label that the model does not know",
        "evaluate tiny good.csv",
        3,
        "good.csv:2, 4, 6 and 7 other rows: label 'pos' is not known",
        good,
    ),
    Case("nothing to predict", "predict tiny", 3, "no text", stdin=b"\n\n"),
    Case("a column of texts without a file", "predict tiny hi --text-column x", 2, "--file"),
    Case("JSON to a CSV file", "predict tiny hi --json --output o.csv", 2, "--json writes"),
    Case("texts and a file", "predict tiny hello --file good.csv", 2, "not both", good),
    Case("a file in the place of a text", "predict tiny good.csv", 2, "--file good.csv", good),
    Case("a file among the texts", "predict tiny hi good.csv", 2, "'good.csv', which is a", good),
    Case("a folder in the place of a text", "predict tiny ./tiny", 2, "which is a folder here"),
    Case("a confidence out of range", "predict tiny hi --abstain-below 90", 2, "at most 1"),
    Case(
        "a confidence that is no number", "predict tiny hi --abstain-below high", 2, "valid number"
    ),
    Case(
        "a damaged threshold in a run",
        "predict damaged hi",
        5,
        "threshold 1.5 for 2 classes",
        write_damaged_threshold,
    ),
    Case(
        "predictions onto the file that is read",
        "predict tiny --file good.csv --output good.csv --overwrite",
        2,
        "is the file that is read, and would be lost",
        good,
    ),
    Case(
        "predictions to a file that is there",
        "predict tiny --file good.csv --output mine.csv",
        2,
        "mine.csv exists",
        both(good, text("mine.csv", "mine")),
    ),
    Case(
        "a file of predictions replaced that is not written",
        "predict tiny hi --overwrite",
        2,
        "--overwrite replaces the file of --output",
    ),
    Case("predictions to an unknown kind of file", "predict tiny hi --output o.xlsx", 2, ".jsonl"),
    Case("standard input as a file to predict", "predict tiny --file -", 2, "Without --file"),
    Case("a file to predict that is not there", "predict tiny --file no.csv", 3, "no.csv"),
    Case(
        "a bad row to predict",
        "predict tiny --file bad.csv --output o.csv",
        3,
        "bad.csv:3:",
        text("bad.csv", 'text\ngood\n""\n'),
    ),
    Case(
        "standard input that is not UTF-8",
        "predict tiny",
        3,
        "standard input:2:",
        stdin=b"good\ncaf\xe9\n",
    ),
    Case("a data set that is not there", "prepare imdb --source no.tar.gz --output o", 3, "no.tar"),
    Case(
        "an archive that is none",
        "prepare imdb --source a.tar.gz --output o",
        3,
        "a.tar.gz",
        text("a.tar.gz", "no archive"),
    ),
    Case(
        "an archive with a link",
        "prepare imdb --source aclImdb_v1.tar.gz --output o",
        3,
        "link",
        write_link_archive,
    ),
    Case(
        "an archive that climbs out",
        "prepare imdb --source aclImdb_v1.tar.gz --output o",
        3,
        "..",
        write_climbing_archive,
    ),
    Case("a notebook's folder that is not there", "import nothing --output run", 5, "model.pth"),
    Case("a notebook's folder without weights", "import tiny --output run", 4, "model.pth"),
    Case("weights that would run code", "import nb --output run", 4, "run code", write_pickle),
    Case("a model to look at that is not there", "inspect ./nothing", 4, "does not exist"),
    setting_case("a single seed", "--seeds 1", "at least 2, got 1"),
    Case("a comparison with a run that is not there", "compare tiny none", 5, "not a complete run"),
    Case(
        "runs that were tested on different rows",
        "compare a b",
        5,
        "tested on different rows",
        write_two_runs(KEPT_ROW),
    ),
    Case(
        "runs that kept no test predictions",
        "compare a b",
        5,
        "keeps no such predictions",
        write_two_runs(None),
    ),
    Case(
        "kept predictions that are damaged",
        "compare a b",
        5,
        "test_predictions.jsonl:2: the line is not JSON",
        write_two_runs(KEPT_ROW + "\n{"),
    ),
    Case(
        "kept probabilities that are none",
        "compare a b",
        5,
        "that sum to 1",
        write_two_runs(KEPT_ROW.replace("0.6", "0.9")),
    ),
    Case(
        "a column of slices misspelt",
        "evaluate tiny bad.csv --slice kindd",
        3,
        "Did you mean 'kind'?",
        text("bad.csv", "text,label,kind\ngood,LABEL_0,a\nbad,LABEL_1,b\n"),
    ),
    Case(
        "a column of slices that the test file lacks",
        "train good.csv --test bad.csv --slice kindd --model tiny --output run",
        3,
        "bad.csv: no slice column 'kindd'",
        both(good, text("bad.csv", "text,label,kind\ngood,pos,a\nbad,neg,b\n")),
    ),
    setting_case("a column of slices in --set", "--set slice_columns=label,kind", "'kind'", 3),
    Case(
        "suspects by one fold", "suspects good.csv --folds 1", 2, "a whole number, at least 2", good
    ),
    Case(
        "suspects by a run and by folds",
        "suspects good.csv --with tiny --folds 3",
        2,
        "give one of them",
        good,
    ),
    Case(
        "suspects by a run, with a seed of the folds",
        "suspects good.csv --with tiny --seed 1",
        2,
        "give one of them",
        good,
    ),
    Case(
        "suspects by a run, with a column of groups",
        "suspects good.csv --with tiny --group-column text",
        2,
        "--with and --group-column: a run judges all rows at once",
        good,
    ),
    Case(
        "a file of suspects replaced that is not written",
        "suspects good.csv --overwrite",
        2,
        "--overwrite replaces the file of --output",
        good,
    ),
    Case(
        "suspects by more folds than texts",
        "suspects good.csv --folds 5",
        3,
        "Add rows, or ask for fewer --folds.",
        good,
    ),
    Case(
        "suspects by a run that is not there",
        "suspects good.csv --with none",
        5,
        "does not exist",
        good,
    ),
    Case(
        "suspects to an unknown kind of file",
        "suspects good.csv --output o.xlsx",
        2,
        ".csv",
        good,
    ),
    Case(
        "suspects to a file that was perhaps edited",
        "suspects good.csv --output edited.csv",
        2,
        "edited.csv exists",
        both(good, text("edited.csv", "line,label")),
    ),
    Case(
        "suspects onto the file that is read",
        "suspects good.csv --output good.csv --overwrite",
        2,
        "is the file that is read, and would be lost",
        good,
    ),
    data_case(
        "columns between bars",
        "text|label\n" + "good film|pos\nbad film|neg\n" * 10,
        "They seem to be separated by bars",
    ),
    Case(
        "a label with half a surrogate pair",
        "train bad.jsonl --model tiny --output run",
        3,
        "the label has a lone surrogate U+D800 at offset 1",
        text("bad.jsonl", '{"text": "good", "label": "p\\ud800"}\n{"text": "bad", "label": "n"}\n'),
    ),
    Case(
        "predictions onto a file of the model",
        "predict tiny good --output tiny/config.json --overwrite",
        2,
        "tiny/config.json is a file of the run, and would be lost",
    ),
    Case(
        "folds of two rows",
        "suspects bad.csv --folds 2",
        3,
        "and 1 row of the most frequent label Add rows.",
        text("bad.csv", "text,label\ngood,pos\nbad,neg\n"),
    ),
    data_case(
        "a quote that hides the rows after it",
        GOOD_ROWS + '"fine film,pos\n' + "good film,pos\n" * 5,
        "bad.csv:22: a quote is opened in this row and never closed; the row goes on over the next "
        "5 lines",
        "--on-bad-row skip",
    ),
    Case("a folder as the file to predict", "predict tiny --file tiny", 2, "tiny is a folder"),
    Case("suspects with a seed below 0", "suspects good.csv --seed=-1", 2, "seed: expected", good),
    setting_case("tokens below 0", "--token-budget=--5", "--token-budget: expected"),
    Case("suspects of a file that is not there", "suspects no.csv", 3, "no such file"),
    Case("a report of a run that is not there", "report nothing", 5, "does not exist"),
    Case("a report of a folder that is no run", "report tiny", 5, "not a complete run"),
    Case(
        "a report to an unknown kind of file",
        "report a --output page.pdf",
        2,
        "a name ending in .html, .htm, got 'page.pdf'",
        write_two_runs(KEPT_ROW),
    ),
    Case(
        "a report to a file that exists",
        "report a --output page.html",
        2,
        "add --overwrite",
        both(write_two_runs(KEPT_ROW), text("page.html", "mine")),
    ),
    Case(
        "a report of damaged predictions",
        "report a",
        5,
        "test_predictions.jsonl:2: the line is not JSON",
        write_two_runs(KEPT_ROW + "\n{"),
    ),
    Case(
        "a report of a damaged report.json",
        "report a",
        5,
        "Remove it",
        both(write_two_runs(KEPT_ROW), text("a/report.json", "{")),
    ),
    Case(
        "a check with a run that is not there",
        "check good.csv --model tiny --with none",
        5,
        "does not exist",
        good,
    ),
    data_case(
        "a column of labels that is named as the group",
        GOOD_ROWS,
        "no label column: 'label' is the group column already",
        "--group-column label",
    ),
    data_case(
        "a column of labels that is named as the text",
        GOOD_ROWS,
        "no label column: 'label' is the text column already",
        "--text-column label",
    ),
    Case(
        "a file in UTF-16 that is cut off",
        "predict tiny --file bad.csv",
        3,
        "bad.csv:2: the file is not utf-16 from about this line on",
        text("bad.csv", "text\ngood\n".encode("utf-16")[:-1]),
    ),
    Case(
        "UTF-16 on standard input that is cut off",
        "predict tiny --on-bad-row skip",
        3,
        "standard input:1: the file is not utf-16 from about this line on",
        stdin="good\n".encode("utf-16")[:-1],
    ),
    Case(
        "a single row to check",
        "check bad.csv --model tiny",
        3,
        "nothing was checked further",
        text("bad.csv", "text,label\ngood,pos\n"),
    ),
    Case(
        "a single row to look for suspects in",
        "suspects bad.csv",
        3,
        "nothing was judged",
        text("bad.csv", "text,label\ngood,pos\n"),
    ),
    Case(
        "a bertfit.json nested too deeply",
        "inspect damaged",
        5,
        "nested too deeply",
        write_damaged_run("[" * 100_000),
    ),
    Case(
        "a report of a report.json nested too deeply",
        "report a",
        5,
        "Remove it",
        both(write_two_runs(KEPT_ROW), text("a/report.json", "[" * 100_000)),
    ),
    Case("columns to keep of no file", "predict tiny good --keep id", 2, "--keep: only"),
    Case(
        "columns to keep that are written nowhere",
        "predict tiny --file good.csv --keep label",
        2,
        "--keep: the columns go to --output",
        good,
    ),
    Case(
        "a column to keep that is not there",
        "predict tiny --file good.csv --keep lable --output o.csv",
        3,
        "no kept column 'lable'",
        good,
    ),
    Case(
        "a file of lines in the place of a text",
        "predict tiny lines.txt",
        2,
        "bertfit predict RUN < lines.txt",
        text("lines.txt", "good\nbad\n"),
    ),
    Case(
        "the name of a data set of the hub",
        "train stanfordnlp/imdb --model tiny --output run",
        3,
        "If it is a data set of the hub: bertfit.train(datasets.load_dataset(…), …) in",
    ),
    Case(
        "two labels of many test rows that training lacks",
        f"{GOOD} --test t.csv",
        3,
        "t.csv:4, 5, 6 and 3 other rows: label 'fine' does not occur",
        both(
            good,
            text("t.csv", "text,label\ngood,pos\nbad,neg\n" + "so so,fine\n" * 6 + "hm,odd\n" * 2),
        ),
    ),
    data_case(
        "a file in cp1252",
        (GOOD_ROWS + "café,pos\ndéjà vu,neg\n" * 5).encode("cp1252"),
        "bad.csv:22, 23, 24 and 7 other rows: the line is not UTF-8; say which encoding it is",
    ),
    Case(
        "a label of other words than those known",
        "train good.csv --model tiny --output run --test t.csv",
        3,
        "which has card_payment_fee_charged, pos. Fix",
        both(
            text("good.csv", GOOD_ROWS.replace("neg", "card_payment_fee_charged")),
            text("t.csv", "text,label\ngood,pos\nbad,transfer_fee_charged\n"),
        ),
    ),
    Case("standard input beside a text", "predict tiny - hello", 2, "or - for standard input"),
    Case("standard input beside a file", "predict tiny - --file good.csv", 2, "but not both", good),
    setting_case("several seeds to be resumed", "--seeds 2 --resume", "--seed trains one seed"),
    Case(
        "an encoding that does not exist",
        "check good.csv --encoding cp125",
        2,
        "--encoding: expected the name of an encoding, such as cp1252 or utf-16, got 'cp125'",
        good,
    ),
    Case(
        "an encoding that does not exist, as a setting",
        "train good.csv --set encoding=rot13 --model tiny --output run",
        2,
        "encoding: expected the name of an encoding, such as cp1252 or utf-16, got 'rot13'",
        good,
    ),
    Case(
        "two bad rows of a file to predict",
        "predict tiny --file bad.csv --output o.csv",
        3,
        "2 problems in the data: nothing was predicted",
        text("bad.csv", 'text\n""\ngood\n""\n'),
    ),
    Case(
        "an encoding for texts of the command line",
        "predict tiny good --encoding cp1252",
        2,
        "--encoding: it is for --file and standard input; texts were given",
    ),
    Case(
        "an encoding that is not the file's",
        "check bad.csv --encoding utf-16",
        3,
        "bad.csv: the file has no byte order mark; name utf-16-le or utf-16-be",
        text("bad.csv", GOOD_ROWS),
    ),
    setting_case("a setting as an option", "--patience 3", "It is a setting: --set patience=VALUE"),
    setting_case(
        "the name that a setting has elsewhere, as an option",
        "--num_train_epochs 3",
        "No such option: --num_train_epochs (Possible options: --epochs)",
    ),
    setting_case(
        "the name that a setting has elsewhere",
        "--set lr=1e-4",
        "there is no setting 'lr'. Did you mean 'learning_rate'?",
    ),
    Case(
        "a file to predict by another option's name",
        "predict tiny --input good.csv",
        2,
        "No such option: --input (Possible options: --file)",
        good,
    ),
    Case(
        "only bad rows to predict",
        "predict tiny --file bad.csv --output o.csv --on-bad-row skip",
        3,
        "no row can be used: all 2 have faults",
        text("bad.csv", 'text\n""\n""\n'),
    ),
    Case(
        "the file of an evaluation as an option",
        "evaluate tiny --file good.csv",
        2,
        "No such option: --file. Give the file itself, without an option",
        good,
    ),
    Case(
        "another name of UTF-16, without a mark",
        "check bad.csv --encoding utf16",
        3,
        "the file has no byte order mark; name utf-16-le or utf-16-be with --encoding",
        text("bad.csv", GOOD_ROWS),
    ),
    Case(
        "gzip on standard input",
        "predict tiny",
        3,
        "standard input: it is gzip; unpack it first, as with zcat",
        stdin=gzip.compress(b"good\n", mtime=0),
    ),
    Case(
        "the rows of a comparison by another option's name",
        "compare tiny tiny --file good.csv",
        2,
        "No such option: --file (Possible options: --data)",
        good,
    ),
    Case(
        "an unset variable for a run",
        'evaluate "" good.csv',
        2,
        "'RUN': expected a path, got an empty string",
        good,
    ),
    Case(
        "an encoding of host names",
        "check good.csv --encoding idna",
        2,
        "expected the name of an encoding, such as cp1252 or utf-16, got 'idna'",
        good,
    ),
    Case(
        "a folder for the settings",
        "train good.csv --model tiny --output run --config tiny",
        2,
        "the settings file tiny cannot be read: Is a directory",
        good,
    ),
    Case(
        "a file on the way to the output",
        "predict tiny hello --output good.csv/x.csv",
        1,
        "good.csv is a file; a folder was expected there.",
        good,
    ),
    Case(
        "a tokenizer that would be read from another place",
        GOOD,
        4,
        "by vocab in special_tokens_map.json, it would be read from '/etc/hostname'",
        both(good, text("tiny/special_tokens_map.json", '{"vocab": "/etc/hostname"}')),
    ),
    Case(
        "gzip within gzip",
        "check bad.csv.gz",
        3,
        "bad.csv.gz: it is gzip within gzip; unpack it once, as with gunzip",
        text("bad.csv.gz", gzip.compress(gzip.compress(GOOD_ROWS.encode(), mtime=0), mtime=0)),
    ),
    data_case(
        "swapped columns",
        "text,label\n" + "".join(f"{'np'[at % 2]},Snippet {at} of a review\n" for at in range(20)),
        "as if the columns were swapped. Name them the other way round: --text-column label",
    ),
    Case(
        "a pipe for predictions",
        "predict tiny hello --output pipe.csv --overwrite",
        2,
        "--output: pipe.csv is no regular file",
        lambda folder: os.mkfifo(folder / "pipe.csv"),
    ),
    Case(
        "a run by too long a name",
        f"train good.csv --model tiny --output {'long-' * 47}",
        5,
        "cannot be made: expected a name of at most 234 bytes",
        good,
    ),
]


@dataclass
class Outcome:
    exit_code: int
    output: str


@pytest.fixture(scope="module")
def tiny_classifier_dir(tiny_model_dir, tmp_path_factory):
    """Give a folder of a whole classifier: its head has weights, if only random ones."""
    folder = tmp_path_factory.mktemp("classifier")
    loaded = load_classifier(str(tiny_model_dir), ["LABEL_0", "LABEL_1"])
    save_model(loaded.model, folder)
    loaded.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def run_in_folder(tmp_path, tiny_classifier_dir, monkeypatch, capfd):
    shutil.copytree(tiny_classifier_dir, tmp_path / "tiny")
    monkeypatch.chdir(tmp_path)
    # Two of these would be set by a terminal: the width, and whether there are colours.
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(command: str, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["bertfit", *shlex.split(command)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capfd.readouterr()
        return Outcome(int(stop.value.code or 0), captured.out + captured.err)

    return run


def title(number: int, case: Case) -> str:
    return f"## {number}. {case.what[0].upper()}{case.what[1:]}"


def describe(number: int, case: Case, outcome: Outcome) -> str:
    """Return a section of the page."""
    said = "\n".join(line.rstrip() for line in outcome.output.strip().splitlines())
    command = f"`bertfit {case.command}` → exit code {outcome.exit_code}"
    return f"{title(number, case)}\n\n{command}\n\n```text\n{said}\n```\n"


def read_page() -> list[str]:
    """Return the head of the page and its sections."""
    page = DOCS.read_text(encoding="utf-8")
    header, *sections = re.split(r"^(?=## \d)", page, flags=re.MULTILINE)
    return [header.removesuffix("\n"), *(section.rstrip("\n") + "\n" for section in sections)]


def collect(case: Case, run: Callable[..., Outcome], folder: Path) -> Outcome:
    if case.files is not None:
        case.files(folder)
    return run(case.command, case.stdin)


@pytest.mark.parametrize("case", CASES, ids=[case.what.replace(" ", "-") for case in CASES])
def test_bad_input_gives_a_message_and_an_exit_code(case, run_in_folder, tmp_path):
    before = {path.name for path in tmp_path.iterdir()}
    outcome = collect(case, run_in_folder, tmp_path)
    flat = " ".join(outcome.output.split())
    assert "Traceback" not in outcome.output
    assert case.message in flat
    assert outcome.exit_code == case.exit_code
    left = {path.name for path in tmp_path.iterdir()} - before
    assert not {name for name in left if "run" in name or name.startswith(("o", "."))}
    assert "evil-was-here" not in left
    number = CASES.index(case) + 1
    assert read_page()[number] == describe(number, case, outcome)


def test_the_page_of_bad_input_has_these_cases():
    """What it says of each is compared where that is run."""
    header, *sections = read_page()
    assert header == HEADER
    titles = [section.partition("\n")[0] for section in sections]
    assert titles == [title(number, case) for number, case in enumerate(CASES, 1)]


@pytest.mark.skipif("BERTFIT_UPDATE_DOCS" not in os.environ, reason="it writes to docs/")
def test_the_page_of_bad_input_is_written(run_in_folder, tmp_path):
    sections = []
    for number, case in enumerate(CASES, 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copytree(tmp_path / "tiny", folder / "tiny")
        os.chdir(folder)
        sections.append(describe(number, case, collect(case, run_in_folder, folder)))
    DOCS.write_text("\n".join([HEADER, *sections]), encoding="utf-8")


def test_there_are_at_least_forty_kinds_of_bad_input():
    assert len({case.what for case in CASES}) == len(CASES) >= 40


def test_an_existing_run_is_refused_and_stays(run_in_folder, tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "bertfit.json").write_text(json.dumps({"format_version": 1}))
    good(tmp_path)
    outcome = run_in_folder("train good.csv --model tiny --output old")
    assert outcome.exit_code == 5
    assert "add --overwrite" in outcome.output
    assert (tmp_path / "old" / "bertfit.json").is_file()


def test_a_full_disk_is_said_and_leaves_no_half_file(run_in_folder, tmp_path, monkeypatch):
    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bertfit.files.os.fsync", fail)
    outcome = run_in_folder("predict tiny hello --output o.csv")
    assert outcome.exit_code == 1
    assert "the disk is full" in outcome.output
    assert not (tmp_path / "o.csv").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".o.csv")]
