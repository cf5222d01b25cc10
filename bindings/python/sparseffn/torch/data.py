"""Text to token ids, and token ids to batches."""

from __future__ import annotations

import lzma
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch


def read_documents(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The documents of UTF-8 text files, plain or .xz; a zero byte ends a document, a file without any is one document."""
    def read(path: str | os.PathLike[str]) -> list[str]:
        data = Path(path).read_bytes()
        try:
            text = (lzma.decompress(data) if str(path).endswith(".xz") else data).decode("utf-8")
        except (lzma.LZMAError, UnicodeDecodeError) as e:
            raise ValueError(f"text: {path} is not UTF-8 text, plain or .xz: {e}") from None
        return [d for d in text.split("\0") if d.strip()]

    if not paths:
        raise ValueError("text: no files were named")
    with ThreadPoolExecutor(8) as pool:
        return [document for found in pool.map(read, paths) for document in found]


def tokenize(tokenizer: Any, documents: Iterable[str], bos: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """All documents in a random order (``seed``), ``bos`` before each: uint16, or int32 for a vocabulary of more than 65,536."""
    kind = np.uint16 if max(tokenizer.get_vocab_size(), bos) <= 65536 else np.int32
    shuffled = list(documents)
    np.random.default_rng(seed).shuffle(shuffled)
    pieces = []
    for i in range(0, len(shuffled), 4096):
        for encoded in tokenizer.encode_batch(shuffled[i : i + 4096], add_special_tokens=False):
            pieces.append(np.array([bos, *encoded.ids], kind))
    return np.concatenate(pieces) if pieces else np.empty(0, kind)


class Tokens:
    """Token ids on a device, cut into windows of n_context + 1.

    ``batch(step, n)`` depends on nothing but the seed and the step: each pass over the text starts at another offset
    and takes the windows in another random order, so that a run resumes exactly from the number of its next step.
    """

    def __init__(self, ids: np.ndarray[Any, Any], n_context: int, device: str | torch.device = "cpu", seed: int = 0) -> None:
        if len(ids) < 2 * (n_context + 1):
            raise ValueError(f"text: {len(ids)} tokens are too few, at least {2 * (n_context + 1)} are needed for windows of {n_context}")
        self.ids = torch.from_numpy(np.ascontiguousarray(ids).astype(np.int32)).to(device)
        self.n_context, self.seed = n_context, seed
        self.n_windows = (len(ids) - n_context - 1) // n_context  # one is given up to the offset
        self._epoch, self._order, self._offset = -1, torch.empty(0), 0

    def __len__(self) -> int:
        return len(self.ids)

    def _window(self, index: torch.Tensor, offset: int) -> torch.Tensor:
        at = offset + index[:, None] * self.n_context + torch.arange(self.n_context + 1, device=self.ids.device)
        return self.ids[at].long()

    def batch(self, step: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Inputs and targets [n][n_context] of training step ``step`` (from 1)."""
        first, parts = (step - 1) * n, []
        while n > 0:
            epoch, at = divmod(first, self.n_windows)
            if epoch != self._epoch:
                g = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                self._order = torch.randperm(self.n_windows, generator=g).to(self.ids.device)
                self._offset = int(torch.randint(self.n_context, (1,), generator=g))
                self._epoch = epoch
            take = min(n, self.n_windows - at)
            parts.append(self._window(self._order[at : at + take], self._offset))
            first, n = first + take, n - take
        both = torch.cat(parts)
        return both[:, :-1], both[:, 1:]

    def in_order(self, n: int, limit: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        """Batches of n windows from the start, without overlap, at most ``limit`` windows: for evaluation."""
        total = min(limit, (len(self.ids) - 1) // self.n_context)
        for i in range(0, total, n):
            both = self._window(torch.arange(i, min(i + n, total), device=self.ids.device), 0)
            yield both[:, :-1], both[:, 1:]
