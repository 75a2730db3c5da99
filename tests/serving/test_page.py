"""The page in a real Chromium: drop, paste, choose, camera, samples; bars, words and their maps."""

import base64

import browser
import finished_run
import numpy as np
import PIL.Image
import pytest

pytest.importorskip("fastapi", reason="needs the extra `serve`")

from serving_thread import served

from jaxvision.data.image_files import find_images
from jaxvision.evaluation.predict import predict
from jaxvision.interop.trained import open_trained
from jaxvision.serving.engine import ClassEngine
from jaxvision.serving.samples import find_samples

pytestmark = [
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium"),
    pytest.mark.timeout(300),
]
NUMBER_OF_BARS = "document.querySelectorAll('article .bars li').length"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser.chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    finished_run.write(folder)
    return folder


@pytest.fixture(scope="module")
def engine(folder):
    trained = open_trained(str(folder))
    return ClassEngine(trained, trained.class_names, top=3)


@pytest.fixture(scope="module")
def server(engine, folder):
    samples = find_samples(None, str(folder), engine)
    with served(engine, samples=samples, batch=2, max_bytes=1 << 20) as server:
        yield server


@pytest.fixture
def opened(page, server):
    page.problems.clear()
    page.open(server.address)
    page.wait_for("document.querySelectorAll('#samples img').length == 8")
    yield page
    assert not page.problems  # of the content security policy, above all


def photo(path, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(path)
    return path


def bars(page):
    page.wait_for(f"{NUMBER_OF_BARS} && !document.querySelector('[aria-busy]')")
    return page.run(
        "[...document.querySelectorAll('.bars li')].map((row) => [row.querySelector('.name')"
        ".textContent, row.querySelector('.share').textContent, row.querySelector('.bar')"
        ".getBoundingClientRect().width / row.getBoundingClientRect().width])"
    )


def test_a_dropped_image_shows_the_bars_of_predict(opened, folder, tmp_path):
    path = photo(tmp_path / "<b>a&amp;.png")
    trained = open_trained(str(folder))
    (expected,) = predict(trained, find_images(str(path)), class_names=trained.class_names, top=3)
    opened.drop(path)
    found = bars(opened)
    assert [name for name, *_ in found] == [guess.name for guess in expected.guesses]
    for (_, share, width), guess in zip(found, expected.guesses, strict=True):
        assert share == f"{100 * guess.probability:.1f} %"
        assert abs(width - guess.probability) < 0.01
    assert opened.run("document.querySelector('article h2').textContent") == path.name
    assert opened.run("document.querySelector('article img').naturalWidth") == 50


def test_explanations_are_switched_through(opened, engine, tmp_path):
    opened.drop(photo(tmp_path / "a.png"))
    found = bars(opened)
    buttons = "[...document.querySelectorAll('.maps button')]"
    assert opened.run(f"{buttons}.map((each) => each.textContent)") == list(engine.maps)
    shown = "!document.querySelector('canvas').hidden && document.querySelector('canvas').ariaLabel"
    pictures = set()
    for number, kind in enumerate(engine.maps):
        opened.run(f"{buttons}[{number}].click()")
        opened.wait_for(f"({shown}) == '{kind}: {found[0][0]}'")
        pictures.add(opened.run("document.querySelector('canvas').toDataURL()"))
    assert len(pictures) == len(engine.maps)
    assert opened.run("document.querySelector('article img').naturalWidth") == 32  # as seen
    # Another class, by its bar; then none.
    opened.run("document.querySelectorAll('.bars .row')[1].click()")
    opened.wait_for(f"({shown}) == '{engine.maps[-1]}: {found[1][0]}'")
    assert opened.run("document.querySelector('canvas').toDataURL()") not in pictures
    pressed = f"{buttons}.map((each) => each.ariaPressed)"
    assert opened.run(pressed) == ["false", "false", "false", "true"]
    opened.run(f"{buttons}[3].click()")
    assert opened.run("document.querySelector('canvas').hidden")
    assert opened.run(pressed) == ["false"] * 4


def test_what_is_no_image_is_said_and_the_others_are_shown(opened, tmp_path):
    (tmp_path / "b.txt").write_text("x")
    (tmp_path / "c.png").write_bytes(bytes(2 << 20))
    opened.drop(photo(tmp_path / "a.png"), tmp_path / "b.txt", tmp_path / "c.png")
    assert len(bars(opened)) == 3
    errors = opened.run(
        "[...document.querySelectorAll('.error')].map((each) => each.textContent).sort()"
    )
    assert errors[0] == "The image is larger than 1 MB."
    assert errors[1].startswith("b.txt cannot be used: it is of none of the formats JPEG")
    opened.problems = [each for each in opened.problems if "422" not in str(each)]  # told above


def test_paste_samples_and_camera(opened, tmp_path):
    data = base64.b64encode(photo(tmp_path / "a.png").read_bytes()).decode()
    opened.run(
        f"""const bytes = Uint8Array.from(atob('{data}'), (c) => c.charCodeAt(0));
        const clipboardData = new DataTransfer();
        clipboardData.items.add(new File([bytes], 'image.png', {{ type: 'image/png' }}));
        document.dispatchEvent(new ClipboardEvent('paste', {{ clipboardData }})); 0"""
    )
    assert len(bars(opened)) == 3
    opened.run("document.querySelector('#samples button').click()")
    opened.wait_for(f"{NUMBER_OF_BARS} == 6")
    opened.run("document.getElementById('camera').click()")
    opened.wait_for("document.getElementById('video').videoWidth")
    opened.run("document.getElementById('shoot').click()")
    opened.wait_for(f"{NUMBER_OF_BARS} == 9")
    titles = "[...document.querySelectorAll('article h2')].map((each) => each.textContent)"
    assert opened.run(titles)[::2] == ["camera.png", "image.png"]
    opened.run("document.getElementById('leave').click()")
    assert not opened.run("stream.getTracks()[0].readyState == 'live'")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(opened, server, tmp_path, dark):
    opened.open(server.address, width=360, height=740, dark=dark)
    opened.wait_for("document.querySelectorAll('#samples img').length == 8")
    opened.drop(photo(tmp_path / ("long_name_" * 12 + ".png")))
    bars(opened)
    assert opened.run("document.documentElement.scrollWidth") <= 360
    colors = opened.run(
        "['color', 'backgroundColor'].map((name) => getComputedStyle(document.body)[name])"
    )
    bright = [sum(map(int, color[4:-1].split(","))) > 384 for color in colors]
    assert bright == [dark, not dark]
