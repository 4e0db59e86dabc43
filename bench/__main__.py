"""Everything at once: ``make bench``. A section that cannot run says why and the others go on."""

import importlib
import platform
import traceback

import torch

from bench import print_table

SECTIONS = {
    "hcgd": "A constrained step over a plain one",
    "curvature": "Fisher products",
    "pages": "The book: chapters, pages, first paint",
    "lab": "The laboratory",
}

if __name__ == "__main__":
    print(f"{platform.platform()}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for name, title in SECTIONS.items():
        print(f"\n{title}")
        try:
            module = importlib.import_module(f"bench.{name}")
        except ModuleNotFoundError as error:
            print(f"  not measured: {error}")
            continue
        try:
            print_table(module.rows())
        except Exception:
            traceback.print_exc()
