// One message of the conversation as it stands on the page. An answer that grows is drawn at most once a frame.
import { nameOf } from "./chats.js";
import { copyButton } from "./clipboard.js";
import { element, renderMarkdown } from "./markdown.js";

const NOTES = {
  length: "Ended at the token limit.",
  stopped: "Stopped.",
  cut: "Cut off: the page was closed or reloaded while it was written.",
};

export function button(name, action, className = "quiet") {
  const node = element("button", className, name);
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

/** `actions`: `regenerate()`, `edit(view)`; whether they are offered is the caller's to say, with `offer`. */
export class MessageView {
  constructor(message, actions) {
    this.message = message;
    this.actions = actions;
    const user = message.role === "user";
    this.body = element("div", user ? "text" : "markdown");
    this.foot = element("div", "foot");
    const name = element("h2", "author", user ? "You" : nameOf(message.model));
    this.node = element("article", `message ${message.role}`, name, this.body, this.foot);
    this.draw();
    this.drawFoot();
  }

  /** Draws at the next frame, however often it is called until then. */
  drawSoon(drawn) {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      this.draw();
      drawn();
    });
  }

  draw() {
    const { role, content, reasoning, calls, state } = this.message;
    this.node.setAttribute("aria-busy", String(state === "running"));
    this.node.classList.toggle("waiting", state === "running" && !content && !reasoning);
    if (role === "user") {
      this.body.textContent = content;
      return;
    }
    if (reasoning) this.drawReasoning(reasoning, state === "running" && !content);
    renderMarkdown(this.body, content + (calls ?? []).map(callAsMarkdown).join(""));
  }

  drawReasoning(reasoning, thinking) {
    if (!this.reasoning) {
      this.reasoning = { title: element("summary"), text: element("div", "markdown") };
      this.body.before(element("details", "reasoning", this.reasoning.title, this.reasoning.text));
    }
    const title = thinking ? "Thinking…" : "Thoughts";
    // A title that is set again would be read out again.
    if (this.reasoning.title.textContent !== title) this.reasoning.title.textContent = title;
    renderMarkdown(this.reasoning.text, reasoning);
  }

  /** What stands below: how it ended, numbers, buttons. `last`: nothing follows the message. */
  drawFoot(last = false, busy = false) {
    const { role, content, state, error, stats } = this.message;
    // Buttons that are made anew lose the focus: they are only when something has changed.
    const drawn = JSON.stringify([last && !busy, state, error, stats]);
    if (drawn === this.drawn) return;
    this.drawn = drawn;
    const parts = [];
    if (error) {
      const retry = last && !busy ? [button("Retry", this.actions.regenerate, "")] : [];
      parts.push(element("p", "error", element("span", "", error), ...retry));
    } else if (NOTES[state]) parts.push(element("span", "note", NOTES[state]));
    if (state !== "running") {
      if (stats) parts.push(element("span", "stats", statsText(stats)));
      if (content) parts.push(copyButton("Copy message", () => content));
      if (role === "user") parts.push(button("Edit", () => this.actions.edit(this)));
      if (role === "assistant" && last && !busy && !error) parts.push(button("Regenerate", this.actions.regenerate));
    }
    this.foot.replaceChildren(...parts);
  }

  /** Puts a field in the message's place; `send(text)` when the user agrees. */
  edit(send) {
    const field = element("textarea", "edit");
    field.value = this.message.content;
    field.setAttribute("aria-label", "Edit your message");
    const close = () => {
      this.node.classList.remove("editing");
      form.replaceWith(this.body);
      this.drawn = undefined;
      this.drawFoot();
      this.foot.lastElementChild?.focus();
    };
    const submit = button("Send", () => field.value.trim() && send(field.value), "primary");
    const form = element("div", "editor", field, element("div", "row", button("Cancel", close, ""), submit));
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") close();
      else if (isSend(event) && event.target === field) submit.click();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    this.node.classList.add("editing");
    this.body.replaceWith(form);
    this.foot.replaceChildren(element("span", "note", "Sending drops what follows."));
    grow(field);
    field.addEventListener("input", () => grow(field));
    field.focus();
  }
}

/** Enter sends, with Shift it is a new line; while an input method composes, it is the input method's. */
export function isSend(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing;
}

/** A text field as high as its text; the style sheet says how high at most. */
export function grow(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

function callAsMarkdown({ name, arguments: json }) {
  return `\n\nCalls \`${name}\` with\n\n\`\`\`\`json\n${json}\n\`\`\`\``;
}

const number = (value, digits = 0) => value.toLocaleString("en", { maximumFractionDigits: digits });

/** `stats`: `{tokens, exact, first_ms, all_ms, prompt_tokens, context_tokens}`; the last two may be missing. */
export function statsText({ tokens, exact, first_ms, all_ms, prompt_tokens, context_tokens }) {
  const parts = [`${exact ? "" : "about "}${number(tokens)} ${tokens === 1 ? "token" : "tokens"}`];
  // The first token's time is the prompt's.
  if (tokens > 1 && all_ms > first_ms) parts.push(`${number((tokens - 1) / ((all_ms - first_ms) / 1000), 1)} tokens/s`);
  if (tokens > 0) parts.push(`first after ${number(first_ms / 1000, 2)} s`);
  if (prompt_tokens !== undefined) {
    const of = context_tokens ? ` of ${number(context_tokens)}` : "";
    parts.push(`${number(prompt_tokens + tokens)}${of} in context`);
  }
  return parts.join(" · ");
}
