"""The HTTP routes: V2, V1, raw pictures, the old `/infer`, and the documents about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from predictor.errors import NotReady, UnsupportedMedia
from predictor.inference.pictures import Classification, EncodedImage
from predictor.protocol import legacy, schemas, v1, v2
from predictor.protocol.json_size import check_json_size
from predictor.protocol.messages import ModelDescription
from predictor.serving.data_plane import RealFakeDataPlane
from predictor.serving.http import HttpRequest, HttpResponse
from predictor.serving.model import Job, WireRequest
from predictor.serving.routes import Route, Routes
from predictor.settings import Settings

JSON_LENGTH = "inference-header-content-length"

Parse = Callable[[ModelDescription], Job[HttpResponse]]
Encode = Callable[[Sequence[Classification]], HttpResponse]


class RestApi:
    """Translates between HTTP and the data plane; holds no state of its own."""

    def __init__(self, plane: RealFakeDataPlane, settings: Settings) -> None:
        self._plane = plane
        self._model_name = settings.model.name
        self._limits = settings.limits

    def routes(self) -> list[Route]:
        """Every route there is. What is not listed here does not exist: no model load or
        unload, no metrics (their own port), no documentation unless it is switched on."""
        model, version = "/v2/models/{model}", "/v2/models/{model}/versions/{version}"
        get = partial(Route, "GET")
        health = partial(get, public=True)
        models = partial(get, handler=self.models, answer=schemas.Models)
        metadata = partial(get, handler=self.model_metadata, answer=schemas.ModelMetadata)
        ready = partial(health, handler=self.model_ready, answer=schemas.ModelReady)
        post = partial(Route, "POST", inference=True)
        infer = partial(post, handler=self.infer, answer=schemas.InferResponseBody)
        return [
            health("/", self.alive, "Liveness, as kserve's V1 clients ask for it", schemas.Alive),
            health("/v2/health/live", self.live, "Is the process alive", schemas.Live),
            health("/v2/health/ready", self.ready, "May traffic come here", schemas.Ready),
            get(
                "/v2",
                self.server_metadata,
                "Name, version and extensions",
                schemas.ServerMetadata,
            ),
            models("/v2/models", summary="Names of the models"),
            metadata(model, summary="Inputs, outputs and labels of the model"),
            metadata(version, summary="The same, of one version"),
            ready(f"{model}/ready", summary="Is the model ready"),
            ready(f"{version}/ready", summary="Is this version ready"),
            infer(f"{model}/infer", summary="Classify pictures (V2 JSON, V2 binary, or image/*)"),
            infer(f"{version}/infer", summary="Classify pictures with one version"),
            models("/v1/models", summary="Names of the models"),
            ready("/v1/models/{model}", summary="Is the model ready"),
            post(
                "/v1/models/{model}:predict",
                self.predict,
                "Classify pictures (V1 JSON, or image/*)",
                schemas.V1Response,
            ),
            post(
                "/infer",
                self.legacy_infer,
                "Classify one picture, as the old service did (multipart field `file`)",
                schemas.LegacyResponse,
                legacy=True,
            ),
        ]

    # Health and metadata

    async def alive(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await self._plane.live())

    async def live(self, request: HttpRequest) -> HttpResponse:
        if not self._plane.lifecycle.is_live:
            raise NotReady(f"not live: {self._plane.lifecycle.state.value}")
        return HttpResponse.json({"live": True})

    async def ready(self, request: HttpRequest) -> HttpResponse:
        if not await self._plane.ready():
            raise NotReady(f"not ready: {self._plane.lifecycle.state.value}")
        return HttpResponse.json({"ready": True})

    async def server_metadata(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(self._plane.metadata())

    async def models(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json({"models": sorted(self._plane.model_registry.get_models())})

    async def model_metadata(self, request: HttpRequest) -> HttpResponse:
        name, version = _target(request)
        return HttpResponse.json(await self._plane.model_metadata(name, version))

    async def model_ready(self, request: HttpRequest) -> HttpResponse:
        name, version = _target(request)
        if not await self._plane.find(name, version).healthy():
            raise NotReady(f"not ready: {self._plane.lifecycle.state.value}")
        return HttpResponse.json({"name": name, "ready": True})

    # Inference

    async def infer(self, request: HttpRequest) -> HttpResponse:
        """V2: a picture as the body, a binary body, or JSON, told apart by the headers."""
        json_length = request.headers.get(JSON_LENGTH)
        if request.content_type.startswith("image/"):
            parse: Parse = partial(self._parse_raw_v2, request.body)
        elif json_length is not None:
            parse = partial(self._parse_v2_binary, request.body, json_length)
        else:
            _refuse_other_than_json(request)
            parse = partial(self._parse_v2_json, request.body)
        return await self._answer(request, parse)

    async def predict(self, request: HttpRequest) -> HttpResponse:
        """V1: a picture as the body, or JSON instances."""
        if request.content_type.startswith("image/"):
            parse: Parse = partial(self._parse_raw_v1, request.body)
        else:
            _refuse_other_than_json(request)
            parse = partial(self._parse_v1, request.body)
        return await self._answer(request, parse)

    async def legacy_infer(self, request: HttpRequest) -> HttpResponse:
        def parse(model: ModelDescription) -> Job[HttpResponse]:
            picture = legacy.decode_multipart(request.body, request.headers.get("content-type", ""))
            return Job(
                (picture,),
                lambda results: HttpResponse(legacy.encode(results[0], request.request_id)),
            )

        return await self._answer(request, parse, self._model_name)

    async def _answer(
        self, request: HttpRequest, parse: Parse, name: str | None = None
    ) -> HttpResponse:
        version = None
        if name is None:
            name, version = _target(request)
        wire = WireRequest(
            parse, len(request.body), request.arrived, request.deadline, request.key_id
        )
        return await self._plane.answer(name, version, wire)

    def _parse_v2_json(self, body: bytes, model: ModelDescription) -> Job[HttpResponse]:
        check_json_size(body, self._limits.max_json_values)
        return self._v2_job(
            v2.decode_json(body, model, max_pictures=self._limits.max_pictures), model
        )

    def _parse_v2_binary(
        self, body: bytes, json_length: str, model: ModelDescription
    ) -> Job[HttpResponse]:
        length = v2.read_json_length(json_length, body)
        check_json_size(body[:length], self._limits.max_json_values)
        call = v2.decode_binary(body, length, model, max_pictures=self._limits.max_pictures)
        return self._v2_job(call, model)

    def _parse_raw_v2(self, body: bytes, model: ModelDescription) -> Job[HttpResponse]:
        return self._v2_job(v2.raw_call(EncodedImage(body)), model)

    def _v2_job(self, call: v2.InferCall, model: ModelDescription) -> Job[HttpResponse]:
        def encode(results: Sequence[Classification]) -> HttpResponse:
            body, json_length = v2.encode(call, results, model)
            if json_length is None:
                return HttpResponse(body)
            headers = {JSON_LENGTH: str(json_length)}
            return HttpResponse(body, content_type="application/octet-stream", headers=headers)

        return Job(call.pictures, encode, call.timeout_s)

    def _parse_v1(self, body: bytes, model: ModelDescription) -> Job[HttpResponse]:
        check_json_size(body, self._limits.max_json_values)
        pictures = v1.decode(body, max_pictures=self._limits.max_pictures)
        return Job(pictures, _encode_v1(model))

    def _parse_raw_v1(self, body: bytes, model: ModelDescription) -> Job[HttpResponse]:
        return Job((EncodedImage(body),), _encode_v1(model))


def build_routes(plane: RealFakeDataPlane, settings: Settings) -> Routes:
    """Assemble the table; `/docs` and `/openapi.json` only with `server.docs_enabled`."""
    routes = RestApi(plane, settings).routes()
    if settings.server.docs_enabled:
        from predictor.serving import openapi  # FastAPI's page costs 0.5 s to import

        routes += openapi.routes(routes)
    return Routes(routes)


def _encode_v1(model: ModelDescription) -> Encode:
    return lambda results: HttpResponse(v1.encode(results, model))


def _target(request: HttpRequest) -> tuple[str, str | None]:
    return request.path_params["model"], request.path_params.get("version")


def _refuse_other_than_json(request: HttpRequest) -> None:
    """JSON is read whatever it is called (curl -d says form-urlencoded), but a body that
    names itself as something else is better refused than mistaken for broken JSON."""
    if request.content_type.startswith("multipart/"):
        raise UnsupportedMedia("multipart is read at POST /infer only; send JSON or image/* here")
    if request.content_type == "application/octet-stream":
        raise UnsupportedMedia(
            "send a picture as Content-Type: image/jpeg, or V2 binary tensors with the "
            "Inference-Header-Content-Length header"
        )
