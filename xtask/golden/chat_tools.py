"""Chats with tools, calls, reasoning and variables of the template, rendered by Jinja2 as Transformers sets it up.

Writes fixtures/chat/tools.json.
"""

import json
from pathlib import Path

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from json_lines import dump

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "chat"
TEMPLATES = ["mistral-nemo", "qwen2.5", "qwen3"]

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather in a "city" <now>.',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}
ASK = {"role": "user", "content": "Weather in Köln and the time?"}


def call(id: str, name: str, arguments: dict) -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


CALLS = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        call("abcdef123", "get_weather", {"city": "Köln", "days": 2, "x": [1.0, 0.1, None, True]}),
        call("abcdef124", "clock", {}),
    ],
}
RESULTS = [
    {"role": "tool", "content": '{"celsius": 7}', "tool_call_id": "abcdef123", "name": "get_weather"},
    {"role": "tool", "content": "12:00", "tool_call_id": "abcdef124", "name": "clock"},
]
THOUGHT = {"role": "assistant", "content": "Seven degrees.", "reasoning_content": "easy\n"}
CASES = [
    {"messages": [ASK], "tools": [WEATHER, CLOCK]},
    {"messages": [{"role": "system", "content": "Be brief."}, ASK], "tools": [CLOCK]},
    {"messages": [ASK, CALLS, *RESULTS], "tools": [WEATHER, CLOCK]},
    {"messages": [ASK, CALLS, *RESULTS, THOUGHT, ASK], "tools": [WEATHER, CLOCK]},
    {"messages": [ASK, {**CALLS, "content": "Let me look."}, *RESULTS], "tools": []},
    {"messages": [ASK, THOUGHT], "tools": []},
    {"messages": [ASK], "tools": [], "variables": {"enable_thinking": False}},
    {"messages": [ASK], "tools": [CLOCK], "variables": {"enable_thinking": True, "messages": [], "tools": None}},
]


def environment() -> ImmutableSandboxedEnvironment:
    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    made.filters["tojson"] = lambda value, **how: json.dumps(value, ensure_ascii=False, **how)
    made.globals["raise_exception"] = raise_exception
    return made


def render(source: str, case: dict) -> dict:
    values = {
        **case.get("variables", {}),
        "messages": case["messages"],
        "tools": case["tools"] or None,
        "add_generation_prompt": True,
        "bos_token": "<bos>",
        "eos_token": "</eos>",
    }
    try:
        return {"text": environment().from_string(source).render(values)}
    except TemplateError as error:
        return {"raised": str(error)}


def main() -> None:
    sources = {name: (OUT / f"{name}.jinja").read_text(encoding="utf-8") for name in TEMPLATES}
    expected = {name: [render(source, case) for case in CASES] for name, source in sources.items()}
    dump(OUT / "tools.json", {"cases": CASES, "expected": expected})


if __name__ == "__main__":
    main()
