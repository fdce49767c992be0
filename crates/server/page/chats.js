// Conversations in the browser's own storage: an index, and an entry for each, so that a growing answer rewrites its own only.
//
// A conversation is `{id, title, changed_ms, messages}`, a message `{role, content, reasoning, calls, model, state, error, stats}`.
// `state` of an answer: running, done, length (the token limit ended it), stopped (by the user), cut (by a reload), failed.

const INDEX = "russet.chats";
const CHAT = "russet.chat.";
const TITLE_CHARS_MAX = 60;

/** Called with a sentence when something could not be stored. */
export const trouble = { tell: () => {} };

export function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function write(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    trouble.tell("This browser's storage is full or switched off: conversations are not kept. Delete old ones to make room.");
    return false;
  }
}

/** `[{id, title, changed_ms}]`, the last changed first. */
export function list() {
  return read(INDEX, []);
}

export function create() {
  return { id: newId(), title: "", changed_ms: 0, messages: [] };
}

// Not crypto.randomUUID: pages that came over plain http from another machine do not have it.
function newId() {
  return Date.now().toString(36) + Math.random().toString(36).slice(2, 8);
}

/** The conversation, or undefined. An answer that was being written when the page went away is marked as cut. */
export function load(id) {
  const chat = read(CHAT + id);
  for (const message of chat?.messages ?? []) {
    if (message.state === "running") message.state = "cut";
  }
  return chat;
}

/** Stores the conversation and moves it to the top of the list. */
export function save(chat) {
  if (chat.deleted) return; // by the user, while an answer was on its way
  chat.changed_ms = Date.now();
  chat.title ||= titleOf(chat);
  const others = list().filter(({ id }) => id !== chat.id);
  if (write(CHAT + chat.id, chat)) {
    write(INDEX, [{ id: chat.id, title: chat.title, changed_ms: chat.changed_ms }, ...others]);
  }
}

function titleOf(chat) {
  const said = chat.messages.find(({ role }) => role === "user")?.content ?? "";
  const line = said.trim().replace(/\s+/g, " ");
  return line.length > TITLE_CHARS_MAX ? line.slice(0, TITLE_CHARS_MAX - 1) + "…" : line;
}

export function remove(id) {
  localStorage.removeItem(CHAT + id);
  write(INDEX, list().filter((chat) => chat.id !== id));
}

/** How a model is shown: one that was given as a file has its path for a name. */
export function nameOf(model) {
  return model?.split("/").at(-1).replace(/\.gguf$/, "") || "Assistant";
}

/** Downloads the conversation as a Markdown file. */
export function exportAsMarkdown(chat) {
  const parts = chat.messages.map((message) => {
    const name = message.role === "user" ? "You" : nameOf(message.model);
    return `## ${name}\n\n${message.content}\n`;
  });
  const file = new Blob([`# ${chat.title}\n\n${parts.join("\n")}`], { type: "text/markdown" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `${chat.title.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "conversation"}.md`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
