"""Runs the benchmarks: all of them, or the named ones; --list says what they measure.

Each writes its result to benchmarks/results. Benchmarks that need real data are skipped with a
message if BERTFIT_DATA is not set, and those that need a CUDA GPU if there is none. Measure on a
machine that does nothing else.
"""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NEED_DATA = {
    "startup": False,
    "step_floor": False,
    "evaluation": False,
    "baselines": True,
    "against_notebook": True,
    "against_peers": True,
    "scoring": True,
    "packing": True,
    "fast_path_accuracy": True,
    "gradients": True,
    "gpu": True,
    "gpu_steps": True,
    "gpu_kernels": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="Benchmarks to run (all).")
    parser.add_argument("--list", action="store_true", help="Say what there is, and end.")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in NEED_DATA]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NEED_DATA)}")
    if arguments.list:
        for name in NEED_DATA:
            print(f"{name:20}{describe(name)}")
        return
    codes = [run(name) for name in arguments.names or NEED_DATA]
    sys.exit(max(map(abs, codes)))  # the code of one that a signal ended is negative


def describe(name: str) -> str:
    """Return the first line of a benchmark's docstring."""
    tree = ast.parse((HERE / f"{name}.py").read_text(encoding="utf-8"))
    return (ast.get_docstring(tree) or "").partition("\n")[0]


def has_gpu() -> bool:
    import torch  # slow, and --list does not need it

    return bool(torch.cuda.is_available())


def run(name: str) -> int:
    if NEED_DATA[name] and "BERTFIT_DATA" not in os.environ:
        print(f"Left out: {name}, which needs BERTFIT_DATA (see its docstring).")
        return 0
    if name.startswith("gpu") and not has_gpu():
        print(f"Left out: {name}, which needs a CUDA GPU.")
        return 0
    print(f"{name}: {describe(name)}", flush=True)
    return subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode


if __name__ == "__main__":
    main()
