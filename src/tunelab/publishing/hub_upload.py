"""One commit to the Hugging Face hub: checked before anything is sent, and its failures in words.

huggingface_hub does the work. Files go up before the commit that names them, and those that the hub has are not sent
again: a push that broke off is repeated with the same command.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from tunelab.errors import SAME_COMMAND, RunError, UsageError
from tunelab.failures import chain, sentence
from tunelab.hub import http_errors, why_unreachable

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

#: Files that a program loads a model from: left over from another model, they would be mixed with this one.
OF_A_MODEL = ("*.safetensors", "*.bin", "*.index.json", "adapter_config.json")

#: The hub's answers that say what to do; the others are quoted.
_ANSWERS = {
    401: ("the hub does not accept the token (401)", "log in again: hf auth login"),
    403: (
        "the token may not write there (403)",
        "use a token with write access (https://huggingface.co/settings/tokens), or a repository of your own",
    ),
    404: ("the hub has no such repository, or does not show it to this token (404)", "check the name and the token"),
    409: ("somebody else changed the repository meanwhile (409)", SAME_COMMAND),
    412: ("somebody else changed the repository meanwhile (412)", SAME_COMMAND),
    413: ("the hub takes no file of this size (413)", "save the model in smaller files"),
    429: ("the hub asks for fewer requests (429)", f"wait some minutes and {SAME_COMMAND}"),
}


def check_repository(name: str) -> None:
    """Raises UsageError if this is no OWNER/NAME of a repository on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
        is_valid = name.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise UsageError(
            f"{name!r} is not the name of a repository on the hub",
            "expected OWNER/NAME: your user name or organization, and letters, digits, '-', '_' or '.'",
        )


def check_access() -> None:
    """Check what can be known before anything is prepared: online, the hub answers, and there is a token.

    Raises:
        RunError: one of these is not so.
    """
    from huggingface_hub import get_token, is_offline_mode

    see = "--dry-run shows what would be pushed"
    if is_offline_mode():
        raise RunError("the hub cannot be written to: HF_HUB_OFFLINE is set", f"unset it; {see}")
    if reason := why_unreachable():
        raise RunError(f"the hub cannot be reached: {reason}", f"check the network, or HF_ENDPOINT; {see}")
    if get_token() is None:
        raise RunError("there is no token for the hub", f"log in: hf auth login (or set HF_TOKEN); {see}")


def upload(
    repository: str,
    files: Mapping[str, Path | bytes],
    *,
    message: str,
    private: bool = False,
    revision: str | None = None,
) -> tuple[str, str]:
    """Commit files to a model repository, which is created if there is none.

    Args:
        files: name in the repository -> a file's path, or its content.
        revision: a branch, created if there is none; None = the main one.

    Returns:
        The repository's address and the commit. If nothing differs from what the hub has, its last commit.

    Raises:
        RunError: the hub refuses, or breaks off; the repository is public where `private` is asked for; or it has files
            of another model.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    api = HfApi()
    with hub_failures(repository):
        place = api.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        head = _checked(api, repository, files, private, revision)
        additions = [CommitOperationAdd(name, content) for name, content in files.items()]
        done = api.create_commit(repository, additions, commit_message=message, revision=revision, parent_commit=head)
    return str(place), str(done.oid)


def _checked(
    api: HfApi, repository: str, files: Mapping[str, Path | bytes], private: bool, revision: str | None
) -> str | None:
    """The commit that this one follows; raises RunError as upload() does."""
    info = api.model_info(repository, revision=revision)
    if private and not info.private:
        raise RunError(
            f"{repository}: exists and is public; --private makes a new repository private, not this one",
            "make it private in its settings on the hub, or choose another name",
        )
    there = [one.rfilename for one in info.siblings or ()]
    others = [name for name in there if name not in files and any(fnmatch(name, kind) for kind in OF_A_MODEL)]
    if others:
        raise RunError(
            f"{repository}: already has files of another model: {', '.join(sorted(others)[:5])}",
            "choose another name, or delete them on the hub first",
        )
    return info.sha


@contextmanager
def hub_failures(repository: str) -> Iterator[None]:
    """Turn what the hub's library raises inside the block into an error with a remedy.

    Raises:
        RunError: the hub refused, or the connection broke.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except Exception as error:
        for link in chain(error):
            if isinstance(link, HfHubHTTPError):
                raise _refused(repository, link) from error
            if isinstance(link, (*http_errors(), ConnectionError, TimeoutError)):
                raise RunError(
                    f"{repository}: the connection to the hub broke off: {sentence(link)}",
                    f"what was uploaded is kept; {SAME_COMMAND}",
                ) from error
        raise


def _refused(repository: str, error: HfHubHTTPError) -> RunError:
    from huggingface_hub.errors import RepositoryNotFoundError

    # The hub answers 401 for a repository that it does not show, too; the library tells the two apart.
    status = 404 if isinstance(error, RepositoryNotFoundError) else error.response.status_code
    if status >= 500:
        return RunError(f"{repository}: the hub failed ({status})", f"wait some minutes and {SAME_COMMAND}")
    message, hint = _ANSWERS.get(status, (sentence(error), "--debug shows the traceback"))
    return RunError(f"{repository}: {message}", hint)
