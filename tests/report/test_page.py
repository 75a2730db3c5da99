"""report.html: what it holds of one run and of several, and what a browser makes of it."""

import html
import json
import re
import shlex
import shutil
import subprocess

import finished_run
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags
from opening import write_report
from PIL import Image

from configs import common
from jaxvision.errors import InputError
from jaxvision.evaluation.scores import classification_scores
from jaxvision.options.options import Options, as_json, read_options
from jaxvision.report.page import write_page

HOSTILE = "<script>window.stolen=1</script><img src=x onerror=alert(1)>\"'&\u202e"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def metrics(step):
    train = {"train/loss": 2 / step, "train/learning_rate": 0.1, "train/images_per_second": 50.0}
    return [{"step": step, **train}, {"step": step, "eval/loss": 1 / step, "eval/accuracy": 0.5}]


def write(folder, name="a", *, steps=(1, 5, 10), sections=True, scores=True, **changes):
    """Writes the files of a finished run, with hostile names everywhere; returns its folder."""
    folder = folder / name
    (folder / "report").mkdir(parents=True)
    config = as_json(Options(total_steps=10, batch_size=16))
    config["data"]["path"] = HOSTILE
    for option, value in changes.items():
        config[option] = value
    (folder / "config.json").write_text(json.dumps(config))
    lines = [json.dumps(line) for step in steps for line in metrics(step)]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if scores:
        logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
        found = classification_scores(logits, np.arange(60) % 3, (HOSTILE, "cat", "{{ 7 * 7 }}"))
        (folder / "evaluation.json").write_text(json.dumps({"weights": {"eval": found}}))
    if sections:
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(folder / "report/0000.jpg")
        picture = {"file": "0000.jpg", "title": HOSTILE, "below": f"true: {HOSTILE}"}
        section = {"title": "Samples", "note": "Some.", "pictures": [picture]}
        content = {"step": 10, "total_steps": 10, "parameters": 1234, "sections": [section]}
        (folder / "report/content.json").write_text(json.dumps(content))
    return folder


def without_plotly(page):
    """Returns a page without its largest part, which pytest would be long in comparing."""
    start, end = page.index("<script>/**"), page.index('<script type="application/json"')
    return page[:start] + page[end:]


def page_of(*folders):
    page = write_page(folders, folders[0] / "report.html").read_text(encoding="utf-8")
    return without_plotly(page)


def charts(page):
    text = re.search(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)
    return json.loads(text[1])  # pyright: ignore


def test_features_in_two_dimensions_have_a_colour_for_each_class(tmp_path):
    folder = write(tmp_path)
    path = folder / "report/content.json"
    content = json.loads(path.read_text())
    embedding = {"classes": [HOSTILE, "cat"], "labels": [0, 1, 0]}
    embedding["points"] = {"PCA": [[0, 1], [2, 3], [4, 5]], "UMAP": [[0, 0]] * 3}
    path.write_text(json.dumps(content | {"embedding": embedding}))
    page = page_of(folder)
    assert "<script>window" not in page
    pca, umap = charts(page)[-2:]
    assert pca["title"].startswith("PCA of the features of 3") and umap["title"][:4] == "UMAP"
    assert [(t["x"], t["y"]) for t in pca["traces"]] == [([0, 4], [1, 5]), ([2], [3])]
    assert "&lt;script&gt;" in pca["traces"][0]["name"]
    path.write_text(json.dumps(content | {"embedding": embedding | {"labels": [0, 1, 7]}}))
    with pytest.raises(InputError, match="is damaged"):
        page_of(folder)


def test_text_from_data_is_escaped(tmp_path):
    page = page_of(write(tmp_path, "b<i>&"))
    assert "<script>window" not in page and "<img src=x" not in page and "\u202e" not in page
    assert page.count("&lt;script&gt;window.stolen") >= 6  # of data, classes and pictures
    assert "{{ 7 * 7 }}" in page and ">49<" not in page
    assert charts(page)[0]["traces"][0]["name"] == "train"
    (other,) = page_of(write(tmp_path, "c<i>"), write(tmp_path, "d")).split("charts", 0)
    assert charts(other)[0]["traces"][0]["name"] == "c&lt;i&gt;: train"


def test_nothing_comes_from_the_network(tmp_path):
    own = page_of(write(tmp_path))
    assert "default-src 'none'" in own and len(own) < 60_000
    assert (tmp_path / "a/report.html").stat().st_size < 3_000_000
    found = re.findall(r"<[^>]* (?:src|href)=\"([^\"]*)", own)
    assert found and all(each.startswith("data:image/jpeg;base64,") for each in found)


def test_a_picture_of_another_name_is_not_read(tmp_path):
    folder = write(tmp_path)
    path = folder / "report/content.json"
    (tmp_path / "0001.jpg").write_bytes(b"secret")
    content = json.loads(path.read_text())
    for name in ("../../0001.jpg", str(tmp_path / "0001.jpg"), "../config.json", "none.jpg"):
        content["sections"][0]["pictures"][0]["file"] = name
        path.write_text(json.dumps(content))
        assert "data:image" not in page_of(folder).split("</style>")[1].replace("img-src data:", "")


def test_curves_and_numbers_are_those_of_the_files(tmp_path):
    page = page_of(write(tmp_path))
    loss, accuracy, rate, speed, reliability = charts(page)
    assert [trace["name"] for trace in loss["traces"]] == ["train", "eval"]
    assert loss["traces"][0]["x"] == [1, 5, 10] and loss["traces"][0]["y"] == [2.0, 0.4, 0.2]
    assert accuracy["yaxis"]["tickformat"] == ".0%" and rate["traces"][0]["y"] == [0.1] * 3
    assert reliability["traces"][0]["type"] == "bar"
    for fact in ("1,234", "10 of 10, of 16 images<", "50 images/s", "0:00:03 without evaluations"):
        assert fact in page, fact


def test_several_runs_are_compared(tmp_path):
    folders = [write(tmp_path, "a"), write(tmp_path, "b", seed=7, steps=(1, 5))]
    page = page_of(*folders)
    table = page.partition("What differs")[2].partition("</table>")[0]
    assert re.findall(r"<td.*?>(.*?)</td>", table) == ["seed", "0", "7"]
    names = [trace["name"] for trace in charts(page)[0]["traces"]]
    assert names == ["a: train", "a: eval", "b: train", "b: eval"]
    colors = [trace["line"]["color"] for trace in charts(page)[0]["traces"]]
    assert colors[0] == colors[1] != colors[2] == colors[3]
    with pytest.raises(InputError, match="A report is of 1 to 8 runs, got 9"):
        write_page([tmp_path] * 9, tmp_path / "x.html")


def test_a_run_that_broke_off_has_a_page(tmp_path):
    page = page_of(write(tmp_path, "early", steps=(), sections=False, scores=False))
    assert "The run has not logged a step." in page and "has not ended" in page
    page = page_of(write(tmp_path, "late", steps=(1, 5), sections=False, scores=False))
    assert "5 of 10, of 16 images (the run has not ended)" in page and len(charts(page)) == 4


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("config.json", None, "is not the folder of a run: it has no config.json"),
        ("report/content.json", "{", "content.json is damaged .*: remove it"),
        ("report/content.json", '{"step": 1}', "content.json is damaged .*: remove it"),
        ("evaluation.json", "[]", "evaluation.json is damaged .*: remove it"),
        ("evaluation.json", '{"a": 1}', "evaluation.json is damaged .it lacks weights"),
        ("evaluation.json", '{"weights": {"eval": {"a": 1}}}', "A JSON file in .* is damaged"),
        ("versions.json", '{"device_count": 1}', "A JSON file in .* is damaged"),
        ("metrics.jsonl", "x\n{}\n", "Line 1 of .*metrics.jsonl"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, file, text, expected):
    folder = write(tmp_path)
    (folder / file).unlink(missing_ok=True)
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(InputError, match=expected):
        page_of(folder)
    assert not (folder / "report.html").exists()


def test_the_command_trains_the_same_again(tmp_path, monkeypatch):
    changes = {"augment": {"crop_scale": [0.3, 1.0]}, "model": {"name": "resnet18", "kwargs": {}}}
    page = page_of(write(tmp_path, "with 'space'", **changes, seed=3))
    command = html.unescape(re.search(r"<pre>(.*?)</pre>", page)[1])  # pyright: ignore
    jaxvision, train, card, workdir, *options = shlex.split(command)
    assert [jaxvision, train, card] == ["jaxvision", "train", "--config=configs/common.py"]
    assert workdir == f"--workdir={tmp_path}/with 'space'-again"
    monkeypatch.setattr("sys.argv", ["launch.py", *options])
    config, values = common.get_config(), flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values)
    values(["launch.py", *options])
    again = read_options(config)
    assert (again.seed, again.total_steps, again.batch_size) == (3, 10, 16)
    assert again.augment.crop_scale == (0.3, 1.0) and again.model.name == "resnet18"


@pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium")
def test_a_browser_draws_it_and_runs_nothing_of_the_data(tmp_path):
    path = write(tmp_path, "<b>run</b>") / "report.html"
    write_page([path.parent, write(tmp_path, "other")], path)
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
            "--virtual-time-budget=5000", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path}/browser", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    drawn = without_plotly(done.stdout)
    assert drawn.count('class="main-svg"') >= 6, done.stderr  # two a chart
    assert 'class="legendtext"' in drawn and "&lt;b&gt;run" in drawn
    problems = [x for x in done.stderr.splitlines() if "CONSOLE" in x]
    assert not problems  # an error of a script, or something that the policy refused


def test_a_run_leaves_its_page(tmp_path):
    run, state = finished_run.write(tmp_path, total_steps=3)
    lines = [json.dumps(line) for line in metrics(3)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    write_report(run.options, state, tmp_path)
    page = without_plotly((tmp_path / "report.html").read_text())
    content = json.loads((tmp_path / "report/content.json").read_text())
    found = {section["title"]: section["pictures"] for section in content["sections"]}
    assert set(found) == {
        "The surest mistakes",
        "What it looks at",
        "Samples of every class",
        "Augmented samples",
    }
    assert len(found["What it looks at"]) == 8
    names = {picture["title"] for picture in found["Samples of every class"]}
    labels = {run.train_source.label(i) for i in range(len(run.train_source))}
    assert names == {run.task.class_names[label] for label in labels}
    sure = [int(p["title"].split()[-1].rstrip("%")) for p in found["The surest mistakes"]]
    assert sure == sorted(sure, reverse=True)
    evaluated = json.loads((tmp_path / "evaluation.json").read_text())
    mistakes = round((1 - evaluated["weights"]["eval_ema"]["accuracy"]) * 16)
    assert len(found["The surest mistakes"]) == mistakes > 0
    assert page.count("data:image/jpeg") == sum(map(len, found.values()))
    assert "Every class" in page
