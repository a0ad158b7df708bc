"""The book: every link leads somewhere, nothing comes from a network, formulas are drawn, answers are folded."""

import json
import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lesson_tools import LESSONS
from minizaya.grading import book


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Two lessons as they are shipped, without outputs, and the pages beside them."""
    out = tmp_path_factory.mktemp("site") / "book"
    book.book(LESSONS, out, ["01", "03"], execute=False)
    return out


def pages(site):
    return {path.name: path.read_text(encoding="utf-8") for path in site.glob("*.html")}


def test_every_link_leads_somewhere(site):
    found, ids = pages(site), {}
    assert {"index.html", "01_moe.html", "03_router.html", "TEACHING.html", "RUBRIC.html"} == set(found)
    for name, text in found.items():
        ids[name] = set(re.findall(r'id="([^"]+)"', text))
    for name, text in found.items():
        for target in re.findall(r'(?:href|src)="([^"]+)"', text):
            page, _, anchor = target.partition("#")
            if not target.startswith(("https://", "data:")):
                assert (site / (page or name)).exists(), (name, target)
                assert not anchor or anchor in ids[page or name], (name, target)
    assert 'href="01_moe.html" rel="prev"' in found["03_router.html"]
    assert 'href="03_router.html" rel="next"' in found["01_moe.html"]
    assert 'rel="next"' not in found["03_router.html"]                       # 04 is not in this book
    assert "04 balance</a>" not in found["03_router.html"] and "04 balance" in found["03_router.html"]


def test_nothing_comes_from_a_network(site):
    for name, text in pages(site).items():
        assert not re.search(r'(?:src|<link[^>]*href)="(?:https?:)?//', text), name
        assert 'name="viewport"' in text and '<html lang="en">' in text
        assert all(re.search(r'alt="[^"]', image) for image in re.findall(r"<img[^>]*>", text)), name
    assert "http" not in (site / "book.css").read_text(encoding="utf-8")


def test_formulas_are_drawn_and_answers_folded(site):
    router = pages(site)["03_router.html"]
    assert router.count("<math") > 10
    words = re.sub(r"<pre.*?</pre>|<code.*?</code>", "", router, flags=re.DOTALL)
    assert "$" not in words and not re.search(r"\\[a-z]{2,}", words)
    assert router.count("<details><summary>Answer</summary>") == 4              # one for each exercise, none open
    assert router.count("<details") == router.count("</details>") and "<details open" not in router


def test_the_search_knows_every_section(site):
    text = (site / "places.js").read_text(encoding="utf-8")
    places = json.loads(re.match(r"const PLACES = (.*);\n", text)[1])
    found = pages(site)
    for address, title, words in places:
        page, anchor = address.split("#")
        assert f'id="{anchor}"' in found[page] and title and words
    assert any("The route that leads nowhere" in title and "proof" in words for _, title, words in places)


def test_outputs_as_a_page_shows_them():
    outputs = [new_output("stream", name="stdout", text="  0%|   | 0/2\r100%|###| 2/2\na < b\n"),
               new_output("display_data", {"text/html": '<img alt="A line" src="data:image/png;base64,AAAA">',
                                           "text/plain": "<Figure>"}),
               new_output("display_data", {"text/markdown": "```python\nx < 2\n```", "text/plain": "x < 2"}),
               new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "HBox()"})]
    html = book.cell_html(new_code_cell("x = 1", outputs=outputs))
    assert '<pre class="out">a &lt; b</pre>' in html and 'alt="A line"' in html
    assert re.search(r'<div class="out">\s*<div class="highlight"><pre>.*<span[^>]*>&lt;</span>', html)    # a listing
    assert "%|" not in html and "HBox" not in html and "Figure" not in html


def test_a_dark_page_has_light_letters(site):
    """No color stands in the style but in the two palettes, so none is forgotten in the dark one."""
    style = (site / "book.css").read_text(encoding="utf-8").split("pre { line-height")[0]
    light, dark = (set(re.findall(r"(--\w+): #", line)) for line in style.splitlines() if ":root" in line)
    assert light == dark == set(re.findall(r"var\((--\w+)\)", style))
    assert len(re.findall(r"#[0-9a-fA-F]{3}", style)) == 2 * len(light) + 1  # an output's bar is blue in both
    assert "@media (prefers-color-scheme: dark)" in (site / "book.css").read_text(encoding="utf-8").split(style)[1]


def test_a_lesson_runs_without_widgets_and_a_failing_cell_is_told():
    lesson = new_notebook(cells=[new_markdown_cell("# 00 Broken"), new_code_cell(
        "from importlib.util import find_spec\nprint(find_spec('ipywidgets'))"), new_code_cell("1 / 0")])
    with pytest.raises(ValueError, match="a cell of '# 00 Broken' failed: ZeroDivisionError: division by zero"):
        book.run(lesson)
    assert [cell.outputs[0].text for cell in lesson.cells if "print" in cell.source] == ["None\n"]


def test_a_kernel_that_ends_is_told():
    lesson = new_notebook(cells=[new_markdown_cell("# 00 Ends"), new_code_cell("import os\nos._exit(1)")])
    with pytest.raises(ValueError, match="the kernel of '# 00 Ends' ended in the middle"):
        book.run(lesson)


def test_wrong_requests_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no lesson 99 in"):
        book.book(LESSONS, tmp_path / "book", ["99"])
    with pytest.raises(ValueError, match="is already there"):
        book.book(LESSONS, tmp_path, ["01"])
