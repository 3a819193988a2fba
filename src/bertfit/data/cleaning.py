"""Text cleaning: named steps, recorded in a run and applied by its own tokenizer.

A step is applied to the text before tokenization. The tokenizer saved in a run applies it too, so
that texts are read as in training even if the folder is loaded without bertfit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.files import read_json, write_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from bertfit.config import TextCleaning

BREAK_PATTERN = r"<\s*(?:/\s*)?[bB][rR]\s*(?:/\s*)?>"  # no backtracking over runs of spaces
"""Also that in saved tokenizers. JavaScript, which may read them, knows no flags in a pattern."""
_HTML_BREAK = re.compile(BREAK_PATTERN)
FOLDED_PATTERNS = {BREAK_PATTERN, r"(?i)<\s*(?:/\s*)?br\s*(?:/\s*)?>"}
"""The pattern in saved tokenizers, and that in those saved before December 2026."""
_WORTH_CLEANING = 0.01
"""Least share of texts with line-break tags, in [0, 1], for which they are removed as markup."""


def clean_text(text: str, cleaning: TextCleaning) -> str:
    """Apply the named cleaning step.

    Example:
        >>> clean_text("Great.<br /><br />Really.", "html_breaks")
        'Great.  Really.'
    """
    return _HTML_BREAK.sub(" ", text) if cleaning == "html_breaks" else text


def find_html_break(text: str) -> int | None:
    """Return where the first HTML line break of a text begins, or None."""
    found = _HTML_BREAK.search(text) if "<" in text else None
    return None if found is None else found.start()


def choose_cleaning(break_share: float) -> TextCleaning:
    """Return html_breaks if at least 1 % of the texts have HTML line breaks.

    A break is four meaningless tokens (`<`, `br`, `/`, `>`), which displace text when a text is
    truncated (docs/decisions/0008-html-breaks.md).
    """
    return "html_breaks" if break_share >= _WORTH_CLEANING else "none"


def fold_cleaning(folder: Path) -> None:
    """Change a saved tokenizer to replace HTML line breaks with spaces itself.

    Args:
        folder: Contains tokenizer.json and tokenizer_config.json, which are changed.
    """
    from tokenizers import Regex, Tokenizer, normalizers

    path = folder / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    if cleans_itself(tokenizer):
        return
    steps = [normalizers.Replace(Regex(BREAK_PATTERN), " ")]
    steps += [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.save(str(path))
    config_path = folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(config_path)
    # Model-specific classes may rebuild the normalizer; this one uses the file as it is.
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(config_path, config)


def unfold_cleaning(tokenizer: Tokenizer) -> None:
    """Remove the step from a tokenizer that contains it, as that of a run may."""
    from tokenizers import normalizers

    if cleans_itself(tokenizer):
        others = list(tokenizer.normalizer)[1:]
        tokenizer.normalizer = normalizers.Sequence(others) if others else None


def cleans_itself(tokenizer: Tokenizer) -> bool:
    """Return whether the tokenizer replaces HTML line breaks, as that of a run may."""
    from tokenizers import normalizers

    steps = tokenizer.normalizer
    if not isinstance(steps, normalizers.Sequence) or not len(steps):
        return False
    pattern = json.loads(steps[0].__getstate__()).get("pattern") or {}
    return pattern.get("Regex") in FOLDED_PATTERNS
