// One answer under way: the request, what has come of it, and how long it took.
import { ApiError, chat as ask } from "./api.js";
import * as chats from "./chats.js";
import * as settings from "./settings.js";

const SAVE_EVERY_MS = 1000; // while it grows, against a crash
const LEAVING_MS = 3000;

/** Answers under way by the id of their conversation: there may be one in each. */
export const running = new Map();

// A page that goes away loses its connections first, which is no failure. A download fires the event too, and stays.
let leaving = false;
addEventListener("beforeunload", () => {
  leaving = true;
  setTimeout(() => (leaving = false), LEAVING_MS);
});
addEventListener("pagehide", () => running.forEach(({ chat }) => chats.save(chat)));

export class Answer {
  /** Appends the answer's message to the conversation. */
  constructor(chat, model) {
    this.chat = chat;
    this.model = model; // `{id, context_length}`, or undefined where the server names none
    this.request = requestOf(chat, model?.id);
    this.message = { role: "assistant", content: "", state: "running", model: model?.id };
    this.controller = new AbortController();
    this.asked_ms = this.saved_ms = performance.now();
    this.pieces = 0;
    chat.messages.push(this.message);
    running.set(chat.id, this);
    chats.save(chat);
  }

  stop() {
    this.controller.abort();
  }

  /** Whether no other answer has taken its place. */
  isCurrent() {
    return this.chat.messages.at(-1) === this.message;
  }

  /** Until the answer has ended, in whatever way; `grown()` after each piece. Returns the error if it failed. */
  async receive(grown) {
    const { message } = this;
    let failure;
    try {
      for await (const chunk of ask(this.request, this.controller.signal)) {
        this.take(chunk);
        grown();
      }
      if (message.state === "running") message.state = "done";
    } catch (error) {
      failure = this.fail(error);
    }
    if (this.pieces > 0) message.stats = this.stats();
    if (this.isCurrent()) {
      running.delete(this.chat.id);
      chats.save(this.chat);
    }
    return failure;
  }

  take({ delta, finish, usage }) {
    const { message } = this;
    const { content, reasoning_content: reasoning, tool_calls: calls } = delta ?? {};
    if (content || reasoning || calls?.length) {
      this.last_ms = performance.now();
      this.first_ms ??= this.last_ms;
      this.pieces += 1;
    }
    if (content) message.content += content;
    if (reasoning) message.reasoning = (message.reasoning ?? "") + reasoning;
    calls?.forEach((call) => takeCall(message, call));
    if (finish === "length") message.state = "length";
    if (usage) this.usage = usage;
    if (performance.now() - this.saved_ms > SAVE_EVERY_MS) {
      this.saved_ms = performance.now();
      chats.save(this.chat);
    }
  }

  fail(error) {
    const stopped = error.name === "AbortError";
    this.message.state = stopped ? "stopped" : leaving ? "cut" : "failed";
    if (this.message.state !== "failed") return undefined;
    // What is not the server's word is our own mistake.
    if (!(error instanceof ApiError)) console.error(error);
    this.message.error = error.message;
    return error;
  }

  /** Times are seen from here, so they hold what the network took. */
  stats() {
    const { usage, pieces } = this;
    return {
      tokens: usage?.completion_tokens ?? pieces, // A piece is a token, nearly always.
      exact: usage?.completion_tokens !== undefined,
      first_ms: (this.first_ms ?? this.asked_ms) - this.asked_ms,
      all_ms: (this.last_ms ?? this.asked_ms) - this.asked_ms,
      prompt_tokens: usage?.prompt_tokens,
      context_tokens: this.model?.context_length,
    };
  }
}

function takeCall(message, { index = 0, function: called }) {
  message.calls ??= [];
  const call = (message.calls[index] ??= { name: "", arguments: "" });
  call.name += called?.name ?? "";
  call.arguments += called?.arguments ?? "";
}

function requestOf({ messages }, model) {
  const { sampling, system } = settings.request();
  const said = system.trim() ? [{ role: "system", content: system }] : [];
  for (const { role, content } of messages) {
    // Chat templates want turns to alternate; an answer that failed leaves two questions in a row.
    if (content && said.at(-1)?.role === role) said.at(-1).content += `\n\n${content}`;
    else if (content) said.push({ role, content });
  }
  return { model, messages: said, ...sampling };
}
