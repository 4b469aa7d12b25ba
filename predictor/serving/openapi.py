"""`/openapi.json` and `/docs`, from the table of routes and the schemas of the protocols."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from predictor.protocol import schemas
from predictor.serving.http import HttpRequest, HttpResponse
from predictor.serving.routes import Route

_REFERENCE = "#/components/schemas/{model}"
_BODIES: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "/infer": (schemas.InferRequestBody, schemas.InferResponseBody),
    ":predict": (schemas.V1Request, schemas.V1Response),
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """Describe `routes` as OpenAPI 3.1."""
    models: list[type[BaseModel]] = [schemas.ErrorBody, schemas.LegacyResponse]
    for request, response in _BODIES.values():
        models += [request, response]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
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


def _operation(route: Route) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", route.path)
        ],
        "responses": {"200": {"description": "OK"}, "default": _json(schemas.ErrorBody)},
        "security": [] if route.public else [{"key": []}, {"bearer": []}],
    }
    if route.legacy:
        form: dict[str, Any] = {"type": "object", "required": ["file"]}
        form["properties"] = {"file": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"content": {"multipart/form-data": {"schema": form}}}
        operation["responses"]["200"] = _json(schemas.LegacyResponse)
    elif route.inference:
        suffix = ":predict" if route.path.endswith(":predict") else "/infer"
        request, response = _BODIES[suffix]
        picture = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = _json(request)
        operation["requestBody"]["content"]["image/*"] = picture
        operation["responses"]["200"] = _json(response)
    return operation


def _json(model: type[BaseModel]) -> dict[str, Any]:
    reference = _REFERENCE.format(model=model.__name__)
    return {
        "description": (model.__doc__ or model.__name__).strip().splitlines()[0],
        "content": {"application/json": {"schema": {"$ref": reference}}},
    }


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
