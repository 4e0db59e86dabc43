"""What the paper says of the natural gradient (section 3.2.1, Appendix E), as tests, and our own.

Where a network is stopped at several stages of its training, a seed's effect is the geometric mean
over the stages.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..records import Claim, Record, Table

PROPOSALS = ("SGD", "Adagrad", "RMSprop")
DIAGONAL = "diagonal of F"
PLAIN = ("SGD", "RMSprop")
Parts = dict[str, list[float]]
_NAME = "natural_gradient"


def _where(
    name: str, effects: Callable[[Record], Parts | list[float]]
) -> Callable[[Record], Parts | list[float]]:
    """The effects on a record that has the table; none on one whose arm for it was not run."""
    return lambda record: effects(record) if name in record.tables else []


def _setting(record: Record, name: str) -> Any:
    return record.provenance.config[name]


def _seeds(table: Table) -> list[Any]:
    return sorted(table.unique("seed"))


def _geometric(values: Sequence[float]) -> float:
    return float(np.exp(np.log(np.maximum(values, 1e-12)).mean()))


def _worst(table: Table, column: str) -> list[float]:
    """The largest of a column, a value a seed."""
    return [max(table.where(seed=seed)[column]) for seed in _seeds(table)]


def _ratios(table: Table, other: Table, column: str, how: Callable[..., float]) -> list[float]:
    """Row by row, one column over the other table's, for each seed of both."""
    return [
        how(np.array(table.where(seed=s)[column]) / np.array(other.where(seed=s)[column]))
        for s in _seeds(table)
        if s in other.unique("seed")
    ]


def inner(record: Record, start: str, damping: float, n: int, length: str = "best") -> Table:
    """The rows after n inner steps from a proposal, one a seed and stage.

    The proposal has its ``"best"`` length, or the ``"customary"`` one of its optimizer.
    """
    return record["inner"].where(arm=start, damping=damping, length=length, n=n)


def _each_start(
    record: Record, starts: Sequence[str], measure: Callable[[str, float], list[float]]
) -> Parts:
    """A measure, a value a seed, for each start at each damping."""
    dampings = _setting(record, "dampings")
    return {f"{start}, damping {d:g}": measure(start, d) for start in starts for d in dampings}


def _diagonal(record: Record, starts: Sequence[str]) -> Parts:
    n = _setting(record, "few")

    def over_sgd(start: str, d: float) -> list[float]:
        tables = inner(record, start, d, n), inner(record, "SGD", d, n)
        return _ratios(*tables, "missing", _geometric)

    return _each_start(record, starts, over_sgd)


def _improved(record: Record) -> Parts:
    n = _setting(record, "few")

    def over_before(start: str, d: float) -> list[float]:
        tables = inner(record, start, d, n), inner(record, start, d, 0)
        return _ratios(*tables, "missing", _geometric)

    return _each_start(record, PROPOSALS, over_before)


def _few(record: Record) -> Parts:
    n = _setting(record, "few")

    def missing(start: str, d: float) -> list[float]:
        table = inner(record, start, d, n, "customary")
        return [float(np.mean(table.where(seed=seed)["missing"])) for seed in _seeds(table)]

    return _each_start(record, PROPOSALS, missing)


def _solved(record: Record) -> Parts:
    """Conjugate gradients against the best of the three starts, at as many products."""
    n, parts = _setting(record, "few"), {}
    for d in _setting(record, "dampings"):
        solve = record["solve"].where(damping=d, n=n)
        loops = [_ratios(solve, inner(record, start, d, n), "missing", _geometric)
                 for start in PROPOSALS]  # fmt: skip
        # The best start leaves the least: the ratio to it is the largest.
        parts[f"damping {d:g}"] = [max(of) for of in zip(*loops, strict=True)]
    return parts


def _passes(record: Record) -> Parts:
    table = record["passes"]
    return {
        f"n = {n}": [float(p - (2 + 3 * n)) for p in table.where(n=n)["passes"]]
        for n in table.unique("n")
    }


def _cheaper(record: Record) -> Parts:
    parts = {}
    for d in _setting(record, "dampings"):
        for tol in _setting(record, "tolerances"):
            table = record["cost"].where(damping=d, tolerance=tol)
            parts[f"damping {d:g}, residual {tol:g}"] = [
                _geometric(np.array(rows["natural"]) / np.array(rows["hcgd"]))
                for rows in (table.where(seed=seed) for seed in _seeds(table))
            ]
    return parts


def _drift(record: Record) -> list[float]:
    last = record["drift"].where(n=max(_setting(record, "grid")))
    other, same = (last.where(case=case) for case in ("another batch", "same batch"))
    return [
        float(np.mean(other.where(seed=s)["left"]) - np.mean(same.where(seed=s)["left"]))
        for s in _seeds(other)
    ]


def loss_over(record: Record, how: str, plain: str, x: str) -> list[float]:
    """One run's training loss over the plain one's, at the end of the latter in steps or passes."""
    table, ratios = record["training"], []
    for seed in _seeds(table.where(arm=f"train: {how}")):
        run, base = (table.where(arm=f"train: {a}", seed=seed) for a in (how, plain))
        if len(base):
            logs = np.log(np.maximum(run["train_loss"], 1e-12))
            there = float(np.interp(base[x][-1], run[x], logs))
            ratios.append(float(np.exp(there) / max(base["train_loss"][-1], 1e-12)))
    return ratios


def _natural(record: Record, x: str) -> Parts:
    return {f"against {plain}": loss_over(record, "natural gradient", plain, x) for plain in PLAIN}


CLAIMS = (
    Claim(
        id="ng-hessian",
        where="section 3.2.1, equation 4",
        sentence="The Hessian of the KL divergence at the current parameters is the Fisher "
        "information.",
        reading="relative error of products with the Hessian, by differentiating twice, against "
        "products with F, in float64: the largest over vectors and stages; for KL(new ‖ old), "
        "which the paper has, and for KL(old ‖ new)",
        experiment=_NAME,
        effects=_where(
            "hessian",
            lambda r: {
                order.replace("||", "‖"): _worst(r["hessian"].where(order=order), "error")
                for order in r["hessian"].unique("order")
            },
        ),
        margin=1e-6,
        direction="below",
    ),
    Claim(
        id="ng-minimiser",
        where="equations 5 and 6",
        sentence="The minimizer of the linearized cost with the KL divergence is the natural "
        "gradient over λ.",
        reading="relative distance of the minimizer, found by LBFGS, from −(1/λ) F⁻¹ J, with the "
        "minus sign that the paper leaves out; F damped; the largest over stages and dampings",
        experiment=_NAME,
        effects=_where(
            "minimiser",
            lambda r: {
                f"λ = {lam:g}": _worst(r["minimiser"].where(lam=lam), "error")
                for lam in r["minimiser"].unique("lam")
            },
        ),
        margin=0.01,
        direction="below",
    ),
    Claim(
        id="book-sign",
        where="this chapter",
        sentence="As equation 6 is printed, without a minus sign, it is not the minimizer.",
        reading="relative distance of the minimizer, found by LBFGS, from +(1/λ) F⁻¹ J; F damped; "
        "the largest over stages and dampings",
        experiment=_NAME,
        effects=_where(
            "minimiser",
            lambda r: {
                f"λ = {lam:g}": _worst(r["minimiser"].where(lam=lam), "printed")
                for lam in r["minimiser"].unique("lam")
            },
        ),
        margin=1.0,
    ),
    Claim(
        id="ng-diagonal-start",
        where="Appendix E",
        sentence="A diagonal start, Adagrad's or RMSprop's, is a better proposal for the inner "
        "loop.",
        reading="share of the possible decrease of the cost that is missing after ten inner steps, "
        "from the diagonal start over from SGD's, each start of its best length",
        experiment=_NAME,
        effects=_where("inner", partial(_diagonal, starts=PROPOSALS[1:])),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="book-diagonal",
        where="our guess",
        sentence="F's own diagonal, without the square root that Adagrad and RMSprop take, is a "
        "better proposal than SGD's.",
        reading="share of the possible decrease of the cost that is missing after ten inner steps, "
        "from −(1/λ) J over F's damped diagonal, over from SGD's; each start of its best length",
        experiment=_NAME,
        effects=_where("inner", partial(_diagonal, starts=(DIAGONAL,))),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="ng-inner-loop",
        where="Appendix E",
        sentence="A small number of inner gradient steps already improves a proposed update.",
        reading="share of the possible decrease of the cost that is missing, after ten inner steps "
        "over before, from each start of its best length",
        experiment=_NAME,
        effects=_where("inner", _improved),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="ng-few-steps",
        where="Appendix E",
        sentence="The number of inner steps that are needed is small.",
        reading="share of the possible decrease of the cost that is missing after ten inner steps "
        "from the step that each optimizer proposes at its usual rate: mean over the stages (added "
        "after the run)",
        experiment=_NAME,
        effects=_where("inner", _few),
        margin=0.1,
        direction="below",
    ),
    Claim(
        id="cost-passes",
        where="section 3.2.1",
        sentence="HCGD with n corrections costs 2 + 3n passes a step.",
        reading="passes counted in a step less 2 + 3n, with X_V drawn anew for each correction",
        experiment=_NAME,
        effects=_where("passes", _passes),
        margin=(-0.5, 0.5),
        direction="within",
    ),
    Claim(
        id="cheap-than-ng",
        where="section 3.2.1",
        sentence="HCGD is cheaper than the exact natural gradient.",
        reading="passes of a natural gradient step over those of HCGD with one correction: two for "
        "J, one for the linearization, two for each product of a solve by conjugate gradients to a "
        "residual of 0.1, or of 0.001",
        experiment=_NAME,
        effects=_where("cost", _cheaper),
        margin=1.0,
    ),
    Claim(
        id="book-solve",
        where="our guess",
        sentence="Conjugate gradients make more of ten products than the inner loop.",
        reading="share of the possible decrease that is missing after ten products, in a solve "
        "over in the inner loop from the best of its three starts",
        experiment=_NAME,
        effects=_where("solve", lambda r: _solved(r) if "inner" in r.tables else []),
        margin=0.5,
        direction="below",
    ),
    Claim(
        id="book-drift",
        where="our guess",
        sentence="Without damping the inner loop drifts where J and F come from different batches.",
        reading="share of the slope of the cost that is left after all inner steps, F from another "
        "batch less F from the same; mean over stages",
        experiment=_NAME,
        effects=_where("drift", _drift),
        margin=0.05,
    ),
    Claim(
        id="book-natural-steps",
        where="our guess",
        sentence="Step for step the natural gradient learns faster than SGD and RMSprop.",
        reading="training loss of its run over theirs after as many steps",
        experiment=_NAME,
        effects=_where("training", partial(_natural, x="step")),
        margin=0.9,
        direction="below",
    ),
    Claim(
        id="book-natural-passes",
        where="our guess",
        sentence="Pass for pass the natural gradient learns no faster than SGD and RMSprop.",
        reading="training loss of its run after as many passes as theirs took, over theirs",
        experiment=_NAME,
        effects=_where("training", partial(_natural, x="passes")),
        margin=1.0,
    ),
    Claim(
        id="book-algorithm-3",
        where="our guess",
        sentence="The inner loop (the paper's Algorithm 3) learns faster, step for step, than the "
        "optimizer that it starts from.",
        reading="training loss of its run with ten inner steps, over the optimizer's after as many "
        "steps",
        experiment=_NAME,
        effects=_where(
            "training",
            lambda r: {
                f"from {plain}": loss_over(r, f"Algorithm 3 from {plain}", plain, "step")
                for plain in PLAIN
            },
        ),
        margin=0.9,
        direction="below",
    ),
)
"""Margins and readings were written down before any run but a trial of one seed."""
