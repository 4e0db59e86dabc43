"""The experiments from the command line: ``python -m hilbertlib list | run NAME | show NAME``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .claims import CLAIMS, counts, records_in, verdicts
from .experiments.catalogue import EXPERIMENTS, NAMES, VIEWS
from .experiments.runner import Experiment, record_path, run_cells
from .records import Record, judge, load_record

_HERE = Path("book/records")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 for what was asked wrongly."""
    parser = _parser()
    options = parser.parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m hilbertlib",
        description="Reproduce the figures of Benjamin, Rolnick and Körding (ICLR 2019).",
    )
    commands = parser.add_subparsers(required=True, metavar="list | run | show")
    listing = commands.add_parser("list", help="every experiment with its records and verdicts")
    listing.set_defaults(command=_list)
    running = commands.add_parser("run", help="run an experiment, or go on with it")
    running.set_defaults(command=_run)
    showing = commands.add_parser("show", help="a record: its setting, its tables, its verdicts")
    showing.set_defaults(command=_show)
    for sub in (listing, running, showing):
        sub.add_argument(
            "--out", type=Path, default=_HERE if _HERE.is_dir() else Path("records"),
            metavar="DIR", help="folder of the records (default: %(default)s)",
        )  # fmt: skip
    for sub in (running, showing):
        sub.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
        sub.add_argument(
            "--scale", choices=["live", "paper"], default="live",
            help="live: seconds, on digits; paper: the paper's setting (default: %(default)s)",
        )  # fmt: skip
    _run_options(running)
    return parser


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=_at_least_one, metavar="K",
        help="run the seeds 0 to K - 1 (default: the experiment's own number)",
    )  # fmt: skip
    parser.add_argument(
        "--arms", action="append", metavar="ARM", help="only this arm; may be given several times"
    )
    parser.add_argument(
        "--reduced", action="store_true",
        help="a smaller setting for a machine without a GPU, marked as such in the record",
    )  # fmt: skip
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda", "auto"],
        help="auto: a GPU where there is one (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=_jobs, default=1, metavar="N",
        help="runs side by side, each on one core; -1: one a core (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", choices=["loky", "dask"], default="loky",
        help="where they run: on this machine, or on a Dask cluster (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scheduler", metavar="tcp://HOST:PORT", help="the Dask cluster's scheduler"
    )


def _run(options: argparse.Namespace) -> None:
    experiment = VIEWS.get(options.name) or EXPERIMENTS[options.name]
    if options.name in VIEWS:
        print(f"{options.name} is measured on the runs of {experiment.name}")
    config = experiment.live if options.scale == "live" else experiment.paper
    if options.reduced:
        if options.scale == "live" or experiment.smaller is None:
            have = [e.name for e in EXPERIMENTS.values() if e.smaller is not None]
            raise ValueError(
                f"--reduced is for --scale paper of {', '.join(have) or 'no experiment'}"
            )
        config = experiment.smaller
    if (options.backend == "dask") != (options.scheduler is not None):
        raise ValueError("--backend dask and --scheduler tcp://HOST:PORT go together")
    seeds = range(options.seeds or experiment.seeds[options.scale])
    record = run_cells(
        experiment,
        config,
        seeds,
        arms=options.arms,
        device=options.device,
        jobs=options.jobs,
        out=options.out,
        progress=True,
        backend=_cluster(options.scheduler),
    )
    _print(record)
    print(f"\nwritten to {record_path(options.out, experiment.name, options.scale)}")


def _cluster(scheduler: str | None) -> dict[str, Any] | None:
    if scheduler is None:
        return None
    try:
        from distributed import Client
    except ImportError as error:
        raise ValueError("--backend dask needs the package distributed: install it") from error
    try:
        return {"backend": "dask", "client": Client(scheduler, timeout=10)}
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {scheduler} ({error})") from error


def _list(options: argparse.Namespace) -> None:
    found = records_in(options.out)
    said = verdicts(found)
    for name in NAMES:
        experiment: Experiment = VIEWS.get(name) or EXPERIMENTS[name]
        own = {id: said[id] for id, claim in CLAIMS.items() if claim.experiment == name}
        about = experiment.views.get(name, experiment)
        print(f"{name:18} {about.figures}")
        print(f"{'':18} {about.title}")
        for scale in ("live", "paper"):
            path = record_path(options.out, name, scale)
            if path.exists():
                print(f"{'':18} {path}: {_about(load_record(path))}")
        words = ", ".join(f"{n} {word}" for word, n in counts(own).items())
        print(f"{'':18} {len(own)} claims: {words}\n")


def _show(options: argparse.Namespace) -> None:
    path = record_path(options.out, options.name, options.scale)
    if not path.exists():
        raise FileNotFoundError(
            f"there is no {path}; make it with `python -m hilbertlib run {options.name} "
            f"--scale {options.scale}`"
        )
    _print(load_record(path))


def _print(record: Record) -> None:
    provenance = record.provenance
    print(f"\n{record.experiment}, {record.scale} scale: {_about(record)}")
    print(
        f"data {provenance.dataset} ({provenance.dataset_checksum[:12]}) {provenance.dataset_note}"
    )
    for departure in provenance.departures:
        print(f"departs from the paper: {departure}")
    for name, table in record.tables.items():
        print(f"table {name}: {len(table)} rows of {', '.join(table.columns)}")
    for claim in CLAIMS.values():
        if claim.experiment == record.experiment:
            verdict = judge(claim, record)
            print(f"\n{claim.id}: {verdict}\n  {claim.sentence} ({claim.where})")
            print(f"  {claim.reading}; {claim.direction} {claim.margin}")
            for name, part in verdict.parts.items():
                print(f"  {name + ': ' if name else ''}{part.interval}")


def _about(record: Record) -> str:
    minutes = record.provenance.seconds / 60
    reduced = "reduced, " if record.provenance.reduced else ""
    return f"{reduced}{record.seeds_said}, {minutes:.1f} min, {record.provenance.device}"


def _at_least_one(text: str) -> int:
    return _whole(text, lambda n: n >= 1, "at least 1")


def _jobs(text: str) -> int:
    return _whole(text, lambda n: n == -1 or n >= 1, "at least 1, or -1")


def _whole(text: str, fits: Callable[[int], bool], expected: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if not fits(number):
        raise argparse.ArgumentTypeError(f"expected a whole number, {expected}; got {text}")
    return number


if __name__ == "__main__":
    raise SystemExit(main())
