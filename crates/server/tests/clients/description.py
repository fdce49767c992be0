"""Requests drawn from the server's own description (schemathesis): no 5xx, and every answer as described. python description.py URL."""

import sys

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# Fields that an operation does not know are ignored.
LIMITS = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n": 2}
EXAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 20


def tame(body):
    """Only the model that there is, and answers that end soon."""
    if isinstance(body, dict):
        body.pop("model", None)
        for name, most in LIMITS.items():
            value = body.get(name, most)
            body[name] = min(value, most) if isinstance(value, int) else value
    return body


def check(operation, mode):
    statuses = {}

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case):
        case.body = tame(case.body)
        response = case.call()
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        case.validate_response(response, checks=CHECKS)

    ask()
    return statuses


schema = schemathesis.openapi.from_url(sys.argv[1] + "/openapi.json")
for result in schema.get_all_operations():
    operation = result.ok()
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
    for mode in modes:
        print(f"description: {operation.label}: {mode.value}: {check(operation, mode)}", flush=True)
