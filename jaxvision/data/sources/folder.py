"""The `folder` source: one folder per class, on disk or in zip files."""

import glob
import os

import numpy as np

from jaxvision.data.classes import check_class_names, one_line
from jaxvision.data.file_tree import list_files, report_left_out, suffix_counts
from jaxvision.data.fingerprint import digest_files, file_sizes
from jaxvision.data.source import (
    DataError,
    Example,
    Source,
    is_hidden,
    is_image,
    missing_data,
)
from jaxvision.data.zip_reader import ZipReader
from jaxvision.errors import reason

FLAT = "(no class folders)"  # the one class of images that lie in none

_PREPARE = (
    "expected <path>/<split>/<class>/<image> or a zip with <class>/<image> inside"
    " (<path>/<split>.zip, or a split such as 'train_*.zip'); of <path>/<class>/<image>, not split"
    " yet, give shares, --config.data.train_split='[:80%]' and eval_split='[80%:]'"
)


class FolderSource(Source):
    """Images in one folder per class, in any of these places.

    `<path>/<split>/<class>/...`; a zip with `<class>/...` inside at `<path>/<split>.zip` or
    `<path>/<split>`, where the split may be a glob (`train_*.zip`); or a zip at `<path>` with
    `<split>/<class>/...` inside. Below the class, files may lie at any depth. Files that are hidden
    or have no image suffix are left out. A label is the place in the sorted list of all class
    names, as in torchvision's ImageFolder.

    Args:
      path: Folder or zip that holds the split.
      split: Name of the split, see above; "" means `path` itself.
      class_names: Class names by label, of the training split or of a run; None: those found here.
      class_folders: Kind of class folders of another split: "names", or "indices": folders are
        called by the label, as those of ImageNet-V2, 0 to 999, where the sorted place of "10" is 2.
      labelled: Whether classes are wanted. Otherwise images may lie anywhere: those of a split with
        an image in no class folder are all of the class `FLAT`.

    Raises:
      DataError: if there is nothing, or a class is not in `class_names`; where classes are wanted,
        if an image lies in no class folder, or a class folder is empty.
    """

    def __init__(
        self,
        path: str,
        split: str,
        *,
        class_names: tuple[str, ...] | None = None,
        class_folders: str = "names",
        labelled: bool = True,
    ):
        self._readers = _open_readers(path, split)
        members = []  # (class, file name, reader, index in that reader)
        inner = set()  # first folders below those of the classes; "": a file is right in one
        others = []  # (path of the reader with its prefix, file or folder below it)
        for number, (reader, prefix) in enumerate(self._readers):
            place = f"{reader.path}/{prefix}"
            for index, name in enumerate(reader.names):
                if not name.startswith(prefix):
                    continue
                if not is_image(name):
                    others.append((place, name.removeprefix(prefix)))
                    continue
                class_name, separator, rest = name.removeprefix(prefix).partition("/")
                if not separator and labelled:
                    raise DataError(
                        f"{reader.describe(index)} lies in no class folder; {_PREPARE}."
                    )
                inner.add(rest.rpartition("/")[0].partition("/")[0])
                class_name = one_line(class_name) if separator else FLAT
                members.append((class_name, name, number, index))
            folders = (f"{name}/" for name in reader.folders if name.startswith(prefix))
            others += [(place, name.removeprefix(prefix)) for name in folders]
        where = f"The split {split!r} in {path}"
        flat = class_names == (FLAT,) or any(member[0] == FLAT for member in members)
        if not labelled and flat:
            members, class_names = [(FLAT, *member[1:]) for member in members], (FLAT,)
        if labelled:
            _check_complete(others, {member[0] for member in members})
        names = [m[1] for m in members] + [n for _, n in others if n[-1] != "/"]
        self.left_out = report_left_out(where, names)
        if not members:
            raise missing_data(f"Images of the split {split!r}", where=path, prepare=_PREPARE)
        members.sort()
        found = sorted({member[0] for member in members})
        alone = labelled and len(found) == 1 and found[0] not in (class_names or ())
        if alone and len(inner - {""}) > 1:
            inside = [one_line(name) for name in sorted(inner - {""})[:3]]
            raise DataError(
                f"{where} has one folder, {found[0]!r}, around the folders {', '.join(inside)}: a "
                f"run would have a single class. Give the path {self._readers[0][0].path} and the "
                f"split {found[0]}, or take the folders out of it."
            )
        if class_names is not None and class_folders == "indices":
            self.class_names = tuple(class_names)
            label_of = _indices(found, len(class_names), where=where)
        else:
            check_class_names(found, class_names, where=where)
            self.class_names = tuple(found) if class_names is None else tuple(class_names)
            label_of = {name: label for label, name in enumerate(self.class_names)}
        self._labels = np.array([label_of[m[0]] for m in members], np.int32)
        self._reader_numbers = np.array([m[2] for m in members], np.int32)
        self._member_indices = np.array([m[3] for m in members], np.int64)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Example:
        reader = self._readers[self._reader_numbers[index]][0]
        image = reader.read(int(self._member_indices[index]))
        return {"image": image, "label": int(self._labels[index])}

    def label(self, index: int) -> int:
        """Returns the label of an image, without reading it."""
        return int(self._labels[index])

    def describe(self, index: int) -> str:
        """Returns the path of the file, behind that of its zip if it is in one."""
        reader = self._readers[self._reader_numbers[index]][0]
        return reader.describe(int(self._member_indices[index]))

    def parts(self) -> dict[str, str]:
        """Returns a digest of the names and sizes of each class's files."""
        sizes = [reader.sizes() for reader, _ in self._readers]
        members: list[list[tuple[str, int]]] = [[] for _ in self.class_names]
        for label, number, index in zip(
            self._labels.tolist(),
            self._reader_numbers.tolist(),
            self._member_indices.tolist(),
            strict=True,
        ):
            reader, prefix = self._readers[number]
            name = reader.names[index].removeprefix(prefix)
            members[label].append((name, sizes[number][index]))
        return {
            name: digest_files(*zip(*files, strict=True))
            for name, files in zip(self.class_names, members, strict=True)
            if files
        }


def _indices(names: list[str], num_classes: int, *, where: str) -> dict[str, int]:
    """Returns the labels that folders are called by."""
    for name in names:
        if not (name.isascii() and name.isdigit() and int(name) < num_classes):
            raise DataError(
                f"{where} has the class folder {name!r}, but with config.eval.class_folders=indices"
                f" a folder is called by its label, 0 to {num_classes - 1}; rename it, or set the"
                " option to names."
            )
    return {name: int(name) for name in names}


class _DirectoryReader:
    """The files below a directory, with the interface of ZipReader."""

    def __init__(self, path: str):
        self.path = path
        self.names, self.folders = list_files(path)

    def read(self, index: int) -> bytes:
        try:
            with open(os.path.join(self.path, self.names[index]), "rb") as file:
                return file.read()
        except OSError as error:
            raise DataError(
                f"{self.describe(index)} was listed but cannot be read ({reason(error)}); check "
                "the disk."
            ) from error

    def sizes(self) -> list[int]:
        return file_sizes([f"{self.path}/{name}" for name in self.names])

    def describe(self, index: int) -> str:
        return f"{self.path}/{self.names[index]}"


_Reader = _DirectoryReader | ZipReader


def _check_complete(others: list[tuple[str, str]], used: set[str]) -> None:
    """Checks that no class is lost: one without an image is empty, or of suffixes unknown here.

    Args:
      others: Place and name below it of all that is no image, folders with a slash at the end.
      used: Classes that have images.
    """
    unused: dict[str, list[str]] = {}  # path of a class folder: its files
    for place, name in others:
        folder, separator, rest = name.partition("/")
        if separator and one_line(folder) not in used and not is_hidden(folder):
            files = unused.setdefault(place + folder, [])
            if rest and not rest.endswith("/") and not is_hidden(rest):
                files.append(rest)
    for folder, files in sorted(unused.items()):
        why = f", only files that are none by their suffix ({suffix_counts(files)})" * bool(files)
        raise DataError(f"The class folder {folder} holds no image{why}; fill or remove it.")


def _open_readers(path: str, split: str) -> list[tuple[_Reader, str]]:
    """Returns the readers of a split, each with the folder inside it that holds the classes."""
    root = os.path.expanduser(path)
    if path and split and os.path.isfile(root):
        return [(_open_zip(root), f"{split}/")]
    if not split:
        places = [root] if path and os.path.exists(root) else []
    else:
        places = [os.path.join(root, p) for p in sorted(glob.glob(split, root_dir=root or None))]
        if not places and os.path.isfile(os.path.join(root, f"{split}.zip")):
            places = [os.path.join(root, f"{split}.zip")]
    if not path or not places:
        raise missing_data(f"The split {split!r}", where=path, prepare=_PREPARE)
    readers: list[tuple[_Reader, str]] = []
    for place in places:
        if os.path.isdir(place):
            readers.append((_DirectoryReader(place), ""))
            continue
        reader = _open_zip(place)
        # `zip -r train.zip train` puts every file below one folder named like the zip.
        wrapper = os.path.splitext(os.path.basename(place))[0] + "/"
        folders = [f"{name}/" for name in reader.folders]
        seen = [n for n in reader.names if is_image(n)]
        seen += [n for n in reader.names + folders if "/" in n and not is_hidden(n)]
        readers.append((reader, wrapper if all(n.startswith(wrapper) for n in seen) else ""))
    return readers


def _open_zip(path: str) -> ZipReader:
    if not path.lower().endswith(".zip"):
        raise DataError(f"{path} is neither a folder nor a .zip file; {_PREPARE}.")
    return ZipReader(path)
