"""What fitting the lexical baselines costs: counting, tuning and scoring, on real data.

Processor seconds, summed over threads, are given next to wall-clock seconds, which say little on a
shared machine. The data sets are the embedded film snippets and, from the folder BERTFIT_DATA,
Banking77 and IMDB.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from record import write_result
from reviews import find_data, read_file, read_reviews
from script import add_output, run_script

from bertfit.data.dataset import Columns, TextDataset
from bertfit.data.splits import split_off
from bertfit.evaluation.baseline import run_baselines
from bertfit.labels import encode_labels, sort_label_names
from bertfit.workflow.demo import load_demo_data

VALIDATION_FRACTION = 0.1
SETS = ("snippets", "banking77", "imdb")


def main() -> None:
    arguments = parse_arguments()
    for name in arguments.sets:
        if name != "snippets":
            find_data(name)  # missing data ends it now, not after other sets were measured
    measured = {name: measure(*read_set(name)) for name in arguments.sets}
    for name, found in measured.items():
        told = f"{found['processor_seconds']:.1f} s of the processor, {found['seconds']:.1f} s"
        print(f"{name}: {told}, {found['num_train']:,} rows of {found['num_labels']} classes")
        for one in found["baselines"]:
            print(f"  {one['name']:30} {one['settings']} test {one['test']['accuracy']:.4f}")
    write_result("baselines", {"measured": measured}, output=arguments.output)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--sets", nargs="+", choices=SETS, default=SETS, help="Sets to measure (all)."
    )
    add_output(parser)
    return parser.parse_args()


def read_set(name: str) -> tuple[TextDataset, TextDataset]:
    """Return the training and test rows of a data set."""
    if name == "snippets":
        data = load_demo_data()
        return data.train, data.test
    if name == "imdb":
        train, test = (read_reviews(part, num_rows=25_000, seed=0) for part in ("train", "test"))
        return train, test
    folder = find_data(name)
    train, test = (read_file(folder / f"{part}.csv", Columns()) for part in ("train", "test"))
    return train, test


def measure(train: TextDataset, test: TextDataset) -> Mapping[str, Any]:
    """Return the fitted baselines, and how long everything took."""
    rest, validation = split_off(train, VALIDATION_FRACTION, seed=0)
    label_names = sort_label_names(rest.labels)
    parts = [(part.texts, encode_labels(part.labels, label_names)) for part in (rest, validation)]
    tested = (test.texts, encode_labels(test.labels, label_names))
    clock, processor = time.perf_counter(), time.process_time()
    results = run_baselines(
        *parts, test=tested, label_names=label_names, seed=0, test_groups=test.groups or None
    )
    return {
        "num_train": len(rest),
        "num_validation": len(validation),
        "num_test": len(test),
        "num_labels": len(label_names),
        "processor_seconds": round(time.process_time() - processor, 1),
        "seconds": round(time.perf_counter() - clock, 1),
        "baselines": results.to_json()["baselines"],
    }


if __name__ == "__main__":
    run_script(main)
