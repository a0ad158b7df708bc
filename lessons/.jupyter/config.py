"""How `make lessons` opens JupyterLab: `python -m jupyterlab --config lessons/.jupyter/config.py lessons`.

JupyterLab runs this file with its configuration in scope. `overrides.json` beside it holds settings of its page:
Markdown opens rendered, and nothing is asked of the network. `custom/custom.css` wraps printed lines at words.
"""

import os
import platform
import sys
from pathlib import Path

from jupyter_server.serverapp import ServerApp
from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager


class Lessons(AsyncLargeFileManager):
    """Files as they are, but for one line: which Python wrote a notebook. JupyterLab puts the present one there as soon
    as a kernel starts, so a lesson that nobody touched would ask to be saved, and differ from the repository's."""

    async def get(self, path, *args, **kwargs):
        model = await super().get(path, *args, **kwargs)
        self.name_python(model, platform.python_version())
        return model

    async def save(self, model, path=""):
        self.name_python(model, "3.11.0")     # what the shipped lessons say
        return await super().save(model, path)

    def name_python(self, model, version):
        if model["type"] == "notebook" and model.get("content"):
            language = model["content"]["metadata"].get("language_info", {})
            if "version" in language:
                language["version"] = version


c = get_config()  # noqa: F821
c.ServerApp.contents_manager_class = Lessons
c.LabApp.default_url = "/lab/tree/README.md"     # the table of lessons
c.LabApp.app_settings_dir = str(Path(__file__).resolve().parent)
c.LabApp.custom_css = True
ServerApp.static_custom_path.tag(config=True)    # trap: else it can only be a folder of the user's own
c.ServerApp.static_custom_path = [str(Path(__file__).resolve().parent / "custom")]

# `minizaya` and `python` of this environment, in JupyterLab's own terminal. trap: a login shell would set PATH anew
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
if os.name == "posix":
    c.ServerApp.terminado_settings = {"shell_command": [os.environ.get("SHELL", "/bin/sh")]}
