"""Models and tokenizers from the hub (name and pinned revision) or a local folder: complete, or an error.

Weights come from safetensors only (a pickle can run code), remote code stays off unless enabled, and a weight that the
files lack is an error, since it would otherwise be initialized at random without notice.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.logging import disable_progress_bar

from tunelab.allowed_code import check_code_is_allowed
from tunelab.errors import ModelError, TunelabError, UsageError
from tunelab.failures import chain, in_words, is_of_machine, sentence
from tunelab.files import kept_digest
from tunelab.hub import hub_access, why_unreachable
from tunelab.models.allocator import keep_freed_memory
from tunelab.models.checkpoint_files import (
    INDEX,
    checkpoint_folder,
    no_pickles,
    weight_files,
)
from tunelab.models.complete import check_head, check_nothing_left_over, check_shapes, lacking
from tunelab.models.finite import check_model_finite
from tunelab.models.folder_files import CONFIG, REMEDY, check_config_files, check_tokenizer_files, check_tokenizer_json
from tunelab.models.formats._format import WeightFormat
from tunelab.models.gguf.reading import gguf_origin, local_model, model_with_tokenizer, without_code
from tunelab.models.planned_size import check_planned_size, file_state
from tunelab.models.precision import check_format, stored_format
from tunelab.models.quantized_load import load_quantized

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype in DTYPES."""
    return next(name for name, known in DTYPES.items() if known == dtype)


def load_tokenizer(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> PreTrainedTokenizerFast:
    """The tokenizer of a model on the hub or in a folder.

    Raises:
        ModelError: it cannot be loaded; or it gives no character offsets, which target masks need.
    """
    name = model_with_tokenizer(without_code(name) if trust_remote_code else name)
    _check_folder(name, "config.json", "tokenizer.json")
    check_config_files(Path(name))
    check_tokenizer_files(Path(name))
    if trust_remote_code:
        _check_code(name, revision)
    try:
        with hub_access(name):
            check_planned_size(name, revision)
            tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # what a broken tokenizer.json raises is not documented
        check_tokenizer_json(Path(name))
        raise _explained(error, "tokenizer", name, revision) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"{name}: {type(tokenizer).__name__} gives no character offsets",
            "exact target masks need a fast tokenizer (a tokenizer.json next to the model)",
        )
    return tokenizer


def load_model(
    name: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    form: WeightFormat | None = None,
    skip: Sequence[str] = (),
) -> PreTrainedModel:
    """A causal language model with its weights in `dtype`, in evaluation mode.

    With a weight format its linear layers except the head are stored in it (quantized_load.py), whether the checkpoint
    has full weights or weights in that format; `skip` names layers that stay in `dtype`.

    On a CPU the process keeps freed memory from now on (models/allocator.py): every step allocates and frees much.

    Raises:
        UsageError: its code is not allowed to run, or it is a GGUF file, which has none.
        ModelError: it is missing, gated, not reachable, needs remote code, has no safetensors, or lacks weights; or it
            is stored in another format than requested; or a weight is NaN or infinite.
    """
    name = local_model(without_code(name) if trust_remote_code else name)
    _check_folder(name, "config.json")
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    disable_progress_bar()  # the library is silent; transformers would draw its own bar
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    stored = stored_format(_quantization(config), name)
    check_format(form, stored, name)
    try:
        with hub_access(name):
            if form is not None:
                model = load_quantized(
                    config,
                    checkpoint_folder(name, revision),
                    stored or form,
                    dtype=dtype,
                    device=torch.device(device),
                    trust_remote_code=trust_remote_code,
                    skip=skip,
                    is_stored=stored is not None,
                )
            else:
                source = {"revision": revision, "trust_remote_code": trust_remote_code}
                model = _load_dense(name, dtype, torch.device(device), **source)
    except TunelabError:
        raise
    except Exception as error:  # the code of any architecture
        raise _explained(error, "model", name, revision) from error
    model.to(device)
    check_model_finite(model, f"{name}@{revision}" if revision else name)
    return model.eval()


def _load_dense(name: str, dtype: torch.dtype, device: torch.device, **source: Any) -> PreTrainedModel:
    if (Path(name) / INDEX).exists():
        weight_files(Path(name))
    model: PreTrainedModel
    with no_pickles(), _without_report():
        model, info = AutoModelForCausalLM.from_pretrained(
            name,
            **source,
            dtype=dtype,
            device_map={"": device} if device.type == "cuda" else None,  # tensor by tensor, not through host memory
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    check_shapes(name, info["mismatched_keys"])
    if info["missing_keys"]:
        raise lacking(name, model, info["missing_keys"])
    check_nothing_left_over(name, model, info["unexpected_keys"])
    head = model.get_output_embeddings()
    if head is not None and model.config.get_text_config().tie_word_embeddings:
        check_head(name, model, head.weight, model.get_input_embeddings().weight)
    return model


@contextmanager
def _without_report() -> Iterator[None]:
    """Without transformers' table of missing, left over and misshapen weights: they are errors here, by name."""
    logger = logging.getLogger("transformers.modeling_utils")

    def is_wanted(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger.addFilter(is_wanted)
    try:
        yield
    finally:
        logger.removeFilter(is_wanted)


def load_config(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """A model's configuration.

    Raises:
        ModelError: it is not available.
    """
    name = local_model(without_code(name) if trust_remote_code else name)
    _check_folder(name, "config.json")
    check_config_files(Path(name))
    if trust_remote_code:
        _check_code(name, revision)
    try:
        with hub_access(name):
            check_planned_size(name, revision)
            if (file := Path(name) / CONFIG).exists() and not trust_remote_code:
                return copy.deepcopy(_config_of_folder(name, file_state(file)))
            return AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code)
    except Exception as error:  # the code of any architecture
        raise _explained(error, "model", name, revision) from error


@lru_cache(maxsize=8)
def _config_of_folder(name: str, state: tuple[int, ...]) -> Any:
    """The configuration in a folder, parsed once while its file stays: every command reads it several times."""
    return AutoConfig.from_pretrained(name, trust_remote_code=False)


def _check_code(name: str, revision: str | None) -> None:
    """Check that the code of a model is allowed: that in its own repository or folder, and any that it names elsewhere.

    Raises:
        UsageError: it is not.
    """
    check_code_is_allowed(name)
    for reference in _code_references(name, revision):
        repository, dashes, module = reference.rpartition("--")
        if dashes and repository != name:
            check_code_is_allowed(repository)
        elif not dashes and Path(name).is_dir():
            file = Path(name) / f"{module.rpartition('.')[0]}.py"
            if file.exists() and file not in Path(name).rglob("*.py"):
                raise UsageError(f"{name}: names code outside the folder, {file}", "move it into the folder")


def _code_references(name: str, revision: str | None) -> list[str]:
    """What a model's files name as code: "module.Class", or "repository--module.Class"; none if they cannot be read."""
    trees: list[Any] = []
    with suppress(Exception), hub_access(name):  # where the library reads them again, the error is explained
        trees.append(PretrainedConfig.get_config_dict(name, revision=revision)[0])
    with suppress(Exception), hub_access(name):
        trees.append(get_tokenizer_config(name, revision=revision))
    found: list[str] = []
    for tree in trees:
        named = tree.get("auto_map") or {}
        for one in named.values() if isinstance(named, dict) else [named]:
            found += [text for text in (one if isinstance(one, list | tuple) else [one]) if isinstance(text, str)]
    return found


def context_window(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> int | None:
    """Tokens in a model's context window, from its configuration alone; None if it does not say."""
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    window = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(window) if window is not None else None


def _quantization(config: Any) -> dict[str, Any] | None:
    """A checkpoint's `quantization_config` as a mapping; None if it has none."""
    found: Any = getattr(config, "quantization_config", None)
    return None if found is None else dict(found.to_dict() if hasattr(found, "to_dict") else found)


def end_token_ids(name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[int, ...]:
    """Ids that end an answer: those of the model's generation_config.json and of its config.json together.

    Instruct models often name several: the end of a turn and the end of a text.
    """
    name = local_model(name)
    config = load_config(name, revision=revision, trust_remote_code=trust_remote_code)
    try:
        generation = GenerationConfig.from_pretrained(name, revision=revision)
    except (OSError, ValueError):  # most base models have no such file; load_config() checked a local one
        generation = None
    except Exception as error:
        raise _explained(error, "generation_config.json of", name, revision) from error
    named: set[int] = set()
    for source in (config.get_text_config(), generation):
        found: Any = getattr(source, "eos_token_id", None)
        named |= set(found if isinstance(found, list | tuple) else [] if found is None else [found])
    return tuple(sorted(named))


def check_tokenizer_fits(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Check that every id that the tokenizer can give has an embedding.

    Raises:
        ModelError: the vocabulary is larger than the model's embedding table.
    """
    table = model.get_input_embeddings().weight.shape[0]
    largest = max(tokenizer.get_vocab().values())
    if largest >= table:
        raise ModelError(
            f"the tokenizer's largest id is {largest}, but {type(model).__name__} embeds only {table} ids",
            "use the model's own tokenizer (model.tokenizer); tokens to be added are named in model.new_tokens",
        )


def model_fingerprint(name: str, model: PreTrainedModel) -> str:
    """Identity of the weights: the hub's commit, or sha256 over the local weight files' names, sizes and bytes."""
    commit = getattr(model.config, "_commit_hash", None)
    if commit:
        return f"{name}@{commit}"
    return weights_digest(Path(local_model(name)))


def weights_digest(folder: Path) -> str:
    """sha256 over the weight files' names, sizes and bytes, as "sha256:HEX"; that of the GGUF file if it was one.

    Kept in the cache for files that have not changed since (place, size, times and inode), since every command compares
    it before it uses a run's base.
    """
    if (origin := gguf_origin(folder)) is not None:
        return f"sha256:{origin['sha256']}"
    files = sorted(folder.glob("*.safetensors"))
    states = [(str(file.resolve()), *file_state(file)) for file in files]
    return f"sha256:{kept_digest(states, lambda: _digest_of(files))}"


def _digest_of(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode())
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 over everything that determines tokenization: the tokenizer's own JSON and its special tokens."""
    special = repr(sorted((key, str(value)) for key, value in tokenizer.special_tokens_map.items()))
    return hashlib.sha256((tokenizer.backend_tokenizer.to_str() + special).encode()).hexdigest()


def _check_folder(name: str, *wanted: str) -> None:
    """A name that looks like a path must be a folder with one of these files, not a name on the hub."""
    path = Path(name)
    if path.is_file():
        raise ModelError(
            f"{name}: a file, not a model's folder",
            "give a folder with config.json and *.safetensors, a .gguf file, or a hub name",
        )
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.is_dir():
        raise ModelError(f"{name}: no such folder", "give a folder with config.json and *.safetensors, or a hub name")
    if path.is_dir() and not any((path / file).exists() for file in wanted):
        raise ModelError(f"{name}: no model in the folder (no config.json)", "give a folder saved by transformers")


def _explained(error: BaseException, what: str, name: str, revision: str | None) -> TunelabError:
    """The library's error in the user's terms, with a remedy."""
    if is_of_machine(error):
        return in_words(error)
    links = list(chain(error))

    def caused_by(*kinds: Any) -> bool:
        return any(isinstance(link, kinds) for link in links)

    text = str(error)
    at = f"{name}@{revision}" if revision else name
    if caused_by(hub.GatedRepoError):
        return ModelError(
            f"{what} {at}: the repository is gated", "accept its license on the hub, then run `hf auth login`"
        )
    if caused_by(hub.RevisionNotFoundError):
        return ModelError(f"{what} {at}: no such revision", "give a branch, tag or commit that the repository has")
    if "trust_remote_code" in text:
        return ModelError(
            f"{what} {at}: it has Python code, which tunelab does not run by default",
            "read that code, then set model.trust_remote_code=true and pin model.revision",
        )
    if caused_by(hub.OfflineModeIsEnabled, hub.LocalEntryNotFoundError, ConnectionError) or "offline" in text.lower():
        why = why_unreachable()
        return ModelError(
            f"{what} {at}: not on this machine, and the hub cannot be reached" + (f" ({why})" if why else ""),
            "download it on a machine with network access (`hf download NAME --local-dir DIR`), then give that folder",
        )
    if caused_by(hub.RepositoryNotFoundError):
        return ModelError(
            f"{what} {at}: neither a folder nor a hub repository that you have access to",
            "check the spelling; for a private repository run `hf auth login`",
        )
    if "safetensors" in text and not caused_by(SafetensorError):
        return ModelError(
            f"{what} {at}: no safetensors weights",
            "pickled weights can run code and are not loaded; convert the model with save_pretrained",
        )
    if caused_by(SafetensorError):
        said = f"{_damaged_weights(Path(name))}: {sentence(error)}"
        return ModelError(f"{what} {at}: cannot be loaded: {said}", "download the file again")
    return ModelError(f"{what} {at}: cannot be loaded: {sentence(error)}", f"{REMEDY}; --debug shows the traceback")


def _damaged_weights(folder: Path) -> str:
    """Which of a folder's weight files cannot be read."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError:
            return f"{file.name} is incomplete"
    return "a weight file is incomplete"
