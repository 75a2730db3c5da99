import dataclasses

import numpy as np
import pytest

from jaxvision.decode.settings import DecodeSettings
from jaxvision.errors import InputError


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 1}, "max_length must be at least 2, got 1"),
        ({"min_length": 11}, "min_length must be in [0, max_length], got 11"),
        ({"min_length": -1}, "min_length must be in"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"repetition_penalty": float("nan")}, "repetition_penalty must be above 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size must be at least 0"),
        ({"suppress_tokens": (4, 2)}, "suppress_tokens must not hold the end token"),
        ({"num_beams": 0}, "num_beams must be at least 1"),
        ({"num_return_sequences": 0}, "num_return_sequences must be at least 1"),
        ({"num_beams": 3, "num_return_sequences": 4}, "num_return_sequences is 4"),
        ({"num_return_sequences": 2}, "do_sample=True for several samples"),
        ({"num_beams": 4, "num_beam_groups": 3, "diversity_penalty": 1.0}, "multiple of"),
        ({"num_beams": 4, "num_beam_groups": 2}, "Diverse beams need"),
        ({"num_beams": 4, "diversity_penalty": 1.0}, "Diverse beams need"),
        ({"num_beam_groups": 0}, "num_beam_groups must be at least 1"),
        ({"length_penalty": float("inf")}, "length_penalty must be finite"),
        ({"length_normalization": "gnnt"}, "did you mean 'gnmt'?"),
        ({"early_stopping": "always"}, "early_stopping must be False, True or 'never'"),
        ({"do_sample": True, "num_beams": 2}, "num_beams must be 1"),
        ({"do_sample": True, "temperature": 0.0}, "temperature must be above 0"),
        ({"do_sample": True, "top_p": 0.0}, "top_p must be in (0, 1], got 0.0"),
        ({"do_sample": True, "top_p": 1.1}, "top_p must be in (0, 1]"),
        ({"do_sample": True, "top_k": -1}, "top_k must be at least 0"),
        ({"top_p": 0.9}, "set do_sample=True"),
    ],
)
def test_bad_settings_are_one_sentence(settings, message):
    with pytest.raises(InputError) as error:
        DecodeSettings(**({"max_length": 10} | settings))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_they_hash_and_compare_by_value():
    settings = DecodeSettings(max_length=10, num_beams=3, suppress_tokens=(3,))
    assert hash(settings) == hash(dataclasses.replace(settings))
    assert settings != dataclasses.replace(settings, length_penalty=0.0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.num_beams = 1  # pyright: ignore


@pytest.mark.parametrize("penalty", [-1.0, 0.0, 0.6, 2.0])
def test_norms_by_hand(penalty):
    power = DecodeSettings(max_length=4, length_penalty=penalty).norms()
    np.testing.assert_allclose(power[1:], [1.0, 2.0**penalty, 3.0**penalty])
    gnmt = DecodeSettings(max_length=4, length_penalty=penalty, length_normalization="gnmt").norms()
    np.testing.assert_allclose(gnmt[1:], [1.0, (7 / 6) ** penalty, (8 / 6) ** penalty])
    assert np.isfinite(power).all() and np.isfinite(gnmt).all()


def test_a_vocabulary_that_does_not_fit():
    settings = DecodeSettings(max_length=4, end=12)
    settings.check_vocabulary(13)
    with pytest.raises(InputError, match="The model knows the tokens 0 to 11"):
        settings.check_vocabulary(12)
