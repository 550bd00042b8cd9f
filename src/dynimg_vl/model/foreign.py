"""Reading what others wrote: folders of models and of their parts, complete, damaged or none at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, AutoConfig

from ..errors import InputError

CONFIG_NAME = "config.json"
_LONGEST = 240  # characters of a foreign message that are passed on


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into an `InputError` of one line that begins with `what`.

    A damaged file breaks the libraries that read it in any way they like (TypeError, KeyError, errors of their own), so
    every exception counts here; an `InputError` passes as it is.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{what}: {one_line(error)}") from error


def one_line(error: BaseException) -> str:
    """Give what an exception says on one line of bounded length, or its name where it says nothing."""
    said = " ".join(str(error).split())
    return (said if len(said) <= _LONGEST else f"{said[:_LONGEST]}...") or type(error).__name__


def read_auto_config(name: str) -> Any:
    """Read the configuration of any model that transformers knows; code that comes with a model is never run.

    Raises:
        InputError: where transformers does not know this kind of model.
    """
    values = PreTrainedConfig.get_config_dict(name)[0]
    if "auto_map" in values and values.get("model_type") not in CONFIG_MAPPING:
        # transformers would ask on the terminal whether it may run that code.
        raise InputError(f"{name} holds a {values.get('model_type')!r} model, with code of its own, which is not run")
    return AutoConfig.from_pretrained(name, trust_remote_code=False)


def check_model_name(name: str) -> None:
    """Refuse a name that is neither an existing folder nor a model of the hub that can be had.

    Raises:
        InputError: where it is neither.
    """
    if name and Path(name).is_dir():
        return
    if name and Path(name).exists():
        raise InputError(f"{name} is a file; a model is a folder or a hub id (owner/name)")
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError(f"no such folder: {name or '(an empty name)'}; a model is a folder or a hub id (owner/name)")
    _check_reachable(name)


def _check_reachable(name: str) -> None:
    # The hub's client tries each file again and again for half a minute, and no setting of it says otherwise.
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    if constants.HF_HUB_OFFLINE or isinstance(try_to_load_from_cache(name, CONFIG_NAME), str):
        return
    with reading(f"{name} is no folder here, and the hub gave no model of that name"):
        get_hf_file_metadata(hf_hub_url(name, CONFIG_NAME))
