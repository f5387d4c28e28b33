// Each exported function whose name begins with "test" is one test; it sees all that is in markdown.js.

function same(source, html) {
  const made = markdown(source);
  if (made !== html) throw new Error(`${JSON.stringify(source)} became ${JSON.stringify(made)}, not ${JSON.stringify(html)}`);
}

export function test_headings() {
  same("# One #\n\nTwo\n===\n\n### *Three*", "<h1>One</h1>\n<h1>Two</h1>\n<h3><em>Three</em></h3>\n");
  same("#none\n\n***", "<p>#none</p>\n<hr>\n");
}

export function test_emphasis() {
  same("*a* **b** ***c*** _d_ __e__ ~~f~~", "<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>\n");
  same("snake_case_name 2*3*4 * not *", "<p>snake_case_name 2<em>3</em>4 * not *</p>\n");
  same("**a *b* c** *d", "<p><strong>a <em>b</em> c</strong> *d</p>\n");
  same("\\*plain\\*", "<p>*plain*</p>\n");
}

export function test_code() {
  same("`a < b` and ``c ` d``", "<p><code>a &lt; b</code> and <code>c ` d</code></p>\n");
  same("```js\n<b>\n\n*x*\n```\nafter", '<pre><code class="language-js">&lt;b&gt;\n\n*x*\n</code></pre>\n<p>after</p>\n');
  same('``` "onload=x\nnever closed', "<pre><code>never closed\n</code></pre>\n");
  same("    four\n\n    spaces\n\nnot", "<pre><code>four\n\nspaces\n</code></pre>\n<p>not</p>\n");
}

export function test_lists() {
  same("- a\n- b\n  more\n\nend", "<ul>\n<li>a</li>\n<li>b\nmore</li>\n</ul>\n<p>end</p>\n");
  same("3. a\n4. b", '<ol start="3">\n<li>a</li>\n<li>b</li>\n</ol>\n');
  same("* a\n  * b\n    * c\n* d", "<ul>\n<li>a\n<ul>\n<li>b\n<ul>\n<li>c</li>\n</ul></li>\n</ul></li>\n<li>d</li>\n</ul>\n");
  same("- a\n\n- b", "<ul>\n<li><p>a</p></li>\n<li><p>b</p></li>\n</ul>\n");
  same("- [ ] do\n- [x] done", '<ul>\n<li><input type="checkbox" disabled> do</li>\n<li><input type="checkbox" disabled checked> done</li>\n</ul>\n');
}

export function test_quotes_and_tables() {
  same("> a\nb\n> # c\n\nd", "<blockquote>\n<p>a\nb</p>\n<h1>c</h1>\n</blockquote>\n<p>d</p>\n");
  same("| a | b |\n|---|:-:|\n| 1 \\| 2 | *x* |", '<table>\n<thead>\n<tr><th>a</th><th style="text-align:center">b</th></tr>\n</thead>\n<tbody>\n<tr><td>1 | 2</td><td style="text-align:center"><em>x</em></td></tr>\n</tbody>\n</table>\n');
}

const LINK = (address, words) => `<a href="${address}" rel="nofollow noopener">${words}</a>`;

export function test_links() {
  same("[a *b*](https://x.org/?q=1&r=2)", `<p>${LINK("https://x.org/?q=1&amp;r=2", "a <em>b</em>")}</p>\n`);
  same("[a](/wiki/B_(c) 'of it')", '<p><a href="/wiki/B_(c)" title="of it" rel="nofollow noopener">a</a></p>\n');
  same("[a][B] [b] [c]\n\n[b]: <http://b.org/>", `<p>${LINK("http://b.org/", "a")} ${LINK("http://b.org/", "b")} [c]</p>\n`);
  same("<https://x.org/> (see https://y.org/.)", `<p>${LINK("https://x.org/", "https://x.org/")} (see ${LINK("https://y.org/", "https://y.org/")}.)</p>\n`);
  same("![a \"b\"](https://x.org/i.png)", '<p><img src="https://x.org/i.png" alt="a &quot;b&quot;"></p>\n');
  same("[![i](i.png)](https://x.org)", `<p>${LINK("https://x.org", '<img src="i.png" alt="i">')}</p>\n`);
}

export function test_nothing_runs() {
  for (const address of [
    "javascript:alert(1)", "JaVaScRiPt:alert(1)", "java\tscript:alert(1)", " javascript:x", "data:text/html,x",
    "vbscript:x", "file:///etc/passwd", "blob:x", "\u0001javascript:x", "javascript\u00a0:x", "x'onclick:y",
  ]) {
    for (const text of [`[x](${address})`, `[x](<${address}>)`, `<${address}>`, `![x](${address})`, `[x]\n\n[x]: ${address}`]) {
      const made = markdown(text);
      if (/href|src|<(?!\/?p>)/.test(made)) throw new Error(`${JSON.stringify(text)} became ${made}`);
    }
  }
  same("<script>alert(1)</script> & &copy;", "<p>&lt;script&gt;alert(1)&lt;/script&gt; &amp; &copy;</p>\n");
  same('[x](https://x.org/"onclick="y)', `<p>${LINK("https://x.org/&quot;onclick=&quot;y", "x")}</p>\n`);
  same("<!-- a\n\nb -->c", "<p>c</p>\n");
  same("[javascript&#58;x](javascript&#58;x)", `<p>${LINK("javascript&amp;#58;x", "javascript&#58;x")}</p>\n`);
}

export function test_hostile_text_takes_no_longer_than_its_length() {
  for (const each of ["*", "_", "[", "](", "`", "<", "> ", "- ", "![", "**a ", "[a](", "|", "&", "\\", "<!--", "a\n-\n", "``a`"]) {
    markdown(each.repeat(300));
    markdown(each.repeat(300) + "\n" + "-".repeat(300));
  }
}

export function test_a_page_has_its_title() {
  const made = page("# A <b> & *c*\n\ntext");
  if (!made.includes("<title>A &lt;b&gt; &amp; c</title>")) throw new Error(made);
  if (!made.includes("default-src 'none'")) throw new Error(made);
}
