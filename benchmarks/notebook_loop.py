"""The notebook's training loop, written plainly: what bertfit is measured against.

A BertModel with dropout and one linear layer; texts tokenized as they are fetched and padded to 128
tokens (or another number); float32; AdamW with its default weight decay; linear decay to 0;
gradients clipped at 1.0; batches of 16 in random order; validation after each epoch, keeping the
best F1. It uses only torch, transformers and scikit-learn, nothing of bertfit. Faults of the
notebook that would spoil the comparison are not reproduced: it gets the same validation rows as
bertfit.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import AutoTokenizer, BertModel, PreTrainedTokenizerBase
from transformers import get_linear_schedule_with_warmup as linear_schedule

BATCH_SIZE = 16
LEARNING_RATE = 2e-5
MAX_GRAD_NORM = 1.0


class SentimentClassifier(nn.Module):
    """BERT's pooled output, dropout, one linear layer."""

    def __init__(self, folder: Path, num_labels: int) -> None:
        """Load the encoder; the linear layer is initialized at random."""
        super().__init__()
        self.bert = BertModel.from_pretrained(folder, dtype=torch.float32)
        self.drop = nn.Dropout(p=self.bert.config.hidden_dropout_prob)
        self.out = nn.Linear(self.bert.config.hidden_size, num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return logits (B, C)."""
        outputs = self.bert(input_ids=input_ids, attention_mask=attention_mask)
        logits: torch.Tensor = self.out(self.drop(outputs.pooler_output))
        return logits


class ReviewDataset(Dataset[dict[str, torch.Tensor]]):
    """Texts that are tokenized and padded each time they are fetched."""

    def __init__(
        self,
        texts: Sequence[str],
        label_ids: Sequence[int],
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
    ) -> None:
        """Keep the rows."""
        self.texts, self.label_ids, self.tokenizer = texts, label_ids, tokenizer
        self.max_length = max_length

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.texts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Return one row, padded to the full length."""
        encoding = self.tokenizer(
            self.texts[index],
            max_length=self.max_length,
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        )
        return {
            "input_ids": encoding["input_ids"].flatten(),
            "attention_mask": encoding["attention_mask"].flatten(),
            "targets": torch.tensor(self.label_ids[index], dtype=torch.long),
        }


@dataclass(frozen=True, slots=True)
class LoopResult:
    """A trained model, and how long its training took."""

    model: SentimentClassifier
    tokenizer: PreTrainedTokenizerBase
    train_seconds: float
    """Fetching rows and taking steps, without validation."""
    val_f1: list[float]


def train_plainly(
    folder: Path,
    train_rows: tuple[Sequence[str], Sequence[int]],
    validation_rows: tuple[Sequence[str], Sequence[int]],
    *,
    num_labels: int,
    epochs: int,
    seed: int,
    max_length: int = 128,
) -> LoopResult:
    """Train as the notebook does, and return the model of the epoch with the best F1."""
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = SentimentClassifier(folder, num_labels)
    dataset = ReviewDataset(*train_rows, tokenizer, max_length)
    loader = DataLoader(dataset, batch_size=BATCH_SIZE, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    scheduler = linear_schedule(
        optimizer, num_warmup_steps=0, num_training_steps=len(loader) * epochs
    )
    train_seconds = 0.0
    val_f1: list[float] = []
    best: dict[str, torch.Tensor] = {}
    for _ in range(epochs):
        started = time.perf_counter()
        _train_epoch(model, loader, optimizer, scheduler)
        train_seconds += time.perf_counter() - started
        texts = validation_rows[0]
        predicted = predict_plainly(model, tokenizer, texts, max_length=max_length).argmax(axis=1)
        val_f1.append(float(f1_score(validation_rows[1], predicted, average="macro")))
        if val_f1[-1] == max(val_f1):
            best = copy.deepcopy(model.state_dict())
    model.load_state_dict(best)
    return LoopResult(model, tokenizer, train_seconds, val_f1)


def _train_epoch(
    model: SentimentClassifier,
    loader: DataLoader[dict[str, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    model.train()
    loss_function = nn.CrossEntropyLoss()
    losses = []
    for batch in loader:
        optimizer.zero_grad()
        logits = model(batch["input_ids"], batch["attention_mask"])
        loss = loss_function(logits, batch["targets"])
        losses.append(loss.item())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm=MAX_GRAD_NORM)
        optimizer.step()
        scheduler.step()


def predict_plainly(
    model: SentimentClassifier,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int = 128,
) -> np.ndarray:
    """Return probabilities (n, C) in the order of the texts."""
    model.eval()
    dataset = ReviewDataset(texts, [0] * len(texts), tokenizer, max_length)
    pieces = []
    with torch.no_grad():
        for batch in DataLoader(dataset, batch_size=BATCH_SIZE):
            logits = model(batch["input_ids"], batch["attention_mask"])
            pieces.append(torch.softmax(logits.double(), dim=1).numpy())
    return np.concatenate(pieces)
