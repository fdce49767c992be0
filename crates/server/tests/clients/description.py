"""Requests drawn from the server's own description (schemathesis): python description.py URL [EXAMPLES].

No request may end in a 5xx, every answer must be as described, and what the description allows may only be refused for what
it cannot say."""

import json
import re
import sys
import time

import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
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
DEPENDENT = [
    "best_of", "dimensions", "echo", "guided_grammar", "guided_json", "guided_regex", "logit_bias", "output_config",
    "previous_response_id", "response_format", "stream_options", "text", "tool_choice", "tools", "top_logprobs",
]  # fmt: skip
EXAMPLES = int(sys.argv[2]) if len(sys.argv) > 2 else 6
# These would leave no server or no model to ask.
SKIPPED = {"shutdown", "loadModel", "unloadModel"}
# On a busy machine fewer requests are sent.
UNTIL = time.monotonic() + 45
# Between fields, about the model, and about the order of messages.
BEYOND_SCHEMAS = re.compile(
    "cannot be used together|is only for requests with|needs `|must be the same as|must be the name of one of|names no |"
    "must end with a message of the user|written as a string|has the token id|the prompt is empty|"
    "`dimensions` must be|not valid: (top_k|stop|prompt)|no place for tools|refuses these messages|template failed|chat template|schema|grammar|regex"
)


def tame(body):
    """Only the model that there is, and answers that end soon."""
    if isinstance(body, dict) and "job_id" in body:
        # A job takes no fields but its own, and a cancellation only its name.
        if "prompt" in body and isinstance(body.get("max_tokens", 4), (int, float)):
            body["max_tokens"] = min(body.get("max_tokens", 4), 4)
    elif isinstance(body, dict):
        body.pop("model", None)
        for name, most in LIMITS.items():
            value = body.get(name, most)
            body[name] = min(value, most) if isinstance(value, (int, float)) else value
    return body


def usable(value):
    """Tokens that the model has, and arguments that are JSON."""
    if isinstance(value, list):
        ids = value and all(type(each) in (int, float) for each in value)
        return [int(each) % 50 + 5 for each in value] if ids else [usable(each) for each in value]
    if isinstance(value, dict):
        fixed = {name: usable(each) for name, each in value.items()}
        return {**fixed, "arguments": json.dumps(fixed)} if isinstance(fixed.get("arguments"), str) else fixed
    return value


def consistent(body):
    """Without what one field may say of another."""
    body = usable(tame(body))
    if isinstance(body, dict):
        for name in DEPENDENT:
            body.pop(name, None)
        if isinstance(body.get("messages"), list):
            body["messages"].append({"role": "user", "content": "Hi"})
    return body


def check(operation, mode, change):
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
        if time.monotonic() > UNTIL:
            return
        case.body = change(case.body)
        # A model reads long texts for long.
        assume(len(json.dumps(case.body, default=str)) < 4000)
        response = case.call(timeout=60)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        case.validate_response(response, checks=CHECKS)
        if mode == GenerationMode.POSITIVE and response.status_code == 400:
            message = response.json()["error"]["message"]
            strange = [part for part in message.split("; ") if not BEYOND_SCHEMAS.search(part)]
            assert not strange, f"allowed by the description: {strange}"

    ask()
    return statuses


VARIANTS = [(GenerationMode.POSITIVE, tame), (GenerationMode.POSITIVE, consistent), (GenerationMode.NEGATIVE, tame)]
schema = schemathesis.openapi.from_url(sys.argv[1] + "/openapi.json")
for result in schema.get_all_operations():
    operation = result.ok()
    if operation.definition.raw["operationId"] in SKIPPED:
        continue
    for mode, change in VARIANTS if operation.body else VARIANTS[:1]:
        statuses = check(operation, mode, change)
        print(f"description: {operation.label}: {mode.value}, {change.__name__}: {statuses}", flush=True)
