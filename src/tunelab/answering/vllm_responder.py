"""A responder that generates with vLLM; prompts, templates, stop tokens and texts are tunelab's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import nn

from tunelab.answering.responder import Responder
from tunelab.errors import UsageError
from tunelab.inference.row import Generation
from tunelab.inference.sampling import Decoding
from tunelab.inference.vllm_backend import VllmEngine, VllmModel, installed_version, lora_rank, quantization_argument
from tunelab.models.checkpoint_files import weight_files
from tunelab.models.finite import check_files_finite
from tunelab.models.gguf.reading import local_model
from tunelab.models.load import load_config, model_fingerprint
from tunelab.models.precision import stored_format
from tunelab.preparation.model import compute_dtype, recipe_format


class VllmResponder(Responder):
    """Answers like Responder, with another engine; has no weights of its own and no likelihoods."""

    @property
    def model(self) -> nn.Module:
        raise UsageError(
            "vLLM generates answers only: no likelihoods, no streaming",
            "omit --backend vllm to use tunelab's engine",
        )

    @cached_property
    def fingerprint(self) -> str:
        """The same as for weights that tunelab loads, without loading them."""
        return model_fingerprint(self.weights.name, _configured(self._config))

    @property
    def identity(self) -> dict[str, Any]:
        """Model and prompt, and the version of vLLM."""
        return {**super().identity, "backend": f"vllm {installed_version()}"}

    def generations(
        self, rows: Sequence[Sequence[int]], decoding: Decoding, micro_batch_tokens: int | None, skip: frozenset[int]
    ) -> Iterator[Generation]:
        """vLLM's answers to token ids; indices in `skip` are left out. vLLM chooses its own batch size."""
        return self.engine.generate(rows, decoding, stop_token_ids=self.stop_token_ids, skip=skip)

    @cached_property
    def engine(self) -> VllmEngine:
        """vLLM with this model; no weights are loaded yet.

        Raises:
            UsageError: vLLM does not support the precision or the adapter.
            ModelError: the checkpoint's format is not the requested one, or the adapter is missing; or there are no
                safetensors.
        """
        settings, weights = self.recipe.model, self.weights
        trained = weights.digest is not None
        stored = stored_format(_quantization(self._config), weights.name)
        form, skip = (None, ()) if trained else (recipe_format(self.recipe), self.recipe.precision.skip)
        if weights.adapter is not None:
            lora_rank(weights.adapter)
        if settings.new_tokens and not trained:
            raise UsageError(
                f"{weights.name} has no embeddings of its new tokens (model.new_tokens), which vLLM cannot add",
                "merge the run (tunelab merge), or omit --backend vllm to use tunelab's engine",
            )
        place = Path(local_model(weights.name))
        if place.is_dir():
            weight_files(place)  # vLLM would unpickle others
        for folder in (place, weights.adapter):
            if folder is not None and folder.is_dir():
                check_files_finite(folder)
        tokenizer = str(self.tokenizer.name_or_path)
        model = VllmModel(
            name=str(place) if place.is_dir() else weights.name,
            tokenizer=tokenizer,
            dtype=compute_dtype(self.recipe),
            revision=weights.revision,
            tokenizer_revision=weights.revision if tokenizer == weights.name else None,
            quantization=quantization_argument(form, stored, skip, weights.name),
            adapter=weights.adapter,
            trust_remote_code=settings.trust_remote_code,
            context=self.context,
        )
        return VllmEngine(model, self.tokenizer)

    @cached_property
    def _config(self) -> Any:
        remote = self.recipe.model.trust_remote_code
        return load_config(self.weights.name, revision=self.weights.revision, trust_remote_code=remote)


def on_vllm(opened: Responder) -> VllmResponder:
    """A responder that sends to vLLM what this one would send to tunelab's engine.

    Raises:
        UsageError: vLLM is not installed, or does not support what is requested.
        ModelError: see VllmResponder.engine.
    """
    installed_version()
    responder = VllmResponder(**{part.name: getattr(opened, part.name) for part in fields(Responder) if part.init})
    _ = responder.engine  # refuse before anything is encoded
    return responder


def _configured(config: Any) -> Any:
    """Stands in for a model if only its configuration is read."""
    return SimpleNamespace(config=config)


def _quantization(config: Any) -> dict[str, Any] | None:
    found = getattr(config, "quantization_config", None)
    return None if found is None else dict(found.to_dict() if hasattr(found, "to_dict") else found)
