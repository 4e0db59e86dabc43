"""``Lab()`` in JupyterLab: it draws, it runs, and its traits reach Python and come back."""

import re

import pytest
from jupyter import jupyterlab, open_notebook, run_cell

pytest.importorskip("jupyterlab")

CELLS = [
    "from hilbertlib.lab import Lab\nlab = Lab(lam=2.0, seed=5, speed=600)\nlab",
    "print('SEEN', lab.step, lab.settings['lam'], lab.accuracies['own']['test'], lab.changes)\n"
    "print('DISTANCES', lab.distances['functions'], lab.distances['path'])",
    "lab.set(lam=0.5)\nlab.train(50)",
    "lab.settings = {**lab.settings, 'tab': 'remember'}",
]


def test_lab_draws_runs_and_its_traits_reach_python(browser, tmp_path):
    with jupyterlab(tmp_path, CELLS) as address:
        check(browser, address)


def check(browser, address):
    context = browser.new_context(viewport={"width": 1400, "height": 1000})
    page = context.new_page()
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    open_notebook(page, address)
    run_cell(page, 0)
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
    seen = run_cell(page, 1)
    assert (found := re.search(r"SEEN (\d+) ([\d.]+) ([\d.]+) (\[.*\])", seen)), seen
    assert int(found[1]) == step
    assert float(found[2]) == 5
    shown = page.locator(".hl-numbers tbody tr").nth(1).locator("td").nth(1).inner_text()
    assert f"{100 * float(found[3]):.1f}%" == shown
    assert found[4] == "[]"  # moved before the first step: a setting, not a change
    assert re.search(r"DISTANCES 0\.\d+ \{'ghost': [\d.]+, 'own': [\d.]+\}", seen), seen

    run_cell(page, 2)  # Python moves λ and trains on
    page.wait_for_function(
        f"document.querySelector('.hlab .hl-counter').textContent === 'step {step + 50}'",
        timeout=10_000,
    )
    page.wait_for_timeout(400)
    assert page.locator(".hlab [data-control=lam] output").inner_text() == "0.5"
    seen = run_cell(page, 1)
    assert re.search(
        rf"SEEN {step + 50} 0.5 .*'step': {step}, 'control': 'lam', 'value': 0.5", seen
    )

    run_cell(page, 3)
    page.wait_for_selector(".hlab[data-tab=remember]", timeout=10_000)
    assert errors == []
    context.close()
