"""What a person sees: JupyterLab started as `make lessons` does, in a headless Chromium. `make browser` runs this.

A Chromium of the system is taken where there is one (`chromium` on the path), or else playwright's own.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest

from lesson_tools import LESSONS, ROOT

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
PATIENCE = 110_000      # milliseconds that a person would call broken


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of JupyterLab over a copy of the lessons; nobody's tabs of another day, nobody's dark theme."""
    folder = tmp_path_factory.mktemp("course") / "lessons"
    shutil.copytree(LESSONS, folder, ignore=shutil.ignore_patterns("runs", ".ipynb_checkpoints"))
    command = [sys.executable, "-m", "jupyterlab", "--config", str(folder / ".jupyter" / "config.py"), "--allow-root",
               "--no-browser", "--IdentityProvider.token=", "--ServerApp.port=0", str(folder)]
    own = {f"JUPYTERLAB_{kind}_DIR": str(folder.parent / kind) for kind in ("WORKSPACES", "SETTINGS")}
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               env=os.environ | own)
    try:
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://localhost:\d+\S*", line)))
        reader = threading.Thread(target=process.stdout.read, daemon=True)     # or its pipe would fill up
        reader.start()
        yield address, folder
    finally:
        process.terminate()
        process.wait(30)
        reader.join(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(chromium, address, path="", **view):
    page = chromium.new_page(**{"viewport": {"width": 1400, "height": 900}} | view)
    page.set_default_timeout(PATIENCE)
    page.goto(address + path)
    try:
        yield page
    finally:
        page.close()


def idle(page):
    # trap: a notebook whose kernel is still starting counts as idle, too, and "Run All Cells" then runs none
    shown = ".jp-NotebookPanel:not(.lm-mod-hidden) "
    page.wait_for_selector(shown + ".jp-Toolbar-kernelName >> text=ipykernel")
    page.wait_for_selector(shown + ".jp-Notebook-ExecutionIndicator[data-status=idle]", state="attached")


def lesson(page, name):
    page.click(f".jp-RenderedMarkdown table a >> text={name}")
    idle(page)
    return page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")


def run_all(page):
    page.click(".lm-MenuBar-itemLabel >> text=Run")
    page.click(".lm-Menu-itemLabel >> text=/^Run All Cells$/")
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=busy]", state="attached")


def cell(panel, text):
    found = panel.locator(".jp-CodeCell").filter(has=panel.page.locator(f".cm-content:has-text({text!r})")).first
    found.scroll_into_view_if_needed()
    return found


def write(page, found, source):
    """Types a cell anew and runs it."""
    found.locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(source)
    page.keyboard.press("Shift+Enter")


def nothing_red(panel):
    assert panel.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert panel.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0


def test_the_table_of_lessons_opens_first(lab, chromium):
    with opened(chromium, lab[0]) as page:
        page.wait_for_selector(".jp-RenderedMarkdown table a >> text=moe")


STUB = 'def my_choose(probs, bias):\n    """probs: (b, t, E + 1); bias: (E + 1,)."""\n    '
WRONG = "return probs.argmax(-1), probs.amax(-1)"
RIGHT = "routes = (probs + bias).argmax(-1)\n    return routes, probs.gather(-1, routes[..., None])[..., 0]"


def test_a_student_runs_a_lesson_and_solves_an_exercise(lab, chromium):
    """Lesson 03: all cells; a wrong answer, a right one; a dial."""
    address, folder = lab
    with opened(chromium, address) as page:
        panel = lesson(page, "router")
        # looked at is not changed; for a tenth of a second JupyterLab says so, until it has looked itself
        page.wait_for_selector(".jp-mod-dirty", state="detached")
        run_all(page)
        page.wait_for_selector("text=Not attempted yet")
        idle(page)
        nothing_red(panel)
        printed = panel.locator(".jp-OutputArea-output pre").first
        assert printed.evaluate("e => getComputedStyle(e).wordBreak") == "normal"      # custom.css came
        stub = cell(panel, "def my_choose")
        write(page, stub, STUB + WRONG)
        page.keyboard.press("Shift+Enter")                          # its checks are the next cell
        panel.locator("text=✘ router.biased_choice").first.wait_for()
        assert panel.locator("td[style*='D55E00']").count() >= 2    # the entry that is wrong, and what it should be
        page.screenshot(path=str(folder.parent / "wrong.png"))
        write(page, stub, STUB + RIGHT)
        page.keyboard.press("Shift+Enter")
        panel.locator("text=✔ router.biased_choice").first.wait_for()
        turn(page, cell(panel, "turned.biased"))


def turn(page, dial):
    """Moves the first slider of a dial by its arrow keys; the picture must change."""
    picture = dial.locator("img").first
    before = picture.get_attribute("src")
    dial.locator(".noUi-handle").first.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    page.wait_for_function("old => ![...document.images].some(img => img.src == old)", arg=before)
    assert picture.get_attribute("alt").startswith("Left: the share of tokens")


def test_stop_stops_a_training_cell(lab, chromium):
    """Lesson 06: KeyboardInterrupt in the cell, and nothing after it has run."""
    with opened(chromium, lab[0]) as page:
        panel = lesson(page, "mini_zaya")
        run_all(page)
        # the first bar may be done, and gone, by now; and another lesson's tab has a button of its own
        panel.locator(".jupyter-widgets .progress-bar:visible").first.wait_for()
        panel.locator("[data-command='notebook:interrupt-kernel']").click()
        panel.locator("text=KeyboardInterrupt").first.wait_for()
        idle(page)


EXPERT = 'def swiglu(x, gate_up, down):\n    """x: (n, D); gate_up: (2F, D); down: (D, F)."""\n    '
SOLVED = "gate, up = (x @ gate_up.T).chunk(2, dim=-1)\n    {}(F.silu(gate) * up) @ down.T"


def test_a_forgotten_return_is_said_and_the_next_lesson_is_a_click_away(lab, chromium):
    """Lesson 01, without running all of it: the imports, an answer that returns nothing, the answer; then the link."""
    with opened(chromium, lab[0]) as page:
        panel = lesson(page, "moe")
        cell(panel, "import minizaya as mz").locator(".cm-content").click()
        page.keyboard.press("Shift+Enter")
        for slip, shown in (("nothing = ", "it returned None"), ("return ", "✔ experts.swiglu")):
            write(page, cell(panel, "def swiglu"), EXPERT + SOLVED.format(slip))
            page.keyboard.press("Shift+Enter")                          # its check is the next cell
            panel.locator(f"text={shown}").first.wait_for()
        nothing_red(panel)
        panel.locator(".jp-RenderedMarkdown a >> text=02 cca").first.click()
        page.wait_for_selector(".jp-NotebookPanel:not(.lm-mod-hidden) h1 >> text=Compressed convolutional attention")
