"""One CUDA GPU: the kernels of a layer timed one by one, attention next to torch's own.

Microseconds per call in graph replays, the median of five replays of twenty calls, so launches are
not counted. The texts are 16 and 62 of 128 tokens, and 64 with the lengths of real IMDB reviews cut
at 512. The weight gradients of 11 layers are timed one by one and several layers at once.

Needs BERTFIT_DATA and a CUDA GPU with Triton.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import write_result
from reviews import read_reviews
from script import add_output, add_tokenizer, run_script
from transformers import AutoTokenizer

from bertfit.assets import find_embedded_model
from bertfit.data.encoding import EncodingRule, encode_texts
from bertfit.modeling.backlog import Product, choose_batch, multiply, multiply_together
from bertfit.modeling.kernels.attention import Spans, States, attend, attend_backward
from bertfit.modeling.kernels.elementwise import (
    Dropout,
    Fold,
    Sums,
    activate,
    activate_backward,
    add_and_norm,
    add_and_norm_backward,
    fold_together,
)
from bertfit.modeling.kernels.launching import find_kernel_obstacle
from bertfit.modeling.tokenizer_files import fast_tokenizer

WIDTH, INNER, HEADS, RATE = 768, 3072, 12, 0.1
ROWS = (2048, 8192, 16384)
REPEATS, ROUNDS = 20, 5
LAYERS, MOST_WAITING = 11, 2**26
"""Layers that compute all tokens, and their limit for tokens that wait, in numbers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_output(parser)
    add_tokenizer(parser)
    arguments = parser.parse_args()
    device = torch.device("cuda")
    obstacle = find_kernel_obstacle(device) if torch.cuda.is_available() else "torch finds no GPU"
    if obstacle is not None:
        sys.exit(f"This measures a GPU's kernels: {obstacle}.")
    mixes = {
        "16 of 128": [128] * 16,
        "62 of 128": [128] * 62,
        "64 of IMDB": read_lengths(arguments.tokenizer),
    }
    measured = {
        "attention": {name: time_attention(lengths, device) for name, lengths in mixes.items()},
        "others": {str(rows): time_others(rows, device) for rows in ROWS},
        "weight gradients": {str(rows): time_products(rows, device) for rows in ROWS},
    }
    for part in measured.values():
        for name, times in part.items():
            print(name, times, flush=True)
    gpu = torch.cuda.get_device_name()
    write_result("gpu-kernels", {"gpu": gpu, **measured}, output=arguments.output, gpu=gpu)


def read_lengths(folder: Path | None) -> list[int]:
    """Return the token counts of 64 reviews cut at 512, longest first."""
    tokenizer = fast_tokenizer(AutoTokenizer.from_pretrained(folder or find_embedded_model()))
    texts = read_reviews("train", num_rows=64, seed=0).texts
    encoded = encode_texts(texts, tokenizer, EncodingRule(max_length=512))
    return sorted(map(int, encoded.lengths), reverse=True)


def time_attention(lengths: Sequence[int], device: torch.device) -> dict[str, float]:
    """Return the microseconds of torch's attention and bertfit's, forward and backward."""
    starts = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int32)).to(device)
    longest = max(lengths)
    joint = draw(sum(lengths), 3 * WIDTH, device=device)
    query, key, value = (part.unflatten(-1, (HEADS, -1)) for part in joint.split(WIDTH, dim=1))
    gradient = draw(*query.shape, device=device)
    places = (starts, starts, longest, longest)
    scale = query.shape[-1] ** -0.5

    options = (RATE, False, False)  # dropout, causal, return of the debug mask

    def attend_by_torch() -> Any:  # noqa: ANN401 (the operator's outputs)
        operator = torch.ops.aten._flash_attention_forward  # noqa: SLF001 (only it has dropout)
        return operator(query, key, value, *places, *options, scale=scale)

    output, log_sums, state, unused, _ = attend_by_torch()
    states, spans = States(query, key, value), Spans(*places)
    dropout = Dropout(RATE, torch.tensor([7], device=device), 0)
    attended = attend(states, spans, dropout=dropout)
    return {
        "torch_forward": replay(attend_by_torch),
        "torch_backward": replay(
            lambda: torch.ops.aten._flash_attention_backward(  # noqa: SLF001 (as above)
                *(gradient, query, key, value, output, log_sums, *places),
                *(RATE, False, state, unused),
                scale=scale,
            )
        ),
        "forward": replay(lambda: attend(states, spans, dropout=dropout)),
        "backward": replay(
            lambda: attend_backward(gradient, states, attended, spans, dropout=dropout)
        ),
    }


def time_others(num_rows: int, device: torch.device) -> dict[str, float]:
    """Return the microseconds of the kernels between matrix products."""
    hidden, residual, gradient = (draw(num_rows, WIDTH, device=device) for _ in range(3))
    inner, of_inner = (draw(num_rows, INNER, device=device) for _ in range(2))
    norm = torch.nn.LayerNorm(WIDTH, device=device, dtype=torch.bfloat16)
    dropout = Dropout(RATE, torch.tensor([7], device=device), 0)
    sums = Sums.make(6 * WIDTH + INNER, num_rows, device)
    row = torch.empty(9 * WIDTH + INNER, device=device)
    # As attention leaves them: a row for each text, here of 128 tokens.
    of_states = torch.zeros(max(1, num_rows // 128), WIDTH, device=device)
    fold = Fold(row, sums.partials, of_states, of_states)
    with torch.no_grad():
        _, kept = add_and_norm(hidden, residual, norm, dropout, keeps=True)
        works: dict[str, Callable[[], object]] = {
            "norm": lambda: add_and_norm(hidden, residual, norm, dropout, keeps=True),
            "norm_backward": lambda: add_and_norm_backward(
                gradient, kept, norm.weight, dropout, sums, at=0
            ),
            "gelu": lambda: activate(inner),
            "gelu_backward": lambda: activate_backward(of_inner, inner, sums, at=0),
            "fold": lambda: fold_together([fold]),
        }
        return {name: replay(work) for name, work in works.items()}


def time_products(num_tokens: int, device: torch.device) -> dict[str, float]:
    """Return the microseconds of all weight gradients, one by one and of several layers at once."""
    times = {}
    num_together = choose_batch(LAYERS, num_tokens * WIDTH, memory=MOST_WAITING)
    shapes = ((3 * WIDTH, WIDTH), (WIDTH, WIDTH), (INNER, WIDTH), (WIDTH, INNER))
    for num_outputs, num_inputs in shapes:
        gradients = torch.empty(LAYERS, num_outputs, num_inputs, device=device)
        factors = (draw(LAYERS, num_tokens, of, device=device) for of in (num_outputs, num_inputs))
        products = [Product(*each) for each in zip(gradients, *factors, strict=True)]
        runs = [products[at : at + num_together] for at in range(0, LAYERS, num_together)]

        def go_one_by_one(products: Sequence[Product] = products) -> None:
            for product in products:
                multiply(product)

        def go_together(runs: Sequence[Sequence[Product]] = runs) -> None:
            for run in runs:
                multiply_together(run)

        name = f"{num_outputs} x {num_inputs}"
        times[f"{name}, one by one"] = replay(go_one_by_one)
        times[f"{name}, {num_together} at once"] = replay(go_together)
    return times


def draw(*shape: int, device: torch.device) -> torch.Tensor:
    return torch.randn(*shape, device=device).to(torch.bfloat16)


def replay(work: Callable[[], object]) -> float:
    """Return the microseconds of one call when twenty are replayed as a graph."""
    for _ in range(3):  # compiles and warms up
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(REPEATS):
            work()
    graph.replay()
    times: list[float] = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / REPEATS * 1e3)
    return statistics.median(times)


if __name__ == "__main__":
    run_script(main)
