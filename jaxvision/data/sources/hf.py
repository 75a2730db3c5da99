"""The `hf:<name>` and `hf:<folder>` sources: data sets of Hugging Face's library `datasets`."""

import glob
import json
import os
from typing import Any

import numpy as np

from jaxvision.data.fingerprint import file_sizes
from jaxvision.data.source import (
    CorruptImageError,
    DataError,
    Example,
    NumberedSource,
    missing_data,
)
from jaxvision.data.sources.label_classes import label_classes
from jaxvision.data.sources.shards import find_shards
from jaxvision.errors import reason, shorten

_PREPARE = (
    "expected hf:<folder> with what save_to_disk wrote, or with <split>*.parquet or"
    " <split>*.arrow; or hf:<name> of a data set in the cache of `datasets`, fetched once with"
    " `python -c 'import datasets; datasets.load_dataset(\"<name>\")'`"
)


class HfSource(NumberedSource):
    """A data set of images and labels that the library `datasets` can open, at any place.

    Nothing is fetched: a name is looked up in the library's cache. Images stay encoded. Arrow files
    are read where they lie; of parquet files the library writes Arrow files into its cache, once.

    Args:
      name: Folder of `save_to_disk`, of parquet or of Arrow files; or a name on the hub, with its
        configuration behind a colon where the cache holds several.
      split: Name of the split; "" means a folder of one split itself.
      path: Folder of the library's cache; "": where the library has it.
      image_column: Column with the images; "": the only one of type Image.
      label_column: Column with the labels; "": the only one of type ClassLabel.
      class_names: Class names by label, of the training split or of a run, for labels that are
        numbers or names; None: those found here.

    Raises:
      DataError: if the library is not installed, the data is missing or damaged, or its columns are
        others.
    """

    def __init__(
        self,
        name: str,
        split: str,
        *,
        path: str = "",
        image_column: str = "",
        label_column: str = "",
        class_names: tuple[str, ...] | None = None,
    ):
        try:
            import datasets
        except ImportError as error:
            raise DataError(
                f"hf:{name} needs the library datasets ({error}); type pip install"
                " 'jaxvision-nnx[hf]'."
            ) from error
        self._name = f"hf:{name} {split}".rstrip()
        try:
            data = _open(datasets, name, split, path)
        except DataError:
            raise
        except Exception as error:  # the library, pyarrow and fsspec have many of their own
            raise DataError(
                f"The split {split!r} of hf:{name} cannot be read ({shorten(reason(error))});"
                f" {_PREPARE}."
            ) from error
        types = data.features
        image = _column("image", image_column, types, datasets.Image, self._name)
        label = _column("label", label_column, types, datasets.ClassLabel, self._name)
        files = sorted({file["filename"] for file in data.cache_files})
        texts = data.select_columns([label]).with_format("arrow")[:].column(0)
        if isinstance(types[label], datasets.ClassLabel):
            self.class_names = tuple(types[label].names)
            self._labels = texts.fill_null(-1).to_numpy().astype(np.int64)
        else:
            values = ["" if text is None else str(text) for text in texts.to_pylist()]
            beside = files[0] if files else os.path.join(name, "")
            where = lambda index: f"{self._name} record {index}"  # noqa: E731
            if "" in values:
                raise DataError(f"{where(values.index(''))} has no label; leave it out, or add it.")
            self.class_names, self._labels = label_classes(values, where, beside, class_names)
        self._image, self._files = image, files
        try:
            encoded = datasets.Image(decode=False)
            self._data = data.select_columns([image]).with_format(None).cast_column(image, encoded)
        except Exception as error:  # of pyarrow
            raise DataError(
                f"The column {image!r} of {self._name} holds no images, but {types[image]}; give"
                " another --config.data.image_column."
            ) from error

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        """Returns one example.

        Raises:
          CorruptImageError: if there is no image, or its record is damaged.
        """
        try:
            record = self._data[index][self._image]
            data = record["bytes"]
            if data is None:
                with open(record["path"], "rb") as file:
                    data = file.read()
            return {"image": data, "label": int(self._labels[index])}
        except Exception as error:  # of pyarrow; a record may be None, a file missing
            raise CorruptImageError(f"its record is damaged ({shorten(reason(error))})") from error

    def label(self, index: int) -> int:
        """Returns the label of an image, without reading it."""
        return int(self._labels[index])

    def _file(self, index: int) -> str:
        try:
            return self._data[index][self._image]["path"] or ""
        except Exception:  # noqa: BLE001 - as above
            return ""

    def parts(self) -> dict[str, str]:
        """Returns the size of each file."""
        sizes = file_sizes(self._files)
        return {os.path.basename(p): str(n) for p, n in zip(self._files, sizes, strict=True)}


def _open(datasets: Any, name: str, split: str, path: str) -> Any:
    """Returns one split as a Dataset, its files mapped into memory."""
    datasets.disable_progress_bars()
    folder, _, configuration = name.partition(":")
    folder = os.path.expanduser(name if os.path.isdir(os.path.expanduser(name)) else folder)
    if os.path.isfile(os.path.join(folder, "dataset_dict.json")):
        with open(os.path.join(folder, "dataset_dict.json"), encoding="utf-8") as file:
            splits = json.load(file)["splits"]
        if split not in splits:
            raise DataError(
                f"hf:{name} has the splits {', '.join(splits)}, but {split!r} was asked for."
            )
        folder, split = os.path.join(folder, split), ""
    if os.path.isfile(os.path.join(folder, "state.json")):
        data = datasets.load_from_disk(folder)
        if split and split != str(data.split):
            raise DataError(
                f"hf:{name} is one split, {str(data.split)!r}, but {split!r} was asked for; give"
                " shares of it, --config.data.train_split='[:80%]' and eval_split='[80%:]'."
            )
        return data
    if not os.path.isdir(folder):
        folder, split = _in_cache(datasets, name, folder, configuration, path), f"*-{split}"
    below = os.path.join(folder, "data")  # as the repositories of the hub have it
    folder = below if os.path.isdir(below) and not glob.glob(f"{folder}/*.parquet") else folder
    files = find_shards(folder, split, (".parquet", ".arrow"), prepare=_PREPARE)
    if files[0].endswith(".arrow"):
        return datasets.concatenate_datasets([datasets.Dataset.from_file(file) for file in files])
    cache = os.path.expanduser(path) or None
    return datasets.Dataset.from_parquet(files, cache_dir=cache)


def _in_cache(datasets: Any, whole: str, name: str, configuration: str, path: str) -> str:
    """Returns the newest folder of Arrow files that the library keeps of a data set."""
    root = os.path.expanduser(path) or str(datasets.config.HF_DATASETS_CACHE)
    *owner, base = name.split("/")
    kept = "___".join([*owner, datasets.naming.camelcase_to_snakecase(base)])
    found = glob.glob(os.path.join(glob.escape(os.path.join(root, kept)), "*", "*", "*", "*.arrow"))
    folders = {os.path.dirname(file) for file in found}
    names = sorted({folder.split(os.sep)[-3] for folder in folders})
    if configuration:
        folders = {folder for folder in folders if folder.split(os.sep)[-3] == configuration}
    elif len(names) > 1:
        raise DataError(
            f"The cache holds hf:{name} in {len(names)} configurations, {', '.join(names)}; give"
            f" one of them, as in --config.data.name=hf:{name}:{names[0]}."
        )
    if not folders:
        raise missing_data(f"The data set hf:{whole}", where=root, prepare=_PREPARE)
    return max(folders, key=os.path.getmtime)


def _column(what: str, given: str, types: Any, kind: type, where: str) -> str:
    """Returns the name of a column: the one that was asked for, or the only one of its type."""
    found = [name for name in types if isinstance(types[name], kind)]
    if given in types or (not given and len(found) == 1):
        return given or found[0]
    if given:
        problem = f"no column {given!r}"
    else:
        several = f"the columns {', '.join(found)}" if found else "no column"
        problem = f"{several} of type {kind.__name__}"
    raise DataError(
        f"{where} has {problem}; its columns are {', '.join(types)}: name the one with the {what}s,"
        f" --config.data.{what}_column=NAME."
    )
