"""A figure with a slider in JupyterLab: moving it calls Python again, and the drawing changes."""

import pytest
from jupyter import jupyterlab, open_notebook, run_cell

pytest.importorskip("jupyterlab")

CELLS = [
    """import plotly.graph_objects as go
from hilbertlib.live import Slider, explore, show
called = []
def draw(a):
    called.append(a)
    return go.Figure(go.Scatter(y=[0, a])).update_layout(title=f"a = {a}"), f"now {a}"
explore(draw, caption="The takeaway.", a=Slider("a, in metres", [1, 2, 5], start=2))""",
    "print('CALLED', called)",
    "show(draw(7)[0], caption='Another.')",
]


def test_moving_a_slider_in_a_kernel_calls_the_function_again(browser, tmp_path):
    with jupyterlab(tmp_path, CELLS) as address:
        page = browser.new_context(viewport={"width": 1400, "height": 1000}).new_page()
        open_notebook(page, address)
        run_cell(page, 0)
        page.wait_for_selector(".js-plotly-plot .main-svg", timeout=30_000)
        title = ".js-plotly-plot .gtitle"
        assert page.locator(title).first.text_content() == "a = 2"
        output = page.locator(".jp-OutputArea-output")
        assert output.get_by_text("The takeaway.").count() > 0
        assert output.get_by_text("a, in metres").count() > 0
        handle = page.locator(".noUi-handle, input[type=range]").first
        handle.focus()
        handle.press("ArrowRight")
        page.wait_for_function(
            f"document.querySelector('{title}')?.textContent === 'a = 5'", timeout=15_000
        )
        output.get_by_text("now 5").first.wait_for()
        assert "CALLED [2, 5]" in run_cell(page, 1)
        run_cell(page, 2)
        output.get_by_text("Another.").first.wait_for()
        page.context.close()
