"""Import-time notices of other libraries that a user of tunelab cannot act on, kept off the screen."""

from __future__ import annotations

import logging

#: Logger -> beginnings or parts of the messages that it logs while it is imported. PEFT imports torchao wherever it is
#: installed; tunelab uses none of it.
NOTICES = {
    "torchao": ("Skipping import of cpp extensions", "Failed to load "),
    "torchao.kernel.intmm": ("Warning: Detected no triton",),
    "torch.utils._pytree": ("is an Enum subclass and is now natively supported by torch.compile",),
}


def silence_import_notices() -> None:
    """Drop these messages, and no others of the same loggers. Imports nothing; may be called more than once."""
    for name in NOTICES:
        logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(notice in message for notice in NOTICES[record.name])
