"""The official OpenAI client against a running `russet serve`: python openai_client.py URL."""

import json
import math
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0, timeout=120)
MODEL = client.models.list().data[0].id
ASK = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def chat(**more):
    options = {"model": MODEL, "messages": ASK, "max_tokens": 24, "temperature": 0, **more}
    return client.chat.completions.create(**options)


def streamed(**more):
    return list(chat(stream=True, **more))


def text_of(chunks, index=0):
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
    return "".join(choice.delta.content or "" for choice in choices)


def refused(kind, param, **more):
    try:
        chat(**more)
    except kind as error:
        assert error.param == param, error
        return
    raise AssertionError(f"{more} was not refused")


def models():
    model = client.models.retrieve(MODEL)
    assert model.loaded and model.context_length > 0 and model.device and model.quantization, model
    try:
        client.models.retrieve("no-such-model")
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
        return
    raise AssertionError("an unknown model was found")


def a_chat_and_its_usage():
    answer = chat()
    assert "Paris" in answer.choices[0].message.content, answer
    assert answer.choices[0].finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens <= 24 and usage.prompt_tokens > len("What is the capital of France?".split())
    assert usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def a_stream_says_the_same():
    whole = chat()
    chunks = streamed(stream_options={"include_usage": True})
    assert text_of(chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in streamed())


def parts_and_roles():
    parts = [{"type": "text", "text": "What is the capital of France?"}]
    messages = [{"role": "developer", "content": "Answer in one word."}, {"role": "user", "content": parts}]
    assert "Paris" in chat(messages=messages).choices[0].message.content


def several_answers():
    answer = chat(n=3, temperature=1, seed=5)
    texts = [choice.message.content for choice in answer.choices]
    assert len(texts) == 3 and len(set(texts)) > 1, texts
    chunks = streamed(n=3, temperature=1, seed=5)
    assert [text_of(chunks, i) for i in range(3)] == texts


def a_seed_is_reproducible():
    def text(seed):
        answer = chat(seed=seed, temperature=1.2, top_p=0.9, extra_body={"top_k": 50, "min_p": 0.02})
        return answer.choices[0].message.content

    assert text(11) == text(11)
    assert text(11) != text(12)


def stop_strings():
    whole = chat().choices[0].message.content
    for stop in (" Paris", ["nothing", " Paris"]):
        answer = chat(stop=stop).choices[0]
        assert answer.message.content == whole.split(" Paris")[0]
        assert answer.finish_reason == "stop"
        assert text_of(streamed(stop=stop)) == answer.message.content
    assert chat(max_completion_tokens=2, max_tokens=openai.NOT_GIVEN).choices[0].finish_reason == "length"


def biases_and_penalties():
    paris = "Paris" in chat().choices[0].message.content
    ids = client.post("/../tokenize", cast_to=object, body={"content": " Paris"})["tokens"]
    banned = chat(logit_bias={str(id): -100 for id in ids}).choices[0].message.content
    assert paris and " Paris" not in banned, banned
    repeated = [{"role": "user", "content": "Say: la la la la la la la la la la la la"}]
    plain = chat(messages=repeated, max_tokens=60).choices[0].message.content
    varied = chat(messages=repeated, max_tokens=60, frequency_penalty=2, presence_penalty=2).choices[0].message.content
    assert plain != varied


def logprobs():
    answer = chat(logprobs=True, top_logprobs=4, max_tokens=8).choices[0]
    tokens = answer.logprobs.content
    assert "".join(token.token for token in tokens).startswith(answer.message.content)
    assert bytes(b for token in tokens for b in token.bytes).decode().startswith(answer.message.content)
    for token in tokens:
        # Greedy: the token is the most probable one.
        assert len(token.top_logprobs) == 4
        assert token.top_logprobs[0].token == token.token
        assert math.isclose(token.top_logprobs[0].logprob, token.logprob, abs_tol=1e-5)
        probabilities = [math.exp(top.logprob) for top in token.top_logprobs]
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1.0001
    chunks = streamed(logprobs=True, top_logprobs=4, max_tokens=8)
    choices = [choice for chunk in chunks for choice in chunk.choices if choice.logprobs]
    assert [token.token for choice in choices for token in choice.logprobs.content] == [token.token for token in tokens]
    plain = client.completions.create(model=MODEL, prompt="One two three", max_tokens=4, temperature=0, logprobs=2)
    old = plain.choices[0].logprobs
    assert "".join(old.tokens) == plain.choices[0].text
    assert old.text_offset[0] == 0 and old.text_offset[1] == len(old.tokens[0])
    assert all(len(top) == 2 and token in top for token, top in zip(old.tokens, old.top_logprobs))


def json_schema():
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "population": {"type": "integer", "minimum": 0, "maximum": 99999999}},
        "required": ["city", "population"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}}
    for seed in range(3):
        answer = chat(response_format=format, max_tokens=120, temperature=1, seed=seed).choices[0]
        found = json.loads(answer.message.content)
        assert set(found) == {"city", "population"} and isinstance(found["population"], int), found
    answer = chat(response_format={"type": "json_object"}, max_tokens=400).choices[0]
    if answer.finish_reason == "stop":
        assert isinstance(json.loads(answer.message.content), dict)


def tools():
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named):
        options = {"tools": [WEATHER], "tool_choice": choice, "parallel_tool_calls": False, "max_tokens": 80}
        answer = chat(**options).choices[0]
        assert answer.finish_reason == "tool_calls", answer
        [call] = answer.message.tool_calls
        assert call.function.name == "weather"
        assert json.loads(call.function.arguments)["city"] in ("Paris", "Oslo")
        chunks = streamed(**options)
        deltas = [d for chunk in chunks for c in chunk.choices for d in c.delta.tool_calls or []]
        assert deltas[0].id and deltas[0].function.name == "weather"
        assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments
        assert chunks[-1].choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "Sunny, 21 degrees"}
    messages = [*ASK, answer.message.model_dump(exclude_none=True), result]
    assert chat(messages=messages, tools=[WEATHER], tool_choice="none").choices[0].message.content


def completions():
    answer = client.completions.create(model=MODEL, prompt=["One two three", "A B C"], max_tokens=6, temperature=0)
    assert [choice.index for choice in answer.choices] == [0, 1]
    echo = client.completions.create(model=MODEL, prompt="One two three", max_tokens=6, temperature=0, echo=True)
    assert echo.choices[0].text == "One two three" + answer.choices[0].text
    chunks = client.completions.create(model=MODEL, prompt="One two three", max_tokens=6, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == answer.choices[0].text


def errors():
    refused(openai.BadRequestError, "temperature", temperature=3)
    refused(openai.BadRequestError, "messages", messages=[])
    refused(openai.BadRequestError, "stop", stop=["x"] * 17)
    image = [{"type": "image_url", "image_url": {"url": "data:"}}]
    refused(openai.BadRequestError, "messages[0].content[0].type", messages=[{"role": "user", "content": image}])
    refused(openai.NotFoundError, None, model="no-such-model")
    long = [{"role": "user", "content": "word " * 50_000}]
    try:
        chat(messages=long)
    except openai.BadRequestError as error:
        assert error.code == "context_length_exceeded"
        return
    raise AssertionError("a prompt that is too long was taken")


def a_stream_can_be_left():
    stream = chat(stream=True, max_tokens=4000, extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    assert chat(max_tokens=1).usage.completion_tokens == 1


for check in (
    models,
    a_chat_and_its_usage,
    a_stream_says_the_same,
    parts_and_roles,
    several_answers,
    a_seed_is_reproducible,
    stop_strings,
    biases_and_penalties,
    logprobs,
    json_schema,
    tools,
    completions,
    errors,
    a_stream_can_be_left,
):
    check()
    print(f"openai: {check.__name__}: ok")
