"""What is different in a notebook, seen from a kernel's messages: Ctrl-C, progress bars, verdicts.

One kernel serves all of these: starting one and importing torch in it takes seconds.
"""

import ast
import asyncio
import base64
import json
import platform
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import traitlets.config
from jupyter_client.manager import KernelManager

from lesson_tools import PATHS, ROOT, ThisPython
from minizaya import notebook
from minizaya.arch.router import Router


@pytest.fixture(scope="module")
def kernel():
    """Runs a cell: code -> (reply, outputs). With `press`, Ctrl-C once the cell has printed "ready". None: its info."""
    manager = KernelManager(kernel_name="python3", kernel_spec_manager=ThisPython())
    manager.start_kernel(cwd=str(ROOT))
    client = manager.blocking_client()
    client.start_channels()
    client.wait_for_ready(timeout=60)

    def run(code, press=False):
        if code is None:
            return client.kernel_info(reply=True, timeout=60)["content"]
        outputs = []

        def hook(message):
            outputs.append((message["msg_type"], message["content"]))
            if press and message["content"].get("text", "").startswith("ready"):
                manager.interrupt_kernel()

        reply = client.execute_interactive(code, timeout=120, output_hook=hook)["content"]
        return reply, [(kind, content) for kind, content in outputs if kind not in ("status", "execute_input")]

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def without_widgets(code):
    """The cell in a kernel that cannot import ipywidgets."""
    return f"import sys; kept = sys.modules.get('ipywidgets')\nsys.modules['ipywidgets'] = None\ntry:\n    {code}\n" \
           "finally:\n    del sys.modules['ipywidgets']\n    if kept: sys.modules['ipywidgets'] = kept"


WAIT = """
import time
from minizaya.train.loop import interrupts
with interrupts() as stop:
    print("ready", flush=True)
    while not stop:
        time.sleep(0.01)
    print("saved")
"""


def test_stop_finishes_the_step_and_stops_the_notebook(kernel):
    reply, outputs = kernel(WAIT, press=True)
    assert reply["status"] == "error" and reply["ename"] == "KeyboardInterrupt"
    assert "saved" in "".join(content["text"] for kind, content in outputs if kind == "stream")


def test_a_bar_is_a_widget_and_never_red(kernel):
    reply, outputs = kernel("from minizaya.notebook import tqdm\nfor i in tqdm(range(3), desc='steps'): pass")
    assert reply["status"] == "ok"
    kinds = [kind for kind, _ in outputs]
    assert "stream" not in kinds     # JupyterLab draws standard error on red
    (shown,) = [content["data"] for kind, content in outputs if kind == "display_data"]
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_without_ipywidgets_a_bar_is_text_and_not_red(kernel):
    reply, outputs = kernel(without_widgets("from minizaya.notebook import tqdm\n    for i in tqdm(range(3)): pass"))
    assert reply["status"] == "ok", reply
    assert outputs and {content.get("name") for _, content in outputs} == {"stdout"}
    assert re.search(r"3/3", "".join(content["text"] for _, content in outputs))


def test_a_terminal_is_no_notebook(capsys):
    assert not notebook.in_notebook() and not notebook.has_widgets()
    for _ in notebook.tqdm(range(3)):
        pass
    shown = capsys.readouterr()
    assert "3/3" in shown.err and not shown.out
    code = "from minizaya.notebook import in_notebook; import IPython; assert not in_notebook()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_listing_is_coloured_in_a_notebook_and_printed_elsewhere(kernel, capsys):
    reply, outputs = kernel("from minizaya.notebook import listing; from minizaya.arch.router import Router\n"
                            "listing(Router.scores, Router.forward)")
    assert reply["status"] == "ok", reply
    ((kind, content),) = outputs
    notebook.listing(Router.scores, Router.forward)
    printed = capsys.readouterr().out
    assert kind == "display_data" and content["data"]["text/plain"] + "\n" == printed
    assert content["data"]["text/markdown"] == f"```python\n{printed[:-1]}```"
    assert printed.startswith("def scores(self, x") and "\ndef forward(self, x" in printed   # each at the margin
    notebook.listing(Router.scores, doc=False)
    body = printed[:printed.index("\n\ndef forward")]
    assert capsys.readouterr().out == re.sub(r' *""".*?"""\n', "", body, flags=re.DOTALL) + "\n\n"


def same_code(source):
    """The syntax tree, and the words of comments, in order; strings by their words."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = " ".join(node.value.split())
    return ast.dump(tree)


def test_broken_lines_are_the_same_code():
    """On modules that lessons list: the code stays, and no word is lost."""
    for path in ROOT.glob("minizaya/arch/*.py"):
        source = path.read_text(encoding="utf-8")
        shown = notebook.broken(source, 88)
        assert same_code(shown) == same_code(source), path
        whole = [re.sub(r'"\n +f?"', "", text) for text in (source, shown)]     # strings in two parts
        words = [" ".join(re.findall(r"[^\s#]+", text)).split() for text in whole]
        assert sorted(words[0]) == sorted(words[1]), path


LONG = '''def f(first, second, third):  # why it is so
    """One sentence that its author broke at the edge of the page, as sentences here are, goes on in the very next
    line without a gap."""
    return first(second, third)[second, third] + f"{first} {second (third)}"
    raise ValueError(f"first must be long, got {first} of {second} and {third}")
'''
BROKEN = '''# why it is so
def f(first, second, third):
    """One sentence that its author
    broke at the edge of the page, as
    sentences here are, goes on in
    the very next line without a
    gap."""
    return first(second,
            third)[second,
            third] + f"{first} {second (third)}"
    raise ValueError(f"first must "
            f"be long, got {first} "
            f"of {second} and "
            f"{third}")
'''


def test_a_line_is_broken_where_a_reader_would():
    assert notebook.broken(LONG, 37) == BROKEN


# ---- JupyterLab as `make lessons` starts it --------------------------------------------------------------------------


@pytest.fixture
def settings(monkeypatch):
    monkeypatch.setenv("PATH", "elsewhere")
    config = traitlets.config.Config()
    runpy.run_path(str(ROOT / "lessons/.jupyter/config.py"), {"get_config": lambda: config})
    return config


def test_a_lesson_says_what_its_kernel_says(kernel):
    """JupyterLab writes what a kernel calls itself into an open notebook; where that changes nothing, nobody is asked
    to save. The version of Python, which differs, is the next test's."""
    told = kernel(None)["language_info"] | {"version": "3.11.0"}
    for path in PATHS:
        metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
        assert metadata["language_info"] == told, path.name
        assert metadata["kernelspec"]["display_name"] == "Python 3 (ipykernel)"


def test_opened_and_saved_a_lesson_is_as_it_was(settings, tmp_path):
    for path in PATHS:
        shutil.copy(path, tmp_path)
    files = settings.ServerApp.contents_manager_class(root_dir=str(tmp_path))
    for path in PATHS:
        model = asyncio.run(files.get(path.name))
        assert model["content"]["metadata"]["language_info"]["version"] == platform.python_version()
        asyncio.run(files.save({"type": "notebook", "format": "json", "content": model["content"]}, path.name))
        assert (tmp_path / path.name).read_text(encoding="utf-8") == path.read_text(encoding="utf-8"), path.name


def test_the_terminal_finds_this_environment(settings, monkeypatch):
    assert settings.ServerApp.terminado_settings["shell_command"][1:] == []     # "-l" would set PATH anew
    assert shutil.which("python") == str(Path(sys.executable).parent / "python")


def test_the_rendered_table_of_lessons_opens_first(settings):
    assert settings.LabApp.default_url == "/lab/tree/README.md"
    overrides = json.loads(Path(settings.LabApp.app_settings_dir, "overrides.json").read_text())
    assert overrides["@jupyterlab/docmanager-extension:plugin"]["defaultViewers"] == {"markdown": "Markdown Preview"}
    assert "--config lessons/.jupyter/config.py" in (ROOT / "Makefile").read_text()
    (custom,) = settings.ServerApp.static_custom_path       # JupyterLab itself breaks printed lines in mid-word
    assert settings.LabApp.custom_css and "word-break: normal" in Path(custom, "custom.css").read_text()


# ---- figures and dials -----------------------------------------------------------------------------------------------


def test_a_figure_has_a_text_and_twice_the_pixels(kernel):
    reply, outputs = kernel("from minizaya.plots import turned\nturned.lanes()")
    assert reply["status"] == "ok", reply
    ((_, content),) = outputs
    assert "image/png" not in content["data"]
    shown = content["data"]["text/html"]
    width = int.from_bytes(base64.b64decode(re.search(r"base64,([^\"]{40})", shown)[1])[16:20], "big")
    assert 'alt="Which of 64-byte pieces' in shown and f"width:{width // 2}px;max-width:100%" in shown


def test_a_figure_without_a_text_is_named_by_its_axes(kernel):
    _, outputs = kernel("import minizaya.plots, matplotlib.pyplot as plt\nplt.title('loss <1>'); plt.plot([1, 2]);")
    assert 'alt="Figure: loss &lt;1&gt;"' in outputs[-1][1]["data"]["text/html"]
    assert "image/png" not in outputs[-1][1]["data"]


TURN = """
from minizaya.plots import dial, turned
shown = dial(turned.lanes, stride=(1, 8, 1, 1), bytes_a_lane=(4, 8, 4, 4))
stride, bytes_a_lane, picture = shown.children
before = picture.value
stride.value = 8
assert picture.value != before
stride.value = 1
assert picture.value == before
"""


def test_a_turned_dial_draws_again(kernel):
    reply, _ = kernel(TURN)
    assert reply["status"] == "ok", reply


def test_without_widgets_a_still_picture_stands_there(kernel):
    reply, outputs = kernel(without_widgets("from minizaya.plots import dial, turned\n    still = dial(turned.lanes, "
                                            "stride=(1, 8, 1, 2))") + "\nprint(type(still).__name__, still.alt[:5])")
    assert reply["status"] == "ok" and outputs[0][1]["text"] == "Figure Which\n"


# ---- verdicts --------------------------------------------------------------------------------------------------------

CHECK = """
import minizaya as mz
def shift(now, then):
    'now, then: (b, t, c).'
    return now
mz.laws.check("cca.value_shift", shift)
"""


def test_a_verdict_is_one_card_and_no_echo(kernel):
    reply, outputs = kernel(CHECK)
    assert reply["status"] == "ok"
    ((kind, content),) = outputs
    assert kind == "display_data" and content["data"]["text/plain"].startswith("✘ cca.value_shift: half")
    assert "the law wants" in content["data"]["text/html"]
