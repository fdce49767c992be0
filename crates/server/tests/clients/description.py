"""Requests drawn from the server's own description (schemathesis): python description.py URL [EXAMPLES].

No request may end in a 5xx, every answer must be as described, and what the description allows may only be refused for what
it cannot say."""

import re
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
EXAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 6
# Between fields, about the model, and about the order of messages.
BEYOND_SCHEMAS = re.compile(
    "cannot be used together|is only for requests with|needs `|must be the same as|must be the name of one of|names no |"
    "must end with a message of the user|written as a string|`content` is required|has the token id|the prompt is empty|"
    "`dimensions` must be|no place for tools|refuses these messages|template failed|chat template|schema|grammar|regex"
)


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
        if mode == GenerationMode.POSITIVE and response.status_code == 400:
            message = response.json()["error"]["message"]
            strange = [part for part in message.split("; ") if not BEYOND_SCHEMAS.search(part)]
            assert not strange, f"allowed by the description: {strange}"

    ask()
    return statuses


schema = schemathesis.openapi.from_url(sys.argv[1] + "/openapi.json")
for result in schema.get_all_operations():
    operation = result.ok()
    modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
    for mode in modes:
        print(f"description: {operation.label}: {mode.value}: {check(operation, mode)}", flush=True)
