// What the test asks of the page. It is evaluated there, and lies beside the test so that it can be read.
globalThis.checks = {
  /** Texts with too little contrast: `["ratio text"]`. */
  contrast() {
    const faint = [];
    for (const node of document.querySelectorAll("body *")) {
      const text = [...node.childNodes].filter((child) => child.nodeType === 3 && child.data.trim());
      if (!text.length || !node.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      if (node.closest(".hidden, .skip, .user .author, :disabled, option")) continue;
      const ratio = ratioOf(rgba(getComputedStyle(node).color), backgroundOf(node));
      if (ratio < 4.5) faint.push(`${ratio.toFixed(2)} ${node.tagName}.${node.className} ${text[0].data.trim().slice(0, 30)}`);
    }
    return faint;
  },

  /** Controls that stand outside of the window, wholly or in part. */
  outside() {
    const nodes = [...document.querySelectorAll("button, select, textarea, input")].filter((node) => node.checkVisibility({ visibilityProperty: true }));
    const out = nodes.filter((node) => {
      const { left, right } = node.getBoundingClientRect();
      return left < -0.5 || right > innerWidth + 0.5;
    });
    const wide = document.scrollingElement.scrollWidth > innerWidth || document.querySelector("#log").scrollWidth > document.querySelector("#log").clientWidth;
    return [...out.map((node) => node.outerHTML.slice(0, 90)), ...(wide ? ["the page scrolls sideways"] : [])];
  },

  /** Counts changes below a node from here on, by name. */
  watch(name, node) {
    const watched = (globalThis.watched ??= {});
    watched[name] = [];
    new MutationObserver(() => watched[name].push(node.textContent.length)).observe(node, { subtree: true, childList: true, characterData: true });
  },
};

function rgba(colour) {
  const parts = colour.match(/[\d.]+/g).map(Number);
  return colour.startsWith("color(srgb") ? [...parts.slice(0, 3).map((part) => part * 255), parts[3] ?? 1] : [...parts.slice(0, 3), parts[3] ?? 1];
}

function backgroundOf(node) {
  for (; node; node = node.parentElement) {
    const colour = rgba(getComputedStyle(node).backgroundColor);
    if (colour[3] === 1) return colour;
  }
  return [255, 255, 255, 1];
}

// The arithmetic of WCAG 2, 1.4.3.
function luminance([red, green, blue]) {
  const linear = [red, green, blue].map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function ratioOf(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}
