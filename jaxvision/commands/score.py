"""Scores captions: BLEU, ROUGE-L, CIDEr-D, METEOR and SPICE, as COCO's evaluation does.

For example: jaxvision score captions_val.json results.json

REFS is a JSON file in COCO's layout of captions, or a table *.token.txt in Flickr8k's. CANDIDATES
is a JSON file in COCO's layout of results, [{"image_id": 1, "caption": "a dog"}], or what the
command `caption --json` prints. A CIDEr of 1.2 here is 120 in papers.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of this command."""
    parser.add_argument("references", metavar="REFS", help="file of the true captions")
    parser.add_argument("candidates", metavar="CANDIDATES", help="file of the captions to score")
    parser.add_argument(
        "--metrics",
        type=lambda text: text.split(","),
        help="of bleu,rouge_l,cider,meteor,spice; default: those that need no Java",
    )
    parser.add_argument(
        "--subset", action="store_true", help="leave out images that have no candidate"
    )
    parser.add_argument("--json", action="store_true", help="print an object instead of a table")


def run(arguments: argparse.Namespace) -> int:
    """Prints the scores; returns the exit code."""
    import json

    from jaxvision.command_line import say, show_progress
    from jaxvision.data.captions.results import read_candidates, read_references
    from jaxvision.errors import InputError
    from jaxvision.metrics.caption import default_metrics, score_captions

    show_progress(f"reading {arguments.references}")
    references = read_references(arguments.references)
    candidates = read_candidates(arguments.candidates, references)
    missing = [i for i in range(len(references)) if i not in candidates]
    if missing and not arguments.subset:
        raise InputError(
            f"{arguments.candidates} has no caption of {len(missing)} of the {len(references)} "
            f"images of {arguments.references}, the first is {references.describe(missing[0])}; "
            "add them, or leave such images out with --subset."
        )
    places = sorted(candidates)
    show_progress(f"scoring {len(places)} captions")
    scores = score_captions(
        [references.captions(i) for i in places],
        [candidates[i] for i in places],
        arguments.metrics,
    )
    show_progress()
    notes = []
    if len(places) == 1 and "cider" in scores:
        notes.append(
            "CIDEr is 0 for a single image, whatever its caption: it weighs words by how few "
            "images have them."
        )
    if arguments.metrics is None and "meteor" not in default_metrics():
        notes.append(
            "METEOR needs word lists, but no Java; type pip install 'jaxvision-nnx[caption-eval]'."
        )
    if arguments.json:
        say(json.dumps({"images": len(places), "scores": scores, "notes": notes}))
        return 0
    say(f"{len(places)} images" if len(places) > 1 else "1 image")
    for name, score in scores.items():
        say(f"{name:<8} {score:.4f}")
    for note in notes:
        say(note)
    return 0
