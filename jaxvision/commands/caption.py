"""Says in words what is on images: files, folders and zip files.

For example: jaxvision caption photos --run=runs/flickr --beam=5 --n-best=3
"""

import argparse

from jaxvision.commands.arguments import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("images", nargs="+", help="images, folders or zip files")
    parser.add_argument(
        "--run", "--weights", dest="workdir", required=True, help="the folder of a run"
    )
    parser.add_argument(
        "--encoder-weights",
        metavar="PATH",
        help="of a run on features: where the weights are now that computed them",
    )
    parser.add_argument("--beam", type=count, help="hypotheses; 1: greedy; default: the run's")
    parser.add_argument("--n-best", type=count, default=1, help="captions of each image")
    parser.add_argument("--length-penalty", type=float, help="above 0 favours longer captions")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 avoids words said before")
    parser.add_argument("--no-repeat-ngram", type=int, help="words that never repeat in a row")
    parser.add_argument("--sample", action="store_true", help="draw words instead of the best")
    parser.add_argument("--temperature", type=float, default=1.0, help="of --sample")
    parser.add_argument("--top-k", type=int, default=0, help="of --sample: the k likeliest; 0: all")
    parser.add_argument(
        "--top-p", type=float, default=1.0, help="of --sample: share of probability"
    )
    parser.add_argument("--seed", type=int, default=0, help="of --sample")
    parser.add_argument("--batch", type=count, default=32, help="images at once; default: 32")
    parser.add_argument("--attention", metavar="PNG", help="draw where each word of an image is")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each caption; returns 2 if an image could not be used."""
    from jaxvision.command_line import fail, say, show_progress
    from jaxvision.data.image_files import find_images
    from jaxvision.errors import InputError
    from jaxvision.evaluation.caption import (
        attention_maps,
        caption_images,
        caption_lines,
        open_captioner,
    )
    from jaxvision.plots.caption_pictures import plot_attention

    images = [image for path in arguments.images for image in find_images(path)]
    if arguments.attention and len(images) > 1:
        raise InputError(
            f"--attention draws one image, but there are {len(images)}; name one of them."
        )
    show_progress(f"reading {arguments.workdir}")
    trained, vocabulary, options = open_captioner(arguments.workdir, arguments.encoder_weights)
    settings = _settings(arguments, vocabulary, options)
    form, failed = "json" if arguments.json else "text", 0
    captioned = caption_images(
        trained, vocabulary, images, settings, batch_size=arguments.batch, seed=arguments.seed
    )
    for number, image in enumerate(captioned, start=1):
        show_progress()
        if image.error:
            failed += 1
            fail(image.error)
        elif arguments.attention and image.pixels is not None and image.captions:
            words, maps = attention_maps(
                trained, vocabulary, image.pixels, image.captions[0].tokens
            )
            plot_attention(image.pixels, words, maps, arguments.attention)
        for line in caption_lines(image, form):
            say(line)
        show_progress(f"{number} of {len(images)} images")
    show_progress()
    return 2 if failed else 0


def _settings(arguments: argparse.Namespace, vocabulary, options: dict):
    """Returns the run's settings of decoding, with what the command line changes."""
    from jaxvision.evaluation.caption import run_settings

    changes = {
        "length_penalty": arguments.length_penalty,
        "repetition_penalty": arguments.repetition_penalty,
        "no_repeat_ngram_size": arguments.no_repeat_ngram,
    }
    beams = 1 if arguments.sample else arguments.beam or options["num_beams"]
    return run_settings(
        vocabulary,
        options,
        num_beams=beams if arguments.sample else max(beams, arguments.n_best),
        num_return_sequences=arguments.n_best,
        do_sample=arguments.sample,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        **{name: value for name, value in changes.items() if value is not None},
    )
