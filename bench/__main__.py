"""Everything at once: ``make bench``, or some sections of it: ``python -m bench weight paint``."""

import importlib
import os
import platform
import sys

import torch

from bench import print_table

# Name, title, and the function that returns the rows.
SECTIONS = {
    "hcgd": ("A constrained step over a plain one", "bench.hcgd:rows"),
    "compiled": ("The same, both compiled to CUDA graphs", "bench.hcgd:compiled_rows"),
    "curvature": ("Fisher products", "bench.curvature:rows"),
    "denormals": ("Gradients that fade over a sequence", "bench.denormals:rows"),
    "ensemble": ("Many seeds at once", "bench.ensemble:rows"),
    "matrices": ("Distance matrices of snapshots", "bench.matrices:rows"),
    "chapters": ("Seconds to execute the chapters, when they last ran", "bench.pages:chapters"),
    "weight": ("What a page loads", "bench.pages:weights"),
    "paint": ("First contentful paint", "bench.pages:first_paint"),
    "lab": ("The laboratory", "bench.lab:rows"),
}


def main(chosen: list[str]) -> None:
    """Print each section. One that cannot run says why, and the others go on."""
    if unknown := set(chosen) - set(SECTIONS):
        sys.exit(
            f"unknown section {', '.join(sorted(unknown))}: choose among {', '.join(SECTIONS)}"
        )
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, torch {torch.__version__} on "
        f"{torch.get_num_threads()} threads"
        + (f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")
    )
    for name, (title, place) in SECTIONS.items():
        if chosen and name not in chosen:
            continue
        print(f"\n{title}", flush=True)
        module, function = place.split(":")
        try:
            print_table(getattr(importlib.import_module(module), function)())
        except Exception as error:
            print(f"  not measured: {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
