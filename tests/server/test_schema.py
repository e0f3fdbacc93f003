"""What the OpenAPI document promises is kept, whatever is sent: schemathesis on an app with a scripted engine.

No server error but the declared 503 and 504; status, content type and body as declared. FASTSERVE_EXAMPLES sets how
many requests are made; the page's feed, which never ends, is left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

pytest.importorskip("schemathesis")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import load_all_checks
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from fastserve.engine import Engine
from fastserve.server import create_app
from fastserve.server.config.settings import FastServeConfig

EXAMPLES = int(os.environ.get("FASTSERVE_EXAMPLES", "300"))
CHECKS = [status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = ("/live",)
DECLARED = (503, 504)

load_all_checks()


@pytest.fixture(scope="module")
def operations() -> Iterator[list[schemathesis.schemas.APIOperation]]:
    with Engine.scripted(max_batch=8, max_model_len=256) as engine:
        app = create_app(engine, FastServeConfig())
        schema = schemathesis.openapi.from_asgi("/openapi.json", app)
        found = [result.ok() for result in schema.get_all_operations()]
        yield [operation for operation in found if operation.path not in ENDLESS]


def test_promises_are_kept(operations: list[schemathesis.schemas.APIOperation]) -> None:
    modes = list(schemathesis.GenerationMode)
    asked: dict[str, int] = {}

    def ask(operations: list[schemathesis.schemas.APIOperation], examples: int) -> None:
        cases = st.sampled_from(operations).flatmap(
            lambda operation: st.sampled_from(modes).flatmap(lambda mode: operation.as_strategy(generation_mode=mode))
        )

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=EXAMPLES == 300,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases)
        def keeps(case: schemathesis.Case) -> None:
            asked[case.operation.label] = asked.get(case.operation.label, 0) + 1
            response = case.call()
            assert response.status_code < 500 or response.status_code in DECLARED, response.text
            case.validate_response(response, checks=CHECKS)

        keeps()

    ask(operations, EXAMPLES)
    for operation in operations:
        if operation.label not in asked:  # chance has left it out
            ask([operation], 1)
    assert len(asked) == len(operations), "every route was asked"
    assert sum(asked.values()) >= EXAMPLES
