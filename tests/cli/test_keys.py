"""`tunelab keys`: the reference of the installed package, at the command line."""

from __future__ import annotations

from verbs import Command

from tunelab.config.reference import keys


def test_all_keys_are_listed(tunelab: Command) -> None:
    said = tunelab("keys")
    assert said.code == 0 and said.err == ""
    for key in keys():
        assert f"\n  {key.replace('sources.', 'sources.N.')}: " in said.out
    assert said.out.startswith("Recipe\n  model: a section; required\n      The base model.\n")
    assert "\nStudy\n  title: a string; required\n" in said.out and "Keys of other tools" not in said.out


def test_a_word_filters(tunelab: Command) -> None:
    said = tunelab("keys", "save_steps")
    assert said.out == (
        "Recipe\n"
        "  train.save_every: a positive integer, or null; default null\n"
        "      Steps between checkpoints for resuming. null: ten checkpoints per run.\n"
        "\n"
        "Keys of other tools\n"
        "  save_steps (transformers, Axolotl)\n"
        "      write train.save_every=VALUE instead\n"
    )
    assert "Rule: the longest row must fit into one micro-batch." in tunelab("keys", "data.max_length").out
    said = tunelab("keys", "epochz")
    assert said.code == 2 and said.err.endswith("hint: did you mean train.epochs?\n")
