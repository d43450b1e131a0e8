"""Samples, held-out splits and mixtures: what is promised, for any data and seed, and every error's words."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunelab.data.messages import Conversation, Example, Message
from tunelab.data.select import largest_remainder, mix, sample, split, split_held_out
from tunelab.errors import DataError, UsageError

seeds = st.integers(0, 2**63)

# Written down once: another result would silently change the data of every run.
SAMPLE_OF_SEED_0 = [24, 26, 30, 37, 46, 54, 79, 84]
SAMPLE_OF_SEED_1 = [37, 52, 60, 66, 67, 79, 83, 90]
HELD_OUT_OF_SEED_0 = [14, 28, 54, 70, 81]


def conversations(groups: list[int]) -> list[Example]:
    """One conversation for each entry, with the entry as its prompt and its index as its answer."""
    return [
        Conversation((Message("user", f"prompt {group}"), Message("assistant", f"answer {index}")))
        for index, group in enumerate(groups)
    ]


class TestSample:
    @given(st.integers(1, 200), seeds, st.data())
    def test_without_replacement_and_in_order(self, total: int, seed: int, data: st.DataObject) -> None:
        size = data.draw(st.integers(1, total))
        chosen = sample(range(total), size, seed)
        assert len(chosen) == size and chosen == sorted(set(chosen)) and set(chosen) <= set(range(total))
        assert chosen == sample(range(total), size, seed)

    @given(st.integers(2, 100), seeds)
    def test_smaller_samples_are_part_of_larger_ones(self, total: int, seed: int) -> None:
        samples = [set(sample(range(total), size, seed)) for size in range(1, total + 1)]
        assert all(small < large for small, large in itertools.pairwise(samples))

    def test_the_choice_of_a_seed_never_changes(self) -> None:
        assert sample(range(100), 8, 0) == SAMPLE_OF_SEED_0
        assert sample(range(100), 8, 1) == SAMPLE_OF_SEED_1
        assert sample(range(100), 8, 0, "other") not in (SAMPLE_OF_SEED_0, SAMPLE_OF_SEED_1)

    def test_every_row_is_as_likely(self) -> None:
        counts = Counter(index for seed in range(4000) for index in sample(range(10), 3, seed))
        # 1,200 expected of each, standard deviation 29.
        assert all(abs(counts[index] - 1200) < 5 * 29 for index in range(10))

    def test_errors(self) -> None:
        with pytest.raises(DataError, match=r"a sample of 1,001 was requested, but there are 1,000 examples"):
            sample(range(1000), 1001, 0)
        wrong: Any
        for wrong in (0, -1, 1.5, True, None):
            with pytest.raises(UsageError, match=f"size is {wrong!r}, expected a positive integer"):
                sample(range(5), wrong, 0)


class TestSplit:
    @given(st.lists(st.integers(0, 15), min_size=2, max_size=80), seeds, st.data())
    def test_what_is_promised(self, groups: list[int], seed: int, data: st.DataObject) -> None:
        examples = conversations(groups)
        wanted = data.draw(st.integers(0, len(examples) - 1))
        try:
            train, held_out = split_held_out(examples, wanted, seed)
        except DataError:
            assert min(Counter(groups).values()) > len(groups) - wanted, "refused although a group could stay"
            return
        assert sorted(train + held_out, key=examples.index) == examples and train
        assert [examples.index(example) for example in train] == sorted(map(examples.index, train))
        assert [examples.index(example) for example in held_out] == sorted(map(examples.index, held_out))
        assert not {e.group for e in train} & {e.group for e in held_out}
        excess = len(held_out) - wanted
        assert excess == 0 or 0 < excess < max(Counter(e.group for e in held_out).values())
        assert split_held_out(examples, wanted, seed) == (train, held_out)

    @given(st.integers(2, 80), seeds, st.data())
    def test_exact_where_every_prompt_is_another(self, total: int, seed: int, data: st.DataObject) -> None:
        wanted = data.draw(st.integers(0, total - 1))
        train, held_out = split_held_out(conversations(list(range(total))), wanted, seed)
        assert (len(train), len(held_out)) == (total - wanted, wanted)

    @pytest.mark.parametrize(
        ("total", "share", "expected"), [(100, 0.05, 5), (10, 0.25, 3), (10, 0.01, 1), (1000, 0.29, 290), (7, 0.0, 0)]
    )
    def test_a_share_is_rounded_to_the_nearest_and_never_to_nothing(
        self, total: int, share: float, expected: int
    ) -> None:
        assert len(split_held_out(conversations(list(range(total))), share, 3)[1]) == expected

    def test_a_large_group_is_passed_over_and_taken_only_if_needed(self) -> None:
        examples = conversations([0] * 50 + list(range(1, 21)))
        for seed in range(20):
            assert len(split_held_out(examples, 20, seed)[1]) == 20
        train, held_out = split_held_out(conversations([0] * 5 + [1] * 4 + [2] * 3), 1, 0)
        assert (len(train), len(held_out)) == (9, 3)

    def test_the_choice_of_a_seed_never_changes(self) -> None:
        _, held_out = split_held_out(conversations(list(range(100))), 5, 0)
        assert [int(e.group.removeprefix("prompt ")) for e in held_out] == HELD_OUT_OF_SEED_0

    def test_the_smallest_group_stays_where_all_would_be_taken(self) -> None:
        for seed in range(10):
            train, held_out = split_held_out(conversations([0, 0, 1]), 2, seed)
            assert (len(train), len(held_out)) == (1, 2)

    def test_none_and_empty(self) -> None:
        examples = conversations([1, 2])
        assert split_held_out(examples, 0, 0) == (examples, [])
        assert split_held_out([], 0, 0) == ([], [])

    @given(st.lists(st.integers(0, 15), min_size=4, max_size=60), seeds, st.integers(1, 20), st.integers(1, 20))
    def test_no_prompt_is_in_two_of_three_splits_and_the_held_out_ones_stay(
        self, groups: list[int], seed: int, held_out: int, validation: int
    ) -> None:
        examples = conversations(groups)
        try:
            train, measured, chosen = split(examples, held_out, validation, seed)
        except DataError:
            return
        assert sorted(train + measured + chosen, key=examples.index) == examples and train
        assert len(chosen) >= validation and measured == split_held_out(examples, held_out, seed)[1]
        prompts = [{example.group for example in side} for side in (train, measured, chosen)]
        assert not any(a & b for a, b in itertools.combinations(prompts, 2))

    def test_a_share_for_validation_is_of_all_rows(self) -> None:
        train, measured, chosen = split(conversations(list(range(100))), 0.5, 0.1, 0)
        assert (len(train), len(measured), len(chosen)) == (40, 50, 10)

    def test_errors_of_validation(self) -> None:
        examples = conversations(list(range(10)))
        with pytest.raises(DataError, match="5 validation examples requested of 5: nothing is left") as caught:
            split(examples, 5, 5, 0)
        assert caught.value.hint == "set a lower data.validation"
        with pytest.raises(UsageError, match="validation is -1, expected a number of rows"):
            split(examples, 5, -1, 0)

    def test_errors(self) -> None:
        examples = conversations([1, 1, 1])
        for wanted in (3, 1000):
            with pytest.raises(DataError, match=f"{wanted:,} held-out examples requested of 3: nothing is left"):
                split_held_out(examples, wanted, 0)
        with pytest.raises(DataError, match="1 held-out examples requested of 3 with 1 distinct prompts; examples"):
            split_held_out(examples, 1, 0)
        with pytest.raises(DataError, match="1 held-out examples requested of 1: nothing is left to train on"):
            split_held_out(examples[:1], 0.5, 0)
        wrong: Any
        for wrong in (-1, -0.5, math.nan, True, "5"):
            with pytest.raises(
                UsageError, match=f"held_out is {wrong!r}, expected a number of rows, or a share below 1"
            ):
                split_held_out(examples, wrong, 0)
        for wrong in (1.0, 2.5, math.inf):
            with pytest.raises(
                UsageError, match=f"held_out is {wrong!r}: a share must be below 1, a number of rows an"
            ):
                split_held_out(examples, wrong, 0)


weights_of_parts = st.lists(st.integers(1, 50).map(lambda n: n / 10), min_size=1, max_size=4)


class TestMix:
    @given(st.integers(0, 10**6), st.lists(st.integers(1, 1000), min_size=1, max_size=6))
    def test_largest_remainder(self, total: int, shares: list[int]) -> None:
        counts = largest_remainder(total, shares)
        quotas = [Fraction(total * share, sum(shares)) for share in shares]
        assert sum(counts) == total
        assert all(math.floor(quota) <= count <= math.ceil(quota) for count, quota in zip(counts, quotas, strict=True))
        rounded = [(quota % 1, count > quota) for count, quota in zip(counts, quotas, strict=True) if quota % 1]
        up = [rest for rest, is_up in rounded if is_up]
        down = [rest for rest, is_up in rounded if not is_up]
        assert not up or not down or min(up) >= max(down)

    def test_weights_mean_what_is_written(self) -> None:
        parts = [("a", 0.7, range(100)), ("b", 0.2, range(100, 200)), ("c", 0.1, range(200, 300))]
        mixed = mix(parts, 10, 0)
        assert [sum(low <= value < low + 100 for value in mixed) for low in (0, 100, 200)] == [7, 2, 1]
        assert mixed == sorted(mixed), "parts in their order, each in its own"
        assert mixed == mix(parts, 10, 0) != mix(parts, 10, 1)

    @settings(deadline=None)
    @given(weights_of_parts, st.data(), seeds)
    def test_without_size_the_largest_total_that_fits(
        self, weights: list[float], data: st.DataObject, seed: int
    ) -> None:
        sizes = [data.draw(st.integers(1, 40)) for _ in weights]
        parts = [(str(n), w, [(n, k) for k in range(s)]) for n, (w, s) in enumerate(zip(weights, sizes, strict=True))]
        shares = [round(weight * 10) for weight in weights]

        def counts_that_fit(total: int) -> list[int] | None:
            counts = largest_remainder(total, shares)
            return counts if all(c <= s for c, s in zip(counts, sizes, strict=True)) else None

        best = next(counts for total in range(sum(sizes), -1, -1) if (counts := counts_that_fit(total)) is not None)
        if 0 in best:
            with pytest.raises(DataError, match="rounds to 0 rows"):
                mix(parts, None, seed)
            return
        mixed = mix(parts, None, seed)
        assert [sum(n == part for n, _ in mixed) for part in range(len(parts))] == best
        assert len(set(mixed)) == len(mixed)

    def test_parts_of_one_size_are_sampled_independently(self) -> None:
        mixed = mix([("a", 1, range(1000)), ("b", 1, range(1000))], 200, 0)
        assert mixed[:100] != mixed[100:]

    def test_no_weights(self) -> None:
        parts = [("a", None, [1, 2, 3]), ("b", None, [4, 5])]
        assert mix(parts, None, 0) == [1, 2, 3, 4, 5]
        assert len(mix(parts, 3, 0)) == 3 and set(mix(parts, 3, 0)) < {1, 2, 3, 4, 5}
        with pytest.raises(DataError, match="a sample of 6 was requested, but there are 5 examples"):
            mix(parts, 6, 0)

    def test_one_part_gives_everything(self) -> None:
        assert mix([("a", 0.3, [1, 2, 3])], None, 0) == [1, 2, 3]

    def test_a_part_too_small(self) -> None:
        parts = [("small", 1, range(5)), ("large", 1, range(500))]
        with pytest.raises(DataError, match="part 'small' has 5 examples; its weight 1 needs 10 of 20 in all"):
            mix(parts, 20, 0)
        # Of 11 the earlier part would get 6.
        assert len(mix(parts, None, 0)) == 10
        assert len(mix(parts[::-1], None, 0)) == 11

    def test_errors(self) -> None:
        with pytest.raises(UsageError, match="a mixture has no parts"):
            mix([], None, 0)
        with pytest.raises(UsageError, match="some parts have weights, and 'b' has none"):
            mix([("a", 1.0, [1]), ("b", None, [2])], None, 0)
        for weight in (0, -1.0, math.nan, math.inf):
            with pytest.raises(UsageError, match=f"part 'a' has weight {weight}, expected a number above 0"):
                mix([("a", weight, [1])], None, 0)
        with pytest.raises(DataError, match="part 'b' has no examples"):
            mix([("a", 1.0, [1]), ("b", 1.0, [])], None, 0)
        with pytest.raises(DataError, match=r"part 'b': its weight 0\.001 rounds to 0 rows of 10"):
            mix([("a", 1.0, range(20)), ("b", 0.001, range(5))], 10, 0)
        with pytest.raises(UsageError, match="size is 0, expected a positive integer"):
            mix([("a", 1.0, [1])], 0, 0)
