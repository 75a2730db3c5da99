"""The pages of the server and what they answer."""

import asyncio
import base64
import binascii
import dataclasses
import json
import logging
import mimetypes
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

import jaxvision
from jaxvision.data.image_files import ImageFile
from jaxvision.errors import InputError, check_choice, shorten
from jaxvision.evaluation.predict import pixels_of
from jaxvision.serving.batcher import Batcher
from jaxvision.serving.engine import Asked, Engine, data_url, png
from jaxvision.serving.guard import Limits

logger = logging.getLogger(__name__)

PAGE = pathlib.Path(__file__).parent / "page"
DECODING_THREADS = min(4, os.cpu_count() or 1)  # each holds an image of at most `max_pixels`
WAYS = (
    "Send images as files called images in multipart/form-data (curl -F images=@photo.jpg), or as "
    'application/json, {"images": [base64, ...]}.'
)


class Wish(BaseModel):
    """What is wanted of each image."""

    model_config = ConfigDict(extra="forbid")

    top: int | None = Field(None, ge=1, description="Classes or captions of each image, at most.")
    maps: list[str] = Field([], description="Kinds of maps, of those that /health names.")
    target: int | None = Field(
        None, ge=0, description="Class that the maps are of, by its index; else the most probable."
    )


class PredictRequest(Wish):
    """Images in base64, and what is wanted of each."""

    images: list[str] = Field(description="Image files, each in base64.")


class PredictForm(Wish):
    """Image files, and what is wanted of each."""

    images: list[bytes] = Field(description="Image files.")


class Guess(BaseModel):
    """One class of one image."""

    index: int
    name: str | None
    probability: float


class Caption(BaseModel):
    """One caption of one image."""

    caption: str
    score: float


class Map(BaseModel):
    """A grid over the image as the model saw it."""

    kind: str
    label: str = Field(description="Class that it is of, or word of the caption.")
    values: list[list[float]]


class Result(BaseModel):
    """What the model says about one image: guesses or captions."""

    image: str
    guesses: list[Guess] | None = None
    captions: list[Caption] | None = None
    maps: list[Map] | None = Field(None, description="Where maps were asked for.")
    seen: str | None = Field(None, description="With maps: the image as the model saw it, a PNG.")


class Predictions(BaseModel):
    """An answer for each image, in their order."""

    model: str
    results: list[Result]


class Failure(BaseModel):
    """Why there is no answer."""

    error: str


def make_app(
    engine: Engine,
    batcher: Batcher,
    limits: Limits,
    samples: Sequence[ImageFile] = (),
) -> FastAPI:
    """Returns the app; `Guard` belongs around it.

    Args:
      engine: Model behind the server.
      batcher: What computes its batches, started.
      limits: How much a request may hold.
      samples: Images that the page offers.
    """
    # The pages of Swagger and ReDoc load scripts from elsewhere.
    app = FastAPI(
        title=f"jaxvision: {engine.name}",
        version=jaxvision.__version__,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(HTTPException, _say_http_error)
    app.add_exception_handler(RequestValidationError, _say_invalid)
    app.add_exception_handler(ClientDisconnect, _say_invalid)  # to nobody
    app.add_exception_handler(Exception, _say_failure)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    pool = ThreadPoolExecutor(DECODING_THREADS, "decode")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(PAGE / "index.html")

    @app.get("/health", summary="Says that the server is ready, and what it takes")
    async def health() -> dict[str, Any]:
        return {
            "status": "ready",
            "model": engine.name,
            "task": engine.task,
            "maps": engine.maps,
            "batch_sizes": batcher.sizes,
            "waiting": len(batcher),
            "samples": [os.path.basename(sample.name) for sample in samples],
            **dataclasses.asdict(limits),
        }

    @app.get("/samples/{number}", include_in_schema=False)
    def sample(number: int) -> Response:
        if not 0 <= number < len(samples):
            raise HTTPException(404, f"There is no sample {number}.")
        data, name = samples[number].read(), samples[number].name
        if isinstance(data, np.ndarray):
            return Response(png(data), media_type="image/png")
        return Response(data, media_type=mimetypes.guess_type(name)[0] or "image/png")

    @app.post(
        "/predict",
        summary="Says what is on images",
        responses={
            200: {"model": Predictions},
            **{code: {"model": Failure} for code in (403, 408, 413, 415, 422, 500, 503)},
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {
                    "multipart/form-data": {"schema": _schema(PredictForm)},
                    "application/json": {"schema": _schema(PredictRequest)},
                },
            }
        },
    )
    async def predict(request: Request) -> Response:
        loop = asyncio.get_running_loop()
        images, wish = await _read(request, limits)
        _check(images, wish, engine, limits)

        def decode(image: ImageFile) -> np.ndarray:
            pixels = pixels_of(image, engine.transform, max_pixels=limits.max_pixels)
            if isinstance(pixels, str):
                raise HTTPException(422, shorten(pixels, 400))
            return pixels

        decoded = await asyncio.gather(*(loop.run_in_executor(pool, decode, x) for x in images))
        asked = Asked(frozenset(wish.maps), wish.target)
        futures = [batcher.submit(pixels, asked) for pixels in decoded]
        rows = await asyncio.gather(*map(asyncio.wrap_future, futures))

        def answer() -> bytes:
            results = []
            for image, pixels, row in zip(images, decoded, rows, strict=True):
                seen = {"seen": data_url(pixels)} if wish.maps else {}
                try:
                    results.append({"image": image.name, **engine.answer(row, wish.top), **seen})
                except InputError as error:
                    sentence = f"{shorten(image.name)} cannot be used: {error}."
                    raise HTTPException(422, sentence) from error
            told = {"model": engine.name, "results": results}
            return json.dumps(told, allow_nan=False).encode()

        content = await asyncio.to_thread(answer) if wish.maps else answer()
        return Response(content, media_type="application/json")

    return app


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return model.model_json_schema()


async def _read(request: Request, limits: Limits) -> tuple[list[ImageFile], Wish]:
    """Returns the images of a request and what is wanted of them."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        body = await request.body()
        if kind != "application/json":
            raise HTTPException(415, WAYS)
        return await asyncio.to_thread(_read_json, body)
    form = await request.form(max_files=limits.max_images, max_fields=64)
    images, fields = [], {}
    for name, value in form.multi_items():
        if name == "images" and isinstance(value, UploadFile):
            data = await value.read()
            images.append(_image(data, value.filename or f"image {len(images) + 1}"))
        elif name == "maps":
            fields.setdefault("maps", []).append(value)
        else:
            fields[name] = value
    await form.close()
    return images, _valid(Wish, fields)


def _read_json(body: bytes) -> tuple[list[ImageFile], Wish]:
    wish = _valid(PredictRequest, body)
    images = []
    for number, text in enumerate(wish.images, start=1):
        try:
            images.append(_image(base64.b64decode(text, validate=True), f"image {number}"))
        except (binascii.Error, ValueError) as error:
            raise HTTPException(422, f"image {number} is no base64: {error}.") from error
    return images, wish


def _valid(model: Any, given: Any) -> Any:
    """Returns a request as one of the classes above, or raises with what is wrong first."""
    try:
        if isinstance(given, bytes):
            return model.model_validate_json(given)
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        place = f"{shorten(where, 80)}: " if where else ""
        raise HTTPException(422, f"The request is wrong: {place}{first['msg']}.") from error


def _image(data: bytes, name: str) -> ImageFile:
    return ImageFile(name, lambda: data, lambda: len(data))


def _check(images: list[ImageFile], wish: Wish, engine: Engine, limits: Limits) -> None:
    if not images:
        raise HTTPException(422, f"There is no image in the request. {WAYS}")
    if len(images) > limits.max_images:
        raise HTTPException(
            422, f"Send at most {limits.max_images} images at once, not {len(images)}."
        )
    if wish.maps and not engine.maps:
        raise HTTPException(422, f"{engine.name} has no maps to show here: leave maps out.")
    for kind in wish.maps:
        try:
            check_choice("maps", shorten(kind, 40), engine.maps)
        except InputError as error:
            raise HTTPException(422, str(error)) from error
    if wish.target is not None:
        _check_target(wish.target, bool(wish.maps), engine)


def _check_target(target: int, with_maps: bool, engine: Engine) -> None:
    if not (with_maps and engine.num_classes):
        raise HTTPException(
            422,
            "target is the class that a classifier's maps are of: ask for maps, or leave it out.",
        )
    if target >= engine.num_classes:
        last, given = engine.num_classes - 1, shorten(str(target), 40)
        raise HTTPException(422, f"target: the model has classes 0 to {last}, not {given}.")


async def _say_http_error(request: Request, error: Any) -> JSONResponse:
    sentence = error.detail
    if sentence in ("Not Found", "Method Not Allowed"):  # of the router
        sentence = (
            f"There is no {request.method} {shorten(request.url.path, 80)}: GET / is the page, "
            "POST /predict says what is on images, GET /openapi.json describes all."
        )
    return JSONResponse({"error": sentence}, error.status_code, error.headers)


async def _say_invalid(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": f"{shorten(request.url.path, 80)} is no valid request."}, 400)


async def _say_failure(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse(
        {"error": "The server failed on this request; its log in the terminal says why."}, 500
    )
