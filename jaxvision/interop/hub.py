"""Files of the Hugging Face hub, fetched only for an address that begins with `hub:`."""

import importlib
import pathlib
from typing import Any

from jaxvision.errors import InputError
from jaxvision.interop.weight_folder import (
    CONFIG,
    INDEX_SUFFIX,
    PREPROCESSOR,
    USUAL,
    is_usual,
    read_index,
)

PREFIX = "hub:"
_FORM = "An address of the hub is hub:owner/name or hub:owner/name/file, got {!r}."


def repository(address: str) -> str:
    """Returns the address of the repository of a file, with its revision.

    Raises:
      InputError: if the address has another form.
    """
    owner, _, rest = address.removeprefix(PREFIX).partition("/")
    name = rest.partition("/")[0]
    if not owner or not name.partition("@")[0]:
        raise InputError(_FORM.format(address))
    return f"{PREFIX}{owner}/{name}"


class NoSuchFile(InputError):
    """A repository that is there has no such file."""


def fetch(address: str) -> pathlib.Path:
    """Returns a file of the hub, from the local cache or, if it is not there, by downloading it.

    The shards of an index come with it, and the configs beside weights if there are any.

    Args:
      address: Address of the file: `hub:owner/name` for the repository's weights, or
        `hub:owner/name/file`. `@revision` behind the name (a tag or a commit) says which version.

    Raises:
      InputError: if the address has another form, huggingface_hub is not installed, or there is no
        such file, offline or online.
    """
    owner, _, rest = address.removeprefix(PREFIX).partition("/")
    name, _, file = rest.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise InputError(_FORM.format(address))
    hub, errors = _library(address)
    repo, files = f"{owner}/{name}", (file,) if file else USUAL
    offline = False

    def download(file: str) -> pathlib.Path | None:
        nonlocal offline
        try:
            return pathlib.Path(hub.hf_hub_download(repo, file, revision=revision or None))
        except errors.LocalEntryNotFoundError:
            offline = True
        except errors.EntryNotFoundError:
            pass
        except Exception as error:  # of many kinds: no such repository, gated, connection, name
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise InputError(f"{address} cannot be fetched: {reason}") from error
        return None

    for each in files:
        found = None if offline else download(each)  # who cannot connect asks once
        if found is None:
            continue
        folder, _, last = each.rpartition("/")
        shards = read_index(found) if last.endswith(INDEX_SUFFIX) else ()
        configs = (CONFIG, PREPROCESSOR) if is_usual(last) else ()
        for beside in (*shards, *configs):  # that a shard is missing, its reader says
            download(f"{folder}/{beside}" if folder else beside)
        return found
    wanted = " or ".join(files)
    if offline:
        constants: Any = importlib.import_module("huggingface_hub.constants")
        raise InputError(
            f"{address}: the hub cannot be reached and {wanted} of {repo} is not in the cache "
            f"{constants.HF_HUB_CACHE}; fetch it once with a connection, or give a local file."
        )
    raise NoSuchFile(f"{repo} has no {wanted} on the hub; name a file: hub:{repo}/<file>.")


def fetch_if_there(address: str) -> pathlib.Path | None:
    """Returns a file that a repository may have; None if it has not.

    Args:
      address: Address of the file, see `fetch`.
    """
    try:
        return fetch(address)
    except NoSuchFile:
        return None


def _library(address: str) -> tuple[Any, Any]:
    """Returns huggingface_hub and the module of its errors."""
    try:
        return importlib.import_module("huggingface_hub"), importlib.import_module(
            "huggingface_hub.errors"
        )
    except ImportError as error:
        raise InputError(
            f"{address} needs huggingface_hub, which is not installed: pip install huggingface_hub."
        ) from error
