"""The command that would train a run again, from the run's record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bertfit.config import is_given, resolve_settings
from bertfit.data.records import TABLE_NAMES
from bertfit.reporting.facts_tables import is_of_demo, show_setting
from bertfit.wording import join_words, quote_path

_FORMER_LENGTHS = {"default", "default, chosen for the texts and the model"}
"""Origins of a token limit that was chosen as it is no longer, until 29 November 2026."""


def describe_command(
    record: Mapping[str, Any], *, name: str, was_split: str | None, with_baseline: bool
) -> str | None:
    """Return the command line, or the Python call if the rows came from memory.

    Args:
        record: Content of bertfit.json.
        name: Name of the run to make.
        was_split: "split off" or "given": where the validation rows came from; None if that was
            not recorded (the same source then means that they were split off).
        with_baseline: Whether baselines were to be fitted.

    Returns:
        None if the run was not trained by bertfit.
    """
    data, settings = record.get("data") or {}, record.get("settings")
    if settings is None or "train" not in data:
        return None
    if is_of_demo(settings):
        return join_words(["bertfit", "demo", "--output", name])
    sources = {part: data[part]["source"] for part in _list_parts(data, was_split)}
    recipe, changed = _find_changes(settings)
    changed |= _find_chosen_length(record)
    num_seeds = None
    if record.get("seeds"):
        runs = record["seeds"]["runs"]
        changed["seed"] = runs[0]["seed"]
        asked = record["seeds"].get("asked", len(runs))
        num_seeds = asked if asked > 1 else None
    if not TABLE_NAMES.isdisjoint(sources.values()):  # a command line cannot name tables in memory
        return _write_call(sources, name, recipe, changed, num_seeds, with_baseline=with_baseline)
    start = f"bertfit train {quote_path(sources.pop('train'))}"
    words: list[str] = []
    for part, source in sources.items():
        words += [f"--{part}", source]
    words += ["--output", name]
    words += ["--recipe", recipe] if recipe else []
    words += ["--seeds", str(num_seeds)] if num_seeds else []
    words += [] if with_baseline else ["--no-baseline"]
    for column in changed.pop("slice_columns", ()):  # a name may hold a comma
        words += ["--slice", column]
    for setting in ("text_column", "label_column", "group_column"):
        if changed.get(setting) is not None:  # after --set, spaces and "none" would mean nothing
            words.append(f"--{setting.replace('_', '-')}={changed.pop(setting)}")
    for setting, value in changed.items():
        words += ["--set", f"{setting}={show_setting(value)}"]
    return f"{start} {join_words(words)}"


def _list_parts(data: Mapping[str, Any], was_split: str | None) -> Iterator[str]:
    yield "train"
    validation = data.get("validation") or {}
    is_same = validation.get("source") == data["train"].get("source")
    if validation and (was_split == "given" or (was_split is None and not is_same)):
        yield "validation"
    if data.get("test"):
        yield "test"


def _find_changes(settings: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the recipe, and the settings that come from neither it nor a present default."""
    defaults = resolve_settings().to_json()
    recipes = [
        entry["origin"].removeprefix("recipe ")
        for entry in settings.values()
        if entry["origin"].startswith("recipe ")
    ]
    changed = {
        name: entry["value"]
        for name, entry in settings.items()
        if name in defaults  # else a word of a program, maybe
        and (is_given(entry["origin"]) or _is_former(entry, defaults[name]))
    }
    return next(iter(recipes), None), changed


def _is_former(entry: Mapping[str, Any], default: Mapping[str, Any]) -> bool:
    """Return whether a setting has a fixed default that is another now."""
    return bool(entry["origin"] == default["origin"] and entry["value"] != default["value"])


def _find_chosen_length(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the token limit as a setting, if it was chosen as it is no longer."""
    asked = record["settings"].get("max_length") or {}
    chosen = (record.get("encoding") or {}).get("max_length")
    is_of_former_rule = asked.get("origin") in _FORMER_LENGTHS
    return {"max_length": chosen} if is_of_former_rule and chosen else {}


def _write_call(
    sources: Mapping[str, str],
    name: str,
    recipe: str | None,
    changed: Mapping[str, Any],
    num_seeds: int | None,
    *,
    with_baseline: bool,
) -> str:
    """Return Python source; a table in memory is named after its part."""
    shown = {
        part: part if source in TABLE_NAMES else repr(source) for part, source in sources.items()
    }
    lines = [f"    {shown.pop('train')},", f"    {name!r},"]
    lines += [f"    {part}={source}," for part, source in shown.items()]
    lines += [f"    num_seeds={num_seeds},"] if num_seeds else []
    lines += [f"    recipe={recipe!r},"] if recipe else []
    lines += [] if with_baseline else ["    baseline=False,"]
    lines += [f"    {setting}={value!r}," for setting, value in changed.items()]
    function = "train_seeds" if num_seeds else "train"
    return "\n".join(["import bertfit", "", f"bertfit.{function}(", *lines, ")"])
