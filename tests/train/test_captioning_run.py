"""A captioner from the config to the command that uses it."""

import base64
import io
import itertools
import json
import shutil

import browser
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
from opening import evaluate_run, make_run, preflight, train, write_report
from train import helpers

from configs import caption_shapes
from jaxvision.__main__ import main, make_parser
from jaxvision.data.captions.features import write_features
from jaxvision.data.captions.open_captions import open_caption_source
from jaxvision.data.captions.shape_captions import ShapeCaptionSource
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.data.captions.vocabulary_file import load_vocabulary
from jaxvision.errors import InputError
from jaxvision.evaluation.caption import attention_maps, open_captioner
from jaxvision.interop.trained import open_trained
from jaxvision.tasks.caption_scores import make_caption_step
from jaxvision.tasks.captioning import NUM_SAMPLES
from jaxvision.tasks.task import drawn
from jaxvision.train.checkpoint import Checkpointer

SIZES = {"num_train": 32, "num_eval": 10}
TINY = dict(
    encoder="deit_ti16",  # whose pixels are normalised in another way than the captioner's row says
    encoder_options=dict(width=16, depth=1, num_heads=2, patch_size=8),
    width=16,
    depth=1,
    num_heads=2,
    hidden_width=32,
)

PICTURES = {"samples.png", "eval_samples.png", "schedule.png"}


def config(**options):
    config = caption_shapes.get_config()
    config.model.kwargs = TINY
    config.data.image_size = 16
    config.data.shapes.num_train, config.data.shapes.num_eval = 32, 10
    config.batch_size, config.eval_batch_size = 8, 4
    config.total_steps, config.eval.every_steps, config.checkpoint.every_steps = 4, 2, 2
    config.schedule.warmup_steps = 0
    config.schedule.name = "constant"  # half a run is the half of a run
    config.mesh.data = 1
    config.log.every_steps = 1
    with config.unlocked():
        config.update_from_flattened_dict({k.replace("__", "."): v for k, v in options.items()})
    return config


@pytest.fixture(autouse=True, scope="module")
def fewer_captions():
    """Of the 92,160 captions of shapes every 101st, which have all words."""
    all_captions = ShapeCaptionSource.all_captions
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            ShapeCaptionSource,
            "all_captions",
            lambda self: itertools.islice(all_captions(self), 0, None, 101),
        )
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory, fewer_captions):
    folder = tmp_path_factory.mktemp("captions") / "run"
    return folder, train(config(ema_decay=0.9), folder)


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def said(state):
    """Returns (images, captions, references) of what `finished` draws."""
    run = make_run(config(ema_decay=0.9))
    records = drawn(len(run.eval_source), NUM_SAMPLES)
    source = run.task.eval_subset(records)
    batches = [*run.eval_batches(source)]
    batch = {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
    batch = {key: values[: len(records)] for key, values in batch.items()}
    decode = make_caption_step(run.graphdef, run.task.settings, preprocess_fn=run.preprocess_fn)
    tokens = np.asarray(decode(state.ema_params, state.ema_batch_stats, run.put(batch)).tokens)
    captions = [run.task.vocabulary.decode(row) for row in tokens[:, 0]]
    references = [source.captions(int(i))[0] for i in batch["index"]]
    return batch["image"], captions, references


def test_what_a_run_leaves(finished, figures):
    folder, state = finished
    write_report(config(ema_decay=0.9), state, folder)
    last = metrics(folder)[-1]
    names = "loss perplexity token_accuracy bleu1 bleu4 rouge_l cider exact_match"
    for prefix in ("eval", "eval_ema"):
        assert {f"{prefix}/{name}" for name in names.split()} <= set(last)
    assert last["eval/perplexity"] == pytest.approx(np.exp(last["eval/loss"]), rel=1e-4)
    assert (folder / "captions.png").exists() and (folder / "curves.png").exists()
    content = json.loads((folder / "report/content.json").read_text())
    titles = [section["title"].partition(":")[0] for section in content["sections"]]
    assert titles[0] == "Captions" and titles[-1] == "Augmented samples"
    assert set(titles[1:-1]) <= {"Where each word was read"}
    captions = {picture["title"] for picture in content["sections"][0]["pictures"]}
    for section in content["sections"][1:-1]:
        words = [picture["title"] for picture in section["pictures"]]
        assert " ".join(words) in captions and section["title"].endswith(" ".join(words))
    assert "Where each word was read" in titles or captions == {""}
    assert (folder / "report.html").exists()
    panels = [axes for axes in figures[0].axes if axes.images]
    for axes, image, caption, reference in zip(panels, *said(state), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), image)
        assert " ".join(axes.get_title().split()) == caption
        assert " ".join(axes.texts[0].get_text().split()) == reference
    vocabulary = load_vocabulary(str(folder / "vocabulary.json"))
    assert "circle" in vocabulary.words and vocabulary.unk == 3
    assert not (folder / "classes.txt").exists()


def test_evaluation_does_not_depend_on_the_batch(finished):
    folder, _ = finished
    results = evaluate_run(config(ema_decay=0.9, eval_batch_size=5), folder)
    last = metrics(folder)[-1]
    for name, value in results.items():
        assert value == pytest.approx(last[name], rel=1e-4, abs=1e-6), name


def test_an_evaluation_takes_the_words_of_the_run(finished):
    folder, _ = finished
    others = config(ema_decay=0.9, caption__min_count=1_000)  # of training captions: hardly a word
    assert evaluate_run(others, folder)["eval/loss"] == pytest.approx(
        metrics(folder)[-1]["eval/loss"]
    )


def test_resume_is_bit_for_bit(finished, tmp_path):
    _, state = finished
    train(config(ema_decay=0.9, total_steps=2), tmp_path / "run")
    resumed = train(config(ema_decay=0.9, resume_changed=True), tmp_path / "run")
    helpers.assert_equal(resumed, state)


def check_attention(figure, words, folder, photo):
    """Each panel shows the image under the cross-attention of the token before its word."""
    trained = open_trained(str(folder))
    pixels = trained.transform(np.asarray(PIL.Image.open(photo)), None)
    start, *said = load_vocabulary(str(folder / "vocabulary.json")).encode(
        " ".join(words), len(words) + 2
    )
    mean, std = trained.spec.preprocess.mean, trained.spec.preprocess.std
    images = (pixels / 255 - np.array(mean)) / np.array(std)
    weights = jax.jit(lambda model, *inputs: model.cross_attention(*inputs))(
        trained.model,
        jnp.asarray(images[None], jnp.float32),
        jnp.asarray([[start, *said]])[:, : len(words)],
    )
    maps = np.asarray(weights).mean((0, 2))[0].reshape(len(words), 2, 2)  # 16 pixels, patches of 8
    whole, *panels = figure.axes
    np.testing.assert_array_equal(whole.images[0].get_array(), pixels)
    for axes, word, expected in zip(panels, words, maps, strict=False):
        assert axes.get_title() == word
        np.testing.assert_array_equal(axes.images[0].get_array(), pixels)
        np.testing.assert_allclose(axes.images[1].get_array(), expected, rtol=1e-4)
    assert maps.std() > 0 and not any(axes.images for axes in panels[len(words) :])


def test_words_of_the_explanation(finished, tmp_path, capsys):
    folder, _ = finished
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    command = ["explain", str(tmp_path / "a.png"), f"--run={folder}", f"--out={tmp_path}/maps"]
    assert main([*command, "--json"]) == 0
    files = sorted(path.name for path in (tmp_path / "maps").iterdir())
    assert files == ["a-attention.png", "a-gradient.png", "a.json"]
    told = json.loads((tmp_path / "maps" / "a.json").read_text())
    attention, gradient = (np.array(told["maps"][name]) for name in ("attention", "gradient"))
    assert attention.shape == gradient.shape == (len(told["titles"]), 2, 2)
    np.testing.assert_allclose(attention.sum(axis=(1, 2)), 1.0, rtol=1e-5)
    assert (gradient >= 0).all() and gradient.max() > 0
    capsys.readouterr()
    for option, answer in (
        ("--target=1", "explains its words"),
        ("--method=rollout", "by attention and gradient, got rollout"),
    ):
        assert main([*command, option]) == 2
        assert answer in capsys.readouterr().err


def test_captions_of_the_command(finished, tmp_path, capsys, figures):
    folder, _ = finished
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(rng.integers(0, 256, (40, 30, 3), np.uint8)).save(photos / name)
    (photos / "c.png").write_bytes(b"no image")
    assert (
        main(["caption", str(photos), f"--run={folder}", "--beam=3", "--n-best=2", "--json"]) == 2
    )
    out = capsys.readouterr()
    lines = [json.loads(line) for line in out.out.splitlines()]
    assert [len(line["captions"]) for line in lines] == [2, 2, 0] and "error" in lines[2]
    assert lines[0]["captions"][0]["score"] >= lines[0]["captions"][1]["score"]
    assert "c.png cannot be used" in out.err

    picture = tmp_path / "attention.png"
    assert (
        main(["caption", str(photos / "a.png"), f"--run={folder}", f"--attention={picture}"]) == 0
    )
    words = capsys.readouterr().out.strip().partition(": ")[2].split()
    assert words and picture.exists()
    check_attention(figures[0], words, folder, photos / "a.png")
    command = ["caption", str(photos / "a.png"), f"--run={folder}", "--sample", "--n-best=3"]
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.fixture(scope="module")
def served(finished):
    """A server of the run."""
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    from serving_thread import served

    from jaxvision.commands.serve import open_engine

    arguments = make_parser().parse_args(["serve", f"--run={finished[0]}", "--beam=3"])
    engine = open_engine(arguments, {"weights": str(finished[0])})
    with served(engine, batch=2) as server:
        yield server


@pytest.fixture
def photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def test_the_server_says_what_the_command_says(finished, served, photo, capsys):
    assert main(["caption", str(photo), f"--run={finished[0]}", "--beam=3", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["captions"]
    image = ("a.png", photo.read_bytes())
    assert served.ask("GET", "/health")[1]["maps"] == ["attention"]
    assert served.predict(image)[1]["results"] == [{"image": "a.png", "captions": expected}]

    status, told = served.predict(image, maps="attention")
    (result,) = told["results"]
    assert status == 200 and result["captions"] == expected
    trained, vocabulary, _ = open_captioner(str(finished[0]))
    pixels = trained.transform(np.asarray(PIL.Image.open(photo)), None)
    seen = PIL.Image.open(io.BytesIO(base64.b64decode(result["seen"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(seen), pixels)
    words = expected[0]["caption"].split()
    tokens = [vocabulary.start, *vocabulary.encode(" ".join(words), len(words) + 2)[1:]]
    names, maps = attention_maps(trained, vocabulary, pixels, np.array(tokens))
    assert [each["label"] for each in result["maps"]] == names == words
    np.testing.assert_allclose([each["values"] for each in result["maps"]], maps, atol=1e-6)
    status, told = served.predict(image, maps="attenton")
    assert status == 422 and told["error"] == "maps must be one of attention, got 'attenton'" + (
        "; did you mean 'attention'?"
    )


@pytest.mark.skipif(browser.CHROMIUM is None, reason="needs Chromium")
def test_each_word_on_the_page_has_its_map(served, photo, tmp_path):
    with browser.chromium(tmp_path / "profile") as page:
        page.open(served.address)
        page.wait_for("document.getElementById('curl')?.textContent")
        page.drop(photo)
        page.wait_for("document.querySelectorAll('.maps button').length")
        words = "[...document.querySelectorAll('.maps button')].map((each) => each.textContent)"
        caption = page.run("document.querySelector('.caption').textContent")
        assert " ".join(page.run(words)) == caption
        assert page.run("document.querySelector('canvas').hidden")
        page.run("document.querySelector('.maps button').click()")
        page.wait_for("!document.querySelector('canvas').hidden")
        colors = page.run(
            "(() => { const canvas = document.querySelector('canvas'); return [...canvas"
            ".getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]; })()"
        )
        colors = np.reshape(colors, (16, 16, 4))  # as many as the pixels that the model sees
        # The cell that is looked at least is dark blue, and the one looked at most yellow.
        corners = colors[[0, 0, -1, -1], [0, -1, 0, -1], :3]
        for color in ((68, 1, 84), (253, 231, 37)):  # the browser's smoothing changes them a little
            assert np.abs(corners - color).max(axis=1).min() < 25, corners
        page.run("document.querySelector('.maps button').click()")
        assert page.run("document.querySelector('canvas').hidden")
        assert not page.problems


def test_the_command_says_what_the_evaluation_said(finished, tmp_path, capsys):
    folder, state = finished
    images, expected, _ = said(state)
    for number, pixels in enumerate(images):
        PIL.Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    assert main(["caption", str(tmp_path), f"--run={folder}", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["captions"][0]["caption"] for line in lines] == expected
    assert open_trained(str(folder)).spec == make_run(config(ema_decay=0.9)).spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["photo.png", "--run=nowhere"], "neither a file of weights nor the folder of a run"),
        (["{photo}", "{photo}", "--run={run}", "--attention=x.png"], "--attention draws one image"),
        (["{photo}", "--run={run}", "--sample", "--top-p=2"], "top_p must be in"),
        (["{photo}", "--run={run}", "--length-penalty=nan"], "length_penalty must be finite"),
    ],
)
def test_wrong_commands_end_with_one_sentence(finished, arguments, message, tmp_path, capsys):
    photo = tmp_path / "photo.png"
    PIL.Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(photo)
    filled = [a.format(photo=photo, run=finished[0]) for a in arguments]
    filled = [str(photo) if a == "photo.png" else a for a in filled]
    assert main(["caption", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_pooled_memory_has_no_attention_to_draw(finished, tmp_path, capsys):
    shutil.copytree(finished[0], tmp_path / "run")  # the weights of a pooled memory are the same
    written = json.loads((tmp_path / "run/config.json").read_text())
    written["model"]["kwargs"]["memory"] = "pooled"
    (tmp_path / "run/config.json").write_text(json.dumps(written))
    photo = tmp_path / "photo.png"
    PIL.Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(photo)
    command = ["caption", str(photo), f"--run={tmp_path}/run", f"--attention={tmp_path}/a.png"]
    assert main(command) == 2
    assert "one vector" in capsys.readouterr().err and not (tmp_path / "a.png").exists()


def test_preflight_of_captions(tmp_path):
    preflight(config(), tmp_path / "look", memory_gib=4.0)
    assert {p.name for p in (tmp_path / "look").iterdir()} == PICTURES


def test_features_in_place_of_images(tmp_path):
    for split in ("train", "test"):
        source = open_caption_source("shapes", split, image_size=16, shapes=SIZES)
        count = len(source)
        ids = np.array([source.image_id(i) for i in range(count)])
        values = np.random.default_rng(0).standard_normal((count, 4, 6), np.float32)
        write_features(str(tmp_path / split), [(ids, values)], num_images=count)
    kwargs = {key: TINY[key] for key in ("width", "depth", "num_heads", "hidden_width")}
    settings = config(
        model__kwargs=kwargs,
        data__features=str(tmp_path),
        caption__self_critical_samples=2,
        total_steps=2,
    )
    state = train(settings, tmp_path / "run")
    write_report(settings, state, tmp_path / "run")
    assert not (tmp_path / "run/captions.png").exists()
    assert "data:image/jpeg" not in (tmp_path / "run/report.html").read_text()
    assert metrics(tmp_path / "run")[0]["train/cider"] >= 0


def test_a_second_stage_needs_the_same_words(finished, tmp_path):
    folder, state = finished
    options = dict(model__init_from=str(folder), caption__self_critical_samples=2, total_steps=1)
    train(config(**options), tmp_path / "second")
    words = Vocabulary(sorted(load_vocabulary(str(folder / "vocabulary.json")).words[4:]))
    words.save(str(tmp_path / "other.json"))
    with pytest.raises(InputError, match="other words"):
        train(config(**options, caption__vocabulary=str(tmp_path / "other.json")), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_encoder_starts_from_weights_of_its_own(tmp_path):
    import finished_run

    encoder = {"width": 16, "depth": 1, "num_heads": 2, "patch_size": 8}
    _, classifier = finished_run.write(tmp_path / "vit", options=encoder, data__image_size=16)
    run = make_run(config(model__encoder_from=str(tmp_path / "vit")))
    params, _ = run.initial_weights()
    ours, theirs = params["encoder"], jax.device_get(classifier.ema_params or classifier.params)
    theirs = {name: value for name, value in theirs.items() if name != "head"}
    assert set(ours) == set(theirs)
    helpers.assert_equal(ours, theirs)
    with pytest.raises(InputError, match="has no encoder"):
        make_run(
            config(
                model__kwargs=dict(encoder=None, feature_width=8),
                model__encoder_from=str(tmp_path / "vit"),
            )
        ).initial_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(model__name="vit_ti16", model__kwargs={}), "is a model for classification"),
        (dict(task="captions"), "--config.task must be one of"),
        (dict(augment__mixup_alpha=0.2), "cannot be mixed"),
        (dict(caption__max_length=2), "needs at least 3 tokens"),
        (dict(caption__max_length=6, caption__strict_length=True), "longer than 6 tokens"),
        (dict(caption__num_beams=0), "num_beams must be at least 1"),
        (dict(caption__self_critical_samples=1), "at least 2"),
        (
            dict(caption__self_critical_samples=2, data__shapes__num_train=1_000_000),
            "at most 200,000 training images, there are 1,000,000",
        ),
        (dict(caption__tokens="letters"), "--config.caption.tokens must be one of"),
        (dict(caption__vocabulary="nowhere.json"), "nowhere.json"),
        (dict(checkpoint__best_metric="eval/accuracy"), "best_metric must be one of eval/cider"),
        (dict(data__name="coco_captions", data__path="nowhere"), "nowhere"),
    ],
)
def test_a_wrong_config_ends_with_one_sentence(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(config(**options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_words_of_a_resumed_run_must_be_the_same(tmp_path):
    train(config(total_steps=1), tmp_path / "run")
    path = tmp_path / "run/vocabulary.json"
    Vocabulary(["a", "red", "circle"]).save(str(path))
    with pytest.raises(InputError, match="trained with 7"):
        train(config(total_steps=2, resume_changed=True), tmp_path / "run")


def test_checkpoints_keep_the_best_cider(finished):
    with Checkpointer(
        finished[0] / "checkpoints", best_metric="eval/cider", read_only=True
    ) as checkpointer:
        assert checkpointer.best_step in (2, 4)
