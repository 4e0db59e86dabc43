"""HCGD against SGD on images, with a learning rate that falls: Figure 5 of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from ..hcgd import HilbertConstrained
from ..models import seeded, small_cnn, squeezenet_cifar
from ..records import Claim, Record
from .constrained import Training, curve, end, mean, some
from .leash import compare
from .runner import HERE, Experiment, Place, Rows, dataset, run_cells

ARMS = ("SGD", "HCGD", "HCGD, higher ε", "SGD, higher ε")


@dataclass(frozen=True, kw_only=True)
class Config(Training):
    """Section 3.3's learning rates and schedule.

    Attributes:
        lr, higher_lr: ε at first, and that of the arms with a higher one.
        drop: The epoch after which ε is divided by 10.
    """

    lr: float = 0.1
    higher_lr: float = 0.3
    drop: int = 9


LIVE = Config()
PAPER = Config(
    scale="paper",
    dataset="cifar10",
    departures=(),
    reduced=False,
    choices=(
        "200 epochs: the paper divides ε by 10 at epoch 150 and does not say when it stops",
        "batches of 128, momentum 0.9, weight decay 5e-4: the paper gives none of them; these go "
        "with ε = 0.1 in the usual recipes for CIFAR-10",
        "no augmentation, and pixels between 0 and 1: the paper names neither augmentation nor "
        "scaling; the library's training loop has neither",
        "BatchNorm after every convolution but the last, a first convolution of stride 1, dropout "
        "of 0.5 before the last: the paper says SqueezeNet v1.1 with BatchNorm",
        "momentum as PyTorch's SGD has it in all arms, v ← βv + J: the paper's v ← βv + εJ differs "
        "only for some steps after ε falls",
        "η stays at 0.02 when ε falls: the paper speaks of ε alone",
        "ε = 0.3 with SGD is a control that the paper does not have",
    ),
    epochs=200,
    batch_size=128,
    weight_decay=5e-4,
    drop=150,
    tail=10,
)
SMALLER = replace(
    PAPER,
    departures=(
        "10,000 training images in place of 50,000, the same ones for every seed",
        "20 epochs in place of 200, ε divided by 10 after the 15th: 1,580 steps in place of "
        "78,200, so that training ends before the networks fit their images",
        "X_V of 128 examples in place of 256",
    ),
    reduced=True,
    images=10_000,
    epochs=20,
    drop=15,
    tail=2,
    validation_size=128,
)


def arms(config: Config) -> list[str]:
    """Those of Figure 5, and SGD at the higher rate."""
    return list(ARMS)


def network(config: Config) -> nn.Module:
    """SqueezeNet v1.1; for the digits, which are too small for it, two convolutional layers."""
    return small_cnn(batch_norm=True) if config.dataset == "digits" else squeezenet_cifar()


def optimizer(config: Config, arm: str, model: nn.Module) -> Optimizer:
    """SGD at the arm's rate, constrained where the arm says so."""
    sgd = SGD(
        model.parameters(),
        lr=config.higher_lr if arm.endswith("higher ε") else config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    if arm.startswith("SGD"):
        return sgd
    return HilbertConstrained(sgd, lam=config.lam, inner_lr=config.inner_lr)


def measure(config: Config, arm: str, seed: int, place: Place = HERE) -> Rows:
    """One run, whose seed decides the network, the batches and X_V.

    Table ``curve``: at each epoch's end the accuracy and loss on the test set, and those in
    training (means over the epoch's batches, with dropout); whether the run has diverged. Table
    ``runs``: the mean test accuracy while the rate is high (``early``); test and training accuracy
    over the last epochs (``final``, ``final_train``).
    """
    data = some(dataset(config.dataset), config).to(place.device)
    model = seeded(lambda: network(config), seed).to(place.device)
    how = optimizer(config, arm, model)
    falling = MultiStepLR(how, [config.drop], gamma=0.1)
    epochs = curve(model, data, how, config, seed, place, scheduler=falling)
    early = mean(epochs[: config.drop], "test_accuracy")
    return {"curve": epochs, "runs": [{"early": early, **end(epochs, config.tail)}]}


def run(config: Config = LIVE, seeds: Sequence[int] = (0, 1, 2), **options: Any) -> Record:
    """The record of :func:`hilbertlib.experiments.runner.run_cells`, which names the options."""
    return run_cells(EXPERIMENT, config, seeds, **options)


def _gap(record: Record, arm: str, other: str, column: str) -> list[float]:
    """How much more of a column an arm has than another, a value for each seed of both."""
    return compare(record, arm, other, column, "difference")


CLAIMS = (
    Claim(
        id="hcgd-early",
        where="Fig. 5",
        sentence="At the same ε HCGD is better than SGD while the rate is high.",
        reading="mean test accuracy over the epochs before ε falls, HCGD less SGD, both at 0.1",
        experiment="hcgd_images",
        effects=lambda r: _gap(r, "HCGD", "SGD", "early"),
        margin=0.005,
    ),
    Claim(
        id="hcgd-final",
        where="Fig. 5",
        sentence="At the same ε it is not better at the end.",
        reading="test accuracy over the last epochs, HCGD less SGD, both at ε = 0.1: less than "
        "half a point more",
        experiment="hcgd_images",
        effects=lambda r: _gap(r, "HCGD", "SGD", "final"),
        margin=0.005,
        direction="below",
    ),
    Claim(
        id="hcgd-higher-rate",
        where="Fig. 5",
        sentence="At ε = 0.3 its test accuracy is marginally above SGD's although its training "
        "accuracy is lower.",
        reading="over the last epochs, HCGD at ε = 0.3 against SGD at 0.1: test accuracy gained, "
        "and training accuracy lost",
        experiment="hcgd_images",
        effects=lambda r: {
            "test accuracy gained": _gap(r, "HCGD, higher ε", "SGD", "final"),
            "training accuracy lost": _gap(r, "SGD", "HCGD, higher ε", "final_train"),
        },
        margin=0.0,
    ),
    Claim(
        id="book-images-rate",
        where="our guess",
        sentence="At ε = 0.3 it is the leash that helps, not the rate alone.",
        reading="test accuracy over the last epochs, HCGD less SGD, both at ε = 0.3",
        experiment="hcgd_images",
        effects=lambda r: _gap(r, "HCGD, higher ε", "SGD, higher ε", "final"),
        margin=0.0,
    ),
)

EXPERIMENT = Experiment(
    name="hcgd_images",
    figures="Fig. 5",
    title="Does a leash help a network that learns images?",
    live=LIVE,
    paper=PAPER,
    smaller=SMALLER,
    arms=arms,
    measure=measure,
    seeds={"live": 3, "paper": 3},
)
