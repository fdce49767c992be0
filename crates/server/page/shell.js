// What stands around the conversation: dialogs, notices, the drawer of a narrow page, the theme, scrolling.

const $ = (selector) => document.querySelector(selector);
const NEAR_END_PX = 40;

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS("http://www.w3.org/2000/svg", "use"));
  svg.firstElementChild.setAttribute("href", `#icon-${name}`);
  return svg;
}

/** Asks in a dialog. The value of its field, "" where it has none, null where the user declines. */
export function ask({ title, text = "", yes, value, secret = false, danger = false }) {
  const [dialog, field, agree] = [$("#ask"), $("#ask-value"), $("#ask-yes")];
  $("#ask-title").textContent = title;
  $("#ask-text").textContent = text;
  field.hidden = value === undefined;
  field.type = secret ? "password" : "text";
  field.value = value ?? "";
  agree.textContent = yes;
  agree.classList.toggle("danger", danger);
  dialog.returnValue = "";
  dialog.showModal();
  if (!field.hidden) field.select();
  else if (danger) $("#ask-no").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      resolve(dialog.returnValue === "yes" ? field.value : null);
      field.value = ""; // It may have been a secret.
    }, { once: true });
  });
}

/** To those who listen instead of looking. Whole sentences, seldom: never the pieces of an answer. */
export function announce(text) {
  $("#live").textContent = text;
}

/** A line above the conversation; `again` is what its button does. Without text it goes away. */
export function notice(text, again) {
  const node = $("#notice");
  node.hidden = !text;
  node.firstElementChild.textContent = text ?? "";
  node.lastElementChild.hidden = !again;
  node.lastElementChild.onclick = again ?? null;
}

/** The list of conversations on a narrow page; on a wide one it always stands there. */
export function drawer(shown) {
  $("#chats").classList.toggle("shown", shown);
  $("#backdrop").hidden = !shown;
  $("main").inert = shown;
  $("#menu").setAttribute("aria-expanded", String(shown));
  if (shown) $("#new").focus();
}

const THEMES = { auto: "light", light: "dark", dark: "auto" }; // each with the next

function showTheme(theme) {
  const names = { auto: "as the system", light: "light", dark: "dark" };
  document.documentElement.dataset.theme = theme;
  $("#theme").setAttribute("aria-label", `Theme: ${names[theme]}`);
  $("#theme").title = `Theme: ${names[theme]}`;
}

function nextTheme() {
  const theme = THEMES[document.documentElement.dataset.theme] ?? "auto";
  showTheme(theme);
  try {
    localStorage.setItem("russet.theme", theme);
  } catch {
    // It holds until the page is loaded again.
  }
}

// ---- The end of the conversation stays in view until the user scrolls away from it, and again once they are back.

const log = $("#log");
let following = true;
let top_px = 0;

export function follow(again = false) {
  following ||= again;
  if (following) log.scrollTop = log.scrollHeight;
  top_px = log.scrollTop;
  showEnd();
}

function distanceToEnd() {
  return log.scrollHeight - log.clientHeight - log.scrollTop;
}

function scrolled() {
  // Only the user goes up: growing text never does, and a text that shrinks leaves the view at its end.
  if (distanceToEnd() <= NEAR_END_PX) following = true;
  else if (log.scrollTop < top_px) following = false;
  top_px = log.scrollTop;
  showEnd();
}

function showEnd() {
  $("#end").hidden = following || distanceToEnd() <= NEAR_END_PX;
}

export function start() {
  showTheme(document.documentElement.dataset.theme);
  $("#theme").addEventListener("click", nextTheme);
  $("#menu").addEventListener("click", () => drawer(true));
  $("#backdrop").addEventListener("click", () => drawer(false));
  $("#chats").addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || !$("#chats").classList.contains("shown")) return;
    event.stopPropagation();
    drawer(false);
    $("#menu").focus();
  });
  matchMedia("(min-width: 48.01rem)").addEventListener("change", () => drawer(false));
  $("#ask-no").addEventListener("click", () => $("#ask").close(""));
  log.addEventListener("scroll", scrolled, { passive: true });
  new ResizeObserver(() => follow()).observe(log);
  $("#end").addEventListener("click", () => {
    follow(true);
    $("#input").focus();
  });
  $("#tune").addEventListener("click", () => $("#settings").showModal());
  // A value out of its limits is not kept: the user is told before it is lost.
  $("#settings").addEventListener("cancel", (event) => {
    if (!$("#settings form").reportValidity()) event.preventDefault();
  });
}
