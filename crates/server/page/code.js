// Fenced code: a bar with its language and a copy button, and light colours. The colours know no grammar, only what most
// languages share: comments, strings, numbers, words.
import { copyButton } from "./clipboard.js";

const COLOURED_CHARS_MAX = 50_000;
const OPEN_COLOURED_CHARS_MAX = 6_000; // while it grows, it is coloured again at every frame

const C_COMMENT = String.raw`\/\/[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`;
const HASH_COMMENT = String.raw`#[^\n]*`;
const STRING = String.raw`"(?:[^"\\\n]|\\[\s\S])*(?:"|$)|'(?:[^'\\\n]|\\[\s\S])*'`;
const TEMPLATE = "`(?:[^`\\\\]|\\\\[\\s\\S])*(?:`|$)";
const TRIPLE = String.raw`"""[\s\S]*?(?:"""|$)|'''[\s\S]*?(?:'''|$)`;
const NUMBER = String.raw`\b(?:0[xXbBoO][\da-fA-F_]+|\d[\d_]*(?:\.\d+)?(?:[eE][+-]?\d+)?)\w*`;
const WORD = String.raw`[A-Za-z_$][\w$]*!?`;

const KEYWORDS = {
  c: "auto break case char class const constexpr continue default delete do double else enum explicit extern false final float for friend goto if inline int interface long namespace new null nullptr operator override private protected public register return short signed sizeof static struct super switch template this throw true try catch typedef typename union unsigned using var virtual void volatile while bool boolean string extends implements import package abstract finally instanceof foreach in is as async await func go defer chan map range select type fallthrough guard let self protocol extension nil fun val when data object sealed companion",
  js: "abstract any as async await boolean break case catch class const continue debugger default delete do else enum export extends false finally for from function get if implements import in instanceof interface keyof let new null number of private protected public readonly return set static string super switch this throw true try type typeof undefined unknown var void while with yield never",
  rust: "as async await break const continue crate dyn else enum extern false fn for if impl in let loop match mod move mut pub ref return self Self static struct super trait true type unsafe use where while bool char str u8 u16 u32 u64 u128 usize i8 i16 i32 i64 i128 isize f32 f64 String Vec Option Result Some None Ok Err Box",
  python: "and as assert async await break case class continue def del elif else except False finally for from global if import in is lambda match None nonlocal not or pass raise return True try while with yield self",
  shell: "if then else elif fi for while until do done case esac in function return local export set unset echo cd exit sudo read source alias true false",
  sql: "select from where and or not null is in as on join left right inner outer full group by order having limit offset insert into values update set delete create table view index primary key foreign references drop alter add column union all distinct case when then else end like between exists with desc asc count sum avg min max integer text varchar boolean date timestamp default constraint unique",
  ruby: "alias and begin break case class def do else elsif end ensure false for if in module next nil not or puts raise redo require rescue retry return self super then true undef unless until when while yield attr_accessor",
  data: "true false null yes no on off",
};

const FAMILIES = [
  [["js", "javascript", "jsx", "mjs", "ts", "typescript", "tsx"], [C_COMMENT, `${STRING}|${TEMPLATE}`, "js"]],
  [["rs", "rust"], [C_COMMENT, String.raw`"(?:[^"\\]|\\[\s\S])*(?:"|$)|'(?:[^'\\\n]|\\[^\n]{1,8})'`, "rust"]],
  [["py", "python", "python3"], [HASH_COMMENT, `${TRIPLE}|${STRING}`, "python"]],
  [["sh", "bash", "shell", "zsh", "console", "dockerfile", "makefile", "make"], [HASH_COMMENT, STRING, "shell"]],
  [["rb", "ruby"], [HASH_COMMENT, STRING, "ruby"]],
  [["yaml", "yml", "toml", "ini", "r", "perl", "elixir"], [HASH_COMMENT, STRING, "data"]],
  [["json", "jsonc", "json5", "css", "scss"], [C_COMMENT, STRING, "data"]],
  [["sql"], [String.raw`--[^\n]*|\/\*[\s\S]*?(?:\*\/|$)`, STRING, "sql"]],
  [["html", "xml", "svg", "vue"], [String.raw`<!--[\s\S]*?(?:-->|$)`, STRING, "data"]],
  [["c", "h", "cpp", "c++", "cc", "hpp", "cs", "csharp", "java", "go", "swift", "kotlin", "kt", "php", "scala", "dart", "metal", "cuda", "glsl", "zig"], [C_COMMENT, STRING, "c"]],
];

const scanners = new Map(); // language -> scanner, made when first needed

function scannerOf(language) {
  const name = language.toLowerCase();
  if (!scanners.has(name)) {
    const family = FAMILIES.find(([names]) => names.includes(name))?.[1];
    scanners.set(name, family && scanner(...family));
  }
  return scanners.get(name);
}

function scanner(comment, string, words) {
  const tokens = new RegExp(`(${comment})|(${string})|(${NUMBER})|(${WORD})`, "g");
  return { tokens, keywords: new Set(KEYWORDS[words].split(" ")), anyCase: words === "sql" };
}

function classOf([, comment, string, number, word], { keywords, anyCase }, code, end) {
  if (comment) return "comment";
  if (string) return "string";
  if (number) return "number";
  if (keywords.has(anyCase ? word.toLowerCase() : word)) return "keyword";
  return code[end] === "(" ? "call" : "";
}

/** Appends the code to `parent`, in spans where it has a colour. */
function colour(parent, code, scanner) {
  let plainFrom = 0;
  for (const match of code.matchAll(scanner.tokens)) {
    const end = match.index + match[0].length;
    const className = classOf(match, scanner, code, end);
    if (!className) continue;
    const span = document.createElement("span");
    span.className = className;
    span.textContent = match[0];
    parent.append(code.slice(plainFrom, match.index), span);
    plainFrom = end;
  }
  parent.append(code.slice(plainFrom));
}

/** A changed line of a diff is coloured as a whole. */
function colourDiff(parent, code) {
  for (const line of code.split(/(?<=\n)/)) {
    const span = document.createElement("span");
    span.className = { "+": "added", "-": "removed", "@": "keyword" }[line[0]] ?? "";
    span.textContent = line;
    parent.append(span);
  }
}

/** `closed` is false while the block's end has not been written yet. */
export function codeBlock(code, language, closed) {
  const text = document.createElement("code");
  const charsMax = closed ? COLOURED_CHARS_MAX : OPEN_COLOURED_CHARS_MAX;
  const scanner = scannerOf(language);
  if (code.length > charsMax) text.textContent = code;
  else if (/^(diff|patch)$/i.test(language)) colourDiff(text, code);
  else if (scanner) colour(text, code, scanner);
  else text.textContent = code;
  const lines = document.createElement("pre");
  lines.tabIndex = 0; // Long lines scroll sideways, by keyboard too.
  lines.setAttribute("role", "group");
  lines.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  lines.append(text);
  const bar = document.createElement("div");
  bar.className = "bar";
  const name = document.createElement("span");
  name.textContent = language || "text";
  bar.append(name, copyButton("Copy code", () => code));
  const block = document.createElement("div");
  block.className = "code";
  block.append(bar, lines);
  return block;
}
