"""Section 3.2.1 and Appendix E at a tiny size, and their claims on records made by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from hilbertlib.data import load
from hilbertlib.experiments import natural_claims as claims
from hilbertlib.experiments import natural_gradient as natural
from hilbertlib.experiments import natural_steps as steps
from hilbertlib.experiments.common import live_record
from hilbertlib.experiments.natural_training import Trainer, training
from hilbertlib.experiments.runner import dataset
from hilbertlib.fisher import fisher_diagonal
from hilbertlib.natural_gradient import natural_step
from hilbertlib.records import Record, Table, judge

TINY = replace(
    natural.LIVE, hidden=(6,), batch_size=32, stages=(0, 1), gathered=3, dampings=(0.1,),
    lams=(2.0,), grid=(0, 1, 5), few=5, tolerances=(0.1,), steps=6, every=3, measured=50,
)  # fmt: skip
TABLES = {
    "hessian", "minimiser", "divergence", "solve", "cost", "drift", "passes", "inner", "training",
}  # fmt: skip


@pytest.fixture(scope="module")
def record() -> Record:
    return natural.run(TINY, [0, 1])


@pytest.fixture(scope="module")
def stage() -> steps.Stage:
    return list(steps.stages(TINY, dataset("digits"), seed=0))[-1]


def dense(stage: steps.Stage) -> torch.Tensor:
    eye = torch.eye(stage.fisher.size, dtype=torch.float64)
    return torch.stack([stage.fisher @ e for e in eye], dim=1)


# --- tables ----------------------------------------------------------------------------------


def test_the_tables_are_as_documented(record):
    assert set(record.tables) == TABLES | {"cells"}
    seeds, stages = 2, 2
    assert len(record["hessian"]) == seeds * stages * 2
    assert len(record["minimiser"]) == len(record["divergence"]) == seeds * stages
    assert len(record["solve"]) == seeds * stages * 3
    assert len(record["cost"]) == seeds * stages
    assert len(record["drift"]) == seeds * stages * 5 * 3
    assert len(record["passes"]) == seeds * 4
    assert len(record["inner"]) == 4 * seeds * stages * 2 * 3
    assert len(record["training"]) == 5 * seeds * 3
    assert record["inner"].unique("epoch") == [0, 1]


def test_a_seed_repeats_exactly(record):
    again = natural.run(TINY, [1])
    for name in TABLES:
        assert again[name].rows() == record[name].where(seed=1).rows()


def test_the_claims_are_judged_on_a_run(record):
    words = {claim.id: judge(claim, record).word for claim in natural.CLAIMS}
    assert "not tested" not in words.values()
    for exact in ("ng-hessian", "ng-minimiser", "book-sign", "cost-passes", "ng-inner-loop"):
        assert words[exact] == "reproduced"


def test_the_passes_of_a_step_are_counted(record):
    row = record["cost"].rows()[0]
    assert row["natural"] == 3 + 2 * row["products"]
    assert row["hcgd"] == 5


def test_the_settings_of_the_paper():
    paper = natural.PAPER
    assert (paper.scale, paper.dataset, paper.hidden) == ("paper", "mnist", (400, 400))
    assert paper.few in paper.grid
    assert not paper.reduced


# --- one network that stands still -----------------------------------------------------------


def test_a_stage_is_the_network_after_its_epochs():
    data = dataset("digits")
    first, second = steps.stages(TINY, data, seed=0)
    assert (first.epoch, second.epoch) == (0, 1)
    untrained = steps.network(TINY, data, 0).double()
    for p, q in zip(first.model.parameters(), untrained.parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(second.model[1].weight, first.model[1].weight)
    assert first.x.dtype == torch.float64
    assert len(first.others) == TINY.gathered
    (only,) = steps.stages(replace(TINY, stages=(1,)), data, seed=0)
    assert torch.equal(only.gradient, second.gradient)


def test_a_small_training_set_is_gone_through_again():
    few = load("digits").subset(40, seed=0)
    drawn = steps._draw(few, 3, 32, torch.Generator().manual_seed(0))
    assert [tuple(x.shape) for x, _ in drawn] == [(32, 1, 8, 8)] * 3


def test_the_target_is_the_dense_solution_and_nearness_is_its_definition(stage):
    target = steps.Target.of(stage, lam=2.0, damping=0.1)
    curved = dense(stage) + 0.1 * torch.eye(stage.fisher.size, dtype=torch.float64)
    exact = -torch.linalg.solve(curved, stage.gradient) / 2
    torch.testing.assert_close(target.update, exact, rtol=1e-6, atol=1e-9)

    def cost(delta):
        return float(stage.gradient @ delta + delta @ curved @ delta)

    delta = -0.3 * stage.gradient
    near = target.nearness(delta)
    assert near["cost"] == pytest.approx(cost(delta))
    assert near["missing"] == pytest.approx((cost(delta) - cost(exact)) / -cost(exact))
    assert near["error"] == pytest.approx(float((delta - exact).norm() / exact.norm()))
    slope = stage.gradient + 2 * curved @ delta
    assert near["residual"] == pytest.approx(float(slope.norm() / stage.gradient.norm()))
    none = target.nearness(torch.zeros_like(delta))
    assert (none["missing"], none["error"], none["residual"]) == pytest.approx((1, 1, 1))
    assert target.nearness(target.update)["missing"] == pytest.approx(0, abs=1e-12)


def test_the_best_length_is_best(stage):
    target = steps.Target.of(stage, lam=1.0, damping=0.1)
    best = target.best_length(-7 * stage.gradient)
    least = target.nearness(best)["cost"]
    assert least < min(target.nearness(best * s)["cost"] for s in (0.99, 1.01))
    assert best @ stage.gradient < 0


def test_an_inner_loop_in_pieces_is_the_whole_one(stage):
    target = steps.Target.of(stage, lam=1.0, damping=0.1)
    eta = steps.inner_lr(stage.fisher, 1.0, 0.1)
    start = -0.1 * stage.gradient
    in_pieces = target.inner_loop(start, (0, 2, 9), eta)
    whole = target.inner_loop(start, (9,), eta)
    assert in_pieces[-1]["cost"] == pytest.approx(whole[0]["cost"])
    missing = [row["missing"] for row in in_pieces]
    assert missing == sorted(missing, reverse=True)
    solved = target.conjugate_gradients((0, 2, 40))
    assert [row["n"] for row in solved] == [0, 2, 40]
    assert solved[0]["missing"] == pytest.approx(1)
    assert solved[-1]["missing"] < 1e-6


def test_proposals_start_from_one_network(stage):
    before = [p.detach().clone() for p in stage.model.parameters()]
    sgd, adagrad, rmsprop = (steps.proposal(stage, name) for name in claims.PROPOSALS)
    assert all(map(torch.equal, before, (p.detach() for p in stage.model.parameters())))
    torch.testing.assert_close(sgd, -0.1 * stage.gradient)
    squares = [steps.gradient(stage.model, x, y, stage.fisher) ** 2 for x, y in stage.others]
    squares.append(stage.gradient**2)
    total = torch.stack(squares).sum(0)
    torch.testing.assert_close(adagrad, -0.01 * stage.gradient / (total.sqrt() + 1e-10))
    average = sum(0.01 * 0.99**k * s for k, s in enumerate(reversed(squares)))
    torch.testing.assert_close(rmsprop, -0.001 * stage.gradient / (average.sqrt() + 1e-8))
    diagonal = steps.diagonal_proposal(stage, 2.0, 0.1)
    exact = fisher_diagonal(stage.model, stage.x) + 0.1
    torch.testing.assert_close(diagonal, -stage.gradient / (2 * exact))


def test_divergences_agree_for_short_steps(stage):
    made = steps.divergences(stage, -1e-3 * stage.gradient)
    assert made["new_old"] == pytest.approx(made["predicted"], rel=0.01)
    assert made["old_new"] == pytest.approx(made["predicted"], rel=0.01)


def test_a_slope_is_left_only_where_the_gradient_is_out_of_range():
    small = replace(TINY, batch_size=4, stages=(0,))  # F of four examples: a large null space
    (stage,) = steps.stages(small, dataset("digits"), seed=0)
    rows = steps.drift(stage, 1.0, 0.1, (0, 200, 400), seed=0)
    left = {row["case"]: row["left"] for row in rows if row["n"] == 400}
    assert left["same batch"] < 0.1
    assert left["another batch, damped"] < 1e-6
    assert min(left[case] for case in ("another batch", "sampled labels")) > 0.4
    assert left["weight decay"] > left["same batch"]
    lengths = {(row["case"], row["n"]): row["length"] for row in rows}
    assert lengths["another batch", 400] == pytest.approx(
        2 * lengths["another batch", 200], rel=0.1
    )
    assert lengths["another batch, damped", 400] == pytest.approx(
        lengths["another batch, damped", 200]
    )


# --- runs ------------------------------------------------------------------------------------


def test_plain_runs_are_their_optimizers():
    data = dataset("digits")
    for how in claims.PLAIN:
        model = steps.network(TINY, data, 0)
        trainer = Trainer(TINY, how, model)
        other = steps.network(TINY, data, 0)
        kind = {"SGD": torch.optim.SGD, "RMSprop": torch.optim.RMSprop}[how]
        optimizer = kind(other.parameters(), lr={"SGD": 0.3, "RMSprop": 0.001}[how])
        for low in (0, 32):
            x, y = data.x_train[low : low + 32], data.y_train[low : low + 32]
            trainer.step(x, y)
            optimizer.zero_grad()
            cross_entropy(other(x), y).backward()
            optimizer.step()
        assert trainer.passes == 4
        assert all(map(torch.equal, model.parameters(), other.parameters()))


def test_algorithm_3_is_the_librarys():
    data, model, other = (
        dataset("digits"),
        *(steps.network(TINY, dataset("digits"), 0) for _ in "ab"),
    )
    x, y = data.x_train[:32], data.y_train[:32]
    trainer = Trainer(TINY, "Algorithm 3 from SGD", model)
    trainer.step(x, y)
    fisher = steps.Fisher(other, x)
    eta = 1 / (3 * (steps.largest_eigenvalue(fisher, 20) + 0.1))
    cross_entropy(other(x), y).backward()
    sgd = torch.optim.SGD(other.parameters(), lr=0.3)
    natural_step(sgd, fisher, inner_lr=eta, lam=3.0, corrections=TINY.inner, damping=0.1)
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)
    assert trainer.passes == 2 + 1 + 2 * (20 + TINY.inner)


def test_the_natural_gradient_solves_a_batch():
    data = dataset("digits")
    c = replace(TINY, solve_tol=1e-4)
    model, other = (steps.network(c, data, 0) for _ in "ab")
    x, y = data.x_train[:32], data.y_train[:32]
    trainer = Trainer(c, "natural gradient", model)
    trainer.step(x, y)
    fisher = steps.Fisher(other, x)
    j = steps.gradient(other, x, y, fisher)
    eye = torch.eye(fisher.size)
    f = torch.stack([fisher @ e for e in eye], dim=1)
    moved = torch.cat(
        [(p - q).flatten() for p, q in zip(model.parameters(), other.parameters(), strict=True)]
    )
    exact = -torch.linalg.solve(f + 0.1 * eye, j) / 3
    torch.testing.assert_close(moved.detach(), exact, rtol=0.01, atol=1e-4)
    assert trainer.passes % 2 == 1


def test_a_run_goes_on_through_its_epochs():
    rows = training(replace(TINY, steps=90, every=45), "SGD", dataset("digits"), 0)
    assert [(row["step"], row["passes"]) for row in rows] == [(0, 0), (45, 90), (90, 180)]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize("how", natural.TRAINED)
def test_a_run_that_diverges_is_recorded(how):
    wild = replace(TINY, sgd_lr=1e30, rmsprop_lr=1e30, training_lam=1e-30)
    rows = training(wild, how, dataset("digits"), 0)
    assert [row["diverged"] for row in rows] == [False, True, True]
    assert rows[-1]["test_accuracy"] == 0.1
    assert rows[-1]["train_loss"] == pytest.approx(math.log(10))


# --- claims ----------------------------------------------------------------------------------

USUAL = {
    "hessian": 1e-9, "error": 1e-6, "printed": 2.0, "passes": 0, "natural": 20, "solve": 0.01,
    "drift": 0.3, "SGD": 0.5, "Adagrad": 0.2, "RMSprop": 0.2, "diagonal of F": 0.2, "before": 0.9,
    "train SGD": 1.0, "train RMSprop": 1.0, "train natural": 0.5, "train 3 SGD": 0.5,
    "train 3 RMSprop": 0.5, "usual": 0.05,
}  # fmt: skip
RUNS = {
    "SGD": "train SGD", "RMSprop": "train RMSprop", "natural gradient": "train natural",
    "Algorithm 3 from SGD": "train 3 SGD", "Algorithm 3 from RMSprop": "train 3 RMSprop",
}  # fmt: skip


def judged(**changed: float) -> dict[str, str]:
    v = {**USUAL, **changed}
    tables: dict[str, list[dict]] = {name: [] for name in TABLES if name != "divergence"}
    for seed in (0, 1):
        exact = {"arm": "exact", "seed": seed}
        tables["hessian"].append({**exact, "order": "new || old", "error": v["hessian"]})
        tables["passes"].append({**exact, "n": 1, "passes": 5 + v["passes"]})
        for how, key in RUNS.items():  # a natural step costs ten times as many passes
            cost = 2 if how in claims.PLAIN else 20
            tables["training"] += [
                {"arm": f"train: {how}", "seed": seed, "step": s, "passes": cost * s,
                 "train_loss": 2.0 + (v[key] - 2.0) * s / 10} for s in (0, 10)
            ]  # fmt: skip
        for epoch in (0, 1):
            at = {**exact, "epoch": epoch}
            sizes = {"error": v["error"], "printed": v["printed"]}
            tables["minimiser"].append({**at, "lam": 1.0, **sizes})
            tables["solve"].append({**at, "damping": 0.1, "n": 10, "missing": v["solve"]})
            tables["cost"].append(
                {**at, "damping": 0.1, "tolerance": 0.1, "natural": v["natural"], "hcgd": 5}
            )
            for case, left in (("same batch", 0.1), ("another batch", v["drift"])):
                tables["drift"].append({**at, "case": case, "n": 10, "left": left})
            tables["inner"] += [
                {**at, "arm": start, "damping": 0.1, "length": length, "n": n,
                 "missing": v["usual"] if length == "customary" else v[start] if n else v["before"]}
                for start in (*claims.PROPOSALS, claims.DIAGONAL)
                for length in ("best", "customary") for n in (0, 10)
            ]  # fmt: skip
    made = live_record(
        "natural_gradient", {name: Table.from_rows(rows) for name, rows in tables.items()},
        config={"few": 10, "dampings": [0.1], "tolerances": [0.1], "grid": [0, 10]},
        seeds=[0, 1], dataset=load("digits"), seconds=0.0,
    )  # fmt: skip
    return {claim.id: judge(claim, made).word for claim in natural.CLAIMS}


def test_the_claims_hold_where_they_should():
    assert set(judged().values()) == {"reproduced"}


@pytest.mark.parametrize("arm", ["exact", "SGD", "train: SGD", "train: natural gradient"])
def test_what_was_not_run_counts_as_not_tested(record, arm):
    part = replace(
        record,
        tables={
            name: table.where(arm=arm)
            for name, table in record.tables.items()
            if len(table.where(arm=arm))
        },
    )
    words = {claim.id: judge(claim, part).word for claim in natural.CLAIMS}
    assert (words["ng-hessian"] == "reproduced") == (arm == "exact")
    assert words["ng-diagonal-start"] == words["book-solve"] == "not tested"
    assert words["book-natural-steps"] == words["book-algorithm-3"] == "not tested"


FAILURES = [
    ("ng-hessian", {"hessian": 1e-3}),
    ("ng-minimiser", {"error": 0.1}),
    ("book-sign", {"printed": 0.5}),
    ("ng-diagonal-start", {"RMSprop": 0.5}),
    ("book-diagonal", {"diagonal of F": 0.5}),
    ("ng-inner-loop", {"before": 0.5}),
    ("ng-few-steps", {"usual": 0.2}),
    ("cost-passes", {"passes": 1}),
    ("cheap-than-ng", {"natural": 5}),
    ("book-solve", {"solve": 0.11}),
    ("book-drift", {"drift": 0.12}),
    ("book-natural-steps", {"train natural": 0.95}),
    ("book-natural-passes", {"train SGD": 1.9}),
    ("book-algorithm-3", {"train 3 RMSprop": 0.95}),
]


@pytest.mark.parametrize(("claim", "changed"), FAILURES)
def test_each_claim_can_fail(claim, changed):
    assert judged(**changed)[claim] != "reproduced"


def test_no_claim_is_left_untried():
    assert {claim for claim, _ in FAILURES} == set(judged())
