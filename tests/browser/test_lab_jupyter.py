"""``Lab()`` in JupyterLab: it draws, it runs, and its traits reach Python and come back."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

pytest.importorskip("jupyterlab")

CELLS = [
    "from hilbertlib.lab import Lab\nlab = Lab(lam=2.0, seed=5, speed=600)\nlab",
    "print('SEEN', lab.step, lab.settings['lam'], lab.accuracies['own']['test'], lab.changes)\n"
    "print('DISTANCES', lab.distances['functions'], lab.distances['path'])",
    "lab.set(lam=0.5)\nlab.train(50)",
    "lab.settings = {**lab.settings, 'tab': 'remember'}",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[str]:
    """Address, with its token, of a JupyterLab that shows one notebook."""
    folder = tmp_path_factory.mktemp("jupyter")
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {
        "cells": [{**cell, "source": source, "id": f"c{i}"} for i, source in enumerate(CELLS)],
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / "lab.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {name: str(folder / name) for name in ("config", "data", "runtime", "settings")}
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "JUPYTER_CONFIG_DIR": own["config"],
        "JUPYTER_DATA_DIR": own["data"],
        "JUPYTER_RUNTIME_DIR": own["runtime"],
        "JUPYTERLAB_SETTINGS_DIR": own["settings"],
        "JUPYTERLAB_WORKSPACES_DIR": own["settings"],
    }
    options = {
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.port": port,
        "ServerApp.port_retries": 0,
        "ServerApp.root_dir": folder,
        "ServerApp.allow_root": True,
        "IdentityProvider.token": token,
        "LabApp.expose_app_in_browser": True,
        "LabApp.news_url": "",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = (folder / "log.txt").open("w", encoding="utf-8")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api?token={token}", timeout=2).close()
                break
            except (urllib.error.URLError, OSError):
                if process.poll() is not None:
                    pytest.fail(f"JupyterLab ended: {Path(log.name).read_text()[-2000:]}")
                time.sleep(0.2)
        else:
            pytest.fail("JupyterLab did not start in a minute")
        yield f"{address}/lab/tree/lab.ipynb?token={token}&reset"
    finally:
        process.terminate()
        process.wait(timeout=20)
        log.close()


def test_lab_draws_runs_and_its_traits_reach_python(server, browser):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(server)
    page.wait_for_function("window.jupyterapp?.restored", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.evaluate("window.jupyterapp.shell.currentWidget.context.ready")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )

    def run(cell: int) -> str:
        """Runs a cell and returns its printed output."""
        page.evaluate(
            """cell => {
                 const { shell, commands } = window.jupyterapp;
                 shell.currentWidget.content.activeCellIndex = cell;
                 return commands.execute("notebook:run-cell");
               }""",
            cell,
        )
        prompt = page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-InputPrompt")
        page.wait_for_function(
            "e => /\\[\\d+\\]/.test(e.textContent)", arg=prompt.element_handle(), timeout=60_000
        )
        page.wait_for_timeout(300)
        out = page.locator(".jp-Notebook .jp-CodeCell").nth(cell).locator(".jp-OutputArea-output")
        return "\n".join(out.all_inner_texts())

    run(0)
    page.wait_for_selector(".hlab canvas", timeout=30_000)
    shown = page.evaluate("document.querySelectorAll('.hlab canvas').length")
    assert shown == 8
    drawn = "[...document.querySelectorAll('.hlab canvas')].map(c => c.toDataURL())"
    page.wait_for_timeout(300)
    before = page.evaluate(drawn)

    # The arrow keys belong to the slider, not to the notebook.
    page.locator(".hlab [data-control=lam] input").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.locator(".hlab [data-control=lam] output").inner_text() == "5"

    page.locator(".hlab .hl-play").click()
    page.wait_for_function(
        "parseInt(document.querySelector('.hlab .hl-counter').textContent.slice(5)) > 60"
    )
    page.locator(".hlab .hl-play").click()
    page.wait_for_timeout(500)
    assert page.evaluate(drawn) != before
    step = int(page.locator(".hlab .hl-counter").inner_text().removeprefix("step "))
    seen = run(1)
    assert (found := re.search(r"SEEN (\d+) ([\d.]+) ([\d.]+) (\[.*\])", seen)), seen
    assert int(found[1]) == step
    assert float(found[2]) == 5
    shown = page.locator(".hl-numbers tbody tr").nth(1).locator("td").nth(1).inner_text()
    assert f"{100 * float(found[3]):.1f}%" == shown
    assert found[4] == "[]"  # moved before the first step: a setting, not a change
    assert re.search(r"DISTANCES 0\.\d+ \{'ghost': [\d.]+, 'own': [\d.]+\}", seen), seen

    run(2)  # Python moves λ and trains on
    page.wait_for_function(
        f"document.querySelector('.hlab .hl-counter').textContent === 'step {step + 50}'",
        timeout=10_000,
    )
    page.wait_for_timeout(400)
    assert page.locator(".hlab [data-control=lam] output").inner_text() == "0.5"
    seen = run(1)
    assert re.search(
        rf"SEEN {step + 50} 0.5 .*'step': {step}, 'control': 'lam', 'value': 0.5", seen
    )

    run(3)
    page.wait_for_selector(".hlab[data-tab=remember]", timeout=10_000)
    assert errors == []
    context.close()
