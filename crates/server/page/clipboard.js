// Copying, also where the page was not loaded over https: there browsers offer only the older way.

const TOLD_MS = 1500;

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const field = document.createElement("textarea");
  field.value = text;
  field.className = "hidden";
  const focused = document.activeElement;
  // A modal dialog makes what stands outside it inert.
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!done) throw new Error("the browser refused");
}

/** A button that copies what `text()` returns and says so. */
export function copyButton(name, text) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet";
  button.textContent = "Copy";
  button.setAttribute("aria-label", name);
  button.addEventListener("click", async () => {
    const told = await copy(text()).then(() => "Copied", () => "Not copied");
    button.textContent = told;
    button.setAttribute("aria-label", told);
    setTimeout(() => {
      button.textContent = "Copy";
      button.setAttribute("aria-label", name);
    }, TOLD_MS);
  });
  return button;
}
