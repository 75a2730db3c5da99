"""`jaxvision score`: what it prints, and its sentence for every wrong file.

`python -m pytest tests/test_score_command.py -s --no-header -q` prints the sentences.
"""

import json

import numpy as np
import pytest

from jaxvision import __main__ as command
from jaxvision.data.captions.results import read_candidates, read_references
from jaxvision.data.source import DataError
from jaxvision.metrics import meteor_data
from jaxvision.metrics.caption import score_captions
from jaxvision.metrics.ptb_tokenizer import ptb_tokenize

CAPTIONS = {
    3: ["A man riding a horse on the beach.", "a person rides a brown horse"],
    7: ["Two dogs play in the snow", "a pair of dogs"],
    9: ["A red bus driving down the street", "a bus is parked"],
}
RESULTS = {9: "a bus on a street", 3: "a man on a horse", 7: "two dogs in the grass"}
METRICS = ["bleu", "rouge_l", "cider"]
PLAIN = f"--metrics={','.join(METRICS)}"


@pytest.fixture
def score(monkeypatch, capsys):
    """Returns a function from arguments to (exit code, stdout, stderr)."""
    monkeypatch.setattr(command, "quiet_libraries", lambda: None)

    def run(*arguments):
        capsys.readouterr()  # what the test itself has printed
        code = command.main(["score", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def files(tmp_path):
    """Returns the paths of references and of results."""
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in CAPTIONS]
    annotations = [
        {"id": 10 * i + k, "image_id": i, "caption": text}
        for i, texts in CAPTIONS.items()
        for k, text in enumerate(texts)
    ]
    return (
        write(tmp_path / "captions_val.json", {"images": images, "annotations": annotations}),
        write(tmp_path / "results.json", results(RESULTS)),
    )


def results(captions):
    return [{"image_id": i, "caption": text} for i, text in captions.items()]


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_scores(score, files):
    code, out, err = score(*files, PLAIN, "--json")
    answer = json.loads(out)
    expected = score_captions(list(CAPTIONS.values()), [RESULTS[i] for i in CAPTIONS], METRICS)
    assert code == 0 and not err and answer == {"images": 3, "scores": expected, "notes": []}
    code, out, err = score(*files, PLAIN)
    lines = [line.split() for line in out.splitlines()]
    assert code == 0 and not err and lines[0] == ["3", "images"]
    assert lines[1:] == [[name, f"{value:.4f}"] for name, value in expected.items()]


def test_default_is_what_needs_no_java(score, files, monkeypatch):
    has_meteor = meteor_data.has_meteor()
    _, out, _ = score(*files, "--json")
    assert ("meteor" in json.loads(out)["scores"]) == has_meteor and "spice" not in out
    monkeypatch.setattr(meteor_data, "find_package", lambda: None)
    code, out, _ = score(*files, "--json")
    answer = json.loads(out)
    assert code == 0 and set(answer["scores"]) == {f"bleu{n}" for n in range(1, 5)} | {
        "rouge_l",
        "cider",
    }
    assert "jaxvision-nnx[caption-eval]" in answer["notes"][0]


def test_subset_and_single_image(score, files, tmp_path):
    some = write(tmp_path / "some.json", results({7: RESULTS[7]}))
    code, out, _ = score(files[0], some, "--subset", PLAIN)
    assert code == 0 and "cider    0.0000" in out
    assert out.splitlines()[-1].startswith("CIDEr is 0 for a single image")
    code, out, _ = score(files[0], some, "--subset", "--metrics=bleu")
    assert code == 0 and "CIDEr" not in out and out.startswith("1 image\nbleu1    0.")


def test_table_of_flickr_and_lines_of_the_caption_command(files, tmp_path):
    table = write(
        tmp_path / "val.token.txt",
        "".join(f"{i}.jpg#{k}\t{t}\n" for i, ts in CAPTIONS.items() for k, t in enumerate(ts)),
    )
    lines = [
        {"image": f"photos.zip/{i}.jpg", "captions": [{"caption": text, "score": -1.0}]}
        for i, text in RESULTS.items()
    ]
    lines.append({"image": "photos.zip/5.jpg", "captions": [], "error": "cannot be decoded"})
    printed = write(tmp_path / "printed.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    coco, flickr = read_references(str(files[0])), read_references(str(table))
    assert [flickr.captions(i) for i in range(3)] == [tuple(texts) for texts in CAPTIONS.values()]
    expected = {place: RESULTS[i] for place, i in enumerate(CAPTIONS)}
    assert read_candidates(str(printed), flickr) == expected
    printed.write_bytes(b"\xef\xbb\xbf" + printed.read_bytes())  # as Windows writes JSON
    assert read_candidates(str(printed), coco) == read_candidates(str(files[1]), coco) == expected


def test_images_are_told_apart_by_the_ends_of_their_paths(files, tmp_path):
    texts = {"a/0.jpg": "a man on a horse", "b/0.jpg": "two dogs", "2.jpg": "a bus"}
    images = [{"id": i, "file_name": name} for i, name in enumerate(texts)]
    annotations = [{"id": i, "image_id": i, "caption": t} for i, t in enumerate(texts.values())]
    content = {"images": images, "annotations": annotations}
    references = read_references(str(write(tmp_path / "captions_two.json", content)))

    def read(*names):
        lines = [{"image": name, "captions": [{"caption": name}]} for name in names]
        return read_candidates(str(write(tmp_path / "c.json", json.dumps(lines))), references)

    names = ("/photos/b/0.jpg", "C:\\photos\\a\\0.jpg", "photos.zip/2.jpg")
    assert read(*names) == {1: names[0], 0: names[1], 2: names[2]}
    with pytest.raises(DataError, match="'0.jpg', which may be a/0.jpg and b/0.jpg of"):
        read("0.jpg")
    with pytest.raises(DataError, match="images that are not in .* 'c/0.jpg'"):
        read("c/0.jpg")


def test_a_caption_without_a_word_counts_as_in_pycocoevalcap(score, files, tmp_path):
    """It matches nothing, but its image stays; BLEU's brevity penalty sees what is missing."""
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer

    peer = BleuScorer(n=4)
    for image, texts in CAPTIONS.items():
        peer += ("" if image == 7 else RESULTS[image], list(map(ptb_tokenize, texts)))
    expected = peer.compute_score(option="closest", verbose=0)[0]
    for text in ("", " . "):
        given = write(tmp_path / "empty.json", changed(i7=text))
        code, out, _ = score(files[0], given, "--metrics=bleu", "--json")
        answer = json.loads(out)
        assert code == 0 and answer["images"] == 3
        np.testing.assert_allclose(list(answer["scores"].values()), expected, rtol=1e-12)


def changed(**captions):
    return results(RESULTS | {int(name[1:]): text for name, text in captions.items()})


WRONG = {
    "missing": (results({3: "a", 7: "b"}), ["1 of the 3 images", "9.jpg", "--subset"]),
    "unknown": (changed(i8="a dog"), ["1 captions of images that are not in", "image 8"]),
    "unknown-name": (
        [{"image_id": "8.jpg", "caption": "a dog"}],
        ["1 captions of images that are not in", "image '8.jpg'"],
    ),
    "twice": (results(RESULTS) * 2, ["two captions of the image 9"]),
    "no-json": ("a dog", ["is not JSON", '"image_id": 1']),
    "cut": (json.dumps(results(RESULTS))[:-9], ["is not JSON"]),
    "nothing": ("[]", ["has no captions"]),
    "blank": ("", ["is not JSON"]),
    "object": ({"images": []}, ["no image and caption in entry 0", '"image_id": 1']),
    "number": ("5", ["no list of objects"]),
    "texts": (["a dog"], ["no list of objects"]),
    "fields": ([{"image_id": 3}], ["no image and caption in entry 0"]),
    "no-number": ([{"image_id": 3.5, "caption": "a"}], ["no image and caption in entry 0"]),
    "no-text": ([{"image_id": 3, "caption": 5}], ["no image and caption in entry 0"]),
    "no-captions": ([{"image": "3.jpg", "captions": []}], ["no image and caption in entry 0"]),
}


def check(answer, expected, name, tmp_path):
    code, out, err = answer
    assert code == 2 and not out and err.count("\n") == 1, err
    print(f"\n{name}: {err}".replace(str(tmp_path), "/tmp"), end="")
    assert err.startswith("error: ") and err.endswith((".\n", "?\n"))
    assert [text for text in expected if text not in err] == []


@pytest.mark.parametrize("name", WRONG)
def test_wrong_candidates(name, score, files, tmp_path):
    content, expected = WRONG[name]
    path = write(tmp_path / "wrong.json", content)
    check(score(files[0], path), [str(path), *expected], name, tmp_path)


def test_missing_and_unusable_files(score, files, tmp_path):
    no = tmp_path / "no.json"
    check(score(no, files[1]), [f"There is no file {no}"], "references", tmp_path)
    check(score(files[0], no), [f"{no} cannot be read"], "candidates", tmp_path)
    text = write(tmp_path / "captions.txt", "a.jpg#0\ta dog")
    check(score(text, files[1]), [f"{text} should be", ".token.txt"], "suffix", tmp_path)
    check(score(files[1], files[1]), ['{"images"'], "results as references", tmp_path)
    binary = tmp_path / "binary.json"
    binary.write_bytes(b"\xff\xfe\x00")
    check(score(files[0], binary), [f"{binary} is not text"], "binary", tmp_path)
    check(score(*files, "--metrics=blue"), ["did you mean 'bleu'"], "metric", tmp_path)


def test_what_is_not_installed(score, files, monkeypatch, tmp_path):
    monkeypatch.setattr("jaxvision.metrics.spice.find_package", lambda: None)
    answer = score(*files, "--metrics=bleu,spice")
    check(answer, ["SPICE", "pip install 'jaxvision-nnx[caption-eval]'"], "spice", tmp_path)


def test_an_endless_caption_is_refused_at_once(files, tmp_path):
    references = read_references(str(files[0]))
    results = tmp_path / "endless.json"
    results.write_text(json.dumps([{"image_id": 3, "caption": '"' * 2_000_000}]))
    with pytest.raises(DataError, match="a caption of 2,000,000 characters, of the image 3; expec"):
        read_candidates(str(results), references)
