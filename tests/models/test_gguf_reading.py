"""GGUF files as bases: exactly the model in the file, or a refusal that says what would differ."""

from __future__ import annotations

import json
import shutil
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from architectures import tiny_architecture
from gguf_models import GGUF_MODELS, gguf_model, rounded
from safetensors.torch import load_file
from tiny import tiny_model, tiny_tokenizer

from tunelab.errors import ModelError, UsageError
from tunelab.files import cache_home
from tunelab.models.gguf import reading
from tunelab.models.gguf.families import FAMILIES, unchanged
from tunelab.models.gguf.file_header import read_header
from tunelab.models.gguf.reading import gguf_file, gguf_sentences, local_model, undone
from tunelab.models.load import end_token_ids, load_config, load_model, weights_digest
from tunelab.models.merge import logits_of
from tunelab.publishing import gguf_file as writing
from tunelab.publishing.gguf_file import write_gguf

ROWS = [[72, 101, 108, 108, 111, 32, 10, 97, 98, 99], [250, 3, 4, 5, 6, 7, 8]]
#: Read in the fast tests; the others are slow.
FAST = ("llama3", "qwen2, yarn", "qwen3", "gemma", "gemma3, linear", "phi3, part", "gpt2", "phi3, long", "mixtral")
META = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.5] * 2, "long_factor": [2.0, 3.0] * 2}
NAMES = (*GGUF_MODELS, "gpt2", "phi3, long")


def made(name: str) -> Any:
    """A model whose weights bfloat16 holds exactly."""
    if name == "gpt2":
        return rounded(tiny_model("gpt2"))
    if name == "phi3, long":
        rope = {"rope_parameters": LONG, "original_max_position_embeddings": 32}
        return rounded(tiny_model("phi3", **rope))
    metas = {"rope_parameters": META, "max_position_embeddings": 16384} if name.endswith("llama3") else {}
    return rounded(gguf_model(name, **metas))


def written(model: Any, path: Path, tokenizer: Any = None, **how: Any) -> Path:
    write_gguf(model, tokenizer or tiny_tokenizer(), path, **{"kind": "BF16", **how})
    return path


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_the_model_is_the_one_in_the_file(name: str, tmp_path: Path) -> None:
    model = made(name)
    loaded = load_model(str(written(model, tmp_path / "m.gguf")), dtype=torch.float32)
    for here, there in zip(logits_of(loaded, ROWS), logits_of(model, ROWS), strict=True):
        assert torch.allclose(here, there, atol=2e-5)
    same = {"MistralForCausalLM": "LlamaForCausalLM"}.get(type(model).__name__, type(model).__name__)
    assert type(loaded).__name__ == same
    assert loaded.config.tie_word_embeddings == model.config.tie_word_embeddings
    assert loaded.config.dtype == torch.float32  # as it was asked for


def test_every_change_of_layout_is_undone() -> None:
    """Also for shapes that are not square, and groups that are not halves."""
    for name in NAMES:
        model = made(name)
        family = FAMILIES[type(model).__name__]
        for parameter_name, parameter in model.named_parameters():
            change = family.change(parameter_name, model.config)
            if change is not unchanged:
                again = undone(change, change(parameter.detach()), tuple(parameter.shape))
                assert torch.allclose(again, parameter, atol=1e-6), parameter_name


@pytest.mark.parametrize(("kind", "dtype"), [("F16", "float16"), ("BF16", "bfloat16"), ("Q8_0", "float32")])
def test_weights_are_kept_in_the_smallest_dtype_that_holds_them(kind: Any, dtype: str, tmp_path: Path) -> None:
    model = tiny_model("llama", intermediate_size=64).to(getattr(torch, dtype))
    file = written(model, tmp_path / "m.gguf", kind=kind)
    folder = Path(local_model(str(file)))
    assert load_config(str(file)).dtype == getattr(torch, dtype)
    weight = load_file(folder / "model-00001.safetensors")["model.layers.1.mlp.up_proj.weight"]
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}["blk.1.ffn_up.weight"]
    values = torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type))
    assert torch.equal(weight.float(), values) and weight.dtype == getattr(torch, dtype)
    said = gguf_sentences(str(file))
    matrices = sum(parameter.dim() > 1 for parameter in model.parameters())
    assert said[0].startswith(f"{file}: GGUF with {matrices} {kind} matrices, dequantized; dense {dtype} weights")
    assert gguf_sentences("owner/name") == []


def test_several_files_of_weights_are_one_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "SHARD", 10_000)
    model = rounded(tiny_model("llama", intermediate_size=52))
    file = written(model, tmp_path / "m.gguf")
    assert len(list(Path(local_model(str(file))).glob("*.safetensors"))) > 3
    loaded = load_model(str(file), dtype=torch.float32)
    assert all(map(torch.equal, loaded.parameters(), model.parameters()))


def test_a_file_is_converted_once_and_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(made("qwen3"), tmp_path / "m.gguf", stop_token_ids=[5, 6])
    folder = Path(local_model(str(file)))
    monkeypatch.setattr(reading, "_convert", lambda *_: pytest.fail("converted again"))
    assert Path(local_model(str(tmp_path))) == folder  # a folder with one file
    assert weights_digest(folder) == f"sha256:{reading.gguf_digest(file)}"
    assert local_model("owner/name") == "owner/name"
    assert end_token_ids(str(file)) == (5, 6, 256)
    (tmp_path / "other.gguf").write_bytes(file.read_bytes())
    assert Path(local_model(str(tmp_path / "other.gguf"))) == folder
    with pytest.raises(ModelError, match=r"has 2 GGUF files: m\.gguf, other\.gguf"):
        local_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"gone\.gguf: no such file"):
        local_model(str(tmp_path / "gone.gguf"))
    (tmp_path / "config.json").write_text("{}")
    assert gguf_file(str(tmp_path)) is None


def test_a_copy_of_a_converted_checkpoint_is_known_by_its_own_weights(tmp_path: Path) -> None:
    """Its weights may be changed there: the hash of the file would still stand for them."""
    file = written(made("qwen3"), tmp_path / "m.gguf")
    copy = Path(shutil.copytree(local_model(str(file)), tmp_path / "copy"))
    digest = weights_digest(copy)
    assert digest != f"sha256:{reading.gguf_digest(file)}"
    (copy / "model-00001.safetensors").write_bytes(b"other")
    assert weights_digest(copy) != digest


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    file, convert = written(made("qwen3"), tmp_path / "m.gguf"), reading._convert

    def convert_slowly(path: Path, digest: str, folder: Path) -> None:
        convert(path, digest, folder)
        with open(path, "r+b") as written_again:
            written_again.seek(-1, 2)
            written_again.write(b"\x01")

    monkeypatch.setattr(reading, "_convert", convert_slowly)
    before = reading.gguf_digest(file)
    with pytest.raises(ModelError, match=r"m\.gguf: changed while it was read"):
        local_model(str(file))
    assert not (cache_home() / "gguf" / f"{before[:32]}-{reading.VERSION}").exists()


def test_two_that_want_one_file_convert_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second put its own in place of what the first had begun to load."""
    monkeypatch.setenv("TUNELAB_CACHE", str(tmp_path / "cache"))
    file, convert, begun = written(made("qwen3"), tmp_path / "m.gguf"), reading._convert, []

    def convert_slowly(path: Path, digest: str, folder: Path) -> None:
        begun.append(path)
        time.sleep(0.1)
        convert(path, digest, folder)

    monkeypatch.setattr(reading, "_convert", convert_slowly)
    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(local_model, [str(file)] * 2))) == 1
    assert begun == [file]


# What would differ is refused.


def test_architectures_that_are_not_verified_are_named(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "rwkv7")
    closed(writer)
    with pytest.raises(ModelError, match="its architecture is rwkv7; GGUF files are read of llama, qwen2, "):
        local_model(str(tmp_path / "m.gguf"))


def closed(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("attention.scale", 0.5, "attention.scale is 0.5 in the file, and None in the model that would be built"),
        ("attention.sliding_window", 16, "attention.sliding_window is 16 in the file, and None"),
        ("rope.scaling.attn_factor", 2.0, "rope.scaling.attn_factor is 2.0"),
        ("rope.scaling.type", "longer", "rope.scaling.type is longer in the file, and none"),
        ("attention.layer_norm_rms_epsilon", None, "would differ: .*Validation error for field 'rms_norm_eps'"),
        ("block_count", 10**9, "qwen3.block_count is 1,000,000,000, more than any of its tensors"),
        ("block_count", 0, "qwen3.block_count is 0, expected a positive integer"),
        ("block_count", 1, r"tensor blk.1.attn_k.weight has no place in the model"),
        ("block_count", 3, r"tensor blk.2.attn_k.weight is missing"),
        ("feed_forward_length", 64, r"tensor blk.0.ffn_gate.weight is \[72, 64\], expected \[64, 64\]"),
        ("attention.head_count_kv", 3, "not read, since the model would differ: "),
    ],
)
def test_metadata_that_the_model_would_not_have_are_refused(
    key: str, value: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = writing.file_metadata

    def said(class_name: str, config: Any) -> dict[str, Any]:
        found = {**original(class_name, config), key: value}
        return {name: value for name, value in found.items() if value is not None}

    monkeypatch.setattr(writing, "file_metadata", said)
    with pytest.raises(ModelError, match=message):
        local_model(str(written(made("qwen3"), tmp_path / "m.gguf")))


def test_rotary_divisors_of_another_rule_are_refused(tmp_path: Path) -> None:
    """A file has the divisors alone: those of Meta's models are recognized, others are not guessed."""
    with pytest.raises(ModelError, match=r"tensor rope_freqs\.weight differs"):
        local_model(str(written(tiny_architecture("llama"), tmp_path / "m.gguf")))


def test_a_file_without_embeddings_and_one_of_several_parts_are_refused(tmp_path: Path) -> None:
    for name, key in (("empty", "other"), ("part", "split.count")):
        writer = gguf.GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        writer.add_uint16(key, 3)
        closed(writer)
    with pytest.raises(ModelError, match=r"it has no tensor token_embd\.weight"):
        local_model(str(tmp_path / "empty.gguf"))
    with pytest.raises(ModelError, match="is one of 3 parts") as caught:
        local_model(str(tmp_path / "part.gguf"))
    assert "llama-gguf-split --merge" in caught.value.hint


def with_metadata(model: Any, path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Path:
    """A file that also says what `more` has, as unsigned numbers or lists of them."""

    class Writer(gguf.GGUFWriter):  # type: ignore[misc]
        def write_header_to_file(self, path: Path | None = None) -> None:
            for key, value in more.items():
                self.add_array(key, value) if isinstance(value, list) else self.add_uint32(key, value)
            super().write_header_to_file(path)

    with monkeypatch.context() as patched:
        patched.setattr(gguf, "GGUFWriter", Writer)
        return written(model, path)


def test_a_file_whose_parts_were_joined_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama-gguf-split --merge, our own remedy, leaves a count of 0."""
    file = with_metadata(made("qwen3"), tmp_path / "m.gguf", monkeypatch, **{"split.count": 0})
    assert (Path(local_model(str(file))) / "config.json").exists()


def test_ids_that_are_no_numbers_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "tokenizer.ggml.eom_token_id"
    file = with_metadata(made("qwen3"), tmp_path / "m.gguf", monkeypatch, **{key: [7, 8]})
    with pytest.raises(ModelError, match=rf"{key} is \[7, 8\], expected the id of a token"):
        local_model(str(file))


def test_without_the_gguf_package_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    file = written(tiny_model("llama", intermediate_size=40), tmp_path / "m.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UsageError, match="reading GGUF needs the package gguf"):
        local_model(str(file))


# The header, byte by byte.


def test_the_header_is_read_as_the_gguf_package_reads_it(tmp_path: Path) -> None:
    file = written(made("gemma2"), tmp_path / "m.gguf", kind="Q8_0")
    found, expected = read_header(file), gguf.GGUFReader(file)
    fields = {key: field.contents() for key, field in expected.fields.items() if not key.startswith("GGUF.")}
    assert found.says == fields
    for tensor in expected.tensors:
        own = found.tensors[tensor.name]
        assert (own.kind, own.shape) == (tensor.tensor_type.name, tuple(int(n) for n in tensor.shape[::-1]))
        assert np.array_equal(own.values(file), gguf.quants.dequantize(tensor.data, tensor.tensor_type))


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


HEAD = b"GGUF" + struct.pack("<I", 3)
HUGE = 1 << 60
DAMAGED = {
    "": "it does not begin with GGUF",
    "version": "its version is 50,331,648, expected 2 or 3",
    "keys": r"it states 1,152,921,504,606,846,976 entries before byte 24, more than it has bytes for",
    "tensors": r"it states 1,152,921,504,606,846,976 entries before byte 24",
    "text": "its header ends at byte 44, in the middle of a value",
    "utf8": "a text before byte 33 is not UTF-8",
    "type": "a value before byte 37 is of the unknown type 99",
    "list": "it states 1,152,921,504,606,846,976 entries before byte 49",
    "numbers": "its header ends at byte 57, in the middle of a value",
    "nested": "a list before byte 49 has elements of type 9",
    "twice": "it has the key 'a' twice",
    "alignment": "its general.alignment is 0",
    "dimensions": "tensor 'a' has 9 dimensions",
    "kind": "tensor 'a' is stored as type 1,?000, which the gguf package does not know",
    "block": "tensor 'a' has rows of 5, Q8_0 has blocks of 32",
    "end": "tensor 'a' ends at byte",
    "again": "it has the tensor 'a' twice",
    "overlap": "tensor 'b' begins at byte 96, expected 224",
    "gap": "tensor 'b' begins at byte 256, expected 224",
}


def damaged(what: str) -> bytes:
    """Bytes of a file that is broken in one place."""
    one_key = HEAD + struct.pack("<QQ", 0, 1)
    tensor = text("a") + struct.pack("<IQIQ", 1, 32, 0, 0)
    if what in ("overlap", "gap"):
        place = {"overlap": 0, "gap": 160}[what]
        second = text("b") + struct.pack("<IQIQ", 1, 32, 0, place)
        return HEAD + struct.pack("<QQ", 2, 0) + tensor + second + bytes(600)
    description = {
        "dimensions": (9, 32, 0, 0),
        "kind": (1, 32, 1000, 0),
        "block": (1, 5, 8, 0),
        "end": (1, 32, 0, HUGE),
    }
    if what in description:
        return HEAD + struct.pack("<QQ", 1, 0) + text("a") + struct.pack("<IQIQ", *description[what]) + bytes(64)
    return {
        "": b"PK\x03\x04" + bytes(100),
        "version": b"GGUF" + struct.pack(">I", 3) + bytes(100),
        "keys": HEAD + struct.pack("<QQ", 0, HUGE) + bytes(40),
        "tensors": HEAD + struct.pack("<QQ", HUGE, 0) + bytes(40),
        "text": one_key + struct.pack("<Q", HUGE) + bytes(12),
        "utf8": one_key + struct.pack("<Q", 1) + b"\xff" + bytes(20),
        "type": one_key + text("a") + struct.pack("<I", 99) + bytes(20),
        "list": one_key + text("a") + struct.pack("<IIQ", 9, 8, HUGE) + bytes(8),
        "numbers": one_key + text("a") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(8),
        "nested": one_key + text("a") + struct.pack("<IIQ", 9, 9, 1) + bytes(8),
        "twice": HEAD + struct.pack("<QQ", 0, 2) + (text("a") + struct.pack("<IB", 0, 1)) * 2,
        "alignment": one_key + text("general.alignment") + struct.pack("<II", 4, 0),
        "again": HEAD + struct.pack("<QQ", 2, 0) + tensor * 2 + bytes(300),
    }[what]


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_headers_are_refused_without_trusting_a_size(what: str, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(damaged(what))
    with pytest.raises(ModelError, match=rf"broken\.gguf: .*{DAMAGED[what]}"):
        read_header(broken)


def test_truncated_files_are_refused_wherever_they_end(tmp_path: Path) -> None:
    whole = written(tiny_model("llama"), tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for end in (0, 3, 10, 25, 300, 5000, len(whole) // 2, len(whole) - 64):
        cut.write_bytes(whole[:end])
        with pytest.raises(ModelError, match=r"cut\.gguf: cannot be read as GGUF") as caught:
            local_model(str(cut))
        assert caught.value.hint == "download the file again"
    assert json.loads((Path(local_model(str(tmp_path / "m.gguf"))) / "gguf.json").read_text())["file"] == "m.gguf"
