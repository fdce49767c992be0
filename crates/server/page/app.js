// The page: which conversation is open, and what the controls do with it.
import { Answer, running } from "./answer.js";
import * as api from "./api.js";
import * as chats from "./chats.js";
import { element } from "./markdown.js";
import { MessageView, grow, isSend, statsText } from "./messages.js";
import * as settings from "./settings.js";
import * as shell from "./shell.js";

const [DRAFT, MODEL, OPEN] = ["russet.draft", "russet.model", "russet.open"];
const ANNOUNCED_CHARS_MAX = 600;
const HINT = "Enter sends, Shift+Enter makes a new line";

const $ = (selector) => document.querySelector(selector);
const [input, send, picker] = [$("#input"), $("#send"), $("#model")];

let chat; // the one on the page
let views = []; // of its messages
let models = []; // `{id, loaded, device, device_name, context_length}`; those that wait in the store have the first two only

// ---- Conversations

function openChat(id) {
  // While it is answered, the conversation in memory is ahead of the stored one.
  chat = running.get(id)?.chat ?? chats.load(id) ?? chats.create();
  chats.write(OPEN, chat.id);
  views = [];
  $("#messages").replaceChildren();
  chat.messages.forEach(addView);
  refresh();
  shell.follow(true);
}

function newChat() {
  openChat(undefined);
  shell.drawer(false);
  input.focus();
}

function addView(message) {
  const view = new MessageView(message, { regenerate, edit });
  views.push(view);
  $("#messages").append(view.node);
}

/** Everything on the page that depends on what is open and on what is being answered. */
function refresh() {
  const busy = running.has(chat.id);
  $("#title").textContent = chat.title || "New conversation";
  document.title = chat.title ? `${chat.title} · Russet` : "Russet";
  $("#welcome").hidden = chat.messages.length > 0;
  $("#export").disabled = chat.messages.length === 0;
  views.forEach((view, index) => view.drawFoot(index === views.length - 1, busy));
  $("#composer").classList.toggle("busy", busy);
  send.setAttribute("aria-label", busy ? "Stop" : "Send");
  send.title = busy ? "Stop (Esc)" : "Send (Enter)";
  send.querySelector("use").setAttribute("href", busy ? "#icon-stop" : "#icon-send");
  $("#hint").textContent = busy ? "Waiting for the first token" : HINT;
  drawList();
}

function drawList() {
  const focused = document.activeElement.closest("#list button")?.dataset.key;
  $("#list").replaceChildren(...chats.list().map(listRow));
  if (focused) $(`#list [data-key="${focused}"]`)?.focus();
}

function listRow({ id, title }) {
  const control = (kind, name, content, action) => {
    const node = element("button", kind === "open" ? kind : "icon", content);
    Object.assign(node, { type: "button", title: name, onclick: action });
    node.dataset.key = `${kind}-${id}`;
    if (kind !== "open") node.setAttribute("aria-label", name);
    return node;
  };
  const open = control("open", title, title, () => {
    openChat(id);
    shell.drawer(false);
    input.focus();
  });
  const row = element("li", running.has(id) ? "busy" : "", open,
    control("rename", `Rename ${title}`, shell.icon("pencil"), () => rename(id, title)),
    control("delete", `Delete ${title}`, shell.icon("bin"), () => remove(id, title)));
  if (id === chat.id) {
    row.classList.add("current");
    open.setAttribute("aria-current", "true");
  }
  return row;
}

async function rename(id, title) {
  const name = await shell.ask({ title: "Rename the conversation", yes: "Rename", value: title });
  const renamed = id === chat.id ? chat : (running.get(id)?.chat ?? chats.load(id));
  if (!name?.trim() || !renamed) return;
  renamed.title = name.trim();
  chats.save(renamed);
  refresh();
}

async function remove(id, title) {
  const text = `“${title}” cannot be brought back.`;
  const sure = await shell.ask({ title: "Delete the conversation?", text, yes: "Delete", danger: true });
  if (sure === null) return;
  const answer = running.get(id);
  if (answer) {
    answer.chat.deleted = true;
    answer.stop();
  }
  chats.remove(id);
  if (id === chat.id) openChat(undefined);
  else drawList();
  $("#new").focus(); // The button that was pressed is gone.
}

// ---- Asking and answering

function submit() {
  const text = input.value;
  if (!text.trim() || running.has(chat.id)) return;
  input.value = "";
  drafted();
  say(text);
}

function drafted() {
  grow(input);
  chats.write(DRAFT, input.value);
}

function say(text) {
  const message = { role: "user", content: text };
  chat.messages.push(message);
  addView(message);
  answer();
}

/** Answers the last message again. */
function regenerate() {
  if (running.has(chat.id)) return;
  if (chat.messages.at(-1)?.role === "assistant") dropFrom(chat.messages.length - 1);
  answer();
  input.focus(); // The button that was pressed is gone.
}

function edit(view) {
  view.edit((text) => {
    running.get(chat.id)?.stop();
    dropFrom(views.indexOf(view));
    say(text);
    input.focus();
  });
}

function dropFrom(index) {
  chat.messages.splice(index);
  views.splice(index).forEach((view) => view.node.remove());
}

async function answer() {
  const answer = new Answer(chat, models.find(({ id }) => id === picker.value));
  addView(answer.message);
  refresh();
  shell.follow(true);
  shell.announce("Answering");
  const failure = await answer.receive(() => drawSoon(answer));
  if (!answer.isCurrent()) return;
  if (answer.chat !== chat) drawList();
  else {
    refresh();
    views.at(-1).draw();
    shell.follow();
    shell.announce(endOf(answer.message));
  }
  // A server that was away is back, a model that waited is loaded: there is more to say of it.
  if (!failure && !answer.model?.context_length) loadModels();
  if (failure?.status === 401 && (await askForKey()) && answer.chat === chat) regenerate();
}

function drawSoon(answer) {
  if (answer.chat !== chat || !answer.isCurrent()) return;
  const view = views.at(-1);
  view.drawSoon(() => {
    if (view !== views.at(-1) || !running.has(chat.id)) return;
    $("#hint").textContent = statsText(answer.stats());
    shell.follow();
  });
}

/** What is read out once an answer has ended. */
function endOf({ error, state }) {
  if (error) return `Failed: ${error}`;
  const text = views.at(-1).body.innerText;
  const shown = text.length > ANNOUNCED_CHARS_MAX ? `${text.slice(0, ANNOUNCED_CHARS_MAX)} … and more.` : text;
  return state === "stopped" ? `Stopped. ${shown}` : shown;
}

// ---- The server

async function askForKey() {
  const key = await shell.ask({
    title: "API key",
    text: "This server answers to those who have a key. It is kept until this tab is closed.",
    yes: "Use it",
    value: "",
    secret: true,
  });
  if (!key?.trim()) return false;
  api.setKey(key);
  await loadModels();
  return true;
}

async function loadModels() {
  try {
    models = await api.models();
    shell.notice();
  } catch (error) {
    if (error.status === 401 && (await askForKey())) return;
    shell.notice(error.message, loadModels);
    return;
  }
  const wanted = chats.read(MODEL);
  picker.replaceChildren(...models.map(({ id }) => new Option(chats.nameOf(id), id, false, id === wanted)));
  showModel();
}

function showModel() {
  const model = models.find(({ id }) => id === picker.value);
  const context = model?.context_length && `${model.context_length.toLocaleString("en")} tokens of context`;
  const device = model?.device_name ? `${model.device}: ${model.device_name}` : model?.device;
  const waiting = model?.loaded === false && "loaded when it is first asked";
  $("#device").textContent = [device, context, waiting].filter(Boolean).join(" · ");
}

// ---- Controls

function start() {
  shell.start();
  settings.start();
  chats.trouble.tell = (text) => shell.notice(text);
  input.value = chats.read(DRAFT, "");
  openChat(chats.read(OPEN));
  grow(input);
  loadModels();
  $("#new").addEventListener("click", newChat);
  $("#export").addEventListener("click", () => chats.exportAsMarkdown(chat));
  picker.addEventListener("change", () => {
    chats.write(MODEL, picker.value);
    showModel();
  });
  input.addEventListener("input", drafted);
  input.addEventListener("keydown", (event) => {
    if (!isSend(event)) return;
    event.preventDefault();
    submit();
  });
  $("#composer").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running.has(chat.id)) stop();
    else submit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !document.querySelector("dialog[open]")) stop();
  });
  addEventListener("storage", changedElsewhere);
}

function stop() {
  if (!running.has(chat.id)) return;
  running.get(chat.id).stop();
  input.focus();
}

/** Another tab wrote to the storage. */
function changedElsewhere({ key }) {
  if (!key?.endsWith(`.${chat.id}`) || running.has(chat.id) || $(".editor")) return drawList();
  const top_px = $("#log").scrollTop;
  openChat(chat.id);
  $("#log").scrollTop = top_px;
}

start();
