"""What `gpu.py` checks and times in its own process: packs, training in several ways, scoring."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from trainer import arrange, settle_trainer
from transformers import BertConfig, BertForSequenceClassification

from bertfit.config import TrainSettings
from bertfit.data.batching import plan_epoch
from bertfit.data.encoding import EncodedTexts
from bertfit.inference.scoring import score_texts
from bertfit.modeling.fast_path import plan_operators_of, plug_in
from bertfit.modeling.packing import set_up_packing
from bertfit.modeling.precision import Precision, choose_precision
from bertfit.training.loop import Accumulated, TrainingData, accumulate_gradients, train_steps
from bertfit.training.measuring import measure_token_budget
from bertfit.training.reports import read_steps
from bertfit.training.token_budget import DEFAULT_TOKENS
from bertfit.training.weights import TrainedWeights

NOTEBOOK_ROWS, BERTFIT_ROWS = 16, 64
PAD_ID = 0
_PRODUCTS = 10
_MULTIPLE = 8
"""Trainer's rows are padded to multiples of this, as its own collator can: matmuls are faster."""
NEAR = 1e-4
"""How far gradients in float32 may differ, relative to their norm."""


@dataclass(frozen=True, slots=True)
class Size:
    """The size of the measurement."""

    config: BertConfig
    num_texts: int
    num_steps: int
    """Timed steps of 64 rows for bertfit; the others use the same number of rows."""
    lengths: tuple[int, int]
    product: int
    """Rows and columns of the square matrices whose product is the reference for MFU."""


def build(size: Size, precision: Precision, *, packing: str, dropout: float = 0.1) -> Any:  # noqa: ANN401 (a model of transformers)
    config = BertConfig.from_dict(size.config.to_dict())
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).to(precision.device)
    plug_in(model, precision.device)
    plan = set_up_packing(model, precision, packing)  # type: ignore[arg-type]  # one of its values
    print(f"  packing {plan}", flush=True)
    return model


def check_packing(size: Size, texts: EncodedTexts) -> dict[str, Any]:
    """Compare gradients with those of padded rows in float32; exit if they differ too much.

    In bfloat16 padded rows differ, too, and packs may differ by at most twice as much.
    """
    data = TrainingData(texts, np.arange(len(texts)) % 2, PAD_ID)
    ways = {"padded": ("off", "off"), "packed": ("on", "off"), "recorded": ("on", "auto")}
    asked = [("float32", "padded"), ("float32", "packed")]
    if torch.cuda.is_available():
        asked += [("bfloat16", way) for way in ways]
    found: dict[str, Any] = {}
    exact, limit = None, 0.0
    for dtype, way in asked:
        precision = choose_precision("auto", dtype)  # type: ignore[arg-type]  # one of its values
        packing, fast_path = ways[way]
        loss, gradient = collect_gradient(
            size, data, precision, packing=packing, fast_path=fast_path
        )
        if exact is None:
            exact = gradient
        apart = float((gradient - exact).norm() / exact.norm())
        found[f"{way}, {dtype}"] = {"loss": loss, "gradients_apart": apart}
        print(f"{way}, {dtype}: loss {loss:.6f}, gradients {apart:.1e} apart", flush=True)
        if way == "padded":
            if not math.isfinite(apart):
                sys.exit("Padded texts give no finite gradient: there is nothing to compare with.")
            limit = max(2.0 * apart, NEAR)
        elif not apart <= limit:
            sys.exit(f"What {way} texts give is not what padded ones give: not measured on.")
    return found


def collect_gradient(
    size: Size, data: TrainingData, precision: Precision, *, packing: str, fast_path: str
) -> tuple[float, torch.Tensor]:
    """Return the loss of 24 rows and all gradients in one vector, from the third repetition.

    On a GPU, in bfloat16 and with the fast path, the passes have been recorded by then.
    """
    model = build(size, precision, packing=packing, dropout=0.0)
    settings = TrainSettings(fast_path=fast_path)  # type: ignore[arg-type]  # one of its values
    weights = TrainedWeights(model, settings, precision)
    weights.working.train()

    def accumulate() -> Accumulated:
        weights.drop_gradients()
        weights.prepare(data.encoded.token_ids)
        return accumulate_gradients(  # without TF32, unlike in a training: it would round float32
            weights.working,
            data,
            np.arange(24),
            precision=precision,
            max_tokens=4096,
            recorded=weights.recorded,
        )

    for _ in range(2):
        accumulate()
    made = accumulate()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    weights.release()
    return float(made.loss), gradient


def time_training(
    size: Size, texts: EncodedTexts, length: int, rate: float, asked: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield tokens per second, MFU and peak memory of the requested ways, after each of them.

    `first_seconds` is the start-up: for the notebook its first step, for Trainer and bertfit the
    extra time of the epochs before the timed one. It includes building the model for Trainer only,
    and at the second length, compiled code is already there.
    """
    generator = np.random.default_rng(1)
    num_rows = min(size.num_steps * BERTFIT_ROWS, len(texts))
    rows = generator.choice(len(texts), num_rows, replace=False)
    lengths = texts.lengths[rows]
    found: dict[str, Any] = {}
    for name in (way for way in WAYS if way in asked):
        work = count_operations(size.config, lengths, is_short="bertfit" in name)
        gc.collect()  # a Trainer is part of a reference cycle
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            seconds, first_seconds = WAYS[name](size, texts, rows, length)
        except Exception as error:  # noqa: BLE001 (a failing way must not stop the others)
            found[name] = {"failed": f"{type(error).__name__}: {error}"[-500:]}
            print(f"training at {length}, {name}: {found[name]}", flush=True)
            yield found
            continue
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
        yield found


def count_operations(config: BertConfig, lengths: np.ndarray, *, is_short: bool) -> float:
    """Return the operations of all matrix products in a training step on texts of these lengths.

    Two per weight and token forward, and twice as many backward; attention's two products grow
    with the square of a text's length. Embeddings and the head are not counted.

    Args:
        config: The encoder's configuration.
        lengths: (n,) tokens of each text.
        is_short: Whether the last layer computes only keys and values for all tokens, and the rest
            only for the first tokens, which the head needs.
    """
    width, inner, num_layers = (
        int(number)
        for number in (config.hidden_size, config.intermediate_size, config.num_hidden_layers)
    )
    num_tokens, num_texts = float(lengths.sum()), len(lengths)
    squares = float(np.square(lengths, dtype=np.float64).sum())
    layer = 6.0 * (4 * width**2 + 2 * width * inner) * num_tokens + 12.0 * width * squares
    if not is_short:
        return num_layers * layer
    last = 6.0 * (2 * width**2 * num_tokens + (2 * width**2 + 2 * width * inner) * num_texts)
    return (num_layers - 1) * layer + last + 12.0 * width * num_tokens


def measure_product(size: Size, precision: Precision) -> float:
    """Return the operations per second of large matrix products, the median of five times ten."""
    # Random numbers, because a GPU multiplies constant ones faster.
    factor = torch.randn(size.product, size.product, device=precision.device).to(precision.dtype)
    seconds = []
    for _ in range(6):  # the first is a warm-up
        wait()
        started = time.perf_counter()
        for _ in range(_PRODUCTS):  # a single one would include its launch
            factor @ factor
        wait()
        seconds.append((time.perf_counter() - started) / _PRODUCTS)
    rate = 2.0 * size.product**3 / statistics.median(seconds[1:])
    print(f"products: {rate / 1e12:.2f} TFLOP/s in {precision.dtype_name}", flush=True)
    return rate


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def train_notebook(
    size: Size, texts: EncodedTexts, rows: np.ndarray, length: int
) -> tuple[float, float]:
    """Return the seconds of the notebook's loop over encoded rows, and of its first step."""
    device = choose_precision().device
    torch.manual_seed(0)
    model = BertForSequenceClassification(size.config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5)
    token_ids = np.full((len(rows), length), PAD_ID, dtype=np.int64)
    for place, row in enumerate(rows):
        of_row = texts.gather(np.array([row]))
        token_ids[place, : len(of_row)] = of_row
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
    step(0)  # start-up is not counted
    wait()
    started = time.perf_counter()
    for start in range(0, len(rows), NOTEBOOK_ROWS):
        step(start)
    wait()
    return time.perf_counter() - started, started - begun


def train_trainer(
    size: Size, texts: EncodedTexts, rows: np.ndarray, _length: int
) -> tuple[float, float]:
    """Return the seconds of Trainer's third epoch, and the extra time of the first two.

    The third epoch is timed from its first step on, when its first batch is there: starting an
    epoch takes the same time for a longer one, and is not counted.
    """
    from transformers import Trainer, TrainerCallback, TrainerState

    marks: dict[float, float] = {}

    class Marks(TrainerCallback):  # type: ignore[misc]  # mypy does not follow transformers
        def on_step_begin(
            self, _settings: object, state: TrainerState, *_: object, **__: object
        ) -> None:
            self._mark(state.epoch)

        def on_epoch_end(
            self, _settings: object, state: TrainerState, *_: object, **__: object
        ) -> None:
            self._mark(state.epoch)

        def _mark(self, epoch: float) -> None:
            if epoch in {2.0, 3.0}:
                wait()
                marks[epoch] = time.perf_counter()

    def collate(features: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [torch.tensor(feature["input_ids"]) for feature in features]
        longest = -(-max(map(len, ids)) // _MULTIPLE) * _MULTIPLE
        ids[0] = torch.nn.functional.pad(ids[0], (0, longest - len(ids[0])), value=PAD_ID)
        padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=PAD_ID)
        labels = torch.tensor([feature["labels"] for feature in features])
        mask = (padded != PAD_ID).long()
        return {"input_ids": padded, "attention_mask": mask, "labels": labels}

    features = []
    for row in rows[arrange(texts.lengths[rows], BERTFIT_ROWS, seed=0)]:
        ids = texts.gather(np.array([row])).tolist()
        features.append({"input_ids": ids, "labels": int(row % 2)})
    torch.manual_seed(0)
    # Trainer turns TF32 on if it compiles; the others use what they choose themselves.
    with tempfile.TemporaryDirectory() as output, float32_precision("high"):
        settings = settle_trainer(
            output,
            num_train_epochs=3,
            dataloader_num_workers=2 if torch.cuda.is_available() else 0,
            dataloader_persistent_workers=torch.cuda.is_available(),
            per_device_train_batch_size=BERTFIT_ROWS,
            torch_compile=torch.cuda.is_available(),
        )
        started = time.perf_counter()
        Trainer(
            model=BertForSequenceClassification(size.config),
            args=settings,
            train_dataset=features,
            data_collator=collate,
            callbacks=[Marks()],
        ).train()
    warm = marks[3.0] - marks[2.0]
    return warm, max(0.0, marks[2.0] - started - 2.0 * warm)


@contextlib.contextmanager
def float32_precision(name: str) -> Iterator[None]:
    """Set the precision of float32 matmuls, and reset it to the highest afterwards."""
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")


def train_bertfit(
    size: Size,
    texts: EncodedTexts,
    rows: np.ndarray,
    _length: int,
    *,
    compiled: bool = False,
    fast_path: str = "auto",
    rows_a_step: int = BERTFIT_ROWS,
) -> tuple[float, float]:
    """Return the seconds of bertfit's third epoch, and the extra time of the first two.

    A size of pack that occurs once in the first epoch is recorded in the second. All epochs have
    the same packs, because in a whole training with these lengths 98 of 100 have a size that
    occurred twice before.
    """
    settings = TrainSettings(
        batch_size=rows_a_step,
        compile="on" if compiled else "off",
        fast_path=fast_path,  # type: ignore[arg-type]  # one of its values
    )
    with training(size, texts, rows, settings) as (take_epoch, weights):
        marks = [time.perf_counter()]
        take_epoch()
        marks.append(time.perf_counter())
        record_no_further_sizes(weights)  # one found in the second would be recorded in the third
        for _ in range(2):
            take_epoch()
            marks.append(time.perf_counter())
    third = marks[3] - marks[2]
    return third, max(0.0, marks[2] - marks[0] - 2.0 * third)


def record_no_further_sizes(weights: TrainedWeights) -> None:
    """Fill packs only to sizes that are known.

    The same packs, again and again, would make further sizes worth recording in the middle of what
    is timed; a long training meets the same packs too seldom for that.
    """
    if weights.recorded is not None:
        weights.recorded.set_worth(math.inf)


@contextlib.contextmanager
def training(
    size: Size, texts: EncodedTexts, rows: np.ndarray, settings: TrainSettings
) -> Iterator[tuple[Callable[..., list[float]], TrainedWeights]]:
    """Give what takes the steps of an epoch, and the weights they change.

    It takes the number of the epoch, 0 if it is left out, and returns the seconds of each step
    after the last one has ended.
    """
    precision = choose_precision()
    model = build(size, precision, packing="auto" if precision.device.type == "cuda" else "on")
    data = TrainingData(texts, np.arange(len(texts)) % 2, PAD_ID)
    as_written = dataclasses.replace(settings, compile="off")
    measured = measure_token_budget(model, data, settings=as_written, precision=precision)
    budget = DEFAULT_TOKENS if measured is None else measured
    weights = TrainedWeights(model, settings, precision)
    print(f"  token budget {budget:,}; recording {weights.recording}", flush=True)
    print(f"  operators {plan_operators_of(model, precision)}", flush=True)
    for told in weights.tell_faults():
        print(f"  {told}", flush=True)

    def take_epoch(epoch: int = 0) -> list[float]:
        plan = plan_epoch(texts.lengths[rows], settings.batch_size, seed=0, epoch=epoch)
        taken = train_steps(
            weights,
            data,
            [[rows[places] for places in plan]],
            learning_rate=lambda _: 2e-5,
            precision=precision,
            max_tokens=budget,
        )
        return [report.seconds for report in read_steps(taken, precision.device)]

    yield take_epoch, weights
    if weights.recorded is not None and not weights.recording.is_on:
        print(f"  recording {weights.recording}", flush=True)
    weights.release()


# bertfit first: if a peer fails, or takes all the time, the rest is known.
WAYS: dict[str, Callable[..., tuple[float, float]]] = {
    "bertfit": train_bertfit,
    "bertfit_128_rows": functools.partial(train_bertfit, rows_a_step=128),
    "bertfit_256_rows": functools.partial(train_bertfit, rows_a_step=256),
    "bertfit_as_written": functools.partial(train_bertfit, fast_path="off"),
    "bertfit_compiled": functools.partial(train_bertfit, compiled=True),
    "notebook": train_notebook,
    "trainer": train_trainer,
}


def time_scoring(size: Size, texts: EncodedTexts, precision: Precision) -> dict[str, float]:
    """Return the seconds that scoring all texts takes, the median of three times.

    In packs of the default size, as `bertfit evaluate` makes them.
    """
    model = build(size, precision, packing="auto" if precision.device.type == "cuda" else "on")
    seconds = []
    for _ in range(4):  # the first is a warm-up
        started = time.perf_counter()
        score_texts(model, texts, precision=precision, pad_id=PAD_ID)
        seconds.append(time.perf_counter() - started)
    first, median = seconds[0], statistics.median(seconds[1:])
    print(f"scoring {len(texts):,} texts: {median:.2f} s", flush=True)
    return {"num_texts": len(texts), "seconds": median, "first_seconds": first}
