"""The settings of a training, defined once for the CLI, TOML files and Python.

The docstring under a field is its help text. A setting comes from, in increasing order of
precedence: the default, the recipe, a TOML file, `--set key=value` and the command's own options.
The origin of each value is recorded in the run.
"""

from __future__ import annotations

import dataclasses
import numbers
import tomllib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bertfit.assets import name_model
from bertfit.errors import ConfigError, did_you_mean
from bertfit.files import as_path
from bertfit.setting_problems import find_problems
from bertfit.setting_types import parse_value, read_descriptions, read_types, stands_for_none

Truncation = Literal["head", "tail", "head+tail"]
TextCleaning = Literal["none", "html_breaks"]
TextCleaningChoice = Literal["auto", "none", "html_breaks"]
SelectionMetric = Literal["auto", "accuracy", "macro_f1", "loss"]
Dtype = Literal["auto", "float32", "bfloat16"]
FastPath = Literal["auto", "off"]
Packing = Literal["auto", "on", "off"]
Compile = Literal["auto", "on", "off"]
KeepEncoded = Literal["auto", "off"]
OnBadRow = Literal["error", "skip"]
Calibration = Literal["auto", "temperature", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """Everything that decides what a training run computes."""

    model: str = "embedded"
    """Hub name, local folder, or "embedded" (MiniLM-L6, 22.7 M parameters, needs no network)."""
    epochs: int | None = None
    """Passes over the rows; none: 3, but 2 for many rows, up to 20 for few rows or many classes."""
    batch_size: int = 32
    """Rows per optimizer step, at least 1."""
    learning_rate: float | None = None
    """AdamW's peak rate, above 0 and below 1; none: 1e-4 for small encoders, else 5e-5."""
    warmup_fraction: float = 0.06
    """Share of the steps in which the learning rate rises from 0, in [0, 1)."""
    weight_decay: float = 0.01
    """AdamW's decoupled weight decay, not applied to biases and norms, in [0, 1)."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this global norm, above 0."""
    dropout: float | None = None
    """Dropout rate of hidden states, attention and head, in [0, 1); none keeps the model's own."""
    max_length: int | None = None
    """Tokens per text, at least 4; none: the model's limit."""
    truncation: Truncation = "head"
    """Which part of a longer text is kept: head, tail or head+tail."""
    head_fraction: float = 0.25
    """With head+tail, the share of the kept tokens that comes from the head, in (0, 1)."""
    text_cleaning: TextCleaningChoice = "auto"
    """html_breaks reads <br> tags as spaces, none keeps them; auto: if 1 % of texts have them."""
    seed: int = 0
    """Seed of the split, new weights, row order and dropout, at least 0 and below 2**32."""
    validation_fraction: float = 0.1
    """Share of the training rows held out if no validation file is given, in (0, 0.5]."""
    selection_metric: SelectionMetric = "auto"
    """Chooses the epoch: accuracy, loss or macro_f1 (auto: macro_f1 if sizes differ by 20 %)."""
    patience: int | None = None
    """Stop after this many epochs without improvement, at least 1; none trains all epochs."""
    calibration: Calibration = "auto"
    """none, temperature, or auto: a temperature, or a richer scaling where it is clearly better."""
    threshold_aim: str | None = None
    """For two classes: f1, precision>=P, recall>=R or cost:FP,FN of the second; none: p>0.5."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Dtype = "auto"
    """Type of matrix products: float32 or bfloat16; auto: bfloat16 where the hardware is fast."""
    fast_path: FastPath = "auto"
    """auto trains with bertfit's own faster parts, where they fit; off trains without them."""
    packing: Packing = "auto"
    """on lays texts end to end without padding; off pads; auto: on for a GPU that supports it."""
    compile: Compile = "auto"
    """on uses torch.compile for the layers; auto: in long trainings on a GPU without kernels."""
    micro_batch_tokens: int | Literal["auto"] | None = None
    """Most tokens computed at once; auto measures; none: 2,048 to 8,192, on a GPU measured."""
    checkpoint_minutes: float | None = 10.0
    """Minutes of training after which its state is saved, for --resume, above 0; none: never."""
    keep_encoded: KeepEncoded = "auto"
    """auto caches the token ids of long data for the next run; off does not."""
    text_column: str | None = None
    """Column of the text; none looks for text, sentence, review or content."""
    label_column: str | None = None
    """Column of the label; none looks for label, sentiment, category, target or class."""
    group_column: str | None = None
    """Column whose groups are never split between training and validation."""
    slice_columns: tuple[str, ...] = ()
    """Columns, as a,b or a list, by which the test (else validation) rows are cut into slices."""
    encoding: str = "utf-8"
    """Of CSV, TSV and JSON lines, such as cp1252; a byte order mark, as of UTF-16, overrules it."""
    on_bad_row: OnBadRow = "error"
    """error refuses data with bad rows; skip leaves them out and lists them."""
    min_label_rows: int = 1
    """Labels with fewer training rows, before a split, than this (1 or more) are left out."""
    drop_duplicates: bool = False
    """true drops training rows that repeat others, or rows given as validation or test."""
    strict: bool = False
    """true refuses to train if texts or groups of the test rows also occur in the other rows."""
    keep_texts: bool = True
    """false keeps no text of any row in the run, neither in its report nor in its findings."""

    def __post_init__(self) -> None:
        """Check all types and ranges; report all problems in one error.

        Raises:
            ConfigError: A value has the wrong type or lies outside its range.
        """
        problems = find_problems(self, read_types(TrainSettings))
        if problems:
            raise ConfigError(
                "\n".join(problems), hint="bertfit settings says what each one takes."
            )


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    # The notebook: AdamW from 2e-5 linearly down to 0, no warm-up, best F1 kept.
    "notebook": {
        "learning_rate": 2e-5,
        "warmup_fraction": 0.0,
        "max_grad_norm": 1.0,
        "batch_size": 16,
        "epochs": 3,
        "max_length": 128,
        "truncation": "head",
        "text_cleaning": "none",
        "selection_metric": "macro_f1",
        "calibration": "none",
    },
}


OTHER_NAMES: Mapping[str, str] = {
    "lr": "learning_rate",
    "max_len": "max_length",
    "max_seq_length": "max_length",
    "metric": "selection_metric",
    "metric_for_best_model": "selection_metric",
    "num_epochs": "epochs",
    "num_train_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "early_stopping_patience": "patience",
    "warmup": "warmup_fraction",
    "warmup_ratio": "warmup_fraction",
    "model_name_or_path": "model",
    "token_budget": "micro_batch_tokens",
    "slice": "slice_columns",
    "no_texts": "keep_texts",
}
"""What other programs, or options here, call some settings, to tell those who write it."""


@dataclass(frozen=True, slots=True)
class ResolvedSettings:
    """Settings, and the origin of each field's value."""

    settings: TrainSettings
    origins: Mapping[str, str]

    def settle(self, name: str, value: object, *, origin: str) -> ResolvedSettings:
        """Return settings in which an open choice is settled."""
        values: dict[str, Any] = {name: value}
        return ResolvedSettings(
            dataclasses.replace(self.settings, **values), {**self.origins, name: origin}
        )

    def to_json(self) -> dict[str, dict[str, Any]]:
        """Return {field: {"value": …, "origin": …}}."""
        values = dataclasses.asdict(self.settings)
        values["slice_columns"] = list(self.settings.slice_columns)  # as it will be read again
        return {
            name: {"value": value, "origin": self.origins[name]} for name, value in values.items()
        }


def is_default(origin: str) -> bool:
    """Return whether a setting of this origin has its default value, chosen by bertfit or fixed."""
    return origin.startswith("default")


def is_given(origin: str) -> bool:
    """Return whether the user gave the setting itself, not just a recipe."""
    return not origin.startswith(("default", "recipe "))


def resolve_settings(
    options: Mapping[str, Any] | None = None,
    *,
    recipe: str = "default",
    config_file: str | Path | None = None,
    assignments: Sequence[str] | None = None,
    options_origin: str = "option",
    typed_as: Mapping[str, str] | None = None,
) -> ResolvedSettings:
    """Merge defaults, recipe, TOML file, `key=value` assignments and options, in that order.

    Args:
        options: Values given directly; a value of None means "not given".
        recipe: A name in `RECIPES`.
        config_file: TOML file whose top-level keys are settings.
        assignments: Strings `key=value`, as `--set` takes them.
        options_origin: Recorded as the origin of `options`.
        typed_as: Names of options that differ from those of their settings, for messages.

    Raises:
        ConfigError: A name is unknown, or a value is of the wrong type or out of range.
    """
    if recipe not in tuple(RECIPES):  # a list has no hash
        message = f"expected a recipe of {', '.join(RECIPES)}, got {recipe!r}."
        raise ConfigError(message + did_you_mean(str(recipe), RECIPES))
    given = {name: value for name, value in (options or {}).items() if value is not None}
    layers = [(f"recipe {recipe}", dict(RECIPES[recipe]))]
    if config_file is not None:
        path = as_path(config_file, "config_file")
        layers.append((f"file {path.name}", _read_toml(path)))
    layers.append(("--set", _parse_assignments(assignments or ())))
    layers.append((options_origin, given))
    values: dict[str, Any] = {}
    origins = {field.name: "default" for field in dataclasses.fields(TrainSettings)}
    for origin, layer in layers:
        _refuse_unknown(layer, origin)
        values |= layer
        origins |= dict.fromkeys(layer, origin)
    try:
        return ResolvedSettings(TrainSettings(**_adapt_values(values)), origins)
    except ConfigError as error:
        typed = {
            name: option
            for name, option in (typed_as or {}).items()
            if origins[name] == options_origin
        }
        raise _place_problems(error, origins, typed) from None


def describe_settings() -> Mapping[str, tuple[str, str]]:
    """Return {field: (default, help text)}."""
    return read_descriptions(TrainSettings)


def check_flags(**flags: object) -> None:
    """Refuse flags that are not bools: the string "no" would count as true.

    Raises:
        ConfigError: A flag is neither Python's nor numpy's bool; it is named.
    """
    for name, flag in flags.items():
        if type(flag).__name__ not in {"bool", "bool_"}:
            raise ConfigError(f"{name}: expected true or false, got {flag!r}")


def is_whole_number(value: object) -> typing.TypeGuard[int]:
    """Return whether an argument is Python's or numpy's whole number, and not a bool."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def setting_names() -> tuple[str, ...]:
    """Return the names of all settings."""
    return tuple(field.name for field in dataclasses.fields(TrainSettings))


def _read_toml(path: Path) -> dict[str, Any]:
    """Return the values of a file; "none" stands for none, as in `--set`: TOML has no null."""
    try:
        values = tomllib.loads(as_path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"the settings file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # also numbers of too many digits
        raise ConfigError(f"the settings file {path} cannot be read as TOML: {error}") from None
    hints = read_types(TrainSettings)
    return {
        name: None if stands_for_none(value, hints.get(name)) else value
        for name, value in values.items()
    }


def _parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"expected --set key=value, got {assignment!r}")
        parsed[name.strip()] = _parse_value(value.strip(), name=name.strip())
    return parsed


def _parse_value(text: str, *, name: str) -> Any:  # noqa: ANN401 (a setting is of any type)
    hint = read_types(TrainSettings).get(name)
    if typing.get_origin(hint) is tuple:
        return split_names(text)
    return parse_value(text, hint)


def split_names(names: object) -> tuple[str, ...]:
    """Return names of columns given as a list, or as a comma-separated string.

    Example:
        >>> split_names("kind, year"), split_names(["a,b"]), split_names("none")
        (('kind', 'year'), ('a,b',), ())
    """
    if isinstance(names, str):
        listed = (one.strip() for one in names.split(","))
        return tuple(one for one in listed if one.lower() not in {"", "none"})
    given = tuple(names) if isinstance(names, Iterable) else names
    if not isinstance(given, tuple) or not all(isinstance(name, str) for name in given):
        raise ConfigError(f"slice_columns: expected a list of names, got {given!r}")
    return given


def _refuse_unknown(layer: Mapping[str, Any], origin: str) -> None:
    known = setting_names()
    unknown = [name for name in layer if name not in known]
    told = [f"{origin}: there is no setting {name!r}.{_guess_setting(name)}" for name in unknown]
    if unknown:
        raise ConfigError("\n".join(told), hint="bertfit settings lists them all.")


def _guess_setting(name: str) -> str:
    other = OTHER_NAMES.get(name.lower())
    return did_you_mean(name, setting_names()) if other is None else f" Did you mean {other!r}?"


def _place_problems(
    error: ConfigError, origins: Mapping[str, str], typed: Mapping[str, str]
) -> ConfigError:
    """Return an error of `TrainSettings` that says which file has a wrong value, or which option.

    Args:
        error: Its message has lines of a setting's name, a colon and what is wrong.
        origins: Of the settings.
        typed: Options by the names of their settings.
    """
    lines = []
    for line in error.message.split("\n"):
        name, colon, problem = line.partition(":")
        place = f"{origins[name]}: " if origins.get(name, "").startswith("file ") else ""
        lines.append(f"{place}{typed.get(name, name)}{colon}{problem}")
    return ConfigError("\n".join(lines), hint=error.hint)


def _adapt_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert integers of float settings to floats, lists to tuples, and numpy's numbers."""
    hints = read_types(TrainSettings)

    def adapt(name: str, value: Any) -> Any:  # noqa: ANN401 (a setting is of any type)
        if type(value).__module__ == "numpy" and getattr(value, "ndim", None) == 0:
            value = value.item()
        if name == "model" and isinstance(value, Path):
            return name_model(value)
        if name == "device" and type(value).__module__ == "torch":
            return str(value)
        if type(value) is int and float in (typing.get_args(hints[name]) or (hints[name],)):
            return float(max(-1e300, min(value, 1e300)))  # some larger ones have no float
        if typing.get_origin(hints[name]) is tuple and isinstance(value, list | str):
            return split_names(value)
        return value

    return {name: adapt(name, value) for name, value in values.items()}
