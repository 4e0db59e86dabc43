"""The experiments by name, one or more a figure of the paper."""

from ..records import Claim
from . import (
    estimator,
    exchange_claims,
    exchange_rate,
    forgetting,
    hcgd_images,
    hcgd_sequences,
    natural_claims,
    natural_gradient,
    path_length,
    trajectories,
)
from . import leash as _leash
from .runner import Experiment

EXPERIMENTS: dict[str, Experiment] = {
    e.name: e
    for e in (
        trajectories.EXPERIMENT,
        exchange_rate.EXPERIMENT,
        forgetting.EXPERIMENT,
        forgetting.GRID,
        path_length.EXPERIMENT,
        hcgd_images.EXPERIMENT,
        hcgd_sequences.EXPERIMENT,
        natural_gradient.EXPERIMENT,
    )
}
VIEWS: dict[str, Experiment] = {view: e for e in EXPERIMENTS.values() for view in e.views}
"""Experiments whose records are written by another one."""

NAMES = (*EXPERIMENTS, *VIEWS)
"""Every name under which there may be a record."""

CLAIMS: tuple[Claim, ...] = (
    *estimator.CLAIMS,
    *trajectories.CLAIMS,
    *exchange_claims.CLAIMS,
    *forgetting.CLAIMS,
    *_leash.CLAIMS,
    *hcgd_images.CLAIMS,
    *hcgd_sequences.CLAIMS,
    *natural_claims.CLAIMS,
)
"""Every claim that a record at the paper's scale can judge, in the order of the sections."""
