import pytest

from jaxvision.__main__ import make_parser
from jaxvision.errors import InputError
from jaxvision.evaluation.zero_shot import check_texts


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
