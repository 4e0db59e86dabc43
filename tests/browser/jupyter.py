"""A JupyterLab on this machine with one notebook in it, and how to run its cells."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from playwright.sync_api import Page


@contextmanager
def jupyterlab(folder: Path, cells: Sequence[str]) -> Iterator[str]:
    """Address, with its token, of a JupyterLab that shows a notebook of these cells."""
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "execution_count": None}
    notebook = {
        "cells": [{**cell, "source": source, "id": f"c{i}"} for i, source in enumerate(cells)],
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
        **{k: v for k, v in os.environ.items() if k != "HILBERT_BOOK"},
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


def open_notebook(page: Page, address: str) -> None:
    """Open the notebook and wait until its kernel is idle."""
    page.goto(address)
    page.wait_for_function("window.jupyterapp?.restored.then(() => true)", timeout=60_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.evaluate("window.jupyterapp.shell.currentWidget.context.ready")
    page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.ready")
    page.wait_for_function(
        "window.jupyterapp.shell.currentWidget.sessionContext.session?.kernel?.status === 'idle'",
        timeout=60_000,
    )


def run_cell(page: Page, cell: int) -> str:
    """Run a cell and return what it printed."""
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
