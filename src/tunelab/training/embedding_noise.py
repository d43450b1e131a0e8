"""NEFTune: uniform noise on the embeddings of training rows.

Source: Jain et al. 2023, NEFTune, arXiv 2310.05914; transformers and TRL name its alpha `neftune_noise_alpha`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class EmbeddingNoise:
    """Adds noise to the outputs of an embedding while it is in training mode.

    Each value is uniform in ±alpha / sqrt(L d) for a token whose row has L tokens, at the embedding's width d. Numbers
    come from torch's generator, which is seeded for every step.

    Args:
        embedding: of token ids; its outputs are [rows, tokens, d].
        alpha: 5, 10 and 15 in the paper.
    """

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._lengths: Tensor | None = None
        embedding.register_forward_hook(self._add)

    def before_pass(self, lengths: Tensor) -> None:
        """Take note of the next pass: the length of each token's row, [rows, tokens]."""
        self._lengths = lengths

    def _add(self, embedding: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if not embedding.training or self._lengths is None:
            return output
        noise = torch.empty_like(output, dtype=torch.float32).uniform_(-1, 1)
        largest = self.alpha / (self._lengths * output.shape[-1]).float().sqrt()  # [rows, tokens]
        return output + (noise * largest[..., None]).to(output.dtype)
