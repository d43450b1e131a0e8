"""The texts that ship, what bits per byte are of, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from tunelab.errors import DataError
from tunelab.evaluation.benchmark import Graded, Response
from tunelab.evaluation.benchmark_files import benchmark_files
from tunelab.evaluation.benchmarks import forgetting
from tunelab.evaluation.benchmarks.forgetting import BENCHMARK, EXAMPLE, Options, grade, items, summarise


def test_the_texts_that_ship_are_two_of_each_domain() -> None:
    folder = benchmark_files(BENCHMARK, None)
    found = items(folder, Options())
    assert len(found) == BENCHMARK.size and len({item.question for item in found}) == len(found)
    domains = sorted({item.cluster for item in found})
    assert [sum(item.cluster == name for item in found) for name in domains] == [2] * 14
    assert {"code", "python", "german", "chinese"} <= set(domains)
    for item in found:
        assert 800 <= item.target <= 1600 and item.target == len(item.question.encode("utf-8"))
        assert item.question == item.question.strip()
    readme = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in readme for name in domains) and "Apache-2.0" in readme


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "my-notes-1.txt").write_bytes("Zürich\n\n".encode())
    (tmp_path / "alone.txt").write_bytes(b"x")
    alone, notes = items(tmp_path, Options())
    assert (alone.id, alone.cluster, alone.target) == ("alone", "alone", 1)
    assert (notes.id, notes.cluster, notes.question, notes.target) == ("my-notes-1", "my-notes", "Zürich\n", 8)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"\n", r"a-1\.txt: contains no text"), (b"ab\xff", r"a-1\.txt: not UTF-8 at byte 2")],
)
def test_bad_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a-1.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        items(tmp_path, Options())


def test_bits_per_byte_are_nats_over_ln_2_over_bytes() -> None:
    one = dataclasses.replace(EXAMPLE.right, target=100, log_probabilities=(-70.0,))
    assert grade(one, Options()) == {"bits_per_byte": pytest.approx(0.7 / math.log(2))}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target": 0}, "target is 0, expected the text's number of bytes"),
        ({"target": "a"}, "target is 'a', expected"),
        ({"log_probabilities": ()}, r"log-probabilities \[\], expected one finite number"),
        ({"log_probabilities": (-math.inf,)}, r"log-probabilities \[-inf\], expected one finite number"),
    ],
)
def test_responses_of_something_else_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        grade(dataclasses.replace(EXAMPLE.right, **changes), Options())


def test_the_mean_is_over_texts_and_its_error_over_domains() -> None:
    def one(name: str, domain: str, bits: float) -> Graded:
        response = Response(name, "", "text", 10, domain, log_probabilities=(-bits * math.log(2) * 10,))
        return Graded(response, grade(response, Options()))

    graded = [one("a-1", "a", 1.0), one("a-2", "a", 1.2), one("b-1", "b", 2.0), one("b-2", "b", 2.2)]
    scored = summarise(graded, Options())
    (score,) = scored.scores
    assert score.value == pytest.approx(1.6) and score.error == pytest.approx(0.5), "deviations of domains: -1 and 1"
    assert not score.higher_is_better and score.protocol["error"] == "clustered by domain"
    assert {name: part[0].value for name, part in scored.groups.items()} == {
        "domain a": pytest.approx(1.1),
        "domain b": pytest.approx(2.1),
    }
    assert scored.facts == {"domains": 2, "bytes": 40}


def test_its_options_are_none_but_the_folder() -> None:
    assert set(forgetting.Options.model_fields) == {"data"}
