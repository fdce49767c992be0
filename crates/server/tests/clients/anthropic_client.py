"""The official Anthropic client against a running `russet serve`: python anthropic_client.py URL."""

import json
import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
ASK = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "name": "weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def create(seed=None, **more):
    # The client has no names for how tokens are sampled.
    sampling = {name: more.pop(name) for name in ("temperature", "top_k", "top_p", "ignore_eos") if name in more}
    body = {"temperature": 0, "seed": seed, **sampling}
    return client.messages.create(**{"model": MODEL, "max_tokens": 24, "messages": ASK, "extra_body": body, **more})


def refused(kind, words, **more):
    try:
        create(**more)
    except kind as error:
        assert error.body["type"] == "error" and words in error.body["error"]["message"], error.body
        return error.body["error"]["type"]
    raise AssertionError(f"{more} was not refused")


def text_of(message):
    return "".join(block.text for block in message.content if block.type == "text")


def a_message_and_its_usage():
    message = create()
    assert "Paris" in text_of(message), message
    assert message.role == "assistant" and message.model == MODEL
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert 0 < message.usage.output_tokens <= 24
    assert create(max_tokens=1).stop_reason == "max_tokens"


def a_stream_says_the_same():
    whole = create()
    greedy = {"temperature": 0}
    with client.messages.stream(model=MODEL, max_tokens=24, messages=ASK, extra_body=greedy) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert text_of(final) == text_of(whole)
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == len(final.content)


def the_cache_is_counted():
    system = [{"type": "text", "text": "You know every city. " * 40, "cache_control": {"type": "ephemeral"}}]
    whole = client.messages.count_tokens(model=MODEL, messages=ASK, system=system).input_tokens
    for _ in range(2):
        usage = create(system=system).usage
        assert usage.input_tokens + usage.cache_read_input_tokens == whole, (usage, whole)


def blocks_count_as_their_text():
    def count(**more):
        return client.messages.count_tokens(model=MODEL, **{"messages": ASK, **more}).input_tokens

    blocks = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    assert count(messages=blocks) == count()
    turns = [*ASK, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Norway?"}]
    assert count(messages=turns) > count() != count(system="Answer in one word.")


def stop_sequences():
    whole = text_of(create())
    message = create(stop_sequences=["nothing", " Paris"])
    assert text_of(message) == whole.split(" Paris")[0]
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " Paris")


def sampling():
    options = {"temperature": 1, "top_k": 20, "top_p": 0.9}
    texts = {text_of(create(seed=seed, **options)) for seed in (1, 1, 2)}
    assert len(texts) == 2, texts


def tools():
    try:
        client.messages.count_tokens(model=MODEL, messages=ASK, tools=[WEATHER])
    except anthropic.BadRequestError as error:
        assert "no place for tools" in error.body["error"]["message"], error
        return
    for choice in ({"type": "any"}, {"type": "tool", "name": "weather"}):
        choice["disable_parallel_tool_use"] = True
        message = create(tools=[WEATHER], tool_choice=choice, max_tokens=80)
        assert message.stop_reason == "tool_use", message
        call = message.content[-1]
        assert call.type == "tool_use" and call.name == "weather" and call.input["city"] in ("Paris", "Oslo"), call
    options = {"model": MODEL, "max_tokens": 80, "messages": ASK, "extra_body": {"temperature": 0}}
    with client.messages.stream(**options, tools=[WEATHER], tool_choice=choice) as stream:
        streamed = stream.get_final_message().content[-1]
    assert (streamed.name, streamed.input) == (call.name, call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny"}]}
    turns = [*ASK, {"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    assert text_of(create(messages=turns, tools=[WEATHER], tool_choice={"type": "none"}))


def json_schema():
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "minimum": 0, "maximum": 99999999}},
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    message = create(output_config={"format": {"type": "json_schema", "schema": schema}}, max_tokens=120)
    found = json.loads(text_of(message))
    assert set(found) == {"city", "population"} and isinstance(found["population"], int), found


def errors():
    invalid = anthropic.BadRequestError
    assert refused(invalid, "`temperature`", temperature=3) == "invalid_request_error"
    refused(invalid, "`max_tokens`", max_tokens=0)
    refused(invalid, "`messages`", messages=[])
    refused(invalid, "`messages`", messages=[*ASK, {"role": "assistant", "content": "Par"}])
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    refused(invalid, "`messages[0].content[0].type`", messages=[{"role": "user", "content": [image]}])
    lost = [{"type": "tool_result", "tool_use_id": "lost", "content": "?"}]
    refused(invalid, "`messages[0].content[0].tool_use_id`", messages=[{"role": "user", "content": lost}])
    refused(invalid, "`tool_choice.name`", tools=[WEATHER], tool_choice={"type": "tool", "name": "other"})
    refused(invalid, "tokens", messages=[{"role": "user", "content": "word " * 50_000}])
    assert refused(anthropic.NotFoundError, "no-such-model", model="no-such-model") == "not_found_error"


def a_stream_can_be_left():
    stream = create(stream=True, max_tokens=4000, ignore_eos=True)
    next(iter(stream))
    stream.close()
    assert create(max_tokens=1).usage.output_tokens == 1


for check in (
    a_message_and_its_usage,
    a_stream_says_the_same,
    the_cache_is_counted,
    blocks_count_as_their_text,
    stop_sequences,
    sampling,
    tools,
    json_schema,
    errors,
    a_stream_can_be_left,
):
    check()
    print(f"anthropic: {check.__name__}: ok")
