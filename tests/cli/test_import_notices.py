"""What other libraries say while they are imported stays off the screen; everything else that they say is shown."""

from __future__ import annotations

import logging

import pytest

from tunelab.cli._import_notices import silence_import_notices
from tunelab.cli.main import main

ENUM = "<enum 'Mode'> is an Enum subclass and is now natively supported by torch.compile as an opaque value type."


@pytest.mark.parametrize(
    ("logger", "notice"),
    [
        ("torchao", "Skipping import of cpp extensions due to incompatible torch version."),
        ("torchao", "Failed to load /lib/torchao/_C_cuda.abi3.so: libcudart.so.12: cannot open shared object file"),
        ("torchao.kernel.intmm", "Warning: Detected no triton, certain kernels will not work"),
        ("torch.utils._pytree", ENUM),
    ],
)
def test_known_notices_are_dropped_and_no_others(logger: str, notice: str, caplog: pytest.LogCaptureFixture) -> None:
    silence_import_notices()
    logging.getLogger(logger).warning(notice)
    logging.getLogger(f"{logger}.other").warning(notice)
    logging.getLogger(logger).warning("weights are corrupt: %s", "layer 3")
    assert [record.getMessage() for record in caplog.records] == [notice, "weights are corrupt: layer 3"]


def test_every_command_drops_them(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--version"]) == 0
    logging.getLogger("torch.utils._pytree").warning(ENUM)
    assert caplog.records == []
