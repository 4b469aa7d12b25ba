"""`/openapi.json` and `/docs`, from the table of routes and the schemas of the protocols."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from predictor.errors import (
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    NotReady,
    Unauthenticated,
    WireError,
)
from predictor.protocol import schemas
from predictor.serving.http import HttpRequest, HttpResponse
from predictor.serving.routes import Route

JsonObject = dict[str, Any]

_REFERENCE: Final = "#/components/schemas/{model}"
_PICTURES: Final = ("image/jpeg", "image/png", "image/webp")
_FILE: Final = {"type": "string", "format": "binary"}
_JSON_LENGTH: Final = {
    "description": "Bytes of the JSON that is in front of binary tensors, where there are any",
    "schema": {"type": "integer", "minimum": 1},
}
_INFERENCE_HEADERS: Final = {
    "X-Request-Id": {
        "description": "Returned, and in every log line of the request",
        "schema": {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"},
    },
    "X-Request-Timeout-Ms": {
        "description": "Milliseconds after which nobody wants the answer",
        "schema": {"type": "integer", "minimum": 1},
    },
}
_REQUEST_ID: Final = {
    "X-Request-Id": {
        "description": "The caller's own, or a new one: it is in every log line of the request",
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Whole seconds after which a retry may succeed",
        "schema": {"type": "integer"},
    },
    "Retry-After-Ms": {
        "description": "The same in milliseconds, for who can wait so exactly",
        "schema": {"type": "integer"},
    },
}


def document(routes: Sequence[Route]) -> JsonObject:
    """Describe `routes` as OpenAPI 3.1."""
    models: list[type[BaseModel]] = [
        *(route.answer for route in routes if route.answer is not None),
        *(schemas.InferRequestBody, schemas.V1Request),
        *(schemas.ErrorBody, schemas.LegacyErrorBody),
    ]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    paths: dict[str, JsonObject] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": "realfake", "version": "2"},
        "paths": paths,
        "components": {
            "schemas": definitions["$defs"],
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _operation(route: Route) -> JsonObject:
    operation: JsonObject = {
        "operationId": "_".join(
            [route.method.lower(), *(re.findall(r"\w+", route.path) or ["root"])]
        ),
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": _responses(route),
        "security": [] if route.public else [{"key": []}, {"bearer": []}],
    }
    if route.inference:
        operation["requestBody"] = {"required": True, "content": _request(route)}
    return operation


def _parameters(route: Route) -> Iterator[JsonObject]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
    headers = dict(_INFERENCE_HEADERS) if route.inference else {}
    if _speaks_binary(route):
        headers["Inference-Header-Content-Length"] = _JSON_LENGTH
    for name, header in headers.items():
        yield {"name": name, "in": "header", **header}


def _request(route: Route) -> JsonObject:
    if route.legacy:
        form = {"type": "object", "required": ["file"], "properties": {"file": _FILE}}
        return {"multipart/form-data": {"schema": form}}
    pictures = {media: {"schema": _FILE} for media in _PICTURES}
    if not _speaks_binary(route):
        return {**_json(schemas.V1Request), **pictures}
    binary = {"application/octet-stream": {"schema": _FILE}}
    return {**_json(schemas.InferRequestBody), **binary, **pictures}


def _responses(route: Route) -> JsonObject:
    answer: JsonObject = {"description": "OK", "headers": dict(_REQUEST_ID)}
    if route.answer is not None:
        answer |= {"description": _first_line(route.answer), "content": _json(route.answer)}
    if _speaks_binary(route):
        answer["content"]["application/octet-stream"] = {"schema": _FILE}
        answer["headers"]["Inference-Header-Content-Length"] = _JSON_LENGTH
    error = schemas.LegacyErrorBody if route.legacy else schemas.ErrorBody
    responses = {"200": answer}
    for status, codes in _errors(route).items():
        retry = any(code.default_retry_after_s is not None for code in codes.values())
        responses[str(status)] = {
            "description": " or ".join(codes),
            "content": _json(error),
            "headers": _REQUEST_ID | (_RETRY_AFTER if retry else {}),
        }
    responses["default"] = {
        "description": _first_line(error),
        "content": _json(error),
        "headers": _REQUEST_ID,
    }
    return responses


def _errors(route: Route) -> dict[int, dict[str, type[WireError]]]:
    """By status, the errors by code that a caller should know; others are the default."""
    known: list[type[WireError]] = []
    if route.inference:
        known = [error for error in _errors_below(WireError) if error is not MethodNotAllowed]
    else:
        if not route.public:
            known += [InvalidRequest, Unauthenticated]  # two keys that differ; none that is known
        if "{" in route.path:
            known.append(NotFound)
        if route.public or "{" in route.path:  # readiness, and the version that is still loading
            known.append(NotReady)
    found: dict[int, dict[str, type[WireError]]] = defaultdict(dict)
    for error in known:
        found[error.http_status][error.code] = error
    return dict(sorted(found.items()))


def _errors_below(base: type[WireError]) -> Iterator[type[WireError]]:
    for error in base.__subclasses__():
        if "code" in vars(error):
            yield error
        yield from _errors_below(error)


def _speaks_binary(route: Route) -> bool:
    """Whether V2's binary tensors may follow the JSON."""
    return route.inference and route.protocol == "v2"


def _json(model: type[BaseModel]) -> JsonObject:
    reference = _REFERENCE.format(model=model.__name__)
    return {"application/json": {"schema": {"$ref": reference}}}


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or model.__name__).strip().splitlines()[0]


def routes(documented: Sequence[Route]) -> list[Route]:
    """The two routes that serve the description; they ask for a key like any other."""
    described = HttpResponse.json(document(documented))
    page = get_swagger_ui_html(openapi_url="/openapi.json", title="realfake")
    rendered = HttpResponse(bytes(page.body), content_type="text/html; charset=utf-8")

    async def openapi(request: HttpRequest) -> HttpResponse:
        return described

    async def docs(request: HttpRequest) -> HttpResponse:
        return rendered

    return [
        Route("GET", "/openapi.json", openapi, "This description"),
        Route("GET", "/docs", docs, "This description, for people"),
    ]
