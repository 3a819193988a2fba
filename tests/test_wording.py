"""Words for sentences and shells."""

from __future__ import annotations

from pathlib import PureWindowsPath

from bertfit import wording
from bertfit.wording import join_words, quote_path, shorten_name


def test_paths_are_quoted_for_the_shell_of_the_system(monkeypatch):
    assert quote_path("my runs/a") == "'my runs/a'"
    assert quote_path("-a.csv") == "./-a.csv"
    assert join_words(["bertfit", "train", "a b.csv"]) == "bertfit train 'a b.csv'"
    monkeypatch.setattr(wording, "_IS_WINDOWS", True)
    assert quote_path(PureWindowsPath("runs/demo")) == r"runs\demo"
    assert quote_path(PureWindowsPath("my runs/a")) == r'"my runs\a"'
    assert join_words(["bertfit", "train", "a b.csv"]) == 'bertfit train "a b.csv"'
    aim = ["--set", "threshold_aim=precision>=0.9", "R&D.csv"]
    assert join_words(aim) == '--set "threshold_aim=precision>=0.9" "R&D.csv"'


def test_a_long_name_is_cut_after_its_accent():
    assert shorten_name("n" * 80) == "n" * 80
    assert shorten_name("n" * 78 + "e\u0301no") == "n" * 78 + "e\u0301…"
