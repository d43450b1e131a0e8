"""The language of a text, by langdetect.

langdetect identifies languages from randomly chosen parts of a text. Seeded, the language is the one that most of SEEDS
give: always the same for a text, and what langdetect gives most often without a seed.
"""

from __future__ import annotations

import functools
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from langdetect.detector_factory import DetectorFactory

SEEDS = range(5)


def detect(text: str, seeded: bool = True) -> str | None:
    """Code of the text's language ("unknown" if no language stands out); None = no letters to detect it from."""
    return _detect_seeded(text) if seeded else _detect(text, None)


def detect_at_once(text: str) -> str | None:
    """detect() with one seed only: a third of the time, and now and then another language for a text of few words."""
    return _detect(text, SEEDS[0])


@functools.lru_cache(maxsize=64)
def _detect_seeded(text: str) -> str | None:
    # The strict and the loose verdict share texts: caching the last few saves half of the work.
    found: Counter[str | None] = Counter()
    for seed in SEEDS:
        found[_detect(text, seed)] += 1
        if 2 * found.most_common(1)[0][1] > len(SEEDS):
            break
    return found.most_common(1)[0][0]  # of equals the one that was found first


def _detect(text: str, seed: int | None) -> str | None:
    from langdetect.lang_detect_exception import LangDetectException

    detector = _languages().create()
    detector.seed = seed  # set on the detector: langdetect's usual seed is global to the process
    detector.append(text)
    try:
        return str(detector.detect())
    except LangDetectException:
        return None


@functools.lru_cache(maxsize=1)
def _languages() -> DetectorFactory:
    """langdetect's profiles, in alphabetical order; langdetect itself uses the order on disk."""
    import langdetect

    factory = langdetect.DetectorFactory()
    profiles = sorted(path for path in Path(langdetect.PROFILES_DIRECTORY).iterdir() if path.is_file())
    factory.load_json_profile([profile.read_text(encoding="utf-8") for profile in profiles])
    return factory
