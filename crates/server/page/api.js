// The server's OpenAI-compatible API. Addresses are relative to the page, so it works behind a path prefix.

const KEY = "russet.key";

/** What the server said against a request. `status` is 0 where it could not be asked, 401 where it wants an API key. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The key lives as long as the tab: one that is stored for good is one that is found later. */
export function setKey(key) {
  sessionStorage.setItem(KEY, key.trim());
}

async function ask(path, options) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers.authorization = `Bearer ${key}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached. Is it still running?");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  const said = await response.text().catch(() => "");
  let message = said.slice(0, 300);
  try {
    message = messageOf(JSON.parse(said).error);
  } catch {
    // Not the server's own format: a proxy between us, for one.
  }
  return new ApiError(message || `The server answered ${response.status} ${response.statusText}.`, response.status);
}

const messageOf = (error) => (typeof error === "string" ? error : error.message) || JSON.stringify(error);

/** What the server can answer with, the one that is loaded first. */
export async function models() {
  const response = await ask("v1/models", { cache: "no-store" });
  return (await response.json()).data;
}

/** Asks for an answer and yields `{delta, finish, usage}` as it is written; what a chunk lacks is undefined.
 * Throws what the server says instead, and where the answer ends before its end. */
export async function* chat(request, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...request, stream: true, stream_options: { include_usage: true } }),
    signal,
  });
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(messageOf(chunk.error), 200);
    const choice = chunk.choices?.[0];
    yield { delta: choice?.delta, finish: choice?.finish_reason, usage: chunk.usage };
  }
  throw new ApiError("The connection was lost before the answer was complete.");
}

/** The data of each server-sent event. */
async function* events(body) {
  let data = [];
  for await (const line of lines(body)) {
    if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
    else if (!line && data.length) {
      yield data.join("\n");
      data = [];
    }
  }
}

async function* lines(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split(/\r?\n/);
      rest = parts.pop();
      yield* parts;
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection was lost before the answer was complete.");
  } finally {
    reader.cancel().catch(() => {}); // An answer that nobody reads on is not to be computed on.
  }
}
