"""The laboratory as a widget for Jupyter and Colab, and as what a built book draws without one."""

from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from hilbertlib.lab import css, esm

LAB_MIME = "application/vnd.hilbertlib.lab+json"
# How the laboratory is shown, as against what it runs.
OPTIONS = ("controls", "panels", "compact", "guides", "guide", "tabs", "steps", "changes")
BOOK_ONLY = ("address", "link")


class Lab(anywidget.AnyWidget):
    """A laboratory in the notebook: networks that train in the browser while λ is moved.

    Training happens in the browser, in the lines that the parity tests compare with this library;
    Python sees what happens and can take part.

    Args:
        tab: ``"learn"``, ``"remember"`` or ``"natural"``.
        **settings: Controls by name: ``lam``, ``eps``, ``eta``, ``n``, ``norm``, ``beta``,
            ``xv``, ``batch``, ``data``, ``noise``, ``hidden``, ``activation``, ``base``,
            ``seed``, ``speed``; for ``"remember"`` also ``memory`` and ``change`` (the step at
            which task B begins), for ``"natural"`` ``kl`` and ``damping``. And how it is shown:
            ``compact=True``, ``controls=["lam", "eps"]``, ``panels=["views", "maps", "charts",
            "numbers"]``, ``tabs=[...]``, ``guides=False``, ``guide="leash"``, ``steps=200``
            (trained before it is first drawn). A value that makes no sense is told in the widget.

    Attributes:
        settings: The controls as they are now. Assigning them moves them: those that can move in
            the middle of a run do, the others begin a new one.
        playing: Whether it trains.
        step: Steps taken.
        accuracies: Of each learner (``ghost``, ``own``, ``natural``), on ``train`` and ``test``, or
            on tasks ``A`` and ``B``.
        distances: L2 (``functions``) and ℓ2 (``parameters``) between the first two learners; of
            each learner the cumulative squared L2 (``path``) and L2 over ℓ2 (``ratio``).
        changes: Controls moved on the way: ``{"step", "control", "value"}``.
        address: The run as the part of a link after ``#``.

    >>> lab = Lab(lam=2.0, data="spirals")
    >>> lab.settings["lam"]
    2.0
    """

    _esm = esm()
    _css = css()

    settings = traitlets.Dict().tag(sync=True)
    options = traitlets.Dict().tag(sync=True)
    playing = traitlets.Bool(False).tag(sync=True)
    step = traitlets.Int(0).tag(sync=True)
    accuracies = traitlets.Dict().tag(sync=True)
    distances = traitlets.Dict().tag(sync=True)
    changes: traitlets.List[Any] = traitlets.List().tag(sync=True)
    address = traitlets.Unicode("").tag(sync=True)

    def __init__(self, tab: str = "learn", **settings: Any) -> None:
        self._asked: dict[str, Any] = {"tab": tab, **settings}
        shown = {name: settings.pop(name) for name in OPTIONS if name in settings}
        for name in BOOK_ONLY:
            settings.pop(name, None)
        super().__init__(settings={"tab": tab, **settings}, options=shown)

    def set(self, **settings: Any) -> None:
        """Move controls, in the middle of the run where that is possible: ``lab.set(lam=5)``."""
        self.settings = {**self.settings, **settings}

    def train(self, steps: int) -> None:
        """Train for ``steps`` steps at the speed that is set, then pause.

        Raises:
            ValueError: If ``steps`` is not positive.
        """
        if steps < 1:
            raise ValueError(f"expected a positive number of steps, got {steps}")
        self.send({"do": "train", "steps": int(steps)})

    def reset(self) -> None:
        """Begin the run again."""
        self.send({"do": "reset"})

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        if bundle is None:
            return None
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, **page_bundle(self._asked)}, metadata


def page_bundle(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What a page without a kernel needs to draw the laboratory: its settings, by media type."""
    return {LAB_MIME: {"settings": dict(settings)}}
