// Markdown to HTML: headings, emphasis, code, lists, quotes, tables, links, images. What comes out holds no tag and no
// attribute that is not written here: all else is escaped, so HTML in the text is shown, and does nothing.

const DEEPEST = 16; // quotes and lists inside each other
const LINKS = new Set(["http", "https", "mailto"]);
const IMAGES = new Set(["http", "https"]);
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
const PUNCTUATION = /[!-/:-@[-`{-~]/;

const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\s]*)/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( {1,4}(?=\S)| (?= )|$)/;
const DEFINITION = /^ {0,3}\[([^\][]{1,200})\]:[ \t]*(<[^<>]*>|\S+)(?:[ \t]+(?:"([^"]*)"|'([^']*)'))?[ \t]*$/;
const PLAIN = /(?:[^\\\n`![<h&*_~]|h(?!ttps?:))+/y; // what is nothing but itself
const BLANK = /^[ \t]*$/;

/** The HTML of a text in Markdown, without anything around it. */
export function markdown(source) {
  const text = String(source).replace(/\r\n?/g, "\n").replace(/\0/g, "\ufffd").replace(/<!--[^]*?-->/g, "");
  const references = new Map();
  const lines = definitions(text.split("\n").map(untabbed), references);
  return blocks(lines, references, 0);
}

/** The same as a document of its own, under its first heading, in which a browser runs nothing either. */
export function page(source, title = "") {
  const body = markdown(source);
  const heading = /<h[1-6]>(.*?)<\/h[1-6]>/.exec(body);
  const name = title ? escaped(title) : heading ? heading[1].replace(/<[^>]*>/g, "") : "Untitled";
  return `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src http: https:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>${name}</title>
<style>
body { max-width: 46em; margin: 2em auto; padding: 0 1em; font: 16px/1.5 sans-serif; }
pre { background: #f4f4f4; padding: .8em; overflow: auto; }
table { border-collapse: collapse; } th, td { border: 1px solid #ccc; padding: .2em .6em; }
blockquote { border-left: 3px solid #ccc; margin-left: 0; padding-left: 1em; }
img { max-width: 100%; }
</style>
${body}</html>
`;
}

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

function untabbed(line) {
  return line.replace(/^[ \t]+/, (blank) => {
    let width = 0;
    for (const each of blank) width += each === "\t" ? 4 - (width % 4) : 1;
    return " ".repeat(width);
  });
}

/** The lines without `[name]: address`, which are put into `references`. */
function definitions(lines, references) {
  const kept = [];
  let fence = null;
  for (const line of lines) {
    const opened = FENCE.exec(line);
    if (fence) fence = closes(line, fence) ? null : fence;
    else if (opened) fence = opened[1];
    const found = fence || opened ? null : DEFINITION.exec(line);
    if (!found) {
      kept.push(line);
      continue;
    }
    const [, name, address, double, single] = found;
    if (!references.has(key(name))) {
      references.set(key(name), { address: address.replace(/^<|>$/g, ""), title: double ?? single ?? "" });
    }
  }
  return kept;
}

function key(name) {
  return name.trim().replace(/\s+/g, " ").toLowerCase();
}

function closes(line, fence) {
  const found = /^ {0,3}(`{3,}|~{3,})[ \t]*$/.exec(line);
  return found !== null && found[1][0] === fence[0] && found[1].length >= fence.length;
}

// ── blocks ───────────────────────────────────────────────────────────────────────────────────────────────────────

function blocks(lines, references, depth, tight = false) {
  let out = "";
  let at = 0;
  while (at < lines.length) {
    const line = lines[at];
    if (BLANK.test(line)) {
      at += 1;
      continue;
    }
    const [html, next] =
      code(lines, at) ??
      heading(lines, at, references) ??
      (depth < DEEPEST ? quote(lines, at, references, depth) ?? list(lines, at, references, depth) : null) ??
      table(lines, at, references) ??
      paragraph(lines, at, references, tight);
    out += html;
    at = next;
  }
  return out;
}

function code(lines, at) {
  const fence = FENCE.exec(lines[at]);
  const content = [];
  let next = at;
  if (fence) {
    for (next = at + 1; next < lines.length && !closes(lines[next], fence[1]); next += 1) content.push(lines[next]);
    next += 1;
  } else if (lines[at].startsWith("    ")) {
    while (next < lines.length && (lines[next].startsWith("    ") || BLANK.test(lines[next]))) {
      content.push(lines[next].slice(4));
      next += 1;
    }
    while (content.at(-1) === "") content.pop();
  } else {
    return null;
  }
  const language = fence && /^[\w+#.-]{1,32}$/.test(fence[2]) ? ` class="language-${fence[2]}"` : "";
  return [`<pre><code${language}>${escaped(content.map((each) => `${each}\n`).join(""))}</code></pre>\n`, next];
}

function heading(lines, at, references) {
  if (RULE.test(lines[at])) return ["<hr>\n", at + 1];
  const found = HEADING.exec(lines[at]);
  if (!found) return null;
  const level = found[1].length;
  const text = ` ${(found[2] ?? "").trim()}`.replace(/ #+$/, "");
  return [`<h${level}>${inline(text.trim(), references)}</h${level}>\n`, at + 1];
}

function quote(lines, at, references, depth) {
  if (!QUOTE.test(lines[at])) return null;
  const content = [];
  let next = at;
  while (next < lines.length && (QUOTE.test(lines[next]) || (next > at && continues(lines, next, content)))) {
    content.push(lines[next].replace(QUOTE, ""));
    next += 1;
  }
  return [`<blockquote>\n${blocks(content, references, depth + 1)}</blockquote>\n`, next];
}

/** Whether a line goes on with the paragraph that is the last of `content`. */
function continues(lines, at, content) {
  return !BLANK.test(lines[at]) && !BLANK.test(content.at(-1)) && !begins(lines, at);
}

function begins(lines, at) {
  const line = lines[at];
  return [FENCE, HEADING, RULE, QUOTE, ITEM].some((each) => each.test(line)) || isTable(lines, at);
}

function list(lines, at, references, depth) {
  const first = ITEM.exec(lines[at]);
  if (!first) return null;
  const kind = first[2].at(-1);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const found = ITEM.exec(lines[next]);
    if (!found || found[2].at(-1) !== kind || RULE.test(lines[next])) break;
    const width = found[1].length + found[2].length + Math.max(1, found[3].length);
    const content = [lines[next].slice(width)];
    next += 1;
    while (next < lines.length) {
      const inside = lines[next].startsWith(" ".repeat(width));
      if (!inside && !BLANK.test(lines[next]) && !continues(lines, next, content)) break;
      content.push(inside ? lines[next].slice(width) : lines[next].trimStart());
      next += 1;
    }
    let blank = 0;
    while (content.length > 1 && BLANK.test(content.at(-1))) {
      content.pop();
      blank += 1;
    }
    const another = next < lines.length && ITEM.exec(lines[next]);
    loose ||= content.some((each) => BLANK.test(each) && content.length > 1);
    loose ||= blank > 0 && another && another[2].at(-1) === kind;
    items.push(content);
  }
  const html = items.map((content) => `<li>${item(content, references, depth, !loose)}</li>\n`).join("");
  const tag = /\d/.test(first[2]) ? "ol" : "ul";
  const start = tag === "ol" && parseInt(first[2], 10) !== 1 ? ` start="${parseInt(first[2], 10)}"` : "";
  return [`<${tag}${start}>\n${html}</${tag}>\n`, next];
}

function item(content, references, depth, tight) {
  const task = /^\[([ xX])\] /.exec(content[0]);
  const box = task ? `<input type="checkbox" disabled${task[1] === " " ? "" : " checked"}> ` : "";
  const rest = task ? [content[0].slice(4), ...content.slice(1)] : content;
  return box + blocks(rest, references, depth + 1, tight).trimEnd();
}

function isTable(lines, at) {
  const line = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !/^[ |:\t-]*-[ |:\t-]*$/.test(line) || !line.includes("|")) return false;
  return cells(line).every((cell) => /^:?-+:?$/.test(cell)) && cells(line).length === cells(lines[at]).length;
}

function cells(line) {
  const found = [];
  let cell = "";
  for (let at = 0; at < line.length; at += 1) {
    if (line[at] === "\\" && line[at + 1] === "|") {
      cell += "|";
      at += 1;
    } else if (line[at] === "|") {
      found.push(cell.trim());
      cell = "";
    } else {
      cell += line[at];
    }
  }
  found.push(cell.trim());
  if (found[0] === "") found.shift();
  if (found.at(-1) === "") found.pop();
  return found;
}

function table(lines, at, references) {
  if (!isTable(lines, at)) return null;
  const sides = cells(lines[at + 1]).map((cell) => {
    const side = (cell.startsWith(":") ? 1 : 0) + (cell.endsWith(":") ? 2 : 0);
    return ["", ' style="text-align:left"', ' style="text-align:right"', ' style="text-align:center"'][side];
  });
  const row = (line, tag) => {
    const found = cells(line);
    const made = sides.map((side, column) => `<${tag}${side}>${inline(found[column] ?? "", references)}</${tag}>`);
    return `<tr>${made.join("")}</tr>\n`;
  };
  let html = `<table>\n<thead>\n${row(lines[at], "th")}</thead>\n<tbody>\n`;
  let next = at + 2;
  for (; next < lines.length && lines[next].includes("|"); next += 1) html += row(lines[next], "td");
  return [`${html}</tbody>\n</table>\n`, next];
}

function paragraph(lines, at, references, tight) {
  const content = [lines[at].trimStart()];
  let next = at + 1;
  while (next < lines.length && !BLANK.test(lines[next])) {
    const underline = UNDERLINE.exec(lines[next]);
    if (underline) {
      const tag = underline[1][0] === "=" ? "h1" : "h2";
      return [`<${tag}>${inline(content.join("\n").trim(), references)}</${tag}>\n`, next + 1];
    }
    if (begins(lines, next)) break;
    content.push(lines[next].trimStart());
    next += 1;
  }
  const html = inline(content.join("\n").trimEnd(), references);
  return [tight ? `${html}\n` : `<p>${html}</p>\n`, next];
}

// ── what is in a line ────────────────────────────────────────────────────────────────────────────────────────────

/** `linked`: it is inside of a link already, and a link has none in it. */
function inline(text, references, linked = false) {
  const parts = []; // HTML, or what may turn out to begin or end emphasis
  let plain = "";
  const push = (part) => {
    if (plain) parts.push(escaped(plain));
    plain = "";
    if (part !== undefined) parts.push(part);
  };
  let at = 0;
  while (at < text.length) {
    PLAIN.lastIndex = at;
    const run = PLAIN.exec(text);
    if (run) {
      plain += run[0];
      at += run[0].length;
      continue;
    }
    const found =
      escape(text, at) ??
      span(text, at) ??
      bracket(text, at, references, linked) ??
      (linked ? null : address(text, at)) ??
      entity(text, at) ??
      emphasis(text, at);
    if (found) {
      push(found.part);
      at = found.next;
    } else {
      plain += text[at];
      at += 1;
    }
  }
  push();
  return joined(parts);
}

function escape(text, at) {
  if (text[at] === "\n") return { part: plainBreak(text, at), next: at + 1 };
  if (text[at] !== "\\" || at + 1 >= text.length) return null;
  const next = text[at + 1];
  if (next === "\n") return { part: "<br>\n", next: at + 2 };
  return PUNCTUATION.test(next) ? { part: escaped(next), next: at + 2 } : null;
}

function plainBreak(text, at) {
  return text.slice(Math.max(0, at - 2), at) === "  " ? "<br>\n" : "\n";
}

function span(text, at) {
  if (text[at] !== "`") return null;
  const length = run(text, at);
  let end = at + length;
  while ((end = text.indexOf("`", end)) !== -1) {
    const closing = run(text, end);
    if (closing === length) {
      const code = text.slice(at + length, end).replace(/\n/g, " ");
      const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
      return { part: `<code>${escaped(padded ? code.slice(1, -1) : code)}</code>`, next: end + length };
    }
    end += closing;
  }
  return { part: "`".repeat(length), next: at + length };
}

function run(text, at) {
  let end = at;
  while (text[end] === text[at]) end += 1;
  return end - at;
}

/** `[text](address "title")`, `[text][name]`, `[name]`, and the same with a `!` for images. */
function bracket(text, at, references, linked) {
  const isImage = text[at] === "!" && text[at + 1] === "[";
  if (text[at] !== "[" && !isImage) return null;
  const begin = at + (isImage ? 2 : 1);
  const end = matching(text, begin);
  if (end === -1) return null;
  const label = text.slice(begin, end);
  const target = direct(text, end + 1) ?? named(text, end + 1, label, references);
  if (!target || (linked && !isImage)) return null;
  const title = target.title ? ` title="${escaped(target.title)}"` : "";
  const allowed = safe(target.address, isImage ? IMAGES : LINKS);
  const words = isImage ? "" : inline(label, references, true);
  let part = words;
  if (isImage) {
    const alt = escaped(label.replace(/[*_`[\]]/g, ""));
    part = allowed === null ? alt : `<img src="${allowed}" alt="${alt}"${title}>`;
  } else if (allowed !== null) {
    part = `<a href="${allowed}"${title} rel="nofollow noopener">${words}</a>`;
  }
  return { part, next: target.next };
}

const LONGEST = 1000; // characters of a link's text: looking for its end is bounded, and so is what hostile text costs

function matching(text, begin) {
  let depth = 0;
  for (let at = begin; at < Math.min(text.length, begin + LONGEST); at += 1) {
    if (text[at] === "\\") at += 1;
    else if (text[at] === "[") depth += 1;
    else if (text[at] === "]" && depth-- === 0) return at;
  }
  return -1;
}

function direct(text, at) {
  if (text[at] !== "(") return null;
  const found = /^\(\s*(<[^<>\n]*>|[^\s()<]*(?:\([^\s()]*\)[^\s()]*)*)(?:\s+(?:"([^"]*)"|'([^']*)'))?\s*\)/.exec(
    text.slice(at, at + LONGEST),
  );
  if (!found) return null;
  return { address: found[1].replace(/^<|>$/g, ""), title: found[2] ?? found[3] ?? "", next: at + found[0].length };
}

function named(text, at, label, references) {
  const found = /^\[([^\][]{0,200})\]/.exec(text.slice(at, at + 210));
  const target = references.get(key(found && found[1] ? found[1] : label));
  return target ? { ...target, next: at + (found ? found[0].length : 0) } : null;
}

/** An address as an attribute has it, or null when it leads where none may. */
function safe(text, schemes) {
  const address = text.replace(/[\0-\x20\x7f-\xa0]/g, ""); // browsers leave them out too
  const scheme = /^([^/?#]*?):/.exec(address);
  if (scheme && !schemes.has(scheme[1].toLowerCase())) return null;
  return escaped(address);
}

/** `<https://…>`, `<a@b>`, and an address among words. */
function address(text, at) {
  if (text[at] === "<") {
    const found = /^<([a-z][a-z0-9+.-]{1,31}:[^\s<>]*|[\w.+-]{1,64}@[\w.-]{1,255})>/i.exec(text.slice(at, at + LONGEST));
    if (!found) return null;
    const allowed = safe(found[1].includes(":") ? found[1] : `mailto:${found[1]}`, LINKS);
    return allowed === null ? null : { part: anchor(allowed, found[1]), next: at + found[0].length };
  }
  if (text[at] !== "h" || (at > 0 && /\w/.test(text[at - 1]))) return null;
  const found = /^https?:\/\/[^\s<>"'`*|\\]+/.exec(text.slice(at, at + LONGEST));
  if (!found) return null;
  let words = found[0];
  while (/[.,:;!?_~]$/.test(words) || (words.endsWith(")") && !words.includes("("))) words = words.slice(0, -1);
  return { part: anchor(escaped(words), words), next: at + words.length };
}

function anchor(allowed, words) {
  return `<a href="${allowed}" rel="nofollow noopener">${escaped(words)}</a>`;
}

/** `&copy;` stays what it is: it stands for a character, and for no markup. */
function entity(text, at) {
  if (text[at] !== "&") return null;
  const found = /^&(?:[a-z][a-z0-9]{1,31}|#[0-9]{1,7}|#x[0-9a-f]{1,6});/i.exec(text.slice(at, at + 40));
  return found && { part: found[0], next: at + found[0].length };
}

// ── emphasis, by CommonMark's rules for runs of * and _ ──────────────────────────────────────────────────────────

function emphasis(text, at) {
  const sign = text[at];
  if (sign !== "*" && sign !== "_" && sign !== "~") return null;
  const count = run(text, at);
  const before = text[at - 1] ?? " ";
  const after = text[at + count] ?? " ";
  const left = !/\s/.test(after) && (!PUNCTUATION.test(after) || /\s/.test(before) || PUNCTUATION.test(before));
  const right = !/\s/.test(before) && (!PUNCTUATION.test(before) || /\s/.test(after) || PUNCTUATION.test(after));
  const inWord = sign === "_";
  return {
    part: {
      sign,
      count,
      length: count,
      opens: left && (!inWord || !right || PUNCTUATION.test(before)),
      closes: right && (!inWord || !left || PUNCTUATION.test(after)),
      before: "",
      after: "",
    },
    next: at + count,
  };
}

function joined(parts) {
  const open = []; // of each sign, the runs that may still be closed
  for (const part of parts) {
    if (typeof part === "string") continue;
    while (part.closes && part.count > 0) {
      const index = open.findLastIndex((each) => pairs(each, part));
      if (index === -1) break;
      const opener = open[index];
      open.length = index + 1;
      const used = part.sign === "~" ? part.count : Math.min(2, opener.count, part.count);
      const tag = part.sign === "~" ? "del" : used === 2 ? "strong" : "em";
      opener.after = `<${tag}>${opener.after}`;
      part.before += `</${tag}>`;
      opener.count -= used;
      part.count -= used;
      if (opener.count === 0) open.pop();
    }
    if (part.opens && part.count > 0 && open.length < 200) open.push(part);
  }
  const text = (part) => part.before + part.sign.repeat(part.count) + part.after;
  return parts.map((part) => (typeof part === "string" ? part : text(part))).join("");
}

function pairs(opener, closer) {
  if (opener.sign !== closer.sign) return false;
  if (closer.sign === "~") return opener.count === closer.count && closer.count <= 2;
  const both = (opener.closes || closer.opens) && (opener.length + closer.length) % 3 === 0;
  return !both || (opener.length % 3 === 0 && closer.length % 3 === 0);
}
