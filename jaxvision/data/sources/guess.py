"""Which source reads a path, by what lies there."""

import os

from jaxvision.data.source import DataError

_SUFFIXES = {
    ".array_record": "array_record",
    ".tar": "tar",
    ".tgz": "tar",
    ".parquet": "hf",
    ".arrow": "hf",
    ".csv": "list",
    ".tsv": "list",
}
_FILES = {
    "dataset_dict.json": "hf",
    "state.json": "hf",
    "data_batch_1": "cifar10",
    "cifar-10-batches-py": "cifar10",
    "cifar-10-python.tar.gz": "cifar10",
    "cifar-100-python": "cifar100",
    "cifar-100-python.tar.gz": "cifar100",
}


def guess_source(path: str, name: str | None = None) -> tuple[str, str]:
    """Returns the name and the path of a source, as config.data.name and config.data.path.

    Args:
      path: Folder or file; or `hf:<name>`, `tfds:<name>` or `shapes`.
      name: Name of the source; None: by what lies there.

    Raises:
      DataError: if there is nothing, or files of several kinds.
    """
    if name is not None:
        return name, path
    if path == "shapes" or path.startswith(("hf:", "tfds:")):
        return path, ""
    root = os.path.expanduser(path)
    if not os.path.exists(root):
        raise DataError(
            f"There is no folder or file {path}; give one, hf:<name>, tfds:<name> or shapes."
        )
    names = os.listdir(root) if os.path.isdir(root) else [os.path.basename(root)]
    kinds = {_FILES[name] for name in names if name in _FILES}
    kinds = kinds or {kind for file in names if (kind := _kind(file)) is not None}
    if len(kinds) > 1:
        raise DataError(
            f"{path} holds files of several kinds of data: say which, --data="
            f"{' or --data='.join(sorted(kinds))}."
        )
    kind = min(kinds, default="folder")
    return (f"hf:{path}", "") if kind == "hf" else (kind, path)


def _kind(name: str) -> str | None:
    stem, suffix = os.path.splitext(name.lower())
    suffix = ".tar" if stem.endswith(".tar") else suffix  # a compressed one, which is refused later
    return None if name.startswith(".") else _SUFFIXES.get(suffix)
