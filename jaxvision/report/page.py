"""report.html: one page that opens from disk, of what the folders of runs hold."""

import base64
import datetime
import html
import pathlib
import re
import shlex
from collections.abc import Sequence, Set
from typing import Any

from jaxvision.errors import InputError, printable, reason, shorten
from jaxvision.evaluation.classifier import RESULTS_FILE
from jaxvision.files import read_json, read_metrics, write_text
from jaxvision.options.options import Options, as_json
from jaxvision.plots.curves import LOSS, PERCENT, QUALITY, RATE, SPEED
from jaxvision.train.workdir import flat, stored_options

PAGE_FILE = "report.html"
FOLDER, CONTENT_FILE = "report", "content.json"  # of a run: what `gather` leaves for its page
MOST_RUNS = 8  # of a page; the colours of more would not be told apart
MOST_POINTS = 2_000  # of a curve
MOST_CELLS = 30  # classes; the cells of more would be too small to read
MOST_PAIRS = 25
COLORS = ("#4269d0", "#ff725c", "#3ca951", "#a463f2", "#efb118", "#38b2ac", "#ff8ab7", "#9c6b4e")
DASHES = ("solid", "dot", "dash", "dashdot")


def write_page(runs: Sequence[pathlib.Path], path: pathlib.Path) -> pathlib.Path:
    """Writes the page of one run, or of several that are compared; returns its path.

    Whatever a folder does not hold yet is left out, so that a run that broke off has a page, too.

    Args:
      runs: Folders of the runs.
      path: Path of the page; its folder must exist.

    Raises:
      InputError: if a folder holds no run, or one of its files is damaged.
    """
    from jinja2 import TemplateError

    if not 1 <= len(runs) <= MOST_RUNS:
        raise InputError(f"A report is of 1 to {MOST_RUNS} runs, got {len(runs)}.")
    try:
        page = _page([_read(folder) for folder in runs])
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, TemplateError) as error:
        folders = ", ".join(str(folder) for folder in runs)
        raise InputError(
            f"A JSON file in {folders} or its report/ is damaged ({shorten(reason(error))}): "
            "restore it, or remove evaluation.json and report/."
        ) from error
    write_text(path, page)
    return path


def _page(read: list[dict[str, Any]]) -> str:
    """Returns the page of what `_read` found in the folders."""
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    names = _names([run["folder"] for run in read])
    for run, name, color in zip(read, names, COLORS, strict=False):
        run |= {"name": name, "color": color, "facts": _facts(run), "command": _command(run)}

    def shown(value: Any) -> Any:
        return (
            value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)
        )

    here = pathlib.Path(__file__).parent
    environment = Environment(
        loader=PackageLoader("jaxvision.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html").render(
        title=" / ".join(names),
        runs=read,
        results=_results(read),
        differences=_differences(read),
        charts=_curves(read)
        + [chart for run in read for chart in (*_reliability(run), *_embedding(run))],
        most_cells=MOST_CELLS,
        most_pairs=MOST_PAIRS,
        plotly=Markup((here / "plotly-basic.min.js").read_text(encoding="utf-8")),
    )


def _read(folder: pathlib.Path) -> dict[str, Any]:
    """Returns what the folder of a run holds."""
    folder = folder.expanduser().absolute()
    config = stored_options(folder)
    if not config:
        raise InputError(f"{folder} is not the folder of a run: it has no config.json.")
    content = _json(folder / FOLDER / CONTENT_FILE, {"step", "parameters", "sections"})
    evaluation = _json(folder / RESULTS_FILE, {"weights"})
    has_metrics = (folder / "metrics.jsonl").is_file()
    metrics = sorted(read_metrics(folder), key=lambda x: x["step"]) if has_metrics else []
    scores = list(evaluation.get("weights", {}).values())
    return {
        "folder": folder,
        "config": config,
        "versions": _json(folder / "versions.json"),
        "data": _json(folder / "data.json"),
        "content": content,
        "sections": [_section(folder / FOLDER, each) for each in content.get("sections", [])],
        "metrics": metrics,
        "step": metrics[-1]["step"] if metrics else 0,
        "scores": scores[-1] if scores else None,  # of the averaged weights where there are any
    }


def _json(path: pathlib.Path, names: Set[str] = frozenset()) -> dict[str, Any]:
    """Returns what a file holds, {} where there is none; `names` must be in it."""
    try:
        content = read_json(path) if path.exists() else {}
        if content and not names <= set(content):
            raise ValueError(f"it lacks {', '.join(sorted(names - set(content)))}")
        return content
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): remove it, or restore it.") from error


def _section(folder: pathlib.Path, section: dict[str, Any]) -> dict[str, Any]:
    """Returns a section with its pictures as data; a name that is not ours is not opened."""
    pictures = []
    for picture in section["pictures"]:
        path = folder / str(picture["file"])
        if re.fullmatch(r"\d+\.jpg", path.name) and path.parent == folder and path.is_file():
            data = base64.b64encode(path.read_bytes()).decode()
            pictures.append(picture | {"source": f"data:image/jpeg;base64,{data}"})
    return section | {"pictures": pictures}


def _names(folders: Sequence[pathlib.Path]) -> list[str]:
    """Returns the names of the folders, with their parents' where two are alike."""
    names = [folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [f"{folder.parent.name}/{folder.name}" for folder in folders]
    return [shorten(name, 60) for name in names]


def _facts(run: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns what was run and on what, as (name, value)."""
    config, content, versions = run["config"], run["content"], run["versions"]
    options = flat(as_json(Options())) | flat(config)
    batch, total = options["batch_size"], content.get("total_steps") or options["total_steps"]
    speeds, seconds, before = [], 0.0, 0
    for record in run["metrics"]:
        speed = record.get("train/images_per_second")
        if speed:
            speeds.append(speed)
            seconds += (record["step"] - before) * batch / speed
        if "train/loss" in record:
            before = record["step"]
    ended = bool(content) and run["step"] <= content["step"]
    splits = [
        f"{run['data'][split]['examples']:,} {name}"
        for split, name in (("train", "training"), ("eval", "evaluation"))
        if "examples" in run["data"].get(split, {})
    ]
    of = f" of {total:,}" if total else ""
    facts = {
        "Model": options["model.name"],
        "Parameters": f"{content['parameters']:,}" if content else "",
        "Data": " ".join(filter(None, (options["data.name"], options["data.path"]))),
        "Examples": ", ".join(splits),
        "Image size": str(options["data.image_size"]),
        "Steps": f"{run['step']:,}{of}, of {batch:,} images"
        + ("" if ended else " (the run has not ended)"),
        "Devices": f"{versions['device_count']} x {versions['devices']}, "
        f"processes: {versions['process_count']}"
        if "device_count" in versions
        else "",
        "Speed": f"{sorted(speeds)[len(speeds) // 2]:,.0f} images/s" if speeds else "",
        "Training time": f"{datetime.timedelta(seconds=round(seconds))} without evaluations"
        if seconds
        else "",
        "Versions": ", ".join(
            f"{name} {versions[name]}"
            for name in ("jaxvision", "jax", "flax", "optax", "python")
            if name in versions
        ),
        "Folder": str(run["folder"]),
    }
    return [(name, value) for name, value in facts.items() if value]


def _command(run: dict[str, Any]) -> str:
    """Returns a command that trains the same anew: every option that is not the default."""
    default, command = flat(as_json(Options())), "jaxvision train --config=configs/common.py"
    words = [f"--workdir={run['folder'].parent / (run['folder'].name + '-again')}"]
    for name, value in flat(run["config"]).items():
        if name not in default and not name.startswith("model.kwargs."):
            continue  # of an older version
        if value != default.get(name):
            words.append(f"--config.{name}={_plain(value)}")
    return " ".join([command, *map(shlex.quote, words)])


def _plain(value: Any) -> Any:
    """Returns a value of JSON as it is typed: lists are tuples."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _results(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the last value of every metric of an evaluation: (name, one text for each run)."""
    last = [
        {k: v for record in run["metrics"] for k, v in record.items() if k.startswith("eval")}
        for run in runs
    ]
    names = list(dict.fromkeys(name for values in last for name in values))
    return [(name, [_number(values.get(name)) for values in last]) for name in names]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _differences(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str]]]:
    """Returns the options in which runs differ: (name, one text for each run)."""
    default = flat(as_json(Options()))
    options = [default | flat(run["config"]) for run in runs]
    names = sorted({name for each in options for name in each})
    rows = [(name, [each.get(name) for each in options]) for name in names]
    return [
        (name, [shorten(_plain(value)) for value in values])
        for name, values in rows
        if any(value != values[0] for value in values)
    ]


def _curves(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the curves of all runs as Plotly draws them: a run is a colour, a series a dash."""
    known = {name for run in runs for record in run["metrics"] for name in record}
    charts = []
    for panels in (LOSS, QUALITY, RATE, SPEED):
        fitting = [panel for panel in panels if known & {name for name, *_ in panel[-1]}]
        for title, unit, tick, series in fitting[:1]:
            traces = []
            for run in runs:
                for place, (name, label, color) in enumerate(series):
                    points = [(r["step"], r[name]) for r in run["metrics"] if name in r]
                    points = points[:: -(-len(points) // MOST_POINTS) or 1]
                    if not points:
                        continue
                    alone = len(runs) == 1
                    text = label if alone else f"{run['name']}: {label}"
                    dash = "solid" if alone else DASHES[place % len(DASHES)]
                    traces.append(
                        {
                            "x": [step for step, _ in points],
                            "y": [value and float(f"{value:.5g}") for _, value in points],
                            "name": html.escape(text),  # Plotly reads some HTML in it
                            "mode": "lines+markers" if len(points) <= 30 else "lines",
                            "line": {"color": color if alone else run["color"], "dash": dash},
                        }
                    )
            axis = {"tickformat": ".0%"} if tick == PERCENT else {}
            if panels is not LOSS:  # shares and rates are read against zero
                axis["rangemode"] = "tozero"
            charts.append({"title": title, "x": "step", "y": unit, "yaxis": axis, "traces": traces})
    return charts


def _reliability(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the reliability diagram of a classifier."""
    calibration = (run["scores"] or {}).get("calibration")
    if not calibration:
        return []
    rows = [row for row in calibration["reliability"] if row["count"]]
    return [
        {
            "title": f"Reliability of {run['name']}: ECE {calibration['ece']:.2%}, "
            f"{calibration['ece_after_temperature']:.2%} with temperature "
            f"{calibration['temperature']:.3g}",
            "x": "confidence",
            "y": "right",
            "xaxis": {"range": [0, 1], "tickformat": ".0%"},
            "yaxis": {"range": [0, 1], "tickformat": ".0%"},
            "traces": [
                {
                    "type": "bar",
                    "x": [(row["lower"] + row["upper"]) / 2 for row in rows],
                    "y": [row["accuracy"] for row in rows],
                    "text": [f"{row['count']:,} images" for row in rows],
                    "textposition": "none",
                    "name": "right",
                    "marker": {"color": run["color"]},
                },
                {"x": [0, 1], "y": [0, 1], "mode": "lines", "name": "as sure as right",
                 "line": {"color": "#888888", "dash": "dash"}},
            ],
        }
    ]  # fmt: skip


def _embedding(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the features of evaluation images in two dimensions, a colour for each class."""
    found = run["content"].get("embedding")
    if not found:
        return []
    names, labels = list(map(str, found["classes"])), list(map(int, found["labels"]))
    several = 1 < len(names) <= MOST_CELLS  # the colours of more could not be told apart
    shown = sorted(set(labels)) if several else [None]
    charts = []
    for method, points in found["points"].items():
        pairs = [(float(x), float(y)) for x, y in points]
        traces = []
        for label in shown:
            mine = [p for p, of in zip(pairs, labels, strict=True) if label in (None, of)]
            traces.append(
                {
                    "x": [x for x, _ in mine],
                    "y": [y for _, y in mine],
                    "name": "images" if label is None else html.escape(names[label]),
                    "mode": "markers",
                    "marker": {"size": 5, "opacity": 0.7},
                }
            )
        title = f"{method} of the features of {len(pairs):,} evaluation images of {run['name']}"
        charts.append({"title": title, "x": "first", "y": "second", "traces": traces})
    return charts
