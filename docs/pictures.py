"""Makes the pictures of docs/gallery.md: python docs/pictures.py runs/demo, after `make demo`.

Needs the extras `serve` and `weights`, scikit-learn for one of the photos, and Chromium.
"""

import argparse
import io
import pathlib
import shutil
import subprocess
import sys
import tempfile

import matplotlib
import numpy as np
import sklearn
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
TAG = "tf_efficientnet_lite0.ml_illustrated_in1k"
PHOTOS = {
    "portrait": pathlib.Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg",
    "palace": pathlib.Path(sklearn.__file__).parent / "datasets" / "images" / "china.jpg",
}
EXPLANATIONS = "gradcam,gradcam++,eigencam,integrated-gradients,smoothgrad,occlusion"
MAPS = "gradcam,gradcam++,eigencam"
ATTENTION = "gradcam,occlusion,attention,rollout,gradient-rollout"


def main() -> None:
    """Writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path, help="finished run of configs/quickstart.py")
    parser.add_argument("--out", type=pathlib.Path, default=ROOT / "docs", help="default: docs")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    import browser

    from jaxvision.data.sources.shapes import ShapesSource

    def save(png: bytes | pathlib.Path, name: str) -> None:
        picture = Image.open(io.BytesIO(png) if isinstance(png, bytes) else png).convert("RGB")
        picture.thumbnail((1300, 1300))
        picture.save(arguments.out / f"{name}.webp", quality=80, method=6)

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        (folder / "photos").mkdir()
        for name, path in PHOTOS.items():
            shutil.copy(path, folder / "photos" / f"{name}.jpg")
        jaxvision("explain", "photos", f"--weights={TAG}", f"--method={EXPLANATIONS}", cwd=folder)
        for name in PHOTOS:
            save(folder / "explained" / f"{name}.png", f"explained_{name}")

        drawings = ShapesSource("test", difficulty="easy", image_size=48)
        rows = []
        for i in range(2):
            Image.fromarray(drawings[i]["image"]).save(folder / f"{i}.png")
            run = f"--run={arguments.run.absolute()}"
            jaxvision("explain", f"{i}.png", run, f"--method={ATTENTION}", cwd=folder)
            rows.append(np.asarray(Image.open(folder / "explained" / f"{i}.png").convert("RGB")))
        buffer = io.BytesIO()
        Image.fromarray(np.concatenate(rows)).save(buffer, "PNG")
        save(buffer.getvalue(), "explained_shapes")

        with browser.chromium(folder / "profile") as page:
            page.call("Emulation.setScrollbarsHidden", hidden=True)
            page.open((arguments.run.absolute() / "report.html").as_uri(), width=1000, height=1250)
            page.wait_for("document.querySelectorAll('.main-svg').length")
            page.run("document.querySelectorAll('h2')[0].scrollIntoView()")
            save(page.screenshot(), "report")
            save(dropped(page, folder), "serve")


def dropped(page, folder: pathlib.Path) -> bytes:
    """Returns a picture of the server's page after a drop."""
    command = ["serve", f"--weights={TAG}", "--samples=photos", "--port=0", f"--maps={MAPS}"]
    with subprocess.Popen(
        [sys.executable, "-m", "jaxvision", *command], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout
        try:
            page.open(server.stdout.readline().split()[3], width=900, height=720)
            page.wait_for("document.querySelectorAll('#samples img').length")
            page.drop(folder / "photos" / "palace.jpg", folder / "photos" / "portrait.jpg")
            page.wait_for("document.querySelectorAll('.maps button').length == 6")
            page.run("document.querySelector('.maps button').click()")
            page.wait_for("!document.querySelector('canvas').hidden")
            return page.screenshot()
        finally:
            server.terminate()


def jaxvision(*words: str, cwd: pathlib.Path) -> None:
    """Runs a command."""
    subprocess.run([sys.executable, "-m", "jaxvision", *words], cwd=cwd, check=True)


if __name__ == "__main__":
    main()
