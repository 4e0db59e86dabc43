"""The natural gradient beside HCGD: section 3.2.1 and Appendix E of the paper, and their controls.

Appendix E proposes Algorithm 3 and measures nothing. Here a network is stopped at several stages of
its training; the exact natural update is solved for there, and what comes near it is compared with
it. Then whole runs are compared, in steps and in passes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data import Dataset
from ..natural_gradient import conjugate_gradient
from ..records import Record
from .leash import count_passes
from .natural_claims import CLAIMS as CLAIMS
from .natural_claims import DIAGONAL, PLAIN, PROPOSALS
from .natural_steps import (
    Stage,
    Target,
    diagonal_proposal,
    divergences,
    drift,
    hessian_errors,
    inner_lr,
    minimizer,
    proposal,
    stages,
)
from .natural_training import training
from .runner import HERE, Experiment, Place, Rows, Setting, dataset, run_cells

TRAINED = (*PLAIN, "natural gradient", *(f"Algorithm 3 from {name}" for name in PLAIN))
CORRECTIONS = (1, 2, 5, 10)


@dataclass(frozen=True, kw_only=True)
class Config(Setting):
    """Appendix E in a live size; it gives no network, no data and no numbers.

    Attributes:
        hidden, batch_size: The network's layers, and the examples in a batch and behind F.
        stages: Numbers of epochs after which the network is stopped.
        stage_lr, momentum: SGD's on the way there.
        gathered: Batches from which the diagonal optimizers have their squared gradients.
        dampings: Added to F's eigenvalues, each in turn.
        lam: λ of the inner loops; the exact update's direction does not depend on it.
        lams: The values of λ at which the minimizer is sought.
        grid: Numbers of inner steps, or of products in a solve.
        few: The number of inner steps, one of the grid, that the claims call small.
        tolerances: Residuals at which a solve counts as done.
        steps, every, measured: Length of a run, how often and on how many images it is measured.
        sgd_lr, rmsprop_lr: ε in the runs.
        training_lam, training_damping: λ and the damping in the runs.
        solve_tol, max_iter, inner: A solve's tolerance and bound, Algorithm 3's inner steps.
    """

    hidden: tuple[int, ...] = (32,)
    batch_size: int = 128
    stages: tuple[int, ...] = (0, 1, 5)
    stage_lr: float = 0.1
    momentum: float = 0.9
    gathered: int = 20
    dampings: tuple[float, ...] = (0.1, 0.01)
    lam: float = 1.0
    lams: tuple[float, ...] = (1.0, 10.0)
    grid: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 50, 100)
    few: int = 10
    tolerances: tuple[float, ...] = (0.1, 0.001)
    steps: int = 100
    every: int = 5
    measured: int = 1000
    sgd_lr: float = 0.3
    rmsprop_lr: float = 0.001
    training_lam: float = 3.0
    training_damping: float = 0.1
    solve_tol: float = 0.1
    max_iter: int = 50
    inner: int = 10


LIVE = Config()
PAPER = Config(
    scale="paper",
    dataset="mnist",
    departures=(),
    reduced=False,
    choices=(
        "the perceptron of section 3.1 with two hidden layers of 400 units, on MNIST, untrained "
        "and after one and five epochs: Appendix E names no network",
        "F and J from one batch of 256, as many examples as X_V has; F exact over the network's "
        "own labels, which the paper calls the proper method",
        "damping 0.1, which is common for conjugate gradients in reinforcement learning, and 0.01: "
        "the paper does not speak of damping, and F is singular without",
        "each proposal is as long as makes the cost least along it, and as long as its optimizer's "
        "customary rate makes it: the paper gives no rate",
        "η = 1 / (λ (F's largest eigenvalue + damping)), half of what the inner loop bears",
        "ten inner steps count as a small number",
        "in the runs ε = 0.3 for SGD, 0.001 for RMSprop, and λ = 3 with damping 0.1 for the "
        "natural gradient, at both scales: of three or four values each, in a trial of 40 steps on "
        "MNIST with a seed that is not among the record's, the best or within a tenth of its loss; "
        "from RMSprop at 0.003 Algorithm 3 diverged there",
        "Algorithm 3's largest eigenvalue by five more products a step, which are counted",
        "passes: a forward or a backward pass over a batch is one, a product with F two, one in "
        "each direction; a solve's check of its residual is not counted",
    ),
    hidden=(400, 400),
    batch_size=256,
    gathered=50,
    grid=(0, 1, 2, 5, 10, 20, 50, 100, 200, 500),
    steps=400,
    measured=2000,
)


def arms(config: Config) -> list[str]:
    """The exact quantities, the inner loop from each proposal, and the runs."""
    return ["exact", *PROPOSALS, DIAGONAL, *(f"train: {how}" for how in TRAINED)]


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """One arm from one seed, which decides the network and the batches.

    Arm ``exact``, at each stage. Table ``hessian``: the relative error of the KL divergence's
    Hessian against F. ``minimiser``: how far the minimizer of the cost is from −(1/λ) F⁻¹ J, and
    from +(1/λ) F⁻¹ J (``printed``). ``divergence``: KL divergences of natural steps, predicted and
    real. ``solve``: how near conjugate gradients are after n products. ``cost``: passes of a
    natural step and of one with HCGD. ``drift``: the inner loop without damping. ``passes``: those
    of HCGD for each n.

    The arms of proposals. Table ``inner``: how near Algorithm 3 is after n inner steps
    (:meth:`.natural_steps.Target.nearness`), at both lengths of the proposal.

    The arms of runs. Table ``training``: loss and accuracy at every so many steps and passes.
    """
    data = dataset(config.dataset).to(place.device)
    if arm.startswith("train: "):
        return {"training": training(config, arm.removeprefix("train: "), data, seed)}
    if arm == "exact":
        return _exact(config, data, seed)
    return {"inner": _inner(config, arm, data, seed)}


def _inner(config: Config, arm: str, data: Dataset, seed: int) -> list[dict[str, Any]]:
    rows = []
    for stage in stages(config, data, seed):
        for damping in config.dampings:
            if arm == DIAGONAL:
                customary = diagonal_proposal(stage, config.lam, damping)
            else:
                customary = proposal(stage, arm)
            target = Target.of(stage, config.lam, damping)
            eta = inner_lr(stage.fisher, config.lam, damping)
            starts = {"best": target.best_length(customary), "customary": customary}
            for length, start in starts.items():
                where = {"epoch": stage.epoch, "damping": damping, "length": length}
                rows += [{**where, **row} for row in target.inner_loop(start, config.grid, eta)]
    return rows


def _exact(config: Config, data: Dataset, seed: int) -> Rows:
    tables: dict[str, list[dict[str, Any]]] = {
        name: [] for name in ("hessian", "minimiser", "divergence", "solve", "cost", "drift")
    }
    for stage in stages(config, data, seed):
        at = {"epoch": stage.epoch}
        errors = hessian_errors(stage, seed)
        tables["hessian"] += [{**at, "order": order, "error": e} for order, e in errors.items()]
        lost = drift(stage, config.lam, max(config.dampings), config.grid, seed)
        tables["drift"] += [{**at, **row} for row in lost]
        for damping in config.dampings:
            here = {**at, "damping": damping}
            target = Target.of(stage, config.lam, damping)
            found = target.conjugate_gradients(config.grid)
            tables["solve"] += [{**here, **row} for row in found]
            tables["cost"] += [{**here, **row} for row in _costs(config, stage, damping)]
            for lam in config.lams:
                formula = target.update * (config.lam / lam)
                away = minimizer(stage, lam, damping)
                size = formula.norm()
                tables["minimiser"].append(
                    {
                        **here,
                        "lam": lam,
                        "error": float((away - formula).norm() / size),
                        "printed": float((away + formula).norm() / size),
                    }
                )
                made = divergences(stage, formula)
                tables["divergence"].append({**here, "lam": lam, **made})
    return {**tables, "passes": [{"n": n, **_counted(n)} for n in CORRECTIONS]}


def _costs(config: Config, stage: Stage, damping: float) -> list[dict[str, Any]]:
    """J, the linearization and the products of a solve, against HCGD with one correction."""
    rows = []
    for tol in config.tolerances:
        products = conjugate_gradient(
            stage.fisher.__matmul__, stage.gradient, damping=damping, tol=tol, max_iter=5000
        ).iterations
        passes = {"natural": 2 + 1 + 2 * products, "hcgd": _counted(1)["passes"]}
        rows.append({"tolerance": tol, "products": products, **passes})
    return rows


def _counted(n: int) -> dict[str, int]:
    forward, backward = count_passes(n)
    return {"forward": forward, "backward": backward, "passes": forward + backward}


def run(config: Config = LIVE, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(EXPERIMENT, config, seeds, **options)


EXPERIMENT = Experiment(
    name="natural_gradient",
    figures="section 3.2.1, Appendix E",
    title="How near to the natural gradient does an inner loop come, and at what cost?",
    live=LIVE,
    paper=PAPER,
    arms=arms,
    measure=measure,
    seeds={"live": 3, "paper": 3},
)
