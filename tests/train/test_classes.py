"""Labels mean what they mean to the run: when it is evaluated, resumed or looked at."""

import dataclasses
import shutil

import finished_run
import numpy as np
import PIL.Image
import pytest
from opening import evaluate_fully, make_run, train

from jaxvision.data.source import DataError
from jaxvision.errors import InputError
from jaxvision.evaluation.labelled import DataOptions, open_eval_split
from jaxvision.interop.run_folder import open_run
from jaxvision.options.options import Options
from jaxvision.train.workdir import open_workdir

NAMES = ("1", "2", "10")  # whose sorted order is 1, 10, 2


def write_images(folder, names=NAMES, splits=("train", "test"), count=4):
    for split in splits:
        for number, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.full((24, 24, 3), 40 + 60 * number + i, np.uint8)
                PIL.Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """Returns (folder of the images, folder of a run on them, its options)."""
    folder = tmp_path_factory.mktemp("pets")
    write_images(folder / "images")
    data = {"data__name": "folder", "data__path": str(folder / "images")}
    run, _ = finished_run.write(folder / "run", data__image_size=24, **data)
    assert run.task.class_names == ("1", "10", "2")
    return folder / "images", folder / "run", run.options


def with_data(options: Options, **changes) -> Options:
    return dataclasses.replace(options, data=dataclasses.replace(options.data, **changes))


def support(results) -> dict[str, int]:
    classes = results["weights"]["eval"]["classes"]
    return {each["class"]: each["support"] for each in classes}


def test_other_classes_are_refused_with_the_difference(pets, tmp_path):
    _, workdir, options = pets
    write_images(tmp_path / "images", ("01", "02", "10"))
    other = with_data(options, path=str(tmp_path / "images"))
    before = (workdir / "classes.txt").read_text()
    message = (
        "has the classes '01', '02', not among the 3 classes of the run, of which it lacks '1', '2'"
    )
    with pytest.raises(DataError, match=message):
        evaluate_fully(other, workdir)
    with pytest.raises(DataError, match=message):
        train(other, workdir)
    assert (workdir / "classes.txt").read_text() == before


def test_a_test_set_needs_neither_training_images_nor_every_class(pets, tmp_path):
    images, workdir, options = pets
    expected = evaluate_fully(options, workdir)
    assert support(expected) == {"1": 4, "10": 4, "2": 4}
    shutil.copytree(images / "test", tmp_path / "test")
    alone = evaluate_fully(with_data(options, path=str(tmp_path)), workdir)
    assert alone["weights"] == expected["weights"]
    shutil.rmtree(tmp_path / "test/1")  # now the sorted place of 10 is 0, and of 2 is 1
    fewer = evaluate_fully(with_data(options, path=str(tmp_path)), workdir)
    assert support(fewer) == {"1": 0, "10": 4, "2": 4}
    whole = np.array(expected["weights"]["eval"]["confusion"]["matrix"])
    assert np.array_equal(fewer["weights"]["eval"]["confusion"]["matrix"][1:], whole[1:])


def test_a_table_of_names_is_evaluated_by_name(pets, tmp_path):
    images, workdir, options = pets
    rows = [f"{images}/test/{name}/0.png,{name}\n" for name in ("2", "10")]
    (tmp_path / "test.csv").write_text("path,label\n" + "".join(rows))
    results = evaluate_fully(with_data(options, name="list", path=str(tmp_path)), workdir)
    assert support(results) == {"1": 0, "10": 1, "2": 1}


def test_a_run_goes_on_with_its_own_order(pets, tmp_path):
    _, workdir, options = pets
    shutil.copytree(workdir, tmp_path / "run")
    names = ["2", "1", "10"]  # as a run on a table had them, say
    (tmp_path / "run/classes.txt").write_text("\n".join(names))
    results = evaluate_fully(options, tmp_path / "run")
    assert list(support(results)) == names
    run = make_run(options, tmp_path / "run")
    labels = [run.train_source[i]["label"] for i in range(12)]
    assert labels == [1] * 4 + [2] * 4 + [0] * 4  # of the folders 1, 10, 2
    with pytest.raises(InputError, match="other classes: the data has them in another order"):
        make_run(options).task.keep(tmp_path / "run", resumes=True)


def copy_of(pets, tmp_path):
    """Returns (folder of images, folder of the run, its options) of a copy that may be changed."""
    images, workdir, options = pets
    shutil.copytree(images, tmp_path / "images")
    shutil.copytree(workdir, tmp_path / "run")
    return tmp_path / "images", tmp_path / "run", with_data(options, path=str(tmp_path / "images"))


def swap(one, other):
    for path in one.iterdir():
        a, b = path.read_bytes(), (other / path.name).read_bytes()
        path.write_bytes(b), (other / path.name).write_bytes(a)


CHANGES = {
    "removed": (lambda f: (f / "train/2/3.png").unlink(), "training split has 11 examples instead"),
    "renamed": (lambda f: (f / "train/2/3.png").rename(f / "train/2/x.png"), "other files in '2'"),
    "replaced": (
        lambda f: shutil.copy(f / "train/1/0.png", f / "test/10/0.png"),
        "evaluation split has other images under the same names",
    ),
    "swapped": (
        lambda f: swap(f / "train/1", f / "train/10"),
        "training split has other images under the same names",
    ),
    "class-gone": (lambda f: shutil.rmtree(f / "train/10"), "8 examples .*and lacks '10'"),
    "evaluation": (lambda f: shutil.rmtree(f / "test/10"), "evaluation split has 8 examples"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_changed_data_are_noticed(pets, tmp_path, change, message):
    images, workdir, options = copy_of(pets, tmp_path)

    def resume(options):
        return open_workdir(workdir, options, make_run(options, workdir).task)

    resume(options)  # the same data at another place
    change(images)
    before = (workdir / "data.json").read_text()
    with pytest.raises(InputError, match=f"have changed.*{message}.*resume_changed=True"):
        resume(options)
    assert (workdir / "data.json").read_text() == before
    resume(dataclasses.replace(options, resume_changed=True))
    assert (workdir / "classes.txt").read_text() == "1\n10\n2\n"
    resume(options)  # from here on, these are the data


def test_a_run_of_an_older_version_resumes(pets, tmp_path):
    _, workdir, options = copy_of(pets, tmp_path)
    before = (workdir / "data.json").read_text()
    (workdir / "data.json").unlink()
    evaluate_fully(options, workdir)
    open_workdir(workdir, options, make_run(options, workdir).task)
    assert (workdir / "data.json").read_text() == before


def test_a_soup_is_tasted_by_the_classes_of_the_models(pets, tmp_path):
    images, workdir, _ = pets
    shutil.copytree(images / "test", tmp_path / "test")
    shutil.rmtree(tmp_path / "test/1")
    names = open_run(workdir).class_names
    source = open_eval_split(
        DataOptions(path=str(tmp_path)), str(workdir), image_size=24, class_names=names
    )
    assert [source[i]["label"] for i in range(8)] == [1] * 4 + [2] * 4
