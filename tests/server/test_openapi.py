"""/openapi.json: valid, and as complete and true as the tables that it is made from."""

from typing import Any

import jsonschema_rs
import msgspec
import pytest
from openapi_spec_validator import validate

from pieria.server.api import ROUTES
from pieria.server.schema import (
    INERT,
    NEUTRAL,
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    TokenizeRequest,
)
from tests.server.fakes import Toy, chat


async def described(admin: bool = False, **options: Any) -> dict[str, Any]:
    toy = Toy(**options)
    async with toy.http() as http:
        found: dict[str, Any] = (await http.get("/openapi.json")).json()
    return found


async def test_it_is_openapi_and_lists_every_route() -> None:
    found = await described()
    validate(found)
    operations = {(method.upper(), path) for path, at in found["paths"].items() for method in at}
    assert operations == {
        (route.method, route.path.replace(":path}", "}"))
        for route in ROUTES
        if route.access != "admin"
    }


async def test_keys_are_asked_for_where_they_are() -> None:
    for options, closed in (({}, []), ({"api_key": ("k",)}, [{"key": []}])):
        toy = Toy(**options)
        async with toy.http(headers={"authorization": "Bearer k"}) as http:
            paths = (await http.get("/openapi.json")).json()["paths"]
        assert paths["/v1/completions"]["post"]["security"] == closed
        assert paths["/health"]["get"]["security"] == []


async def test_every_field_that_is_read_is_described() -> None:
    schemas = (await described())["components"]["schemas"]
    for model in (ChatRequest, CompletionRequest, TokenizeRequest, DetokenizeRequest):
        fields = set(model.model_fields)
        if model in (ChatRequest, CompletionRequest):
            fields |= set(INERT) | set(NEUTRAL)
        assert set(schemas[model.__name__]["properties"]) == fields
        assert schemas[model.__name__]["additionalProperties"] is False


def checker(document: dict[str, Any], name: str) -> Any:
    root = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    return jsonschema_rs.validator_for(root)


BODIES = [
    ({}, True),
    ({"temperature": 100}, True),
    ({"temperature": 100.1}, False),
    ({"top_p": 0}, False),
    ({"top_p": 1}, True),
    ({"n": 0}, False),
    ({"n": 129}, False),
    ({"seed": 2**63}, False),
    ({"max_tokens": 0}, False),
    ({"max_completion_tokens": None}, True),
    ({"logprobs": True, "top_logprobs": 20}, True),
    ({"logprobs": True, "top_logprobs": 21}, False),
    ({"logit_bias": {"97": 1.5}}, True),
    ({"logit_bias": {"x": 1}}, False),
    ({"logit_bias": {"97": 101}}, False),
    ({"stop": ["a", "b"]}, True),
    ({"stop": ""}, False),
    ({"stop": ["a"] * 65}, False),
    ({"stop_token_ids": [1] * 65}, False),
    ({"model": "other"}, False),
    ({"tools": []}, True),
    ({"tools": [{}]}, False),
    ({"store": True}, False),
    ({"user": 3}, True),
    ({"unheard": 3}, False),
    ({"messages": []}, False),
    ({"messages": [{"role": "user", "content": "x", "name": None}]}, True),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": None}]}, False),
    ({"messages": [{"role": "assistant", "content": "x", "tool_calls": []}]}, True),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, True),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]}, True),
    ({"messages": [{"role": "user", "content": []}]}, False),
    ({"messages": [{"role": "root", "content": "x"}]}, False),
    ({"chat_template_kwargs": {"a": 1}}, True),
    ({"chat_template_kwargs": {"messages": 1}}, False),
    ({"chat_template_kwargs": {"1": 1}}, False),
    ({"stream_options": {"include_usage": 1}}, False),
]


@pytest.mark.parametrize(("fields", "fits"), BODIES)
async def test_what_fits_the_description_is_served_and_else_not(
    fields: dict[str, Any], fits: bool
) -> None:
    toy = Toy()
    async with toy.http() as http:
        document = (await http.get("/openapi.json")).json()
        answer = await http.post("/v1/chat/completions", json=chat(**fields))
    assert (answer.status_code == 200) == fits
    assert checker(document, "ChatRequest").is_valid(chat(**fields)) == fits
    name = "ChatCompletion" if fits else "ErrorBody"
    checker(document, name).validate(msgspec.json.decode(answer.content))
