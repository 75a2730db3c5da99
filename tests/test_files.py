"""Files of a run appear whole or not at all."""

import matplotlib.figure
import pytest

from jaxvision.files import save_figure, write_json


def test_a_file_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch):
    picture = tmp_path / "curves.png"
    assert save_figure(matplotlib.figure.Figure(), picture) == picture
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.read_bytes().endswith(b"\x82")
    write_json(tmp_path / "config.json", {"a": 1})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def cut_off(self, path):
        path.write_bytes(b"half")
        raise OSError("full")

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", cut_off)
    with pytest.raises(OSError, match="full"):
        save_figure(matplotlib.figure.Figure(), picture)
    with pytest.raises(TypeError):
        write_json(tmp_path / "config.json", {"a": object()})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
