"""The `list` source: a csv or tsv file of paths and labels."""

import csv
import os

import numpy as np

from jaxvision.data.source import (
    RUNS_WITHOUT_DATA,
    DataError,
    Example,
    Source,
    missing_data,
)

_PREPARE = (
    "expected <path>/<split>, <path>/<split>.csv or <path>/<split>.tsv with the columns path and"
    " label"
)


class ListSource(Source):
    """Images named in a table of paths and labels.

    The table has the columns `path` and `label` under a header, or exactly these two with no
    header; `.tsv` is split at tabs, anything else at commas. Paths are relative to the table's
    folder. If every label is an integer, it is the class index itself (and its own name); otherwise
    labels are names, and a label is the place in the sorted list of names.

    Args:
      path: Folder of the table.
      split: File name of the table, with or without its suffix.
      class_names: Classes of the training split, when this is another split.

    Raises:
      DataError: if there is no table, or a row is wrong; the message names the line.
    """

    def __init__(self, path: str, split: str, *, class_names: tuple[str, ...] | None = None):
        self.path = _find_table(path, split)
        try:
            rows = _read_rows(self.path)  # (line, image path, label text)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(
                f"{self.path} cannot be read as a table ({error}); {_PREPARE}, as UTF-8 text."
            ) from error
        folder = os.path.dirname(self.path)
        self._lines = np.array([line for line, _, _ in rows], np.int64)
        self._paths = [os.path.join(folder, image) for _, image, _ in rows]
        for line, image in zip(self._lines, self._paths, strict=True):
            if not os.path.isfile(image):
                raise DataError(
                    f"{self.path}, line {line}: there is no file {image}; paths are relative to the"
                    f" folder of the table. {RUNS_WITHOUT_DATA}"
                )
        labels = [label for _, _, label in rows]
        if all(_is_integer(label) for label in labels):
            indices = [int(label) for label in labels]
            self.class_names = class_names or tuple(map(str, range(max(indices, default=-1) + 1)))
        else:
            self.class_names = class_names or tuple(sorted(set(labels)))
            index_of = {name: index for index, name in enumerate(self.class_names)}
            indices = [index_of.get(label, -1) for label in labels]
        self.class_names = tuple(self.class_names)
        for line, label, index in zip(self._lines, labels, indices, strict=True):
            if not 0 <= index < len(self.class_names):
                raise DataError(
                    f"{self.path}, line {line}: the label {label!r} is not among the"
                    f" {len(self.class_names)} classes {self.class_names[:3]}...; correct the row."
                )
        self._labels = np.array(indices, np.int32)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        try:
            with open(self._paths[index], "rb") as file:
                image = file.read()
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read ({error}).") from error
        return {"image": image, "label": int(self._labels[index])}

    def describe(self, index: int) -> str:
        """Returns the image's path and the line that names it."""
        return f"{self._paths[index]} ({os.path.basename(self.path)}, line {self._lines[index]})"


def _find_table(path: str, split: str) -> str:
    base = os.path.join(os.path.expanduser(path), split)
    for candidate in (base, f"{base}.csv", f"{base}.tsv"):
        if path and os.path.isfile(candidate):
            return candidate
    raise missing_data(f"The table of the split {split!r}", where=path, prepare=_PREPARE)


def _read_rows(path: str) -> list[tuple[int, str, str]]:
    rows = []
    image_column, label_column, width = 0, 1, 2
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter="\t" if path.lower().endswith(".tsv") else ",")
        for number, cells in enumerate(reader):
            names = [cell.strip().lower() for cell in cells]
            if number == 0 and {"path", "label"} <= set(names):
                image_column, label_column = names.index("path"), names.index("label")
                width = len(names)
            elif cells:
                if len(cells) != width or not cells[image_column] or not cells[label_column]:
                    raise DataError(
                        f"{path}, line {reader.line_num}: expected {width} cells with a path and a"
                        f" label, but the row is {cells!r}."
                    )
                rows.append((reader.line_num, cells[image_column], cells[label_column].strip()))
    return rows


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal()
