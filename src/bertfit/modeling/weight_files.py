"""Which files a model's weights are read from: safetensors of its own folder, and nothing else.

transformers reads what a model's configuration or its index of several files names, which may be a
pickle, or a file elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from bertfit.errors import ModelError
from bertfit.files import read_json
from bertfit.modeling.locating import explaining_failures, find_file, suggest_folder
from bertfit.modeling.tokenizer_files import lacks_vocabulary

if TYPE_CHECKING:
    from collections.abc import Iterable

    from transformers import PretrainedConfig

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_INDEX_END = ".safetensors.index.json"
_DISTRIBUTED = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def lacks_parts(folder: Path) -> bool:
    """Return whether a folder has no tokenizer, or not all of its weights."""
    weights, index = {_WEIGHTS}, folder / _INDEX
    if index.is_file():  # large weights lie in several files
        try:
            weights = set(read_json(index)["weight_map"].values())
        except (ValueError, TypeError, KeyError, AttributeError):  # damaged, so none can be found
            return True
    return lacks_vocabulary(folder) or not all((folder / name).is_file() for name in weights)


def refuse_other_weights(
    name: str, source: str, config: PretrainedConfig, *, local_only: bool
) -> None:
    """Refuse weights that are not plain safetensors of the model's own folder, before reading them.

    Args:
        name: What the model is called, for the error.
        source: Where transformers loads it from: a folder, or a name on the hub.
        config: Its configuration.
        local_only: Whether nothing may be downloaded.

    Raises:
        ModelError: They are others, or quantized; or an adapter is beside them, which transformers
            would add to them or not, depending on what is installed.
    """
    _refuse_quantized(name, config)
    folder = Path(source)
    with explaining_failures(name):
        adapter = find_file(source, "adapter_config.json", local_only=local_only)
    if adapter is not None:
        raise ModelError(
            f"the model {name!r} cannot be loaded: there is an adapter beside its weights",
            hint=f"{suggest_folder(adapter.parent)} Or remove adapter_config.json, if the weights "
            "are whole without it.",
        )
    if any(_DISTRIBUTED.fullmatch(path.name) for path in folder.glob("*.safetensors")):
        raise ModelError(
            f"the model {name!r} cannot be loaded: there are parts of a distributed checkpoint in "
            "its folder, which transformers would read instead of its weights",
            hint="Remove the files shard-…-model-…-of-….safetensors, or save the model whole.",
        )
    named = getattr(config, "transformers_weights", None)
    if named is not None:
        _refuse_others(name, [named], ends=(".safetensors", _INDEX_END))
        if not named.endswith(_INDEX_END):
            return
    index = _find_index(name, source, _INDEX if named is None else named, local_only=local_only)
    if index is not None:
        _refuse_others(name, _list_indexed(name, index), ends=(".safetensors",))


def measure_weights(source: str) -> int | None:
    """Return the bytes of a model's weights, or None if they are not all on this machine yet."""
    folder = Path(source)
    if not folder.is_dir():
        config = find_file(source, "config.json", local_only=True)
        if config is None or lacks_parts(config.parent):
            return None
        folder = config.parent
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors") if path.is_file()]
    return sum(sizes) if sizes else None


def _refuse_quantized(name: str, config: PretrainedConfig) -> None:
    quantization = getattr(config, "quantization_config", None)
    if quantization:
        method = dict(quantization).get("quant_method", "an unknown method")
        raise ModelError(
            f"the model {name!r} cannot be loaded: its weights are quantized ({method}), and only "
            "weights in float32, float16 or bfloat16 can be trained",
            hint="Name the checkpoint that it was made from.",
        )


def _find_index(name: str, source: str, file: str, *, local_only: bool) -> Path | None:
    """Return the index that transformers would read, or None."""
    folder = Path(source)
    if folder.is_dir():
        is_read = file != _INDEX or not (folder / _WEIGHTS).is_file()
        return folder / file if is_read and (folder / file).is_file() else None
    with explaining_failures(name):
        return find_file(source, file, local_only=local_only)


def _list_indexed(name: str, index: Path) -> set[object]:
    """Return the files that an index names."""
    try:
        return set(read_json(index)["weight_map"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"the model {name!r} cannot be loaded: {index.name} is damaged "
            f"({type(error).__name__})",
            hint="Get a good copy of it.",
        ) from None


def _refuse_others(name: str, files: Iterable[object], *, ends: tuple[str, ...]) -> None:
    for file in files:
        path = PurePosixPath(str(file))
        is_inside = not path.is_absolute() and ".." not in path.parts
        if not (isinstance(file, str) and is_inside and file.endswith(ends)):
            raise ModelError(
                f"the model {name!r} cannot be loaded: its weights would be read from {file!r}",
                hint="Only safetensors weights in its own folder are read.",
            )
