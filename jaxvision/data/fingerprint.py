"""What data are, in a few lines of text: enough to notice later that they have changed."""

import concurrent.futures
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxvision.data.classes import some_names
from jaxvision.data.source import DataError, Records

_SAMPLES = 64  # records of a split that are read


def fingerprint(records: Records) -> dict[str, Any]:
    """Returns the number of records, a digest of each part, and one of some encoded images.

    A part is what `Records.parts` says, such as the files of a class. Names and sizes are of all
    records, contents of a few that are spread over all, so that a million files take seconds.
    """
    return {
        "examples": len(records),
        "parts": dict(records.parts()),
        "sample": _sample(records),
    }


def fingerprint_difference(found: Mapping[str, Any], kept: Mapping[str, Any]) -> str:
    """Returns how two fingerprints differ: "has 66 examples instead of 72"; "": not.

    Args:
      found: Fingerprint of the data as they are.
      kept: Fingerprint of the data as they were; what it lacks is not compared.
    """
    phrases = []
    if found["examples"] != kept.get("examples", found["examples"]):
        phrases.append(f"has {found['examples']:,} examples instead of {kept['examples']:,}")
    parts, old = found["parts"], kept.get("parts", found["parts"])
    for verb, names in (
        ("has the new", parts.keys() - old.keys()),
        ("lacks", old.keys() - parts.keys()),
        (
            "has other files in",
            {name for name in parts.keys() & old.keys() if parts[name] != old[name]},
        ),
    ):
        if names:
            phrases.append(f"{verb} {some_names(names)}")
    if not phrases and found["sample"] != kept.get("sample", found["sample"]):
        phrases.append("has other images under the same names")
    return " and ".join(phrases)


def digest(texts: Iterable[str]) -> str:
    """Returns a short digest of some texts, in their order."""
    hasher = hashlib.blake2b(digest_size=8)
    for text in texts:
        hasher.update(f"{len(text)} {text}".encode("utf-8", "surrogateescape"))
    return hasher.hexdigest()


def digest_files(names: Sequence[str], sizes: Sequence[int]) -> str:
    """Returns a digest of the names and sizes of files."""
    return digest(f"{name}\0{size}" for name, size in zip(names, sizes, strict=True))


def file_sizes(paths: Sequence[str]) -> list[int]:
    """Returns the bytes of files, -1 of those that are not there; fast also over a network."""
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        parts = [paths[first : first + 1_000] for first in range(0, len(paths), 1_000)]
        return [size for part in threads.map(_sizes, parts) for size in part]


def _sizes(paths: Sequence[str]) -> list[int]:
    sizes = []
    for path in paths:
        try:
            sizes.append(os.stat(path).st_size)
        except OSError:
            sizes.append(-1)
    return sizes


def _sample(records: Records) -> str:
    """Returns a digest of the contents of records that are read, not drawn."""
    hasher = hashlib.blake2b(digest_size=8)
    count = min(len(records), _SAMPLES)
    for index in np.linspace(0, len(records) - 1, count).round().astype(int).tolist():
        try:
            record = records[index]
        except DataError:  # which training replaces, or stops at
            record = {"image": b"corrupt"}
        image, features = record.get("image"), record.get("features")
        hasher.update(str(record.get("label", "")).encode())
        hasher.update(image if isinstance(image, bytes) else b"")
        hasher.update(b"" if features is None else np.ascontiguousarray(features).data)
    return hasher.hexdigest()
