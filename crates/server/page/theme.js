// Before the first paint, so that a page in the chosen theme does not flash in the other one. Not a module: those wait.
try {
  document.documentElement.dataset.theme = localStorage.getItem("russet.theme") ?? "auto";
} catch {
  // Storage is switched off: the system's theme.
}
