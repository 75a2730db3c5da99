"""Captions per second beside Hugging Face: `python benchmarks/caption_decode.py --help`.

Beam search over a memory that is there already, in float32, with random weights of one shape on
all sides and no caption that ends early, so that all take the same number of steps. Beside it the
plain loop over images and beams of the source text, in torch, without a cache. GPT-2 is not our
decoder to the last detail (its GELU is the tanh formula), but it has the same products.
"""

import argparse
import dataclasses

import jax
import numpy as np
import peers  # noqa: F401
import timing
import torch
import transformers
from flax import nnx

import jaxvision as jv
from jaxvision.decode.generate import generate
from jaxvision.decode.settings import DecodeSettings

START = 1


@dataclasses.dataclass(frozen=True)
class Size:
    """Of a decoder and its search; the names are those of PERF.md, part 3."""

    width: int
    num_heads: int
    vocabulary: int
    max_length: int
    num_beams: int
    memory: int  # tokens of an image
    depth: int = 2


SIZES = {
    "A": Size(256, 4, 1004, 17, 3, memory=49),
    "B": Size(512, 8, 10_000, 30, 5, memory=196),
}


def jax_call(size: Size, memory: np.ndarray):
    """Returns a call of our search, compiled for these shapes."""
    model = jv.create_model(
        "captioner",
        vocab_size=size.vocabulary,
        rngs=nnx.Rngs(0),
        encoder=None,
        feature_width=size.width,
        width=size.width,
        depth=size.depth,
        num_heads=size.num_heads,
        hidden_width=4 * size.width,
        max_length=size.max_length,
    )
    graphdef, params = nnx.split(model)
    settings = DecodeSettings(
        max_length=size.max_length,
        min_length=size.max_length,  # no <END>
        num_beams=size.num_beams,
    )
    decode = jax.jit(lambda params, memory: generate(nnx.merge(graphdef, params), memory, settings))
    on_device = jax.device_put(memory)
    return lambda: jax.block_until_ready(decode(params, on_device))


def hugging_face_call(size: Size, memory: np.ndarray):
    """Returns a call of `transformers.generate` for GPT-2 with cross-attention."""
    config = transformers.GPT2Config(
        vocab_size=size.vocabulary,
        n_positions=size.max_length,
        n_embd=size.width,
        n_layer=size.depth,
        n_head=size.num_heads,
        add_cross_attention=True,
        bos_token_id=START,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    start = torch.full((len(memory), 1), START)
    ones = torch.ones_like(start)
    on_device = torch.from_numpy(memory)

    @torch.inference_mode()
    def call():
        model.generate(
            start,
            attention_mask=ones,
            encoder_hidden_states=on_device,
            max_length=size.max_length,
            num_beams=size.num_beams,
            eos_token_id=None,
            pad_token_id=0,
            do_sample=False,
        )

    return call


class PlainDecoder(torch.nn.Module):
    """The words of a caption so far in, the logits of the next out."""

    def __init__(self, size: Size):
        super().__init__()
        self.embedding = torch.nn.Embedding(size.vocabulary, size.width)
        self.positions = torch.nn.Parameter(torch.randn(size.max_length, size.width))
        layer = torch.nn.TransformerDecoderLayer(
            size.width, size.num_heads, 4 * size.width, batch_first=True, norm_first=True
        )
        norm = torch.nn.LayerNorm(size.width)
        self.decoder = torch.nn.TransformerDecoder(layer, size.depth, norm)
        self.head = torch.nn.Linear(size.width, size.vocabulary)

    def forward(self, memory, tokens):
        """Returns the logits of one more word."""
        length = tokens.shape[1]
        mask = torch.nn.Transformer.generate_square_subsequent_mask(length)
        x = self.embedding(tokens) + self.positions[:length]
        return self.head(self.decoder(x, memory, tgt_mask=mask, tgt_is_causal=True)[:, -1])


def plain_call(size: Size, memory: np.ndarray):
    """Returns a call of the source text's search: one image and one beam after the other."""
    model = PlainDecoder(size).eval()
    images = torch.from_numpy(memory)

    @torch.inference_mode()
    def call():
        for image in images.split(1):
            beams = [(0.0, [START])]
            for _ in range(size.max_length - 1):
                options = []
                for score, tokens in beams:
                    log_probs = model(image, torch.tensor([tokens])).log_softmax(-1)[0]
                    best = log_probs.topk(size.num_beams)
                    for value, token in zip(*(x.tolist() for x in best), strict=True):
                        options.append((score + value, [*tokens, token]))
                beams = sorted(options, key=lambda x: -x[0])[: size.num_beams]

    return call


def main():
    """Prints one line for each size and batch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="A,B")
    parser.add_argument("--batches", default="1,64")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a block, at least")
    parser.add_argument("--plain-images", type=int, default=1, help="of a call of the plain loop")
    options = parser.parse_args()
    print(timing.machine(), f"transformers {transformers.__version__}")
    for name in options.sizes.split(","):
        size = SIZES[name]
        for batch in map(int, options.batches.split(",")):
            shape = (batch, size.memory, size.width)
            memory = np.random.default_rng(0).normal(size=shape).astype(np.float32)
            # The plain loop does an image at a time, so its rate is that of a few of them.
            images = {"jaxvision": batch, "hugging face": batch, "plain loop": options.plain_images}
            makers = (jax_call, hugging_face_call, plain_call)
            systems = {
                system: make(size, memory[: images[system]])
                for system, make in zip(images, makers, strict=True)
            }
            timings = timing.compare(
                systems, blocks=options.blocks, seconds=options.seconds, warm=1
            )
            rates = {system: images[system] / timings[system].median for system in images}
            ours = rates["jaxvision"]
            print(
                f"{name}, {size.num_beams} beams, batch {batch}: "
                f"{ours / rates['hugging face']:.1f}x Hugging Face, "
                f"{ours / rates['plain loop']:.1f}x the plain loop; captions/s: "
                + ", ".join(f"{x} {timings[x].rate(images[x])}" for x in images),
                flush=True,
            )


if __name__ == "__main__":
    main()
