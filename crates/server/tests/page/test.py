"""The chat page in a real headless browser, against a real server that runs a real model.

    python3 test.py --browser /usr/bin/chromium-headless-shell --server http://127.0.0.1:8080/ [--screenshots FOLDER] [NAME...]

Every test has a page with storage of its own. Ends with 1 and says what failed. Where the browser answers a request itself, it is
for what a server that works does not do: refuse, break, or write a given text.
"""

import argparse
import base64
import json
import os
import sys
import time
import traceback
import urllib.error
import urllib.request

from browser import SHIFT, Browser, Failed
from proxy import Proxy

CHECKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "checks.js")
LONG = "Write a very long story about an apple tree. Use many words and many paragraphs."
TESTS = []


def test(function):
    TESTS.append(function)
    return function


def equal(found, expected, what):
    if found != expected:
        raise Failed(f"{what}: expected {expected!r}, found {found!r}")


def holds(condition, what):
    if not condition:
        raise Failed(what)


# ---- What tests do


def ask(page, text):
    page.js("document.querySelector('#input').focus()")
    page.type(text)
    page.press("Enter")


def ended(page, seconds=90):
    page.wait("!document.querySelector('#composer.busy') && document.querySelector('.message')", "the answer's end", seconds)


def growing(page, chars=20):
    page.wait(f"document.querySelector('.busy') && (document.querySelector('.assistant:last-child .markdown')?.textContent.length ?? 0) > {chars}", "a growing answer", 90)


def choose(page, **values):
    """Fills fields of the settings, as a user does."""
    page.click("#tune")
    for name, value in values.items():
        page.js(f"document.querySelector('#settings [name={name}]').select()")
        page.type(str(value))
    page.click("#settings .primary")
    page.wait("!document.querySelector('#settings').open", "closed settings")


def text(page, selector):
    return page.js(f"document.querySelector({json.dumps(selector)})?.innerText")


def messages(page):
    return page.js("[...document.querySelectorAll('.message')].map((node) => [node.classList[1], (node.querySelector('.text') ?? node.querySelector('.markdown:last-of-type') ?? node.querySelector('.markdown')).textContent])")


def answered(body, status=200, kind="text/event-stream"):
    """What the browser answers in the server's place."""
    headers = [{"name": "content-type", "value": kind}]
    return "Fetch.fulfillRequest", {"responseCode": status, "responseHeaders": headers, "body": base64.b64encode(body.encode()).decode()}


def stream(*deltas, end="data: [DONE]\n\n"):
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    return answered("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end)


def for_answers(action):
    """Only requests for answers; `action` may be a function of the request."""
    return lambda request: (action(request) if callable(action) else action) if request["url"].endswith("/chat/completions") else None


# ---- Tests


@test
def served(page, server):
    """The page's files: types, policy, revalidation, nothing from elsewhere."""
    for path, kind in [("", "text/html"), ("page/app.js", "text/javascript"), ("page/style.css", "text/css"), ("page/icon.svg", "image/svg+xml")]:
        with urllib.request.urlopen(server + path) as response:
            headers = response.headers
        holds(headers["content-type"].startswith(kind), f"/{path} is {headers['content-type']}")
        policy = headers["content-security-policy"] or ""
        holds("default-src 'none'" in policy and "script-src 'self'" in policy, f"/{path} has the policy {policy!r}")
        holds("unsafe" not in policy, f"/{path} has the policy {policy!r}")
        equal(headers["x-content-type-options"], "nosniff", f"x-content-type-options of /{path}")
        holds(headers["etag"], f"/{path} has no ETag")
        again = urllib.request.Request(server + path, headers={"if-none-match": headers["etag"]})
        try:
            status = urllib.request.urlopen(again).status
        except urllib.error.HTTPError as error:
            status = error.code
        equal(status, 304, f"/{path}, asked again")
    loaded = page.js("performance.getEntriesByType('resource').map(({ name }) => name)")
    equal([name for name in loaded if not name.startswith(page.url)], [], "loaded from elsewhere")
    model = page.js("fetch('v1/models').then((response) => response.json()).then(({ data }) => data[0])")
    equal(page.js("document.querySelector('#model').value"), model["id"], "the model")
    device = text(page, "#device")
    holds(model["device"] in device and f"{model['context_length']:,}" in device, f"the device is shown as {device!r}")


@test
def send_and_stream(page, server):
    choose(page, max_tokens=60, temperature=0)
    page.js("checks.watch('live', document.querySelector('#live'))")
    page.js("checks.watch('log', document.querySelector('#messages'))")
    ask(page, LONG)
    equal(page.js("document.querySelector('#input').value"), "", "the field after sending")
    equal(page.js("document.activeElement.id"), "input", "focus after sending")
    page.wait("document.querySelector('#send').ariaLabel === 'Stop'", "a stop button")
    ended(page)
    steps = sorted(set(page.js("watched.log")))
    holds(len(steps) > 5, f"the answer came in {len(steps)} steps: {steps}")
    holds(page.js("watched.live.length") <= 4, "more than a start and an end was announced")
    said, answer = messages(page)
    equal(said, ["user", LONG], "the question")
    holds(len(answer[1]) > 60, f"the answer is {answer[1]!r}")
    stats = text(page, ".stats")
    holds(stats.startswith("60 tokens · ") and "tokens/s" in stats and "in context" in stats, f"numbers: {stats!r}")
    equal(text(page, ".assistant .note"), "Ended at the token limit.", "why it ended")
    equal(text(page, "#list .current .open"), LONG[:59] + "…", "the title")
    request = page.requests[-1]
    equal([request["stream"], request["stream_options"]], [True, {"include_usage": True}], "streaming")
    # What a user wrote is shown as it is, over lines.
    choose(page, max_tokens=4)
    ask(page, "a *b*\n<i>c</i>")
    ended(page)
    equal(messages(page)[2], ["user", "a *b*\n<i>c</i>"], "the second question")
    equal([turn["role"] for turn in page.requests[-1]["messages"]], ["user", "assistant", "user"], "turns")


@test
def stop(page, server):
    for way in [lambda: page.click("#send"), lambda: page.press("Escape")]:
        page.proxy.hung_up.clear()
        ask(page, LONG)
        growing(page)
        way()
        ended(page, 5)
        holds(page.proxy.hung_up.wait(5), "the browser did not hang up")
        length = page.js("document.querySelector('.assistant:last-child .markdown').textContent.length")
        holds("Stopped." in text(page, ".assistant:last-child .foot"), "the answer is not marked as stopped")
        equal(page.js("document.activeElement.id"), "input", "focus after stopping")
        page.js("new Promise(requestAnimationFrame)")
        equal(page.js("document.querySelector('.assistant:last-child .markdown').textContent.length"), length, "length after stopping")
    choose(page, max_tokens=4)
    page.js("document.querySelector('#input').focus()")
    ask(page, "Go on.")
    ended(page)
    equal([turn["role"] for turn in page.requests[-1]["messages"]], ["user", "assistant"] * 2 + ["user"], "turns")


@test
def regenerate_and_edit(page, server):
    choose(page, max_tokens=6)
    ask(page, "First")
    ended(page)
    ask(page, "Second")
    ended(page)
    first = messages(page)[1]
    page.click(".assistant:last-child .foot button:last-child")
    page.wait("document.querySelector('.busy')", "a second try")
    ended(page)
    equal([role for role, _ in messages(page)], ["user", "assistant"] * 2, "messages after a second try")
    equal(page.requests[-1]["messages"], page.requests[-2]["messages"], "the second try's request")
    page.click(".user .foot button:last-child")
    equal(page.js("[document.activeElement.className, document.activeElement.value]"), ["edit", "First"], "editing")
    page.press("Escape")
    equal(messages(page)[1], first, "after an edit that was given up")
    page.click(".user .foot button:last-child")
    page.js("document.activeElement.select()")
    page.type("Third")
    page.press("Enter")
    ended(page)
    equal([said for role, said in messages(page) if role == "user"], ["Third"], "questions after the edit")
    equal(page.requests[-1]["messages"], [{"role": "user", "content": "Third"}], "the edit's request")
    # An edit while the answer is under way stops that one.
    page.click("#tune")
    page.click("#reset")
    page.click("#settings .primary")
    ask(page, LONG)
    growing(page)
    page.click(".user:nth-last-child(2) .foot button:last-child")
    page.js("document.activeElement.select()")
    fourth = f"Once more. {LONG}"
    page.type(fourth)
    page.press("Enter")
    page.wait("document.querySelector('.busy') && document.querySelector('.markdown')", "the answer to the edit")
    growing(page)
    page.press("Escape")
    ended(page)
    equal([said for role, said in messages(page) if role == "user"], ["Third", fourth], "questions after the second edit")
    equal([role for role, _ in messages(page)], ["user", "assistant"] * 2, "messages after the second edit")
    holds("Stopped." in text(page, ".assistant:last-child .foot"), "the second answer is not marked as stopped")


@test
def refused(page, server):
    """The server's own 400, an error within a stream, and what a proxy may answer."""
    choose(page, max_tokens=4)
    broken = base64.b64encode(b'{"messages": 5}').decode()
    page.intercept = for_answers(("Fetch.continueRequest", {"postData": broken}))
    ask(page, "Precious words")
    ended(page)
    complaint = text(page, ".assistant .error span")
    with_us = urllib.request.Request(server + "v1/chat/completions", b'{"messages": 5}', {"content-type": "application/json"})
    try:
        urllib.request.urlopen(with_us)
        raise Failed("the server takes nonsense")
    except urllib.error.HTTPError as error:
        holds(400 <= error.code < 500, f"the server answers nonsense with {error.code}")
        equal(complaint, json.load(error)["error"]["message"], "the message")
    equal(messages(page)[0], ["user", "Precious words"], "the question is kept")
    page.type("half a sentence")
    page.intercept = for_answers(answered("<h1>Bad gateway</h1>", 502, "text/html"))
    page.click(".error button")
    page.wait("document.querySelector('.error span')?.innerText.includes('<h1>Bad gateway')", "what the proxy said, as text")
    event = {"error": {"message": "out of memory: 7 blocks are free, 9 are needed", "type": "server_error", "code": None, "param": None}}
    page.intercept = for_answers(stream({"content": "Half an "}, end=f"data: {json.dumps(event)}\n\n"))
    page.click(".error button")
    page.wait("document.querySelector('.error span')?.innerText.startsWith('out of memory')", "the error of the stream")
    equal(messages(page)[1], ["assistant", "Half an"], "what had come is kept")
    page.intercept = for_answers(stream({"content": "Cut"}, end=""))
    page.click(".error button")
    page.wait("document.querySelector('.error span')?.innerText.startsWith('The connection was lost')", "a stream without its end")
    page.intercept = None
    page.click(".error button")
    page.wait("document.querySelector('.stats')", "an answer after a retry", 60)
    equal(page.js("document.querySelector('.error')"), None, "the error")
    equal(page.requests[-1]["messages"], [{"role": "user", "content": "Precious words"}], "the retry's request")
    equal(page.js("document.querySelector('#input').value"), "half a sentence", "what was typed meanwhile")


@test
def server_gone(page, server):
    ask(page, LONG)
    growing(page)
    page.proxy.cut()
    page.wait("document.querySelector('.assistant .error span')?.innerText.startsWith('The connection was lost')", "the cut")
    kept = messages(page)
    holds(len(kept[1][1]) > 20, "what had come is gone")
    page.click(".error button")
    page.wait("document.querySelector('.assistant .error span')?.innerText.startsWith('The server cannot be reached')", "no server")
    equal(messages(page)[0], ["user", LONG], "the question is kept")
    page.proxy.mend()
    choose(page, max_tokens=4)
    page.click(".error button")
    page.wait("document.querySelector('.stats')", "an answer after a retry", 60)
    # It is not there when the page comes; both buttons bring it back.
    page.intercept = lambda request: ("Fetch.failRequest", {"errorReason": "ConnectionRefused"}) if "/v1/" in request["url"] else None
    for back in [lambda: page.click("#notice button"), lambda: ask(page, "Hello")]:
        page.reload()
        page.wait("document.querySelector('#notice').innerText.startsWith('The server cannot be reached')", "a notice")
        page.intercept, away = None, page.intercept
        back()
        page.wait("document.querySelector('#notice').hidden && document.querySelector('#model').value && document.querySelector('#device').innerText", "the server's return", 60)
        page.intercept = away


@test
def key(page, server):
    """A server that asks for an API key."""
    refusal = answered(json.dumps({"error": {"message": "An API key is needed", "type": "invalid_request_error", "code": "invalid_api_key", "param": None}}), 401, "application/json")
    heard = []

    def guarded(request):
        if "/v1/" not in request["url"]:
            return None
        heard.append({name.lower(): value for name, value in request["headers"].items()}.get("authorization"))
        return None if heard[-1] == "Bearer open sesame" else refusal

    page.intercept = guarded
    page.reload()
    page.wait("document.querySelector('#ask').open", "the question for a key")
    equal(page.js("[document.activeElement.id, document.activeElement.type]"), ["ask-value", "password"], "the field for a key")
    page.type("open sesame")
    page.press("Enter")
    page.wait("document.querySelector('#model option') && !document.querySelector('#ask').open", "the models")
    choose(page, max_tokens=4)
    ask(page, "Hello")
    ended(page)
    page.reload()
    page.wait("document.querySelector('#model').value", "the models, with the key kept")
    equal(heard.count("Bearer open sesame"), len(heard) - 1, "requests with the key")
    equal(page.js("Object.values(localStorage).some((value) => value.includes('sesame'))"), False, "the key is stored for good")


@test
def reload(page, server):
    choose(page, temperature=0.5)
    ask(page, LONG)
    growing(page, 60)
    page.type("a draft")
    page.reload()
    question, answer = messages(page)
    equal(question, ["user", LONG], "the question after a reload")
    holds(len(answer[1]) > 40, f"the answer after a reload is {answer[1]!r}")
    holds("Cut off" in text(page, ".assistant .foot"), "the answer is not marked as cut off")
    equal(page.js("document.querySelector('#input').value"), "a draft", "the draft")
    choose(page, max_tokens=4)
    page.click(".assistant .foot button:last-child")
    page.wait("document.querySelector('.busy')", "the answer's second try")
    ended(page)
    equal(page.requests[-1]["temperature"], 0.5, "the setting after a reload")
    before = messages(page)
    page.reload()
    equal(messages(page), before, "the conversation after a reload")
    holds("Cut off" not in text(page, ".assistant .foot"), "a complete answer is marked as cut off")
    # As a browser leaves it that was killed.
    page.js("for (const [name, text] of Object.entries(localStorage)) localStorage[name] = text.replace(/\"state\":\"\\w+\"/, '\"state\":\"running\"')")
    page.reload()
    holds("Cut off" in text(page, ".assistant .foot"), "an answer that nobody writes any more is not marked as cut off")


@test
def settings(page, server):
    numbers = {"temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "repetition_penalty": 1.1, "max_tokens": 5, "seed": 42}
    choose(page, **numbers, system="Be brief.", stop="END\n\\n\\n")
    ask(page, "Hello")
    ended(page)
    request = page.requests[-1]
    sent = {name: request.get(name) for name in [*numbers, "stop"]}
    equal(sent, {**numbers, "stop": ["END", "\n\n"]}, "settings of the request")
    equal(request["messages"][0], {"role": "system", "content": "Be brief."}, "the system prompt")
    page.click("#tune")
    page.js("document.querySelector('[name=temperature]').select()")
    page.type("7")
    page.click("#settings .primary")
    equal(page.js("document.querySelector('#settings').open"), True, "settings with a value out of its limits stay open")
    page.reload()
    ask(page, "Hello")
    ended(page)
    equal([page.requests[-1].get("temperature"), page.requests[-1]["seed"]], [None, 42], "a value out of its limits, and another one")
    page.click("#tune")
    page.click("#reset")
    page.click("#settings .primary")
    ask(page, "Hello")
    page.wait("document.querySelector('.busy')", "an answer")
    page.press("Escape")
    ended(page)
    equal(sorted(page.requests[-1]), ["messages", "model", "stream", "stream_options"], "the request after a reset")


@test
def keyboard(page, server):
    """Without a mouse: everything is reached, nothing traps, focus is never lost."""
    choose(page, max_tokens=4)
    page.reload()
    page.js("document.body.tabIndex = -1, document.body.focus(), document.body.removeAttribute('tabindex')")
    page.press("Tab")
    equal(text(page, ":focus"), "Skip to the message field", "the first stop")
    page.press("Enter")
    equal(page.js("document.activeElement.id"), "input", "after the skip link")
    page.type("one")
    page.press("Enter", SHIFT)
    page.type("two")
    page.press("Enter")
    ended(page)
    equal(page.requests[-1]["messages"][-1]["content"], "one\ntwo", "a message of two lines")
    names = []
    for _ in range(40):
        page.press("Tab")
        names.append(page.js("document.activeElement.ariaLabel || document.activeElement.innerText || document.activeElement.id || document.activeElement.tagName"))
        visible = page.js("(() => { const style = getComputedStyle(document.activeElement); return document.activeElement === document.body || style.outlineStyle !== 'none' || document.activeElement.id === 'input'; })()")
        holds(visible, f"focus on {names[-1]!r} is not seen")
    for name in ["New conversation", "one two", "Rename one two", "Delete one two", "Export this conversation", "Theme: as the system", "Settings", "Copy message", "Edit", "Regenerate", "Send"]:
        holds(name in names, f"{name!r} is not reached with Tab: {names}")
    page.js("document.querySelector('#tune').focus()")
    page.press("Enter")
    equal(page.js("document.activeElement.name"), "system", "focus in the settings")
    page.press("Escape")
    equal(page.js("document.activeElement.id"), "tune", "focus after the settings")
    page.js("document.querySelector('#list [aria-label^=Delete]').focus()")
    page.press("Space")
    equal(text(page, ":focus"), "Cancel", "focus in the question")
    page.press("Escape")
    equal(page.js("document.activeElement.ariaLabel"), "Delete one two", "focus after the question")
    # An input method's Enter ends its own composition.
    page.js("document.querySelector('#input').focus()")
    page.type("x")
    page.js("document.querySelector('#input').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))")
    equal(page.js("document.querySelector('#input').value"), "x", "after an input method's Enter")


@test
def markdown(page, server):
    """Structure as CommonMark and GitHub's tables have it; no text of a model becomes HTML."""
    shown = "document.querySelector('.assistant:last-child .markdown').innerHTML"

    def render(source):
        page.intercept = for_answers(stream(*({"content": source[at : at + 7]} for at in range(0, len(source), 7))))
        ask(page, "Write")
        ended(page)
        page.js("new Promise(requestAnimationFrame)")
        return page.js(shown)

    plain = {
        "# One\n### Three": "<h3>One</h3><h5>Three</h5>",
        "**a** *b* ***c*** ~~d~~ `e*f*` __g__ snake_case_name 2 * 3 * 4": "<p><strong>a</strong> <em>b</em> <em><strong>c</strong></em> <del>d</del> <code>e*f*</code> <strong>g</strong> snake_case_name 2 * 3 * 4</p>",
        "*a **b** c* and **d *e* f**": "<p><em>a <strong>b</strong> c</em> and <strong>d <em>e</em> f</strong></p>",
        "one\ntwo\n\nthree": "<p>one<br>two</p><p>three</p>",
        "- a\n  - b\n- c\n\n3. d\n4. e": '<ul><li><p>a</p><ul><li><p>b</p></li></ul></li><li><p>c</p></li></ul><ol start="3"><li><p>d</p></li><li><p>e</p></li></ol>',
        "> q\n> > r": "<blockquote><p>q</p><blockquote><p>r</p></blockquote></blockquote>",
        "---": "<hr>",
        r"\*a\* \(x_1 * y_1\) ``a`b``": r'<p>*a* <code class="math">\(x_1 * y_1\)</code> <code>a`b</code></p>',
        "<b>x</b> &lt; <script>hacked = 1</script> <img src=x onerror='hacked = 1'>": "<p>&lt;b&gt;x&lt;/b&gt; &amp;lt; &lt;script&gt;hacked = 1&lt;/script&gt; &lt;img src=x onerror='hacked = 1'&gt;</p>",
        "[a](javascript:hacked=1) [b](data:text/html,x) [c](//evil.example)": "<p>[a](javascript:hacked=1) [b](data:text/html,x) [c](//evil.example)</p>",
    }
    for source, expected in plain.items():
        equal(render(source), expected, f"Markdown {source!r}")
    link = '<a href="https://a.example/b_(c)" target="_blank" rel="noopener noreferrer nofollow">'
    equal(render("[t *u*](https://a.example/b_(c)) https://a.example/b_(c)."), f"<p>{link}t <em>u</em></a> {link}https://a.example/b_(c)</a>.</p>", "links")
    render("![alt](https://a.example/i.png)")
    equal(page.js("[document.querySelectorAll('#messages img').length, document.querySelector('.assistant:last-child a').innerText]"), [0, "alt"], "an image is a link")
    render("| a | b |\n|:--|--:|\n| 1 \\| 2 | `x` |\n| 3 |")
    equal(page.js("[...document.querySelectorAll('.assistant:last-child tr')].map((row) => [...row.cells].map((cell) => [cell.tagName, cell.className, cell.innerText]))"),
          [[["TH", "left", "a"], ["TH", "right", "b"]], [["TD", "left", "1 | 2"], ["TD", "right", "x"]], [["TD", "left", "3"], ["TD", "right", ""]]], "a table")
    code = "fn f() -> &'static str {\n    \"</code><script>hacked = 1</script>\" // *n*\n}"
    render(f"Code:\n```rust\n{code}\n```\ndone")
    equal(page.js("document.querySelector('.assistant:last-child pre').textContent"), code, "code")
    equal(page.js("['keyword', 'string', 'comment'].map((name) => document.querySelector(`.assistant:last-child pre .${name}`).textContent)"), ["fn", '"</code><script>hacked = 1</script>"', "// *n*"], "colours")
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"], browserContextId=page.storage)
    page.click(".assistant:last-child .bar button")
    page.wait("document.querySelector('.assistant:last-child .bar button').innerText === 'Copied'", "the copy")
    equal(page.js("navigator.clipboard.readText()"), code, "what was copied")
    # Neither depth nor length hangs the page.
    render(">" * 300 + "x\n\n" + "*a_b~~`[" * 2000 + "\n\n" + "- " * 500 + "x")
    took_ms = page.js("""import('./page/markdown.js').then(({ renderMarkdown }) => {
        const began = performance.now();
        for (const open of ['*a ', '**a ', '_a ', '`` a', '\\\\(', '[a', '<http', '~~a ']) renderMarkdown(document.createElement('div'), open.repeat(20_000));
        return performance.now() - began;
    })""")
    holds(took_ms < 3000, f"marks that nothing closes took {took_ms:.0f} ms")
    equal(page.js("[typeof hacked, document.querySelectorAll('#messages script, #messages iframe, #messages [onerror]').length]"), ["undefined", 0], "what the model's text did")


@test
def reasoning_and_tools(page, server):
    page.intercept = for_answers(stream({"role": "assistant"}, {"reasoning_content": "First *this*, "}, {"reasoning_content": "then that."}, {"content": "So be it."},
                                        {"tool_calls": [{"index": 0, "id": "1", "type": "function", "function": {"name": "look", "arguments": '{"at":'}}]},
                                        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]}))
    ask(page, "Why?")
    ended(page)
    page.wait("document.querySelector('.assistant pre')", "the call")
    equal(page.js("[document.querySelector('details').open, document.querySelector('summary').innerText, document.querySelector('details .markdown').textContent]"), [False, "Thoughts", "First this, then that."], "thoughts")
    equal(page.js("document.querySelector('.assistant > .markdown p').innerText"), "So be it.", "the answer")
    equal(page.js("document.querySelector('.assistant pre').textContent"), '{"at":1}', "the call's arguments")
    page.intercept = for_answers(stream({"content": "Yes."}))
    ask(page, "Sure?")
    ended(page)
    equal(page.requests[-1]["messages"][1], {"role": "assistant", "content": "So be it."}, "the answer that is sent back, without its thoughts")


@test
def conversations(page, server):
    page.js("{ const make = URL.createObjectURL; URL.createObjectURL = (file) => { file.text().then((text) => { window.exported = text; }); return make.call(URL, file); }; }")
    ask(page, LONG)
    growing(page)
    page.click("#new")
    equal([messages(page), page.js("document.activeElement.id")], [[], "input"], "a new conversation")
    page.intercept = for_answers(stream({"content": "Second **answer**"}))
    ask(page, "Second question")
    ended(page)
    page.click("#list li:last-child .open")
    holds(len(messages(page)[1][1]) > 20, "the first answer is gone")
    before = len(messages(page)[1][1])
    page.wait(f"document.querySelector('.markdown').textContent.length > {before + 20}", "the first answer, still growing")
    page.press("Escape")
    ended(page)
    page.js("[...document.querySelectorAll('#list .open')].find((node) => node.innerText === 'Second question').click()")
    page.click("#list .current [aria-label^=Rename]")
    page.js("document.activeElement.select()")
    page.type("Other name")
    page.press("Enter")
    page.wait("document.querySelector('#list .current .open').innerText === 'Other name'", "the new name")
    page.click("#export")
    page.wait("window.exported", "the export")
    model = text(page, ".assistant .author")
    equal(page.js("exported"), f"# Other name\n\n## You\n\nSecond question\n\n## {model}\n\nSecond **answer**\n", "the export")
    page.click("#list .current [aria-label^=Delete]")
    page.click("#ask-no")
    equal(page.js("document.querySelectorAll('#list li').length"), 2, "conversations after a delete that was declined")
    page.click("#list .current [aria-label^=Delete]")
    page.click("#ask-yes")
    page.wait("document.querySelectorAll('#list li').length === 1", "one conversation less")
    equal(messages(page), [], "the page after the delete")
    page.reload()
    equal(page.js("[...document.querySelectorAll('#list .open')].map((node) => node.innerText)"), [LONG[:59] + "…"], "conversations after a reload")


@test
def scrolling(page, server):
    page.size(900, 500)
    choose(page, temperature=0)
    ask(page, LONG)
    at_end = "(() => { const log = document.querySelector('#log'); return log.scrollHeight - log.clientHeight - log.scrollTop < 40; })()"
    page.wait("document.querySelector('.busy') && document.querySelector('#log').scrollHeight > document.querySelector('#log').clientHeight + 150", "a long answer", 90)
    holds(page.js(at_end), "the end of the answer is not in view")
    page.call("Input.dispatchMouseEvent", type="mouseWheel", x=500, y=200, deltaX=0, deltaY=-120)
    page.wait(f"!{at_end}", "a view away from the end")
    top = page.js("document.querySelector('#log').scrollTop")
    length = page.js("document.querySelector('.markdown').textContent.length")
    page.wait(f"document.querySelector('.markdown').textContent.length > {length + 60}", "growth", 60)
    holds(abs(page.js("document.querySelector('#log').scrollTop") - top) < 100, "the view was moved while the user was reading")
    page.click("#end")
    holds(page.js(at_end), "the button does not go to the end")
    length = page.js("document.querySelector('.markdown').textContent.length")
    page.wait(f"document.querySelector('.markdown').textContent.length > {length + 60}", "growth", 60)
    holds(page.js(at_end), "the end is not followed again")
    page.press("Escape")


@test
def long_conversation(page, server):
    """A growing answer draws its last block only, however much stands above it."""
    story = "".join(f"Paragraph {n} of *this*.\n\n```rust\nlet x = {n};\n```\n\n" for n in range(10))
    history = [{"role": role, "content": story, "state": "done"} for _ in range(150) for role in ["user", "assistant"]]
    page.js(f"localStorage.setItem('russet.chat.big', JSON.stringify({{ id: 'big', title: 'Big', changed_ms: 1, messages: {json.dumps(history)} }}))")
    page.js("localStorage.setItem('russet.chats', JSON.stringify([{ id: 'big', title: 'Big', changed_ms: 1 }])); localStorage.setItem('russet.open', '\"big\"')")
    began = time.monotonic()
    page.reload()
    holds(time.monotonic() - began < 10, f"300 messages took {time.monotonic() - began:.1f} s")
    page.intercept = for_answers(stream(*[{"content": story}] * 30))
    page.js("[...document.querySelectorAll('.message')].forEach((node, index) => checks.watch(index, node.querySelector('.text, .markdown')))")
    ask(page, "More")
    ended(page)
    page.wait("document.querySelectorAll('.assistant:last-child pre').length === 300", "the answer")
    equal(page.js("Object.values(watched).filter((changes) => changes.length).length"), 0, "earlier messages that were drawn again")
    # The same for the blocks of one answer.
    kept = page.js("""import('./page/markdown.js').then(({ renderMarkdown }) => {
        const node = document.createElement('div');
        renderMarkdown(node, 'one\\n\\n```\\ncode\\n```\\n\\nthr');
        const [first, second, third] = node.children;
        renderMarkdown(node, 'one\\n\\n```\\ncode\\n```\\n\\nthree');
        return [node.children[0] === first, node.children[1] === second, node.children[2] === third, node.textContent.endsWith('three')];
    })""")
    equal(kept, [True, True, False, True], "blocks that stay")


@test
def themes_and_sizes(page, server):
    page.intercept = for_answers(stream({"reasoning_content": "Hm."}, {"content": "Text `code` [link](https://a.example)\n\n> quote\n\n| a |\n|---|\n| b |\n\n```rust\nlet x = f(1, \"s\"); // c\n```\n\n```diff\n+a\n-b\n```\n\n" + "long " * 400}))
    ask(page, "Everything")
    ended(page)
    page.intercept = for_answers(answered(json.dumps({"error": {"message": "No " * 60, "type": "x", "code": None, "param": None}}), 400, "application/json"))
    ask(page, "And an error")
    ended(page)
    background = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(253, 251, 249)", "rgb(23, 20, 18)"
    for scheme, expected in [("light", light), ("dark", dark)]:
        page.prefers(scheme=scheme)
        equal(page.js(background), expected, f"the page where the system is {scheme}")
        equal(page.js("checks.contrast()"), [], f"faint texts, {scheme}")
        page.click("#tune")
        equal(page.js("checks.contrast()"), [], f"faint texts in the settings, {scheme}")
        page.press("Escape")
        page.click("#list .current [aria-label^=Delete]")
        equal(page.js("checks.contrast()"), [], f"faint texts in the question, {scheme}")
        page.press("Escape")
    page.click("#theme")
    equal([page.js(background), page.js("document.querySelector('#theme').ariaLabel")], [light, "Theme: light"], "the light theme where the system is dark")
    page.reload()
    equal(page.js(background), light, "the chosen theme after a reload")
    page.click("#theme")
    page.prefers(scheme="light")
    equal(page.js(background), dark, "the dark theme where the system is light")
    for width in [360, 768, 1280]:
        page.size(width, 700)
        equal(page.js("checks.outside()"), [], f"outside at {width} px")
    page.size(360, 700)
    page.prefers(motion="reduce")
    page.click("#menu")
    page.wait("document.activeElement.id === 'new' && document.querySelector('#chats').getBoundingClientRect().left === 0", "the drawer")
    equal(page.js("document.querySelector('main').inert"), True, "the page below the drawer is out of reach")
    page.press("Escape")
    equal(page.js("[document.activeElement.id, document.querySelector('main').inert]"), ["menu", False], "after the drawer")
    page.prefers(scheme="light", motion="reduce")
    ask(page, "Wait")
    equal(page.js("document.getAnimations().length"), 0, "animations where the system wants none")


@test
def names(page, server):
    """Every control has a name and a role in the accessibility tree."""
    page.intercept = for_answers(stream({"reasoning_content": "Hm."}, {"content": "```rust\nx\n```\n\n| a |\n|---|\n| b |"}))
    ask(page, "Everything")
    ended(page)
    page.wait("document.querySelector('.assistant pre')", "the code")
    page.call("Accessibility.enable")

    def tree():
        nodes = page.call("Accessibility.getFullAXTree")["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "").strip(), {one["name"]: one["value"].get("value") for one in node.get("properties", [])}) for node in nodes if not node["ignored"]]

    def unnamed():
        return [role for role, name, properties in tree() if properties.get("focusable") and not name and role not in ["RootWebArea"]]

    equal(unnamed(), [], "controls without a name")
    roles = {role for role, _, _ in tree()}
    holds({"navigation", "main", "article", "status", "heading"} <= roles, f"roles: {sorted(roles)}")
    equal([name for role, name, _ in tree() if role == "heading"][:3], ["Everything", "You", text(page, ".assistant .author")], "headings")
    page.click(".user .foot button:last-child")
    equal(unnamed(), [], "controls without a name, editing")
    page.click(".editor button")
    page.click("#tune")
    equal(unnamed(), [], "controls without a name, settings")
    fields = [name for role, name, _ in tree() if role in ("textbox", "spinbutton")]
    equal(fields, ["System prompt", "Temperature", "Top p", "Top k", "Min p", "Repetition penalty", "Longest answer", "Seed", "Stop at"], "names of the settings")
    page.press("Escape")
    page.click("#list .current [aria-label^=Rename]")
    equal(unnamed(), [], "controls without a name, renaming")


@test
def behind_a_prefix(page, server):
    """A proxy may serve the page under a path of its own."""
    prefix = page.url + "some/where/"

    def rewritten(request):
        holds(request["url"].startswith(prefix), f"outside of the prefix: {request['url']}")
        return "Fetch.continueRequest", {"url": page.url + request["url"][len(prefix) :]}

    page.intercept = rewritten
    page.open(prefix)
    choose(page, max_tokens=4)
    ask(page, "Hello")
    ended(page)
    page.wait("document.querySelector('.stats')", "the answer")


# ---- Running them


def run(function, browser, server, screenshots):
    proxy = Proxy(server)
    page = browser.page()
    page.proxy, page.url = proxy, proxy.url
    with open(CHECKS, encoding="utf-8") as file:
        page.call("Page.addScriptToEvaluateOnNewDocument", source=file.read())
    try:
        page.size(1280, 860)
        page.watch()
        page.open(proxy.url)
        function(page, server)
        equal(page.complaints, [], "complaints in the console")
    finally:
        if screenshots:
            page.screenshot(os.path.join(screenshots, f"{function.__name__}.png"))
        page.close()
        proxy.cut()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--browser", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--screenshots", help="a folder for a picture of each test's end")
    parser.add_argument("names", nargs="*", metavar="NAME")
    options = parser.parse_args()
    server = options.server.rstrip("/") + "/"
    chosen = [function for function in TESTS if not options.names or function.__name__ in options.names]
    failed = 0
    browser = Browser(options.browser)
    try:
        for function in chosen:
            began = time.monotonic()
            try:
                run(function, browser, server, options.screenshots)
                said = "ok"
            except Exception as error:
                failed += 1
                said = f"FAILED\n{error if isinstance(error, Failed) else traceback.format_exc()}"
            print(f"page: {function.__name__}: {said} in {time.monotonic() - began:.1f} s", flush=True)
    finally:
        browser.close()
    print(f"page: {len(chosen) - failed} passed, {failed} failed")
    sys.exit(1 if failed or not chosen else 0)


main()
