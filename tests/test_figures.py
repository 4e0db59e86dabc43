"""Every figure says what it shows, keeps its traces as a slider moves, wears the house style."""

import re
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from hilbertlib.data import load
from hilbertlib.experiments import estimator as estimator_runs
from hilbertlib.experiments import leash as leash_runs
from hilbertlib.experiments import same_function as same_runs
from hilbertlib.figures import cover, estimator, leash, same_function, style
from hilbertlib.records import Record, Table, seed_interval


def check(figure: go.Figure) -> None:
    """What every figure of the book owes its reader."""
    layout = figure.to_dict()["layout"]
    assert layout["title"]["text"]
    assert len(layout["meta"]["alt"]) > 40
    axes = {name: a for name, a in layout.items() if name[:5] in ("xaxis", "yaxis")}
    assert axes
    for name, a in axes.items():
        said = a.get("title", {}).get("text") or a.get("showticklabels") is False
        beside = name[0] == "y" and name != "yaxis"  # the axis on its left says it
        words = name == "yaxis" and isinstance(figure.data[0].y[0], str)
        assert said or beside or words, f"{name} of {layout['title']['text']} has no label"
        assert "$" not in str(a.get("title"))  # LaTeX would vanish in a page


def check_moves(drawn: Sequence[tuple[go.Figure, str]]) -> None:
    """What a slider owes: the same traces at every value, of the same kind, each read otherwise."""
    for figure, text in drawn:
        check(figure)
        assert text.endswith(".")
    kinds = [[(trace.type, trace.name) for trace in f.data] for f, _ in drawn]
    assert all(kind == kinds[0] for kind in kinds)
    assert len({text for _, text in drawn}) == len(drawn)


def check_colours(figure: go.Figure) -> None:
    """A trace that is named after a method has that method's colour."""
    found = [t for t in figure.data if t.name in style.COLOUR]
    assert found
    for trace in found:
        assert trace.line.color == style.COLOUR[trace.name]


def record_of(name: str, **tables: dict) -> Record:
    return leash_runs.live_record(
        name,
        {k: Table(v) for k, v in tables.items()},
        config={},
        seeds=[0, 1],
        dataset=load("digits"),
        seconds=0.0,
    )


def test_chapter_1():
    t = np.linspace(0, 1, 3)
    walk = same_runs.Walk(t, np.array([0, 0.8, 0]), 9 * t, np.zeros(3), np.ones(3), np.eye(3, 10))
    frames = [same_function.walk(walk, at, [str(i) for i in range(10)]) for at in t]
    check_moves(frames)
    assert all("of the test images right" in text for _, text in frames)
    assert frames[1][0].data[2].x[0] == 0.5
    assert list(frames[1][0].data[1].y) == [0, 0.8]  # what lies ahead is not drawn
    assert "function 0.80" in frames[1][1]

    kinds = [k for k in same_runs.PAIRS for _ in (0, 1)]
    walks = ("shuffled twin", "independent network")
    walks = [*walks, *(f"{w}, matched" for w in walks)]
    record = record_of(
        "same_function",
        pairs={"seed": [0, 1] * 5, "pair": kinds, "ell2": [1.0] * 10, "l2": [0.1] * 10},
        walks={
            "seed": [s for _ in walks for s in (0, 0, 1, 1)],
            "walk": [w for w in walks for _ in range(4)],
            "t": [0.0, 1.0] * 8,
            "stray": [0.0, 0.5, 0.0, 0.7] * 4,
        },
    )
    check(same_function.pairs(record))
    humps = same_function.humps(record)
    check(humps)
    np.testing.assert_allclose(humps.data[1].y, [0, 0.6])  # the mean over seeds
    fan = {n: np.array([0.1, 0.2]) for n in ("along the gradient", "at random", "rescaling units")}
    check_moves([same_function.fan(fan, [1.0, 2.0], at=at) for at in (1.0, 2.0)])
    _, text = same_function.fan(fan, [1.0, 2.0], at=2.0)
    assert text.startswith("A step of length 2 moves the function by 0.2")


def test_chapter_2():
    pair = estimator_runs.Pair("made", 1.0, torch.eye(4), torch.eye(4).roll(1, 0))
    truth = estimator_runs.estimate(pair)
    near, far = np.full(10, truth.distance), np.full(10, 9 * truth.distance)
    check_moves([estimator.estimates(found, truth, 4, "made") for found in (near, far)])
    figure, text = estimator.estimates(near, truth, 4, "made")
    assert "100% of the samples lie within ±5%" in text
    assert sum(figure.data[0].y) == pytest.approx(1)

    rows = [(s, scale, e) for s in (0, 1) for scale in estimator_runs.SCALES for e in (1, 2)]
    record = record_of(
        "estimator",
        pairs={
            "seed": [r[0] for r in rows],
            "scale": [r[1] for r in rows],
            "epoch": [r[2] for r in rows],
            "distance": [0.1] * 12,
            "std": [0.2] * 12,
            "needed": [400.0] * 12,
            "needed_mean": [500.0] * 12,
        },
    )
    for relative, expected in ((0.05, 400), (0.1, 100)):
        figure, text = estimator.needed(record, relative)
        assert f"{expected} between updates" in text
        np.testing.assert_allclose(figure.data[1].y, [expected] * 2)
    check_moves([estimator.needed(record, relative) for relative in (0.05, 0.1)])
    check(estimator.spread(record))
    check(estimator.concentration([0.1, 1], {"a": [0.5, 1], "b": [0.9, 1]}))
    check(estimator.coverage([10, 100], {"a": [0.9, 0.95], "b": [0.3, 0.8]}))


def test_chapter_6():
    digits = load("digits").subset(400, seed=0)
    settings = {"SGD": leash_runs.Setting(lam=0.0, epochs=3), "HCGD": leash_runs.Setting(epochs=3)}
    runs = leash_runs.run_all(digits, settings, [0, 1], jobs=1)
    swapped = {"SGD": runs["HCGD"], "HCGD": runs["SGD"]}
    maps, stress = leash_runs.map_of_runs([runs["SGD"][0], runs["HCGD"][0]])
    frame = np.concatenate(maps)
    moved = [
        leash.paths(runs["SGD"][0], runs[name][0], (maps[0], maps[i]), frame, stress)
        for i, name in enumerate(("SGD", "HCGD"))
    ]
    check_moves(moved)
    figure, text = moved[1]
    check_colours(figure)
    ratio = runs["HCGD"][0].cumulative[-1] / runs["SGD"][0].cumulative[-1]
    assert f"{ratio:.0%} of SGD's squared path" in text
    first, second = (f.layout for f, _ in moved)
    assert first.xaxis.range == second.xaxis.range  # the map stands still
    assert first.yaxis.range == second.yaxis.range
    check_moves([leash.cumulative(runs, "How far"), leash.cumulative(swapped, "How far")])
    check_colours(leash.cumulative(runs, "How far")[0])
    ratios = {n: np.array([[2.0, 4.0], [0.5, 0.5]]) for n in ("rms", "squared")}
    check_moves([leash.overshoot([0.01, 0.1], ratios, size) for size in (0.01, 0.1)])
    _, text = leash.overshoot([0.01, 0.1], ratios, 0.01)
    assert "3 times as long" in text
    check(leash.grid([0.0, 0.5], {0.0: runs["SGD"], 0.5: runs["HCGD"]}))
    record = leash_runs.record(digits, runs, {"rms": np.ones(2)})
    figure = leash.arms(
        record, ["SGD", "HCGD"], "Two arms", "Two arms side by side, with intervals over seeds."
    )
    check(figure)
    expected = [np.mean([r.cumulative[-1] for r in runs[n]]) for n in ("SGD", "HCGD")]
    np.testing.assert_allclose(figure.data[0].x, expected, rtol=1e-4)


def test_direct_labels_become_a_legend_in_a_page():
    line = style.Line("one", [1, 10], [1, 100], "#123456", low=[0.5, 50], high=[2, 200])
    figure = style.curves([line], title="t", x="x", y="y", alt="a", log_x=True, log_y=True)
    (label,) = figure.layout.annotations
    assert label.name == "direct label"  # the page looks for this name where it is narrow
    assert (label.x, label.y) == (1, 2)  # Plotly places notes on log axes by exponent
    band, curve = figure.data
    assert band.showlegend is False
    assert curve.meta == {"legend": True}
    assert style.rgba("#ff8000", 0.5) == "rgba(255,128,0,0.5)"


def test_the_cover_is_a_picture_with_words_for_those_who_cannot_see_it():
    path = np.array([[0.0, 0], [1, 1], [3, 1]])
    svg = cover.picture({"a <map>": [path, path + 1]}, alt='two "paths"', steps=[0, 4, 8])
    assert svg.count("<circle") == 4
    assert re.findall(r'data-points="([^"]+)"', svg) == re.findall(r' points="([^"]+)"', svg)[::2]
    assert 'data-steps="0 4 8"' in svg
    assert "a &lt;map&gt;" in svg
    assert "two &quot;paths&quot;" in svg
    fitted = np.concatenate(cover._fit([path]))
    assert fitted.min() >= 0
    assert fitted.max() <= cover.SIDE
    assert fitted[-1, 0] > fitted[0, 0]  # time runs to the right


def test_the_colours_of_the_methods():
    assert {name: style.COLOUR[name] for name in list(style.COLOUR)[:5]} == {
        "SGD": "#3b8bd4",
        "HCGD": "#d9620f",
        "Adam": "#8a63c9",
        "Adam+HC": "#c2568f",
        "natural gradient": "#1b9e77",
    }
    assert style.COLOUR["neutral"] == "#7d8590"
    path = np.array([[0.0, 0], [1, 1]])
    for order in (["Adam", "HCGD", "SGD"], ["SGD", "Adam", "HCGD"]):  # not by position
        figure = style.path_map(dict.fromkeys(order, path), title="t", alt="a" * 50)
        check_colours(figure)


def test_error_bars_reach_to_the_end_of_the_interval_and_one_seed_has_none():
    intervals = [seed_interval([0.2, 0.3, 0.4]), seed_interval([0.5])]
    bars = style.error_bars(intervals)
    assert bars["array"] == [intervals[0].high - intervals[0].mean, 0.0]
    assert intervals[0].mean - intervals[0].low == pytest.approx(bars["array"][0])
