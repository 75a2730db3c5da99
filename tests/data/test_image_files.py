import zipfile

import pytest

from jaxvision.data.image_files import find_images
from jaxvision.data.source import DataError


def test_folders_zips_and_files(tmp_path):
    for name in ("b/2.jpg", "b/1.PNG", "a.webp", ".hidden/x.png", "b/.x.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    found = find_images(str(tmp_path))
    assert [image.name for image in found] == [
        f"{tmp_path}/{name}" for name in ("a.webp", "b/1.PNG", "b/2.jpg")
    ]
    assert [image.read() for image in found] == [b"a.webp", b"b/1.PNG", b"b/2.jpg"]

    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("z.png", "__MACOSX/z.png", "y/w.png", "readme"):
            archive.writestr(name, name)
    found = find_images(str(tmp_path / "x.zip"))
    assert [(image.name, image.read()) for image in found] == [
        (f"{tmp_path}/x.zip/y/w.png", b"y/w.png"),
        (f"{tmp_path}/x.zip/z.png", b"z.png"),
    ]

    (only,) = find_images(str(tmp_path / "notes.txt"))  # named itself: decoding says what it is
    assert only.read() == b"notes.txt"


def test_what_is_left_out_is_counted(tmp_path, caplog):
    for name in ("a.JFIF", "b.jpe", "c.jp2", "d.avif", "e.raw", "f.raw", ".g.raw", "h"):
        (tmp_path / name).write_bytes(b"")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.jfif", "e.raw"):
            archive.writestr(name, "")
    assert len(find_images(str(tmp_path))) == 4
    assert "4 of 8 files (2 .raw, " in caplog.text
    caplog.clear()
    assert len(find_images(str(tmp_path / "x.zip"))) == 1
    assert "x.zip: left out, as their suffix is not that of an image: 1 of 2 files (1 .raw)." in (
        caplog.text
    )


def test_nothing(tmp_path):
    with pytest.raises(DataError, match="There is no image, folder or zip .*/none"):
        find_images(str(tmp_path / "none"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"holds no image; images end in \.avif, \.bmp, "):
        find_images(str(tmp_path))
