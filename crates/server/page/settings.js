// How answers are sampled. An empty field is not sent: the server's and the model's own value holds.
import { read, write } from "./chats.js";

const KEY = "russet.settings";
const form = document.querySelector("#settings form");

/** Shows what is stored, and stores each change that is valid. */
export function start() {
  show(read(KEY, {}));
  form.addEventListener("input", () => write(KEY, values()));
  document.querySelector("#reset").addEventListener("click", () => {
    show({});
    write(KEY, {});
    form.elements.temperature.focus();
  });
}

function fields() {
  return [...form.elements].filter(({ name }) => name);
}

function show(values) {
  for (const field of fields()) field.value = values[field.name] ?? "";
}

/** Texts by name, of the fields that are filled and within their limits. */
function values() {
  const filled = fields().filter((field) => field.value.trim() && field.checkValidity());
  return Object.fromEntries(filled.map(({ name, value }) => [name, value]));
}

/** The part of a request that the settings make, and the system prompt. */
export function request() {
  const { system = "", stop, ...numbers } = values();
  const sampling = Object.fromEntries(Object.entries(numbers).map(([name, text]) => [name, Number(text)]));
  if (stop) sampling.stop = stop.split("\n").filter(Boolean).map(unescape);
  return { sampling, system };
}

/** `\n` and `\t` as models' authors write them. */
function unescape(text) {
  return text.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t" })[letter] ?? letter);
}
