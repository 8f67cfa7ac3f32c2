"""The service keeps what its OpenAPI document says, for requests that schemathesis makes of it, sound and unsound."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import Failure as CheckFailed
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from fashion_dml.index.manifest import ITEM_ID

pytestmark = [pytest.mark.serve, pytest.mark.security]
TOKEN = {"Authorization": "Bearer a token for the tests only"}
CHECKS = [
    not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance, response_schema_conformance,
    unsupported_method,
]  # fmt: skip
EXAMPLES = 20  # of each operation, sound and again unsound


@pytest.fixture(scope="module")
def api(address: str) -> Any:
    return schemathesis.openapi.from_url(f"{address}/openapi.json", timeout=30)


@pytest.fixture(scope="module", autouse=True)
def as_before(address: str):
    """Items that were made are taken out again: other tests know the index's only."""
    made: set[str] = set()
    yield made
    with httpx.Client(base_url=address, headers=TOKEN, timeout=30) as client:
        for item_id in made:
            client.delete(f"/v1/items/{item_id}").raise_for_status()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_every_operation_keeps_its_word(api: Any, as_before: set[str], mode: GenerationMode) -> None:
    """Sound requests and unsound ones. One test for all operations, since the document names them only when the service runs."""
    broken, seen = {}, set()
    for result in api.get_all_operations():
        operation = result.ok()
        try:
            _try(operation, mode, as_before, seen)
        except (CheckFailed, FailureGroup) as error:
            broken[operation.label] = str(error)
        except Unsatisfiable:  # an operation without parameters can't be asked wrongly
            assert mode is GenerationMode.NEGATIVE
    assert broken == {}
    assert seen >= ({200, 422} if mode is GenerationMode.POSITIVE else {422})  # requests got beyond the first check


def _try(operation: Any, mode: GenerationMode, made: set[str], seen: set[int]) -> None:
    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def ask(case: Any) -> None:
        body = case.body if isinstance(case.body, dict) else {}
        upserts = body.get("upserts") if isinstance(body.get("upserts"), list) else []
        given_ids = [u.get("item_id") for u in upserts if isinstance(u, dict)] + [(case.path_parameters or {}).get("item_id")]
        made.update(i for i in given_ids if isinstance(i, str) and ITEM_ID.fullmatch(i))
        seen.add(case.call_and_validate(headers=TOKEN, checks=CHECKS, timeout=30).status_code)

    ask()


def test_the_document_is_whole(address: str) -> None:
    """Every operation says what it does, names its refusals, and refers to nothing that isn't there."""
    document = httpx.get(f"{address}/openapi.json", timeout=30).json()
    operations = {f"{method} {path}": o for path, methods in document["paths"].items() for method, o in methods.items()}
    assert len(operations) >= 9
    for name, operation in operations.items():
        assert operation.get("description"), name
        if "/v1/" in name:
            assert {"401"} <= set(operation["responses"]), name
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(_references(document)) <= known


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [r for value in part.values() for r in _references(value)]
    return [r for value in part for r in _references(value)] if isinstance(part, list) else []
