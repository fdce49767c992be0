"""The official OpenAI client's responses and embeddings against a running `russet serve`: python responses_client.py URL."""

import base64
import json
import math
import struct
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
ASK = "What is the capital of France?"
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


def create(**more):
    return client.responses.create(**{"model": MODEL, "input": ASK, "max_output_tokens": 24, "temperature": 0, **more})


def refused(kind, param, act):
    try:
        act()
    except kind as error:
        assert error.param == param, error
        return
    raise AssertionError(f"{param} was not refused")


def a_response_and_its_usage():
    response = create(metadata={"purpose": "test"})
    assert "Paris" in response.output_text, response
    assert response.status == ("incomplete" if response.incomplete_details else "completed")
    assert response.metadata == {"purpose": "test"} and response.model == MODEL
    usage = response.usage
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens and 0 < usage.output_tokens <= 24
    cut = create(max_output_tokens=2)
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert cut.output[-1].status == "incomplete"


def items_say_what_a_string_says():
    parts = [{"role": "user", "content": [{"type": "input_text", "text": ASK}]}]
    assert create(input=parts).output_text == create().output_text
    assert create(instructions="Answer in one word.").usage.input_tokens != create().usage.input_tokens


def a_stream_says_the_same():
    whole = create()
    events = list(create(stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1].type == f"response.{whole.status}" and events[-1].response.output_text == whole.output_text
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    done = [event.text for event in events if event.type == "response.output_text.done"]
    assert ["".join(deltas)] == done == [whole.output_text]
    assert events[-1].response.usage.output_tokens == whole.usage.output_tokens


def a_response_is_kept_until_it_is_deleted():
    first = create(instructions="Answer in one word.")
    assert client.responses.retrieve(first.id).output_text == first.output_text
    # Alone, and with the whole conversation sent again: instructions are not carried over.
    second = create(input="And of Norway?", previous_response_id=first.id)
    said = {"role": "assistant", "content": [{"type": "output_text", "text": first.output_text}]}
    again = create(input=[{"role": "user", "content": ASK}, said, {"role": "user", "content": "And of Norway?"}])
    assert second.usage.input_tokens == again.usage.input_tokens
    assert second.output_text == again.output_text and second.previous_response_id == first.id
    client.responses.delete(first.id)
    refused(openai.NotFoundError, "response_id", lambda: client.responses.retrieve(first.id))
    refused(openai.NotFoundError, "previous_response_id", lambda: create(previous_response_id=first.id))
    third = create(previous_response_id=second.id, input="And of Italy?", store=False)
    assert third.usage.input_tokens > second.usage.input_tokens
    refused(openai.NotFoundError, "response_id", lambda: client.responses.retrieve(third.id))


def json_schema():
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "minimum": 0, "maximum": 99999999}},
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "name": "city", "schema": schema, "strict": True}
    found = json.loads(create(text={"format": format}, max_output_tokens=120).output_text)
    assert set(found) == {"city", "population"} and isinstance(found["population"], int), found


def tools():
    lost = {"type": "function_call_output", "call_id": "lost", "output": "?"}
    refused(openai.BadRequestError, "input[0].call_id", lambda: create(input=[lost]))
    try:
        create(tools=[WEATHER])
    except openai.BadRequestError as error:
        assert error.param == "tools" and "no place for tools" in str(error), error
        return
    for choice in ("required", {"type": "function", "name": "weather"}):
        options = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False, "max_output_tokens": 80}
        response = create(**options)
        call = response.output[-1]
        assert call.type == "function_call" and call.name == "weather", response
        assert json.loads(call.arguments)["city"] in ("Paris", "Oslo")
        events = list(create(stream=True, **options))
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
        assert "".join(deltas) == call.arguments == events[-1].response.output[-1].arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 21 degrees"}
    after = create(input=[result], previous_response_id=response.id, tools=[WEATHER], tool_choice="none")
    assert after.output_text


def refusals():
    invalid = openai.BadRequestError
    refused(invalid, "temperature", lambda: create(temperature=3))
    refused(invalid, "input", lambda: create(input=[]))
    refused(invalid, "background", lambda: create(background=True))
    image = [{"role": "user", "content": [{"type": "input_image", "image_url": "data:"}]}]
    refused(invalid, "input[0].content[0].type", lambda: create(input=image))
    refused(invalid, "tools[0].type", lambda: create(tools=[{"type": "web_search"}]))
    refused(openai.NotFoundError, None, lambda: create(model="no-such-model"))
    refused(openai.NotFoundError, "previous_response_id", lambda: create(previous_response_id="resp_0"))


def embeddings():
    texts = ["The cat sits on the mat.", "A cat is sitting on a mat.", "Stocks fell sharply."]
    answer = client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
    vectors = [item.embedding for item in answer.data]
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-3) for vector in vectors)

    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b))

    assert cosine(vectors[0], vectors[1]) > cosine(vectors[0], vectors[2])
    alone = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float").data[0].embedding
    assert cosine(alone, vectors[0]) > 0.9999
    raw = client.post("/embeddings", cast_to=object, body={"input": texts[0], "encoding_format": "base64"})
    packed = base64.b64decode(raw["data"][0]["embedding"])
    assert cosine(struct.unpack(f"<{len(packed) // 4}f", packed), alone) > 0.9999
    tokens = client.post("/../tokenize", cast_to=object, body={"content": texts[0], "add_special": True})["tokens"]
    by_id = client.embeddings.create(model=MODEL, input=tokens, encoding_format="float")
    assert by_id.usage.prompt_tokens == by_id.usage.total_tokens == len(tokens)
    assert cosine(by_id.data[0].embedding, alone) > 0.9999

    def pooled(pooling, input):
        options = {"encoding_format": "float", "extra_body": {"pooling": pooling}}
        return client.embeddings.create(model=MODEL, input=input, **options).data[0].embedding

    # The first token sees nothing else, and of one token the first is the last and the mean.
    assert cosine(pooled("cls", tokens), pooled("last", tokens[:1])) > 0.9999
    assert cosine(pooled("mean", tokens[:1]), pooled("last", tokens[:1])) > 0.9999
    assert cosine(pooled("last", tokens), pooled("mean", tokens)) < 0.9999
    size = len(alone)
    assert len(client.embeddings.create(model=MODEL, input="x", dimensions=size).data[0].embedding) == size
    create = client.embeddings.create
    refused(openai.BadRequestError, "dimensions", lambda: create(model=MODEL, input="x", dimensions=size - 1))
    refused(openai.BadRequestError, "input", lambda: create(model=MODEL, input=["x", ""]))
    refused(openai.BadRequestError, "input", lambda: create(model=MODEL, input=[2**31]))


for check in (
    a_response_and_its_usage,
    items_say_what_a_string_says,
    a_stream_says_the_same,
    a_response_is_kept_until_it_is_deleted,
    json_schema,
    tools,
    refusals,
    embeddings,
):
    check()
    print(f"responses: {check.__name__}: ok")
