// Markdown to DOM nodes. What a model writes is never parsed as HTML: every node is made here and
// every character is set as text, so there is nothing to sanitize.
import { codeBlock } from "./code.js";

const DEPTH_MAX = 12; // of quotes, lists and emphasis inside each other
const FENCE = /^( {0,3})(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*#*[ \t]*$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const MARKER = /^([ \t]*)([-*+]|\d{1,9}[.)])(?:[ \t]+(.*)|)$/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MATH_OPEN = /^ {0,3}(\$\$|\\\[)/;

const shown = new WeakMap(); // target -> blocks it shows

export function element(name, className, ...children) {
  const node = document.createElement(name);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

/** Shows `text` in `target`. Nodes of blocks that are as in the last call stay: a growing answer
 * costs its last block only, and a selection or focus in earlier ones survives. */
export function renderMarkdown(target, text) {
  const before = shown.get(target) ?? [];
  const blocks = parse(text);
  let same = 0;
  while (same < before.length && before[same].key === blocks[same]?.key) {
    blocks[same].node = before[same].node;
    same += 1;
  }
  before.slice(same).forEach((block) => block.node.remove());
  for (const block of blocks.slice(same)) {
    block.node = block.build(0);
    target.append(block.node);
  }
  shown.set(target, blocks);
}

function parse(text) {
  return blocksOf(text.replace(/\r\n?/g, "\n").split("\n"));
}

/** `[{key, build(depth)}]`: equal keys make equal nodes. */
function blocksOf(lines) {
  const blocks = [];
  for (let at = 0; at < lines.length; ) {
    if (!lines[at].trim()) {
      at += 1;
      continue;
    }
    const take = TAKERS.find(([starts]) => starts(lines, at))[1];
    const { end, kind, build } = take(lines, at);
    blocks.push({ key: kind + "\n" + lines.slice(at, end).join("\n"), build });
    at = end;
  }
  return blocks;
}

// The first one that starts at a line takes it. A paragraph takes what nothing else does.
const TAKERS = [
  [(lines, at) => FENCE.test(lines[at]), takeFence],
  [(lines, at) => HEADING.test(lines[at]), takeHeading],
  [(lines, at) => RULE.test(lines[at]), (_, at) => ({ end: at + 1, kind: "hr", build: () => element("hr") })],
  [(lines, at) => QUOTE.test(lines[at]), takeQuote],
  [(lines, at) => MARKER.test(lines[at]), takeList],
  [(lines, at) => lines[at].includes("|") && TABLE_RULE.test(lines[at + 1] ?? ""), takeTable],
  [(lines, at) => MATH_OPEN.test(lines[at]), takeMath],
  [() => true, takeParagraph],
];

function takeFence(lines, at) {
  const [, indent, fence, info] = FENCE.exec(lines[at]);
  const closes = (line) => line.trim().startsWith(fence) && !line.trim().replaceAll(fence[0], "");
  let end = at + 1;
  while (end < lines.length && !closes(lines[end])) end += 1;
  const closed = end < lines.length;
  const strip = new RegExp(`^ {0,${indent.length}}`);
  const code = lines.slice(at + 1, end).map((line) => line.replace(strip, ""));
  const language = info.trim().split(/\s+/)[0];
  return {
    end: closed ? end + 1 : end,
    kind: closed ? "code" : "open code",
    build: () => codeBlock(code.join("\n"), language, closed),
  };
}

function takeHeading(lines, at) {
  const [, marks, text = ""] = HEADING.exec(lines[at]);
  // The page has h1, messages have h2.
  const name = `h${Math.min(marks.length + 2, 6)}`;
  return { end: at + 1, kind: name, build: (depth) => inline(element(name), text, depth) };
}

function takeQuote(lines, at) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { end, kind: "quote", build: (depth) => nested(element("blockquote"), inside, depth) };
}

function nested(parent, lines, depth) {
  if (depth >= DEPTH_MAX) parent.append(lines.join("\n"));
  else blocksOf(lines).forEach((block) => parent.append(block.build(depth + 1)));
  return parent;
}

function markerOf(line) {
  const match = MARKER.exec(line);
  if (!match || RULE.test(line)) return null;
  const [, space, mark, text = ""] = match;
  const indent = width(space);
  return { indent, content: indent + mark.length + 1, ordered: mark.length > 1, number: parseInt(mark, 10), text };
}

const width = (space) => space.replaceAll("\t", "    ").length;
const indentOf = (line) => width(/^[ \t]*/.exec(line)[0]);

function takeList(lines, at) {
  const first = markerOf(lines[at]);
  const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const line = lines[end];
    const marker = markerOf(line);
    if (marker && marker.indent <= first.indent + 1) {
      if (marker.ordered !== first.ordered) break;
      items.push([marker.text]);
    } else if (!line.trim()) {
      if (!goesOn(lines, end, first)) break;
      items.at(-1).push("");
    } else if (indentOf(line) > first.indent + 1) {
      // Models indent by two, three or four: whatever stands deeper than the marker is inside.
      items.at(-1).push(dedent(line, first.content));
    } else if (lines[end - 1].trim() && startsParagraph(lines, end)) {
      items.at(-1).push(line.trim());
    } else break;
  }
  return { end, kind: "list", build: (depth) => list(first, items, depth) };
}

/** Whether the list goes on after the blank line `at`. */
function goesOn(lines, at, first) {
  const next = lines.slice(at, at + 3).find((line) => line.trim());
  if (next === undefined) return false;
  const marker = markerOf(next);
  return indentOf(next) > first.indent + 1 || (marker !== null && marker.ordered === first.ordered);
}

function dedent(line, columns) {
  let cut = 0;
  for (let column = 0; column < columns && /[ \t]/.test(line[cut] ?? ""); cut += 1) {
    column += line[cut] === "\t" ? 4 : 1;
  }
  return line.slice(cut);
}

function list(first, items, depth) {
  const node = element(first.ordered ? "ol" : "ul");
  if (first.ordered && first.number !== 1) node.start = first.number;
  for (const [text, ...rest] of items) {
    const lines = [text.replace(/^\[( |x|X)\][ \t]/, (_, mark) => (mark === " " ? "☐ " : "☑ ")), ...rest];
    node.append(nested(element("li"), lines, depth));
  }
  return node;
}

function cellsOf(line) {
  const cells = line.trim().replace(/^\|/, "").split(/(?<!\\)\|/);
  if (cells.length > 1 && !cells.at(-1).trim()) cells.pop();
  return cells.map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function takeTable(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  return { end, kind: "table", build: (depth) => table(lines.slice(at, end), depth) };
}

function table([head, rule, ...body], depth) {
  const aligns = cellsOf(rule).map((cell) =>
    cell.endsWith(":") ? (cell.startsWith(":") ? "center" : "right") : "left");
  const row = (line, name) => {
    const cells = cellsOf(line);
    return element("tr", "", ...aligns.map((align, column) =>
      inline(element(name, align), cells[column] ?? "", depth)));
  };
  const node = element("table", "", element("thead", "", row(head, "th")),
    element("tbody", "", ...body.map((line) => row(line, "td"))));
  const scroller = element("div", "table", node);
  scroller.tabIndex = 0; // A wide table scrolls sideways, by keyboard too.
  scroller.setAttribute("role", "group");
  scroller.setAttribute("aria-label", "Table");
  return scroller;
}

// Formulas are shown as they were written: their underscores and backslashes are not Markdown's.
function takeMath(lines, at) {
  const close = MATH_OPEN.exec(lines[at])[1] === "$$" ? "$$" : "\\]";
  let end = at;
  while (end < lines.length && !lines[end].slice(end === at ? 2 : 0).includes(close)) end += 1;
  end = Math.min(end + 1, lines.length);
  const text = lines.slice(at, end).join("\n").trim();
  return { end, kind: "math", build: () => element("p", "math", element("code", "", text)) };
}

function startsParagraph(lines, at) {
  return TAKERS.find(([starts]) => starts(lines, at))[1] === takeParagraph;
}

function takeParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && lines[end].trim() && startsParagraph(lines, end)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart()).join("\n").trimEnd();
  return { end, kind: "p", build: (depth) => inline(element("p"), text, depth) };
}

/** Appends the text with emphasis, code and links to `parent`, and returns it. */
function inline(parent, text, depth) {
  const missing = new Set(); // marks that are not closed later: looked for once, so time stays linear
  let plain = "";
  const flush = () => {
    if (plain) parent.append(plain);
    plain = "";
  };
  for (let at = 0; at < text.length; ) {
    const found = depth < DEPTH_MAX ? special(text, at, depth, missing) : null;
    if (!found) {
      plain += text[at];
      at += 1;
    } else if (typeof found.node === "string") {
      plain += found.node;
      at = found.end;
    } else {
      flush();
      parent.append(found.node);
      at = found.end;
    }
  }
  flush();
  return parent;
}

/** What other than a plain character starts at `at`: `{node, end}` or null. */
function special(text, at, depth, missing) {
  switch (text[at]) {
    case "\\": return escaped(text, at, missing);
    case "`": return codeSpan(text, at, missing);
    case "*":
    case "_":
    case "~": return emphasis(text, at, depth, missing);
    case "!":
    case "[": return bracketed(text, at, depth);
    case "<":
    case "h": return bareLink(text, at);
    case "$": return text[at + 1] === "$" ? formula(text, at, "$$", missing) : null;
    // Answers are written as they should look: a line's end is one.
    case "\n": return { node: element("br"), end: at + 1 };
    default: return null;
  }
}

function closing(text, from, mark, missing) {
  if (missing.has(mark)) return -1;
  const end = text.indexOf(mark, from);
  if (end < 0) missing.add(mark);
  return end;
}

function escaped(text, at, missing) {
  const next = text[at + 1] ?? "";
  if (next === "(" || next === "[") {
    const math = formula(text, at, next === "(" ? "\\)" : "\\]", missing);
    if (math) return math;
  }
  return /[!-/:-@[-`{-~]/.test(next) ? { node: next, end: at + 2 } : null;
}

function formula(text, at, close, missing) {
  const end = closing(text, at + 2, close, missing);
  return end < 0 ? null : { node: element("code", "math", text.slice(at, end + 2)), end: end + 2 };
}

function codeSpan(text, at, missing) {
  const [ticks] = /^`+/.exec(text.slice(at, at + 64));
  let end = at + ticks.length;
  for (;;) {
    end = closing(text, end, ticks, missing);
    if (end < 0) return { node: ticks, end: at + ticks.length };
    const [run] = /^`+/.exec(text.slice(end));
    if (run.length === ticks.length) break;
    end += run.length;
  }
  const code = text.slice(at + ticks.length, end).replaceAll("\n", " ");
  const padded = /^ .*\S.* $/.test(code);
  return { node: element("code", "", padded ? code.slice(1, -1) : code), end: end + ticks.length };
}

const EMPHASIS = { "***": ["em", "strong"], "___": ["em", "strong"], "**": ["strong"], "__": ["strong"], "~~": ["del"], "*": ["em"], _: ["em"] };

function emphasis(text, at, depth, missing) {
  const [run] = /^(?:\*+|_+|~+)/.exec(text.slice(at, at + 64));
  const opens = /\S/.test(text[at + run.length] ?? "") && !(run[0] === "_" && isWord(text[at - 1]));
  for (let length = Math.min(run.length, 3); opens && length > 0; length -= 1) {
    const mark = run.slice(0, length);
    const end = EMPHASIS[mark] ? emphasisEnd(text, at + length, mark, missing) : -1;
    if (end < 0) continue;
    const [outer, inner] = EMPHASIS[mark].map((name) => element(name));
    if (inner) outer.append(inner);
    inline(inner ?? outer, text.slice(at + length, end), depth + 1);
    return { node: outer, end: end + length };
  }
  return { node: run, end: at + run.length };
}

const isWord = (char) => char !== undefined && /[\p{L}\p{N}_]/u.test(char);

function emphasisEnd(text, from, mark, missing) {
  if (missing.has(mark)) return -1;
  for (let end = text.indexOf(mark, from + 1); end >= 0; end = text.indexOf(mark, end)) {
    let stop = end;
    while (text[stop] === mark[0]) stop += 1;
    const length = stop - end;
    const closes = /[^\s\\]/.test(text[end - 1]) && !(mark[0] === "_" && isWord(text[stop]));
    // A pair inside `*...*` belongs to a `**` inside it.
    if (closes && (length === mark.length || length >= 3)) return stop - mark.length;
    end = stop;
  }
  missing.add(mark);
  return -1;
}

// Destinations may hold one level of parentheses, as encyclopedias' addresses do.
const LINK = /(!?)\[((?:[^[\]\\]|\\.)*)\]\(\s*<?((?:[^\s()<>]|\([^\s()]*\))*)>?(?:\s+(?:"[^"]*"|'[^']*'))?\s*\)/y;

function bracketed(text, at, depth) {
  LINK.lastIndex = at;
  const match = LINK.exec(text);
  if (!match) return null;
  const [whole, image, label, address] = match;
  // An image is offered as a link: loading it would tell its server what was asked here.
  const node = link(address, (parent) => inline(parent, image ? label || address : label, depth + 1));
  return node && { node, end: at + whole.length };
}

const BARE = /<?(https?:\/\/[^\s<>"'`|\\^{}\u0000-\u0020]+)>?/y;

function bareLink(text, at) {
  if (text[at] === "h" && isWord(text[at - 1])) return null;
  BARE.lastIndex = at;
  const match = BARE.exec(text);
  if (!match) return null;
  let address = match[1];
  const closed = match[0].startsWith("<") && match[0].endsWith(">");
  if (!closed) address = address.replace(/[.,;:!?*_~\])]+$/, (tail) => (tail[0] === ")" && address.includes("(") ? ")" : ""));
  const node = link(address, (parent) => parent.append(address));
  const start = match[0].startsWith("<") && !closed ? null : at;
  return start === null || !node ? null : { node, end: closed ? at + match[0].length : at + address.length };
}

/** Only addresses that a click may follow; the opened page learns nothing about this one. */
function link(address, fill) {
  if (!/^(?:https?:\/\/|mailto:)/i.test(address) || !URL.canParse(address)) return null;
  const node = element("a");
  node.href = address;
  node.target = "_blank";
  node.rel = "noopener noreferrer nofollow";
  fill(node);
  return node;
}
