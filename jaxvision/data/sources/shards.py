"""Data sets in several files of records: which files are meant by a split."""

import glob
import os
import re

from jaxvision.data.source import DataError, missing_data

_OF = re.compile(r"(?P<stem>.*)-(?P<number>[0-9]+)-of-(?P<count>[0-9]+)(?P<rest>.*)", re.S)
_GROUP = re.compile(r"(.*?)\{([^{}]*)\}(.*)", re.S)
_RANGE = re.compile(r"([0-9]+)\.\.([0-9]+)")


def find_shards(path: str, split: str, suffixes: tuple[str, ...], *, prepare: str) -> list[str]:
    """Returns the paths of a split's files, sorted by their names.

    A split is the name of a file or folder in `path`, a glob or braces (`train-{000..015}.tar`), or
    the name in front of the suffix or of the shards' numbers: `train` also means
    `train.array_record`, `train-00000-of-00016.array_record` and `train_0.array_record`.

    Args:
      path: Folder of the files.
      split: Name of the split, see above; "" means all files in `path`, or the file `path`.
      suffixes: Suffixes of such files; the first that there are files of counts.
      prepare: Sentence on where files are expected, for the message.

    Raises:
      DataError: if there is no file, or one that the braces or the other names tell of is missing.
    """
    root = os.path.expanduser(path)
    for suffix in suffixes if path else ():
        for pattern in (split, f"{split}{suffix}", f"{split}[-_][0-9]*{suffix}"):
            found = _matches(root, pattern, suffix)
            if found:
                _check_whole(found)
                return found
    raise missing_data(f"Files of the split {split!r}", where=path, prepare=prepare)


def _matches(root: str, pattern: str, suffix: str) -> list[str]:
    names = expand_braces(pattern)
    places = [
        glob.glob(os.path.join(glob.escape(root), name) if name else glob.escape(root))
        for name in names
    ]
    if any(places) and not all(places):
        missing = names[places.index([])]
        raise DataError(
            f"{os.path.join(root, missing)}, one of the {len(names)} files of {pattern}, is not"
            " there; copy it, or give other braces."
        )
    files: list[str] = []
    for place in sum(places, []):
        inside = os.path.join(glob.escape(place), f"*{suffix}")
        files += glob.glob(inside) if os.path.isdir(place) else [place]
    return sorted(set(files))


def expand_braces(pattern: str) -> list[str]:
    """Returns the names that braces stand for, as a shell does: `{08..10}`, `{a,b}`."""
    match = _GROUP.fullmatch(pattern)
    if match is None:
        return [pattern]
    before, inside, after = match.groups()
    if numbers := _RANGE.fullmatch(inside):
        first, last = numbers.groups()
        padded = any(text[0] == "0" and len(text) > 1 for text in (first, last))
        width = max(len(first), len(last)) if padded else 0
        step = 1 if int(first) <= int(last) else -1
        values = range(int(first), int(last) + step, step)
        if len(values) > 1_000_000:
            raise DataError(f"{pattern!r} stands for {len(values):,} files; give fewer.")
        choices = [f"{value:0{width}}" for value in values]
    elif "," in inside:
        choices = inside.split(",")
    else:
        return [before + "{" + inside + "}" + rest for rest in expand_braces(after)]
    return [before + choice + rest for choice in choices for rest in expand_braces(after)]


def _check_whole(paths: list[str]) -> None:
    """Checks that all files are there of those that say how many there are."""
    seen: dict[tuple[str, ...], set[int]] = {}
    for path in paths:
        if match := _OF.fullmatch(os.path.basename(path)):
            key = os.path.dirname(path), match["stem"], match["count"], match["rest"]
            seen.setdefault(key, set()).add(int(match["number"]))
    for (folder, stem, count, rest), numbers in seen.items():
        missing = set(range(int(count))) - numbers if int(count) < 1_000_000 else {}
        if missing:
            name = f"{stem}-{min(missing):0{len(count)}}-of-{count}{rest}"
            raise DataError(
                f"{len(missing)} of the {int(count)} files {stem}-*-of-{count}{rest} in {folder}"
                f" are not there, such as {name}; copy them too, or finish the command that writes"
                " them."
            )
