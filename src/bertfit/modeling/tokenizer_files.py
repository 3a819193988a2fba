"""Reads tokenizers from their files, without running any code that lies beside them."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertfit.errors import ModelError
from bertfit.files import read_json, write_json
from bertfit.garbage import pause_collection
from bertfit.modeling.locating import (
    explaining_failures,
    import_transformers,
    locate_model,
    quieting_transformers,
)
from bertfit.modeling.outside_files import refuse_named_files

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
"""Patterns of the files that may hold a vocabulary."""
_NOT_OF_THE_RUN = {
    *("local_files_only", "is_local"),  # how the base was loaded
    *("max_length", "truncation_strategy", "stride"),  # how its texts were cut
    "pad_to_multiple_of",  # and padded
}
"""Entries of a base's tokenizer_config.json that a run does not take over."""


def lacks_vocabulary(folder: Path) -> bool:
    """Return whether a folder has no vocabulary; transformers would make an empty one."""
    return not any(any(folder.glob(name)) for name in VOCABULARY_FILES)


@pause_collection()
def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, without loading the model.

    Args:
        name: Hub name, local folder, or "embedded".

    Raises:
        ModelError: The model cannot be found, or its tokenizer cannot be loaded.
    """
    source, local_only = locate_model(name, lacks=lacks_vocabulary)
    return read_model_tokenizer(name, source, local_only=local_only)


def read_model_tokenizer(name: str, source: str, *, local_only: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model that was located.

    Raises:
        ModelError: There is none, or it cannot be loaded.
    """
    folder = Path(source)
    tokenizer = None
    if not (folder.is_dir() and lacks_vocabulary(folder)):
        with explaining_failures(name), quieting_transformers():
            tokenizer = read_tokenizer(source, local_only=local_only)
    return check_tokenizer(
        tokenizer,
        f"the model {name!r}",
        lack="its folder has no tokenizer",
        hint="Copy the tokenizer's files of the same checkpoint into the folder. Models of "
        "bytes or characters, such as ByT5 and CANINE, have none and cannot be used.",
    )


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase | None, what: str, *, lack: str, hint: str
) -> PreTrainedTokenizerBase:
    """Return a tokenizer that was read, if it has words and its limit is a number.

    Args:
        tokenizer: As read; None if there was no vocabulary to read it from.
        what: What cannot be loaded if there is a fault.
        lack: What is said of it if there are no words.
        hint: What to do then.

    Raises:
        ModelError: There are no words, or the limit is not a number of tokens.
    """
    # Of an empty vocabulary, or none on the hub, transformers makes one of special tokens alone.
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(
            f"{what} cannot be loaded: {lack} ({', '.join(VOCABULARY_FILES)})", hint=hint
        )
    most = tokenizer.model_max_length
    if not isinstance(most, (int, float)) or not most >= 1:  # also NaN
        raise ModelError(
            f"{what} cannot be loaded: its tokenizer_config.json says model_max_length {most!r}, "
            "a number of tokens was expected",
            hint="Correct it, or remove it: the model's own limit then holds.",
        )
    return tokenizer


def read_tokenizer(source: str, *, local_only: bool) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or of a hub name; transformers may raise any exception.

    Raises:
        ModelError: Its files name others, outside its folder.
    """
    import_transformers()
    from transformers import AutoTokenizer

    refuse_named_files(source, local_only=local_only)
    # If trust_remote_code were left open, transformers would ask on the terminal.
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        source, local_files_only=local_only, trust_remote_code=False, use_fast=True
    )
    tokenizer.init_kwargs.pop("auto_map", None)  # or a run would name code that it does not have
    return tokenizer


def name_inputs(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Write down what a tokenizer returns, and on which side it pads, whatever its class is.

    Its class has both, but a folder may name another class, and the class of the same name in
    transformers 4 may have others. DistilBERT's tokenizer, if it is of BERT's class, has token
    types, which DistilBERT does not take.
    """
    taken = inspect.signature(type(model).forward).parameters
    names = [name for name in tokenizer.model_input_names if name in taken]
    tokenizer.model_input_names = names or tokenizer.model_input_names
    for name in ("model_input_names", "padding_side"):
        tokenizer.init_kwargs[name] = getattr(tokenizer, name)


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write a tokenizer's files in words that transformers 4 knows as well.

    The exporters of ONNX, among others, need it, and it fails on two words of transformers 5: the
    class TokenizersBackend, and a list of extra_special_tokens. Version 5 reads the older words.

    Padding and truncation are left out, since those of a checkpoint, or of the last call, say
    nothing about the run: MiniLM's tokenizer.json cuts and pads each text to 128 tokens. Only
    programs that read tokenizer.json alone would apply them; transformers sets them at each call.
    So are templates of chats, by which no text of a classifier is written.
    """
    tokenizer.chat_template = None
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config: dict[str, Any] = read_json(path)
    if config.get("tokenizer_class") == "TokenizersBackend":
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name in _NOT_OF_THE_RUN:
        config.pop(name, None)
    if isinstance(config.get("extra_special_tokens"), list):
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    write_json(path, config)


def fast_tokenizer(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return a copy of the underlying `tokenizers` tokenizer without truncation and padding.

    Raises:
        ModelError: The tokenizer has no fast form.
    """
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError(
            f"the tokenizer {type(tokenizer).__name__} has no fast form (tokenizer.json)",
            hint="Choose a checkpoint that carries tokenizer.json.",
        )
    # A copy, because calling the tokenizer with padding turns it on for everyone who shares it.
    own = copy.deepcopy(backend)
    own.no_truncation()
    own.no_padding()
    # transformers sets this at each call: whether "[SEP]" in a text is words, not a special token.
    own.encode_special_tokens = bool(getattr(tokenizer, "split_special_tokens", False))
    return own
