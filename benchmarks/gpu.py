"""One CUDA GPU: packs checked, then training, scoring and the notebook's whole job timed.

All in one call, meant to take less than 10 minutes: a BERT-base of random weights, for only its
time is measured, and the lengths of real IMDB reviews. First packed texts are shown to give what
padded ones give, and recorded passes what passes as written give. Then are timed, at 128 and at 512
tokens: (a) the notebook's loop (float32, 16 rows, all padded to the full length), (b)
transformers.Trainer at its best (bfloat16, compiled, rows grouped by length, fused AdamW), (c)
bertfit: as written, with its passes recorded as CUDA graphs, and with compiled layers recorded;
what starting up takes stands apart. Then scoring at 512 tokens, and the notebook's whole job,
`bertfit train` with its recipe on 22,500 reviews, as a command: as written, recorded, compiled with
an empty cache, compiled again, and that with 64 rows a step, which is another recipe. MFU is of the
products that useful tokens need, against the rate of a product measured in the same run. At the end
stands each target beside what was seen.

Needs BERTFIT_DATA and a CUDA GPU. --smoke goes the same way on any device with a tiny encoder and
made-up reviews: it shows that the script runs and that packs are right. Its times mean nothing.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import RESULTS, write_result
from reviews import LABEL_NAMES, read_reviews
from torch.nn.functional import cross_entropy
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertModel

from bertfit.assets import find_embedded_model
from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.data.encoding import EncodedTexts, EncodingRule, encode_texts
from bertfit.inference.scoring import score_texts
from bertfit.modeling import compilation
from bertfit.modeling.classifier import fast_tokenizer, load_classifier
from bertfit.modeling.fast_path import plug_in
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.modeling.transfer import stay_ahead
from bertfit.training.loop import TrainingData, accumulate_gradients, train_steps
from bertfit.training.measuring import measure_token_budget
from bertfit.training.weights import TrainedWeights

NOTEBOOK_ROWS, BERTFIT_ROWS = 16, 64
PAD_ID = 0
NEAR = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
"""How far packed and padded may be apart, relative to the greatest number."""


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured."""

    config: BertConfig
    num_texts: int
    num_steps: int
    """Steps of 64 rows that are timed for bertfit; the others take as many rows."""
    lengths: tuple[int, int]
    product: int
    """Rows and columns of the factors whose product is the yardstick of MFU."""


REAL = Size(
    BertConfig(num_labels=2), num_texts=25_000, num_steps=40, lengths=(128, 512), product=8192
)
TINY = Size(
    BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64),
    num_texts=160,
    num_steps=1,
    lengths=(16, 32),
    product=256,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="Tiny, on any device; no result.")
    parser.add_argument("--output", type=Path, default=RESULTS, help="Folder of the result.")
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="After them no further job is begun (8)."
    )
    parser.add_argument(
        "--tokenizer", type=Path, help="Folder of the tokenizer; the embedded model's by default."
    )
    arguments = parser.parse_args()
    if not arguments.smoke and not torch.cuda.is_available():
        sys.exit(
            "This measures a CUDA GPU, and torch finds none here. --smoke runs the script without."
        )
    if arguments.smoke:  # layers are traced, and no compiler is needed
        compilation.BACKEND = "aot_eager"
    size = TINY if arguments.smoke else REAL
    precision = choose_precision()
    ends = time.monotonic() + 60.0 * arguments.minutes
    measured: dict[str, Any] = {}

    def keep() -> None:
        """Write what was measured so far: a machine on loan may be gone before the end."""
        if not arguments.smoke:
            device = torch.cuda.get_device_name()
            write_result("gpu", {"gpu": device, **measured}, output=arguments.output)

    texts = read_texts(size, smoke=arguments.smoke)
    with tempfile.TemporaryDirectory() as scratch:
        folder = make_folder(size, Path(scratch), tokenizer=arguments.tokenizer)
        encoded = {length: encode(texts, folder, length) for length in size.lengths}
        measured["packed_against_padded"] = check_packing(size, encoded)
        rate = measured["operations_per_second"] = measure_product(size, precision)
        for length in size.lengths:
            measured[f"training_{length}"] = time_training(size, encoded[length], length, rate)
            keep()
        measured["scoring"] = time_scoring(size, encoded[size.lengths[-1]], precision)
        job = functools.partial(time_job, write_reviews(texts, Path(scratch)), folder)
        measured["whole_job"] = time_jobs(job, Path(scratch), length=size.lengths[0], ends=ends)
    measured["targets"] = compare_with_targets(measured, size.lengths)
    keep()
    if arguments.smoke:
        print("The script runs, and packs are right. These times mean nothing.")


def read_texts(size: Size, *, smoke: bool) -> list[str]:
    """Return reviews: real ones, or made up of few words."""
    if not smoke:
        return list(read_reviews("train", num_rows=size.num_texts, seed=0).texts)
    generator = np.random.default_rng(0)
    words = ["good", "bad", "film", "plot", "the", "a", "was", "very"]
    return [" ".join(generator.choice(words, generator.integers(1, 40))) for _ in range(160)]


def make_folder(size: Size, scratch: Path, *, tokenizer: Path | None) -> Path:
    """Return a model folder of this size with random weights and MiniLM's tokenizer, or this."""
    folder = scratch / "model"
    torch.manual_seed(0)
    BertModel(size.config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer or find_embedded_model()).save_pretrained(folder)
    return folder


def encode(texts: list[str], folder: Path, length: int) -> EncodedTexts:
    tokenizer = fast_tokenizer(load_classifier(str(folder)).tokenizer)
    return encode_texts(texts, tokenizer, EncodingRule(max_length=length))


def build(size: Size, precision: Precision, *, packing: str, dropout: float = 0.1) -> Any:  # noqa: ANN401 (a model of transformers)
    config = BertConfig.from_dict(size.config.to_dict())
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).to(precision.device)
    plug_in(model, precision.device)
    plan = set_up_packing(model, precision, packing)  # type: ignore[arg-type]  # one of its values
    print(f"  packing {plan}", flush=True)
    return model


def check_packing(size: Size, encoded: dict[int, EncodedTexts]) -> dict[str, Any]:
    """Compare gradients of packed and padded rows in each type; end where they are far apart."""
    texts = encoded[size.lengths[-1]]
    data = TrainingData(texts, np.arange(len(texts)) % 2, PAD_ID)
    found = {}
    dtypes = ["float32", "bfloat16"] if torch.cuda.is_available() else ["float32"]
    for dtype in dtypes:
        precision = choose_precision("auto", dtype)  # type: ignore[arg-type]  # one of its values
        ways = {"padded": ("off", "off"), "packed": ("on", "off")}
        if torch.cuda.is_available():
            ways["recorded"] = ("on", "auto")
        collected = {
            way: collect_gradient(size, data, precision, packing=packing, fast_path=fast_path)
            for way, (packing, fast_path) in ways.items()
        }
        loss, gradient = collected.pop("padded")
        for way, (other_loss, other) in collected.items():
            apart = float((other - gradient).norm() / gradient.norm())
            found[f"{way}, {dtype}"] = {"losses": [loss, other_loss], "gradients_apart": apart}
            print(f"{way} against padded, {dtype}: {found[f'{way}, {dtype}']}", flush=True)
            if not max(apart, abs(loss - other_loss)) < NEAR[precision.dtype]:
                sys.exit(f"What {way} texts give is not what padded ones give: not measured on.")
    return found


def collect_gradient(
    size: Size, data: TrainingData, precision: Precision, *, packing: str, fast_path: str
) -> tuple[float, torch.Tensor]:
    """Return the loss of 24 rows and all gradients in one row, of passes taken for the third time.

    On a GPU, in bfloat16 and with the fast path, they have been recorded by then.
    """
    model = build(size, precision, packing=packing, dropout=0.0)
    settings = TrainSettings(fast_path=fast_path)  # type: ignore[arg-type]  # one of its values
    weights = TrainedWeights(model, settings, precision)
    weights.working.train()
    for _ in range(3):
        weights.drop_gradients()
        weights.prepare(data.encoded.token_ids)
        made = accumulate_gradients(  # not in TF32, as a training does: it would round float32
            weights.working,
            data,
            np.arange(24),
            precision=precision,
            max_tokens=4096,
            recorded=weights.recorded,
        )
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    weights.release()
    return float(made.loss), gradient


def time_training(size: Size, texts: EncodedTexts, length: int, rate: float) -> dict[str, Any]:
    """Return tokens a second, MFU and peak memory of the three ways."""
    ways: dict[str, Callable[..., tuple[float, float]]] = {
        "notebook": train_notebook,
        "trainer": train_trainer,
        "bertfit_as_written": functools.partial(train_bertfit, fast_path="off"),
        "bertfit": train_bertfit,
        "bertfit_compiled": functools.partial(train_bertfit, compiled=True),
    }
    generator = np.random.default_rng(1)
    num_rows = min(size.num_steps * BERTFIT_ROWS, len(texts))
    rows = generator.choice(len(texts), num_rows, replace=False)
    lengths = texts.lengths[rows]
    work = count_operations(size.config, lengths)
    found = {}
    for name, way in ways.items():
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        seconds, first_seconds = way(size, texts, rows, length)
        found[name] = {
            "first_seconds": first_seconds,
            "rows_per_second": len(rows) / seconds,
            "tokens_per_second": float(lengths.sum()) / seconds,
            "mfu": work / seconds / rate,
            "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
            "peak_reserved_bytes": torch.cuda.max_memory_reserved()
            if torch.cuda.is_available()
            else None,
        }
        print(f"training at {length}, {name}: {found[name]}", flush=True)
    return found


def count_operations(config: BertConfig, lengths: np.ndarray) -> float:
    """Return the operations of all products in a training step over texts of these lengths.

    Two for each weight and token forward, and twice as many backward; attention's two products
    grow with the square of a text's length. Embeddings and the head are left out.
    """
    layers, width = config.num_hidden_layers, config.hidden_size
    weights = layers * (4 * width**2 + 2 * width * config.intermediate_size)
    squares = float(np.square(lengths, dtype=np.float64).sum())
    return 6.0 * weights * float(lengths.sum()) + 12.0 * layers * width * squares


def measure_product(size: Size, precision: Precision) -> float:
    """Return the operations a second of large products, a median of ten."""
    factor = torch.ones(size.product, size.product, dtype=precision.dtype, device=precision.device)
    seconds = []
    for _ in range(11):  # the first pays for starting up
        wait()
        started = time.perf_counter()
        factor @ factor
        wait()
        seconds.append(time.perf_counter() - started)
    rate = 2.0 * size.product**3 / statistics.median(seconds[1:])
    print(f"products: {rate / 1e12:.2f} TFLOP/s in {precision.dtype_name}", flush=True)
    return rate


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_notebook(
    size: Size, texts: EncodedTexts, rows: np.ndarray, length: int
) -> tuple[float, float]:
    """Return the seconds of the notebook's loop over encoded rows, and those of its first step."""
    device = choose_precision().device
    torch.manual_seed(0)
    model = BertForSequenceClassification(size.config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    token_ids = np.full((len(rows), length), PAD_ID, dtype=np.int64)
    for place, row in enumerate(rows):
        ids = texts.gather(np.array([row]))
        token_ids[place, : len(ids)] = ids
    ids, labels = torch.from_numpy(token_ids), torch.from_numpy(rows % 2)

    def step(start: int) -> None:
        batch = ids[start : start + NOTEBOOK_ROWS].to(device)
        optimizer.zero_grad()
        logits = model(input_ids=batch, attention_mask=(batch != PAD_ID).long()).logits
        loss = cross_entropy(logits, labels[start : start + NOTEBOOK_ROWS].to(device))
        loss.item()  # as the notebook does
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    begun = time.perf_counter()
    step(0)  # starting up is not counted
    wait()
    started = time.perf_counter()
    for start in range(0, len(rows), NOTEBOOK_ROWS):
        step(start)
    wait()
    return time.perf_counter() - started, started - begun


def train_trainer(
    size: Size, texts: EncodedTexts, rows: np.ndarray, _length: int
) -> tuple[float, float]:
    """Return the seconds of transformers.Trainer's second epoch, and what its first took more."""
    from transformers import Trainer, TrainerCallback, TrainingArguments

    marks: list[float] = []

    class Marks(TrainerCallback):
        def on_epoch_end(self, *_: object, **__: object) -> None:
            wait()
            marks.append(time.perf_counter())

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD_ID)
        labels = torch.tensor([feature["labels"] for feature in features])
        mask = (padded != PAD_ID).long()
        return {"input_ids": padded, "attention_mask": mask, "labels": labels}

    features = []
    for row in rows:
        ids = texts.gather(np.array([row])).tolist()
        features.append({"input_ids": ids, "labels": int(row % 2), "length": len(ids)})
    on_gpu = torch.cuda.is_available()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as output:
        settings = TrainingArguments(
            output_dir=output,
            num_train_epochs=2,
            per_device_train_batch_size=BERTFIT_ROWS,
            bf16=on_gpu,
            torch_compile=on_gpu,
            train_sampling_strategy="group_by_length",
            optim="adamw_torch_fused",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
        )
        started = time.perf_counter()
        Trainer(
            model=BertForSequenceClassification(size.config),
            args=settings,
            train_dataset=features,
            data_collator=collate,
            callbacks=[Marks()],
        ).train()
    warm = marks[1] - marks[0]
    return warm, max(0.0, marks[0] - started - warm)


def train_bertfit(
    size: Size,
    texts: EncodedTexts,
    rows: np.ndarray,
    _length: int,
    *,
    compiled: bool = False,
    fast_path: str = "auto",
) -> tuple[float, float]:
    """Return the seconds of bertfit's second epoch, and what its first took more."""
    precision = choose_precision()
    model = build(size, precision, packing="auto" if precision.device.type == "cuda" else "on")
    settings = TrainSettings(
        batch_size=BERTFIT_ROWS,
        compile="on" if compiled else "off",
        fast_path=fast_path,  # type: ignore[arg-type]  # one of its values
    )
    data = TrainingData(texts, np.arange(len(texts)) % 2, PAD_ID)
    plan = plan_epoch(texts.lengths[rows], BERTFIT_ROWS, seed=0, epoch=0)
    steps = [rows[places] for places in plan]
    as_written = dataclasses.replace(settings, compile="off")
    budget = measure_token_budget(model, data, settings=as_written, precision=precision)
    weights = TrainedWeights(model, settings, precision)
    print(f"  token budget {budget:,}; recording {weights.recording}", flush=True)
    taken = stay_ahead(
        train_steps(
            weights,
            data,
            [steps, steps],
            learning_rate=lambda _: 2e-5,
            precision=precision,
            max_tokens=budget,
        ),
        precision.device,
    )
    marks = [time.perf_counter()]
    for _ in range(2):
        for step in itertools.islice(taken, len(steps)):
            step.read()
        marks.append(time.perf_counter())
    if weights.recorded is not None and not weights.recording.is_on:
        print(f"  recording {weights.recording}", flush=True)
    weights.release()
    first, second = marks[1] - marks[0], marks[2] - marks[1]
    return second, max(0.0, first - second)


def time_scoring(size: Size, texts: EncodedTexts, precision: Precision) -> dict[str, float]:
    """Return the seconds in which all texts are scored."""
    model = build(size, precision, packing="auto" if precision.device.type == "cuda" else "on")
    max_tokens = 2**15
    seconds = []
    for _ in range(2):  # the first pays for starting up
        started = time.perf_counter()
        score_texts(model, texts, precision=precision, pad_id=PAD_ID, max_tokens=max_tokens)
        seconds.append(time.perf_counter() - started)
    print(f"scoring {len(texts):,} texts: {seconds[1]:.2f} s", flush=True)
    return {"num_texts": len(texts), "seconds": seconds[1], "first_seconds": seconds[0]}


def write_reviews(texts: list[str], scratch: Path) -> Path:
    """Return a file of the texts with labels."""
    file = scratch / "reviews.jsonl"
    with file.open("w", encoding="utf-8") as stream:
        for row, text in enumerate(texts):  # a number makes the made-up ones distinct
            record = {"text": f"{text} {row}", "label": LABEL_NAMES[row % 2]}
            stream.write(json.dumps(record) + "\n")
    return file


def time_jobs(
    job: Callable[..., dict[str, Any]], scratch: Path, *, length: int, ends: float
) -> dict[str, dict[str, Any]]:
    """Return the seconds of `bertfit train` as a command, in several ways.

    Args:
        job: `time_job` of a file and a model.
        scratch: Where runs and compiled code go.
        length: Tokens that are kept of a text.
        ends: Moment of the monotonic clock after which no job is begun.
    """
    written = ("--compile", "off", "--set", "fast_path=off")
    ways: dict[str, tuple[str, ...]] = {"as_written": written}
    if torch.cuda.is_available():  # a CPU takes long to compile, and records nothing
        ways = {
            "recorded": ("--compile", "off"),
            "compiled_cold": ("--compile", "on"),
            "compiled_warm": ("--compile", "on"),
            "of_64_rows": ("--compile", "on", "--set", f"batch_size={BERTFIT_ROWS}"),
            **ways,
        }
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(scratch / "compiled")}
    jobs = {}
    for name, options in ways.items():
        if jobs and time.monotonic() > ends:
            print(f"whole job, {name}: not measured, for the time is over", flush=True)
            continue
        jobs[name] = job(scratch / name, *options, length=length, environment=cache)
    return jobs


def time_job(
    file: Path,
    folder: Path,
    run: Path,
    *options: str,
    length: int,
    environment: dict[str, str],
) -> dict[str, Any]:
    """Return the seconds of one command, of its steps alone, and of a first compiled step."""
    command = [sys.executable, "-m", "bertfit.cli.main", "train", str(file)]
    command += ["--output", str(run), "--model", str(folder), "--recipe", "notebook"]
    command += ["--max-length", str(length), "--no-baseline", "--json"]
    command += ["--set", "keep_encoded=off", *options]
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        sys.exit(f"bertfit train failed: {done.stderr}")
    training = json.loads(done.stdout)["training"]
    steps, cold = training["train_seconds"], training["cold_start_seconds"]
    print(
        f"whole job, {run.name}: {seconds:.1f} s, its steps {steps:.1f} s, "
        f"first compiled step {cold} s, recording {training['recording']}",
        flush=True,
    )
    return {"seconds_with_start": seconds, "seconds_of_steps": steps, "first_compiled_step": cold}


def compare_with_targets(
    measured: dict[str, Any], lengths: tuple[int, int]
) -> list[dict[str, Any]]:
    """Return each target of an H100 with what was seen here, and print them."""
    short, long = (measured[f"training_{length}"] for length in lengths)
    of_notebook = dict(measured["whole_job"])
    of_more_rows = of_notebook.pop("of_64_rows", {})
    steps, whole = (
        min(job[figure] for job in of_notebook.values())
        for figure in ("seconds_of_steps", "seconds_with_start")
    )
    seen = [
        ("MFU at 512 tokens, at least", 0.50, best_of(long, "mfu")),
        ("MFU at 128 tokens, at least", 0.45, best_of(short, "mfu")),
        ("the notebook's job, its steps, s, at most", 15.0, steps),
        ("the notebook's job, all of it, s, at most", 40.0, whole),
        (
            "the same, 64 rows a step, its steps, s, at most",
            15.0,
            of_more_rows.get("seconds_of_steps", math.nan),
        ),
        ("times Trainer at 512 tokens, at least", 2.5, over_trainer(long)),
        ("times Trainer at 128 tokens, at least", 1.5, over_trainer(short)),
        ("scoring 25,000 reviews at 512, s, at most", 3.0, measured["scoring"]["seconds"]),
    ]
    for name, target, value in seen:
        print(f"target: {name} {target:g}; seen {value:.3g}", flush=True)
    return [{"target": name, "value": target, "seen": value} for name, target, value in seen]


def best_of(ways: dict[str, Any], figure: str) -> float:
    """Return the greatest figure of bertfit's ways."""
    return float(max(ways[name][figure] for name in ways if name.startswith("bertfit")))


def over_trainer(ways: dict[str, Any]) -> float:
    return best_of(ways, "rows_per_second") / float(ways["trainer"]["rows_per_second"])


if __name__ == "__main__":
    main()
