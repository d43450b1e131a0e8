"""Which dataset on the hub a source reads."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

from tunelab.data.sources._source import UNKNOWN_LICENCE, HubDataset
from tunelab.errors import UsageError


def hub_dataset(
    name: str,
    module: ModuleType | None,
    revision: str | None,
    split: str | None,
    repository: str | None,
    subset: str | None,
) -> HubDataset:
    """The requested hub dataset, or else the source's own. Raises UsageError if there is none."""
    if repository is not None:
        return HubDataset(repository, revision, UNKNOWN_LICENCE, split or "train", subset)
    if subset is not None:
        raise UsageError(f"subset {subset!r} needs a repository", "set repository too")
    if module is None:
        raise UsageError("source 'auto' needs a path: the format is detected from the file", "give a path or a name")
    if module.HUB is None:
        raise UsageError(f"source {name!r} is a format, not a dataset: it needs a path", "give the path of your file")
    hub: HubDataset = module.HUB
    return replace(hub, revision=revision or hub.revision, split=split or hub.split)
