"""An Ollama Modelfile whose prompts are exactly those of training.

Its Go template is not written by hand for each of tunelab's templates: marked texts are rendered with the run's own
template, and the text between the marks becomes the Go template. So the two cannot differ.

    FROM        the GGUF file
    TEMPLATE    system text or its replacement, then user turns and answers
    PARAMETER   stop (each token that closes an answer), num_ctx

Source: Ollama's docs/modelfile.md and docs/template.md; template/template.go for what the template receives.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tunelab.data.messages import Conversation, Message
from tunelab.data.sections import Section
from tunelab.data.templates import Template
from tunelab.errors import BadRow, ModelError
from tunelab.models.gguf.tokenizer import TextStart, space_prefix, special_texts, text_start

#: Marks where an answer begins in the template's own text, before the space that belongs to the answer.
ANSWER_HERE = "\ue020"
TURNS = 3


@dataclass(frozen=True, slots=True)
class Turns:
    """A template's own text, in pieces between the filled-in parts; without a beginning-of-text token at the start.

    Args:
        system: before and after the system text; None = the template takes none.
        no_system: the start of a conversation without a system text.
        question: between a user's turn and the answer.
        lead: what an answer begins with (a space, or nothing): the model generates it, it is not part of the prompt.
        answer: between an answer and the user's next turn, the answer's closing token included.
        begins_with_bos: whether conversations begin with a beginning-of-text token.
    """

    system: tuple[str, str] | None
    no_system: str
    question: str
    lead: str
    answer: str
    begins_with_bos: bool

    def prompt(self, conversation: Conversation) -> str:
        """The text up to where the last answer begins."""
        messages = list(conversation.messages)
        text = self.no_system
        if messages[0].role == "system" and self.system:
            text = self.system[0] + messages.pop(0).content + self.system[1]
        for message in messages[:-1]:
            user = message.role == "user"
            text += message.text + self.question if user else self.lead + message.text + self.answer
        return text


def modelfile(
    gguf_name: str, template: Template, tokenizer: Any, *, context: int | None, stop_token_ids: Sequence[int]
) -> str:
    """Text of a Modelfile next to a GGUF file.

    A beginning-of-text token at the start is omitted from TEMPLATE: the GGUF file says whether it is added, see
    prompt_start(). Ollama cannot trim: a chat template that trims the turns' texts gets them untrimmed.

    Args:
        gguf_name: name of the file, in the Modelfile's own folder.
        template: that the model was trained with.
        context: tokens of context, None = Ollama's default.
        stop_token_ids: that end an answer (RowEncoder.stop_token_ids).

    Raises:
        ModelError: the template's text depends on more than the turns' texts, or a Modelfile cannot hold it.
    """
    turns = read_turns(template, tokenizer)
    lines = [f"FROM ./{gguf_name}", *_remarks(turns, template), f'TEMPLATE """{_go_template(turns)}"""']
    vocabulary = {id: text for text, id in tokenizer.get_vocab().items()}
    for id in stop_token_ids:
        if id not in vocabulary:
            raise ModelError(f"the tokenizer has no token {id}, which should end an answer")
        lines.append(f"PARAMETER stop {_quoted(vocabulary[id])}")
    if context is not None:
        lines.append(f"PARAMETER num_ctx {context}")
    text = "\n".join(lines) + "\n"
    if '"""' in _go_template(turns):
        raise ModelError('the template contains """, which ends a text in a Modelfile', "use another template")
    return text


def prompt_start(template: Template, tokenizer: Any) -> TextStart:
    """What llama.cpp and Ollama must put before a prompt so that its tokens are those of training.

    Raises:
        ModelError: no setting gives the same tokens.
    """
    own = text_start(tokenizer)
    if not template.parses_special_tokens:
        return own
    scheme = space_prefix(tokenizer)
    if scheme != "first":
        return TextStart(_begins_with_bos(template, tokenizer), own.add_space_prefix)
    turns = read_turns(template, tokenizer)
    # Such a tokenizer puts a space at the very start alone, llama.cpp after every special token as well, or nowhere.
    special = "|".join(re.escape(token) for token in sorted(special_texts(tokenizer), key=len, reverse=True))
    starts = [turns.no_system, *(turns.system or ())[:1]]
    if all(turns.begins_with_bos or re.match(special, start) for start in starts):
        return TextStart(turns.begins_with_bos, add_space_prefix=False)
    if re.search(f"(?:{special}).", "".join([*starts, turns.question, turns.answer, "a"]), flags=re.DOTALL):
        raise ModelError(
            "the tokenizer puts a space before a text, but not after special tokens; llama.cpp does both or neither",
            "use a text template (data.template=alpaca)",
        )
    return TextStart(turns.begins_with_bos, add_space_prefix=True)


def _begins_with_bos(template: Template, tokenizer: Any) -> bool:
    """Whether a chat template's text begins with the beginning-of-text token, with a system text and without.

    Raises:
        ModelError: it does only with one of the two, or the template renders no conversation.
    """
    begins = set()
    for system in (None, "a"):
        try:
            text = _text(template.render(_conversation(["b", "c"], system)), tokenizer)
        except BadRow as reason:
            if system is None:
                raise ModelError(f"the template renders no conversation: {reason}", reason.hint) from reason
            continue  # no system texts
        begins.add(bool(tokenizer.bos_token) and text.removeprefix(ANSWER_HERE).startswith(tokenizer.bos_token))
    return _only(begins)


def _only(begins: set[bool]) -> bool:
    if len(begins) > 1:
        raise ModelError("the template adds a beginning-of-text token only with a system text, or only without one")
    return begins.pop()


def read_turns(template: Template, tokenizer: Any) -> Turns:
    """The template's own text, found by rendering marked conversations.

    Raises:
        ModelError: the text differs between turns, or depends on what the turns say.
    """
    marks = [f"\ue010{number}\ue011" for number in range(2 * TURNS + 1)]
    try:
        plain = _pieces(template, tokenizer, _conversation(marks[1:]), marks[1:])
    except BadRow as reason:
        raise ModelError(f"the template renders no conversation: {reason}", reason.hint) from reason
    try:
        pieces = _pieces(template, tokenizer, _conversation(marks[1:], system=marks[0]), marks)
    except BadRow:
        pieces = []
    begins = {text_start(tokenizer).add_bos}
    if template.parses_special_tokens:
        starts = (plain[0], *pieces[:1])
        begins = {bool(tokenizer.bos_token) and start.startswith(tokenizer.bos_token) for start in starts}
    begins_with_bos = _only(begins)
    if begins_with_bos and template.parses_special_tokens:
        plain[0] = plain[0].removeprefix(tokenizer.bos_token)
        pieces[:1] = [piece.removeprefix(tokenizer.bos_token) for piece in pieces[:1]]
    questions, answers = set(plain[1::2] + pieces[2::2]), set(plain[2:-1:2] + pieces[3:-1:2])
    if len(questions) > 1 or len(answers) > 1:
        raise ModelError(
            "the template writes later turns differently than the first", "Ollama's cannot: export with --to gguf"
        )
    question, lead = questions.pop().split(ANSWER_HERE)
    system = (pieces[0], pieces[1]) if pieces else None
    turns = Turns(system, plain[0], question, lead, answers.pop(), begins_with_bos)
    _check(turns, template, tokenizer)
    return turns


def _conversation(texts: Sequence[str], system: str | None = None) -> Conversation:
    turns = [Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)]
    return Conversation(tuple(turns if system is None else [Message("system", system), *turns]))


def _text(sections: Sequence[Section], tokenizer: Any) -> str:
    """The whole text, with ANSWER_HERE where answers begin."""
    text = ""
    for section in sections:
        text += "".join(ANSWER_HERE * part.is_answer + part.text for part in section.segments)
        text += tokenizer.eos_token if section.ends_with_eos else ""
    return text


def _pieces(template: Template, tokenizer: Any, conversation: Conversation, marks: Sequence[str]) -> list[str]:
    """The template's own text around the marks.

    Raises:
        BadRow: the template refuses the conversation.
        ModelError: a mark is missing, repeated, or out of place.
    """
    rest = _text(template.render(conversation), tokenizer)
    pieces = []
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise ModelError("the template does not show every turn once and in order", "use another template")
        pieces.append(piece)
    return [*pieces, rest]


def _check(turns: Turns, template: Template, tokenizer: Any) -> None:
    """Check that ordinary text gives what the marks gave."""
    words = ["Is it so?", "Yes.", "2 + 2\n= ?", "4"]
    for system in (None, "Be kind.") if turns.system else (None,):
        for count in (2, 4):
            conversation = _conversation(words[:count], system)
            text = _text(template.render(conversation), tokenizer)
            if turns.begins_with_bos and template.parses_special_tokens:
                text = text.removeprefix(tokenizer.bos_token)
            expected = text[: text.rindex(ANSWER_HERE)].replace(ANSWER_HERE, "")
            if turns.prompt(conversation) != expected:
                raise ModelError("the template's own text depends on what the turns say", "use another template")


def _remarks(turns: Turns, template: Template) -> list[str]:
    """Comments on what the template itself cannot express."""
    remarks = []
    if turns.system is None:
        remarks.append("# The model was trained without system texts: a system text is not shown to it.")
    if not template.parses_special_tokens:
        asked = Conversation((Message("user", "\ue010", "\ue011"), Message("assistant", "a")))
        start, rest = template.render(asked)[0].segments[0].text.split("\ue010")
        between = rest.split("\ue011")[0]
        remarks.append(f"# An instruction with an input: write {json.dumps(between)} between the two.")
        if start != turns.no_system and turns.system:
            own = start.removeprefix(turns.system[0]).removesuffix(turns.system[1])
            remarks.append(f"# Its system text is then: {json.dumps(own)}")
    return remarks


def _go_template(turns: Turns) -> str:
    """Go's text/template: {{ .Messages }} where Ollama gives it (since 0.3), else one exchange."""
    start = _literal(turns.no_system)
    if turns.system:
        before, behind = map(_literal, turns.system)
        start = f"{{{{ if .System }}}}{before}{{{{ .System }}}}{behind}{{{{ else }}}}{start}{{{{ end }}}}"
    question, answer = _literal(turns.question), _literal(turns.answer)
    lead = ""
    if turns.lead:  # earlier answers come as the model generated them, with the lead, or as a user wrote them, without
        lead = f'{{{{ if ne (printf "%.1s" $m.Content) " " }}}}{turns.lead}{{{{ end }}}}'
    return (
        f"{start}{{{{ if .Messages }}}}{{{{ range $i, $m := .Messages }}}}"
        f'{{{{ if eq $m.Role "user" }}}}{{{{ $m.Content }}}}{question}'
        f'{{{{ else if eq $m.Role "assistant" }}}}{lead}{{{{ $m.Content }}}}'
        f"{{{{ if gt (len (slice $.Messages $i)) 1 }}}}{answer}{{{{ end }}}}"
        f"{{{{ end }}}}{{{{ end }}}}"
        f"{{{{ else }}}}{{{{ .Prompt }}}}{question}{{{{ .Response }}}}{{{{ end }}}}"
    )


def _literal(text: str) -> str:
    """Text for a Go template: braces that would open an action are written as a string."""
    return re.sub(r"\{{2,}|\{$", lambda braces: f'{{{{ "{braces.group()}" }}}}', text)


def _quoted(text: str) -> str:
    if '"' not in text and "\n" not in text:
        return f'"{text}"'
    if '"""' in text or text.endswith('"'):
        raise ModelError(f"a Modelfile cannot hold the stop text {text!r}")
    return f'"""{text}"""'
