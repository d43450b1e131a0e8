"""`tunelab env`: what a bug report needs, and nothing that names a person, a machine or a path."""

from __future__ import annotations

import getpass
import os
import platform
import socket
from pathlib import Path

import pytest
import torch
from verbs import Command

import tunelab as package
from tunelab.cli import _environment
from tunelab.cli._environment import cpu_features


def test_versions_device_and_memory(tunelab: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    said = tunelab("env")
    assert said.code == 0 and said.err == ""
    lines = {line.partition("  ")[0]: line.partition("  ")[2].strip() for line in said.out.splitlines()}
    assert lines["tunelab"].startswith(package.__version__) and lines["torch"] == torch.__version__
    assert lines["Python"].startswith(platform.python_version())
    assert {"transformers", "peft", "CPU features", "cores", "torch threads", "memory", "vllm"} <= set(lines)
    assert any(name.startswith("GPU") for name in lines)
    assert "OMP_NUM_THREADS=1" in lines["variables"] and "HF_TOKEN (set)" in lines["variables"]
    for private in ("hf_secret", str(Path.home()), os.getcwd(), os.environ["TUNELAB_CACHE"]):
        assert private not in said.out
    assert socket.gethostname() not in said.out.split() and f"/{getpass.getuser()}" not in said.out


def test_features_of_a_processor() -> None:
    assert cpu_features({"fpu", "avx2"}) == "AVX2; not AVX-512, AVX-512 bf16, AMX, AMX bf16"
    assert cpu_features({"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"}) == (
        "AVX2, AVX-512, AVX-512 bf16, AMX, AMX bf16"
    )
    assert cpu_features(set()) == ""


def test_no_variable_set() -> None:
    assert _environment._variables({"HOME": "/home/me"}) == "none of those that matter"
