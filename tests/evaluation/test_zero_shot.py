import pytest

from jaxvision.__main__ import make_parser
from jaxvision.data.captions.vocabulary import Vocabulary
from jaxvision.errors import InputError
from jaxvision.evaluation.zero_shot import _check_read, check_texts, check_words


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "Give images, or --data"),
        (["a.jpg", "--data=shapes"], "Give images, or --data"),
        (["a.jpg", "--run=runs/clip"], "Give --labels"),
        (["a.jpg", "--labels=a,b", "--path=data"], "belong to --data"),
        (["a.jpg", "--labels=a,b", "--templates", "a photo"], "in the place of the label"),
    ],
)
def test_arguments_that_do_not_go_together(arguments, words):
    parsed = make_parser().parse_args(["zeroshot", *arguments])
    with pytest.raises(InputError, match=words):
        parsed.run(parsed)


@pytest.mark.parametrize(
    "labels, templates, words",
    [
        (["a"], ["{}"], "two labels or more"),
        (["a", " "], ["{}"], "none of them empty"),
        (["a", "b", "a"], ["{}"], "has a twice"),
        (["a", "b"], ["a photo"], "in the place of the label"),
    ],
)
def test_words_that_make_no_classifier(labels, templates, words):
    with pytest.raises(InputError, match=words):
        check_texts(labels, templates)


@pytest.mark.parametrize(
    "labels, words",
    [
        (["dog", "cat"], "labels 'dog' and 'cat' as the same"),  # it knows neither
        (["circle", "?!"], r"'\?!' has no words"),
        (["circle", "Circle!"], "labels 'circle' and 'Circle!' as the same"),
        (["circle", "circle " * 500], "makes a text of 502 tokens, but the model reads 8"),
    ],
)
def test_labels_that_the_model_does_not_tell_apart(labels, words):
    vocabulary = Vocabulary(["a", "circle", "star"])
    _check_read(["circle", "star"], ["{}", "a {}"], vocabulary, 8)
    with pytest.raises(InputError, match=words):
        _check_read(labels, ["{}", "a {}"], vocabulary, 8)


def test_a_typed_label_has_words_that_the_model_knows():
    vocabulary = Vocabulary(["a", "circle", "star"])
    check_words(["a circle", "star"], vocabulary)
    with pytest.raises(InputError, match="'a dog' has a word that the model never saw"):
        check_words(["circle", "a dog"], vocabulary)
