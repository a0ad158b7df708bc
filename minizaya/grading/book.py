"""The lessons with their outputs as a static site, for reading: `make book`.

It needs no network: formulas are MathML, pictures stand in the pages, and the search is a list in a script. Answers
stay folded, dials are still pictures; it is light or dark as the reader's system is.
"""

import json
import re
import shutil
import tempfile
from html import escape, unescape
from pathlib import Path

from ..notebook import tqdm

CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #111; --line: #ccc; --code: #f5f5f5; --link: #0060a8; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #161616; --ink: #e4e4e4; --line: #484848; --code: #202020; --link: #7ab8f5; }
  img { filter: brightness(.86); }
}
body { margin: 0 auto; max-width: 60rem; padding: 0 1rem 4rem; font: 1.05rem/1.55 system-ui, sans-serif;
       color: var(--ink); background: var(--paper); overflow-wrap: break-word; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; align-items: baseline; padding: .7rem 0; }
nav.top { position: sticky; top: 0; background: var(--paper); border-bottom: 1px solid var(--line); z-index: 1; }
nav input { flex: 1 1 9rem; min-width: 0; font: inherit; padding: .2rem .5rem; }
a { color: var(--link); } .anchor-link { visibility: hidden; } :hover > .anchor-link { visibility: visible; }
h1, h2, h3 { line-height: 1.25; } h2 { margin-top: 2.4rem; } section { scroll-margin-top: 4rem; }
pre { overflow-x: auto; padding: .6rem .8rem; margin: .5rem 0; font: .78rem/1.4 ui-monospace, monospace; }
main p, main li { max-width: 54rem; }
.highlight pre { background: var(--code); } .out { border-left: 3px solid #56B4E9; }
table { display: block; overflow-x: auto; border-collapse: collapse; }
td, th { padding: .3rem .6rem; border: 1px solid var(--line); text-align: left; vertical-align: top; }
@media (max-width: 40rem) { td:nth-child(3), td:last-child { min-width: 9rem; } td, th { padding: .2rem .4rem; } }
img { max-width: 100%; height: auto; } math[display=block] { display: block; overflow-x: auto; margin: .8rem 0; }
details { border: 1px solid var(--line); border-radius: 4px; padding: .4rem .8rem; } summary { cursor: pointer; }
#found { list-style: none; padding: 0; margin: 0; } #found li { margin: .5rem 0; } #found small { display: block; }
"""

SCRIPT = """
const box = document.getElementById("find"), list = document.getElementById("found");
box.addEventListener("input", () => {
  const words = box.value.toLowerCase().split(/\\s+/).filter(word => word.length > 1);
  const count = text => words.filter(word => text.toLowerCase().includes(word)).length;
  const hits = words.length ? PLACES.filter(place => count(place[1] + " " + place[2]) === words.length) : [];
  hits.sort((a, b) => count(b[1]) - count(a[1]) || a[2].length - b[2].length);
  list.replaceChildren(...hits.slice(0, 20).map(([address, title, text]) => {
    const item = document.createElement("li"), link = document.createElement("a");
    const small = document.createElement("small"), at = Math.max(0, text.toLowerCase().indexOf(words[0]) - 40);
    link.href = address, link.textContent = title, small.textContent = text.slice(at, at + 140);
    item.append(link, small);
    return item;
  }));
});
"""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="stylesheet" href="book.css"></head><body>
<nav class="top" aria-label="Book">{links}<input id="find" type="search" placeholder="Search" aria-label="Search"></nav>
<ul id="found" aria-live="polite"></ul>
<main>
{body}
</main>
<nav aria-label="Pages">{links}</nav>
<script src="places.js"></script></body></html>
"""


HEADING = re.compile(r"<h[123].*?</h[123]>", re.DOTALL)


def book(folder: Path, out: Path, numbers: list[str] | None = None, execute: bool = True) -> list[Path]:
    """Runs the lessons in `folder` (`numbers`: such as ["01"]; default all) and writes them to `out`, with the pages of
    the folder: its README.md becomes index.html. A notebook that has outputs is taken as it is. Returns the pages.

    Raises ValueError where `out` is already there, a number is no lesson's, or a cell fails. Needs nbconvert, which
    JupyterLab brings, and latex2mathml.
    """
    import nbformat  # late: grading needs none of these
    from pygments.formatters import HtmlFormatter

    paths = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    unknown = sorted(set(numbers or ()) - {path.name[:2] for path in paths})
    if unknown or not paths:
        raise ValueError(f"no lesson {', '.join(unknown)} in {folder}")
    if out.exists():
        raise ValueError(f"{out} is already there; choose a folder that is not")
    paths = [path for path in paths if not numbers or path.name[:2] in numbers]
    pages = [(("index" if path.stem == "README" else path.stem), [("top", markdown(path.read_text(encoding="utf-8")))])
             for path in (folder / name for name in ("README.md", "TEACHING.md", "RUBRIC.md")) if path.exists()]
    for path in tqdm(paths, desc="book", unit="lesson", disable=not execute):
        lesson = nbformat.read(path, as_version=4)
        if execute and not any(cell.get("outputs") for cell in lesson.cells):
            run(lesson)
        pages.append((path.stem, [(f"c{i}", cell_html(cell)) for i, cell in enumerate(lesson.cells)]))

    out.mkdir(parents=True)
    if (folder / "figures").is_dir():
        shutil.copytree(folder / "figures", out / "figures")
    written, places, names = [], [], [name for name, _ in pages]
    for name, sections in pages:
        body = "\n".join(f'<section id="{id}">\n{html}</section>' for id, html in sections)
        title = heading = plain(re.search(HEADING, body)[0])
        for id, html in sections:
            if not html.startswith('<div class="highlight">'):
                heading = plain((re.search(HEADING, html) or [heading])[0])
                places.append((f"{name}.html#{id}", title if heading == title else f"{title}: {heading}", plain(html)))
        page = out / f"{name}.html"
        links = " ".join(f'<a href="{to}.html" rel="{rel}">{text}</a>' for rel, to, text in neighbours(name, names))
        page.write_text(PAGE.format(title=escape(title), links=links, body=linked(body, names)), encoding="utf-8")
        written.append(page)
    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    colors = f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
    (out / "book.css").write_text(CSS + colors, encoding="utf-8")
    text = json.dumps(places, ensure_ascii=False).replace("</", "<\\/")
    (out / "places.js").write_text(f"const PLACES = {text};\n{SCRIPT}", encoding="utf-8")
    return written


def run(lesson) -> None:
    """Runs a lesson in place, as if ipywidgets were missing: so a dial is a still picture."""
    import nbclient
    from nbformat.v4 import new_code_cell

    title = lesson.cells[0].source.splitlines()[0]
    lesson.cells.insert(0, new_code_cell("import sys\nsys.modules['ipywidgets'] = None"))
    with tempfile.TemporaryDirectory() as folder:
        try:
            nbclient.NotebookClient(lesson, timeout=900, resources={"metadata": {"path": folder}}).execute()
        except nbclient.exceptions.CellExecutionError as error:
            raise ValueError(f"a cell of {title!r} failed: {error.ename}: {error.evalue}") from error
        except nbclient.exceptions.DeadKernelError as error:
            raise ValueError(f"the kernel of {title!r} ended in the middle; was there too little memory?") from error
    del lesson.cells[0]


def cell_html(cell) -> str:
    """One cell with its outputs."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    if cell.cell_type != "code":
        return markdown(cell.source)
    parts = [highlight(cell.source, PythonLexer(), HtmlFormatter())]
    for output in cell.outputs:
        data = output.get("data", {})
        if output.output_type == "stream":      # no progress bars: each redraws its line
            lines = [line.split("\r")[-1] for line in output.text.split("\n")]
            text = "\n".join(line for line in lines if not re.search(r"\d+%\|", line)).rstrip("\n")
            parts.append(f'<pre class="out">{escape(text)}</pre>' if text else "")
        elif "text/html" in data:
            parts.append(f'<div class="out">{data["text/html"]}</div>')
        elif "text/markdown" in data:
            parts.append(f'<div class="out">{markdown(data["text/markdown"])}</div>')
        elif "text/plain" in data and "application/vnd.jupyter.widget-view+json" not in data:
            parts.append(f'<pre class="out">{escape(data["text/plain"])}</pre>')
    return "\n".join(parts)


def markdown(text: str) -> str:
    """Markdown as JupyterLab reads it, formulas as MathML."""
    from latex2mathml.converter import convert
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Formulas(IPythonRenderer):
        def block_math(self, body: str) -> str:
            return convert(body, display="block")

        def inline_math(self, body: str) -> str:
            return convert(body)

    return MarkdownWithMath(renderer=Formulas(escape=False)).render(text)


def neighbours(name: str, names: list[str]) -> list[tuple[str, str, str]]:
    """(what it is, page, words) of the links on a page: the page before, the table, the page after."""
    lessons = [other for other in names if other[:2].isdigit()]
    at = lessons.index(name) if name in lessons else -1
    found = [("prev", lessons[at - 1], "← " + lessons[at - 1].replace("_", " "))] if at > 0 else []
    found += [("up", "index", "All lessons")] if "index" in names else []
    if at + 1 < len(lessons):
        found.append(("next", lessons[at + 1], lessons[at + 1].replace("_", " ") + " →"))
    return found


def linked(body: str, names: list[str]) -> str:
    """Links to notebooks and pages lead to their pages here; one to a page that is not here becomes its words."""
    def link(found: re.Match) -> str:
        stem = "index" if found[1] == "README" else found[1]
        return f'<a href="{stem}.html{found[3] or ""}">{found[4]}</a>' if stem in names else found[4]

    return re.sub(r'<a href="([\w-]+)\.(ipynb|md)(#[^"]*)?">(.*?)</a>', link, body, flags=re.DOTALL)


def plain(html: str) -> str:
    """The words of a piece of a page, pictures left out."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).replace("¶", "").split())
