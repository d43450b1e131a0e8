"""The recipe's tokenizer: the model's or another, with the chat template and the new tokens that the recipe names."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import AddedToken

from tunelab.config import DataSettings, Recipe
from tunelab.data.chat_sections import ChatTemplate
from tunelab.data.chat_templates import is_chat, shipped_template, shipped_templates
from tunelab.data.control_tokens import CONTROL, control_tokens, split_tokens, tool_control_tokens
from tunelab.data.messages import Conversation, Message
from tunelab.data.reader import load_examples
from tunelab.data.template_date import day_of_rendering, fixed_date, with_fixed_date, writes_date
from tunelab.data.templates import AUTO, get_template, resolved_name
from tunelab.data.tokenize import leading_special_ids
from tunelab.errors import TunelabError, UsageError
from tunelab.files import read_text
from tunelab.models.load import load_tokenizer

#: Of `model.new_tokens`: those that the chat template needs and the tokenizer lacks.
OF_TEMPLATE = "template"


def load_recipe_tokenizer(recipe: Recipe, beside: Path | None = None, *, keep_date: bool = False) -> Any:
    """The tokenizer that a recipe names: its own, or the model's; with its chat template and new tokens, if it has any.

    A chat template that writes today's date is fixed to `data.date`, or else to today (in a study: to its first day).

    Args:
        beside: an adapter's folder, whose tokenizer comes before the model's if it has one, with its tokens.
        keep_date: leave the template as it is, for a model that is only copied.

    Raises:
        UsageError: there is no such template, `data.date` is set and the template writes no date, a new token is
            none, or the tokenizer splits the control tokens of a template that the recipe names.
    """
    settings = recipe.model
    own = settings.tokenizer
    if own is None and beside is not None and (beside / "tokenizer.json").exists():
        own = str(beside)
    tokenizer = load_tokenizer(
        own or settings.name,
        revision=None if own else settings.revision,
        # The model's code is asked for, never that of an adapter's folder.
        trust_remote_code=settings.trust_remote_code and own == settings.tokenizer,
    )
    _set_template(tokenizer, recipe.data)
    if not keep_date:
        _fix_date(tokenizer, recipe.data)
    has_tokens = beside is not None and own == str(beside)
    if not has_tokens:
        add_new_tokens(tokenizer, _new_tokens(recipe, tokenizer))
        words_of_new_tokens(recipe, tokenizer)
    _check_template_tokens(recipe, tokenizer)
    return tokenizer


def with_named_tokens(recipe: Recipe) -> Recipe:
    """The recipe with `model.new_tokens: template` as the list of these tokens."""
    if recipe.model.new_tokens != OF_TEMPLATE:
        return recipe
    bare = recipe.model_copy(update={"model": recipe.model.model_copy(update={"new_tokens": ()})})
    named = _new_tokens(recipe, load_recipe_tokenizer(bare, keep_date=True))
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"new_tokens": tuple(named)})})


def new_token_ids(recipe: Recipe, tokenizer: Any) -> list[int]:
    """Ids of the recipe's new tokens, which its tokenizer has."""
    named = recipe.model.new_tokens
    return sorted(tokenizer.convert_tokens_to_ids(list(named))) if isinstance(named, tuple | dict) and named else []


def words_of_new_tokens(recipe: Recipe, tokenizer: Any) -> dict[int, list[int]]:
    """Ids of the recipe's new tokens -> ids of the words whose mean their embeddings start at; only those with words.

    Raises:
        UsageError: words have a new token, or text that is not in the vocabulary.
    """
    named = recipe.model.new_tokens
    given = {token: words for token, words in named.items() if words} if isinstance(named, dict) else {}
    new, found = set(new_token_ids(recipe, tokenizer)), {}
    for token, words in given.items():
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        if not ids or new.intersection(ids) or tokenizer.unk_token_id in ids:
            raise UsageError(
                f"model.new_tokens: {token!r} starts from {words!r}, which is not text that the tokenizer had before",
                "give words of its vocabulary, or null for the mean of all embeddings",
            )
        found[tokenizer.convert_tokens_to_ids(token)] = list(ids)
    return found


def split_template_tokens(recipe: Recipe, tokenizer: Any) -> tuple[str, ...]:
    """Control tokens of the recipe's chat template that the tokenizer splits into pieces.

    Those that it writes only into conversations with tools count where the recipe's rows have tools.
    """
    template = _chat_template(recipe, tokenizer)
    if template is None:
        return ()
    of_tools = split_tokens(tool_control_tokens(template), tokenizer)
    if of_tools and not _rows_have_tools(recipe.data):
        of_tools = ()
    return (*split_tokens(control_tokens(template), tokenizer), *of_tools)


def _rows_have_tools(data: DataSettings) -> bool:
    """Whether any row has; rows that cannot be read have none here: whoever needs them says why."""
    for source in data.sources:
        if not (source.path or source.repository or source.name.endswith(".py")):
            continue  # no dataset that a source names itself has tools
        place = source.model_dump(include={"revision", "split", "repository", "subset"})
        path = Path(source.path) if source.path else None
        with suppress(TunelabError):
            read = load_examples(source.name, path=path, options=source.options, on_bad_row="skip", **place)
            if any(isinstance(one, Conversation) and one.has_tools for one in read.examples):
                return True
    return False


def add_new_tokens(tokenizer: Any, tokens: Sequence[str]) -> None:
    """Add tokens to a tokenizer. Those that only its chat template writes are special: answers are shown without them.

    Raises:
        UsageError: a token is in the vocabulary already, or is not read as one token afterwards.
    """
    known = tokenizer.get_vocab()
    for token in tokens:
        if token in known:
            raise UsageError(
                f"model.new_tokens: {token!r} is in the tokenizer's vocabulary already",
                "omit it; adapter.also_train=[embed_tokens, lm_head] trains the embeddings of all tokens",
            )
    special = [token for token in tokens if CONTROL.fullmatch(token) and token in str(tokenizer.chat_template)]
    for token in tokens:
        tokenizer.add_tokens([AddedToken(token, normalized=False, special=token in special)], token in special)
    if odd := split_tokens(tokens, tokenizer):
        raise UsageError(
            f"model.new_tokens: the tokenizer does not read {odd[0]!r} as one token", "remove white space around it"
        )


def _new_tokens(recipe: Recipe, tokenizer: Any) -> tuple[str, ...]:
    named = recipe.model.new_tokens
    if named != OF_TEMPLATE:
        return tuple(named or ())
    if _chat_template(recipe, tokenizer) is None:
        raise UsageError(
            "model.new_tokens is template, but the prompt template is a text template, which has no tokens of its own",
            "set data.template=chatml or another chat template, or list the tokens",
        )
    return split_template_tokens(recipe, tokenizer)


def _check_template_tokens(recipe: Recipe, tokenizer: Any) -> None:
    """Refuse a template that the recipe names if the tokenizer splits its control tokens: the model never saw them.

    A tokenizer's own template may do that (Zephyr's, TinyLlama's): then the model was tuned with the pieces.
    """
    is_own = recipe.data.chat_template is None and recipe.data.template not in shipped_templates()
    if is_own or recipe.model.new_tokens is not None:
        return
    if split := split_template_tokens(recipe, tokenizer):
        raise UsageError(
            f"the chat template's {', '.join(split)} {'is' if len(split) == 1 else 'are'} not in the tokenizer's "
            "vocabulary, which splits such a token into pieces",
            "set model.new_tokens=template to add and train these tokens"
            + (", or model.new_tokens=[] to train on the pieces" if _closes_answers(recipe, tokenizer) else ""),
        )


def _closes_answers(recipe: Recipe, tokenizer: Any) -> bool:
    """Whether the chat template closes an answer with a token that the tokenizer has: else no model learns to stop."""
    template = _chat_template(recipe, tokenizer)
    try:
        return bool(template and template.render(Conversation((Message("user", "a"), Message("assistant", "b")))))
    except TunelabError:
        return False


def _chat_template(recipe: Recipe, tokenizer: Any) -> ChatTemplate | None:
    """The recipe's chat template; None if it has a text template."""
    name = resolved_name(recipe.data.template, tokenizer)
    template = get_template(name, tokenizer) if is_chat(name) else None
    return template if isinstance(template, ChatTemplate) else None


def _set_template(tokenizer: Any, data: DataSettings) -> None:
    """Give the tokenizer the chat template that the recipe names: of a file, one of its own, or one that ships."""
    if data.template in shipped_templates():
        start = "".join(tokenizer.convert_ids_to_tokens(leading_special_ids(tokenizer)))
        tokenizer.chat_template = shipped_template(data.template, start)
    elif (name := data.chat_template) is not None:
        own = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
        if name in own and not Path(name).is_file():
            tokenizer.chat_template = own[name]
        elif may_be_name(name) and own:
            raise UsageError(
                f"data.chat_template: {name}: neither a file nor one of the tokenizer's chat templates",
                f"give a Jinja file, or one of {', '.join(sorted(own))}",
            )
        else:
            tokenizer.chat_template = template_file(name)


def _fix_date(tokenizer: Any, data: DataSettings) -> None:
    template = tokenizer.chat_template
    if isinstance(template, dict):  # several named ones, of which the default is used
        template = template.get("default")
    fixed = fixed_date(template)
    if fixed is not None and data.date not in (None, fixed.isoformat()):
        raise UsageError(
            f"data.date is {data.date}, but the chat template's date is fixed to {fixed}", "omit data.date"
        )
    if writes_date(template) and data.template in ("chat", AUTO):
        day = datetime.date.fromisoformat(data.date) if data.date else day_of_rendering()
        tokenizer.chat_template = with_fixed_date(template, day)
    elif data.date is not None:
        raise UsageError(f"data.date is {data.date}, but the chat template writes no date", "omit data.date")


def may_be_name(name: str) -> bool:
    """Whether `data.chat_template` may be the name of one of a tokenizer's templates: no file, and no path."""
    path = Path(name)
    return not path.exists() and path.name == name and not path.suffix


def template_file(name: str) -> str:
    """The Jinja source of the file that `data.chat_template` names.

    Raises:
        UsageError: there is no such file, or it is not UTF-8.
    """
    path = Path(name)
    if not path.is_file():
        raise UsageError(f"data.chat_template: {path}: no such file", "give the path of a Jinja chat template")
    try:
        return read_text(path, UsageError, "save it as UTF-8 text", key="data.chat_template")
    except OSError as error:
        raise UsageError(
            f"data.chat_template: {path}: cannot be read: {error.strerror}", "check its permissions"
        ) from None
