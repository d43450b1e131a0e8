"""A push: one commit with the card, against a stand-in of the hub; what cannot be right is refused before it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from hub_stand_in import TOKEN, Hub, hub_stand_in
from huggingface_hub import ModelCard, constants
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tunelab import hub as hub_access
from tunelab.errors import ModelError, RunError, TunelabError, UsageError
from tunelab.publishing.push import push
from tunelab.records.runs import Run
from tunelab.training.finetune import finetune

BASE = "owner/base"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """An adapter and a whole model, trained in a home."""
    home = tmp_path_factory.mktemp("push") / "home" / "jane.doe"
    model = tiny.model_folder(home / "models" / "base")
    rows = tiny.rows_file(home / "rows.jsonl")
    common: dict[str, Any] = {"data__held_out": 4, "train__steps": 2}
    found = {"lora": finetune(tiny.recipe(model, rows, home / "runs" / "lora", **common))}
    found["full"] = finetune(tiny.recipe(model, rows, home / "runs" / "full", method="full", **common))
    return found


@pytest.fixture
def hub(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the base, and takes the token of this test."""
    place = Path(runs["lora"].manifest["model"]["path"])
    with hub_stand_in() as found:
        found.add(BASE, {"model.safetensors": (place / "model.safetensors").read_bytes()}, card={"license": "mit"})
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            constants, "HF_HUB_DISABLE_XET", True
        )  # the hub's own protocol beside LFS, which is not here
        monkeypatch.setattr(constants, "ENDPOINT", found.endpoint)
        monkeypatch.setattr(hub_access, "_known", {})
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield found


def test_an_adapter_is_one_commit_that_peft_loads(runs: dict[str, Run], hub: Hub, tmp_path: Path) -> None:
    done = push(runs["lora"], "me/tuned", base=BASE, message="first")
    files = hub.files("me/tuned")
    assert set(files) == set(done.files) == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip
    assert {name: len(content) for name, content in files.items()} == done.files
    assert done.url == f"{hub.endpoint}/me/tuned" and done.commit == hub.commit("me/tuned", "main")
    assert hub.repositories["me/tuned"].messages == ["first"] and not hub.repositories["me/tuned"].private
    config = json.loads(files["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, hub.commit(BASE, "main"))
    assert files["README.md"].decode() == done.card and done.notices == ()
    data = ModelCard(done.card).data
    assert (data.base_model, data.license, data.library_name) == (BASE, "mit", "peft")
    assert f'revision="{hub.commit(BASE, "main")}"' in done.card, "the weights were compared, so the revision is known"
    assert not any(b"jane.doe" in content for content in files.values())
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    base = AutoModelForCausalLM.from_pretrained(runs["lora"].manifest["model"]["path"])
    assert PeftModel.from_pretrained(base, str(tmp_path)).peft_config["default"].r == 4


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_whole_model(name: str, runs: dict[str, Run], hub: Hub) -> None:
    done = push(runs[name], "me/whole", merged=True, private=True, revision="second")
    files = hub.files("me/whole", "second")
    assert {"model.safetensors", "config.json", "README.md"} <= set(files) and hub.repositories["me/whole"].private
    assert set(hub.repositories["me/whole"].branches["main"]) == {".gitattributes"}
    assert ("merge.json" in files) == (name == "lora") and ("merged into the weights" in done.card) == (name == "lora")
    data = ModelCard(done.card).data
    assert data.library_name == "transformers" and data.base_model is None, "the base is on no hub, as far as is known"
    assert not any(b"jane.doe" in content for content in files.values())
    assert not list(runs[name].path.glob(".push-*"))


def test_a_dry_run_needs_neither_hub_nor_token(runs: dict[str, Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    done = push(runs["lora"], "me/tuned", base=BASE, dry_run=True)
    assert done.files["adapter_model.safetensors"] > 1000 and done.files["README.md"] == len(done.card.encode())
    assert (done.url, done.commit) == ("", "") and "the hub was not asked" in done.notices[0]


def test_a_push_is_repeated_after_it_broke_off(runs: dict[str, Run], hub: Hub) -> None:
    hub.refuse[("POST", "/commit/")] = 0
    with pytest.raises(RunError, match="the connection to the hub broke off") as caught:
        push(runs["lora"], "me/tuned", base=BASE)
    assert caught.value.hint == "what was uploaded is kept; run the same command"
    uploaded = list(hub.uploads)
    assert len(uploaded) == 2 and not hub.files("me/tuned")
    hub.refuse.clear()
    push(runs["lora"], "me/tuned", base=BASE)
    assert hub.uploads == uploaded, "what the hub has is not sent again"
    again = push(runs["lora"], "me/tuned", base=BASE)
    assert hub.files("me/tuned") and again.commit == hub.commit("me/tuned", "main")


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, r"me/tuned: the hub does not accept the token \(401\)", "hf auth login"),
        (403, r"me/tuned: the token may not write there \(403\)", "write access"),
        (409, r"me/tuned: somebody else changed the repository meanwhile \(409\)", "run the same command"),
        (412, r"me/tuned: somebody else changed the repository meanwhile \(412\)", "run the same command"),
        (413, r"me/tuned: the hub takes no file of this size \(413\)", "smaller files"),
    ],
)
def test_the_hub_s_refusals_in_words(status: int, message: str, hint: str, runs: dict[str, Run], hub: Hub) -> None:
    hub.refuse[("POST", "/commit/")] = status
    with pytest.raises(RunError, match=message) as caught:
        push(runs["lora"], "me/tuned", base=BASE)
    assert hint in caught.value.hint


def test_no_token_and_no_network(
    runs: dict[str, Run], hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    _refused(runs["lora"], RunError, "there is no token for the hub", "hf auth login")
    monkeypatch.setattr(hub_access, "why_unreachable", lambda: "no route")
    monkeypatch.setattr("tunelab.publishing.hub_upload.why_unreachable", lambda: "no route")
    _refused(runs["lora"], RunError, "the hub cannot be reached: no route", "check the network")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _refused(runs["lora"], RunError, "the hub cannot be written to: HF_HUB_OFFLINE is set", "unset it")
    assert set(hub.repositories) == {BASE}


def _refused(run: Run, kind: type[TunelabError], message: str, hint: str, name: str = "me/tuned", **how: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        push(run, name, **{"base": BASE, **how})
    assert hint in caught.value.hint


def test_what_cannot_be_right_is_refused(runs: dict[str, Run], hub: Hub, tmp_path: Path) -> None:
    lora = runs["lora"]
    _refused(lora, UsageError, "its base is a folder on this machine", "--base OWNER/NAME", base=None)
    _refused(lora, UsageError, "'tuned' is not the name of a repository", "OWNER/NAME", name="tuned")
    _refused(lora, UsageError, "'../up/x' is not the name of a repository", "OWNER/NAME", base="../up/x")
    _refused(lora, UsageError, "--format fp32 is for an adapter that is merged", "--merged", format="fp32")
    _refused(runs["full"], UsageError, "--format nf4 is for an adapter", "--merged", format="nf4", merged=True)
    _refused(lora, RunError, "owner/nothing: the hub has no such repository", "check the name", base="owner/nothing")
    hub.add("owner/other", {"model.safetensors": b"other weights"})
    _refused(lora, ModelError, "--base owner/other: model.safetensors is not that of", "--merged", base="owner/other")
    hub.add("me/public", {})
    _refused(lora, RunError, "me/public: exists and is public", "settings", name="me/public", private=True)
    hub.add("me/another", {"model-00001-of-00002.safetensors": b"x", "notes.md": b"kept"})
    _refused(lora, RunError, "already has files of another model: model-00001", "another name", name="me/another")
    assert set(hub.files("me/another")) == {"model-00001-of-00002.safetensors", "notes.md"}
    unfinished = Run(tmp_path / "run")
    shutil.copytree(lora.path, unfinished.path)
    unfinished.update_manifest(status="interrupted")
    _refused(unfinished, RunError, "the run is interrupted, not finished", "--resume")


def test_a_merge_that_loses_too_much_is_refused_with_what_a_push_can_do(
    runs: dict[str, Run], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tunelab.publishing.merge.LEAST_KEPT", 2.0)  # whatever it keeps is less
    with pytest.raises(ModelError, match="merged into nf4, the model keeps") as caught:
        push(runs["lora"], "me/tuned", merged=True, format="nf4")
    assert "push the adapter" in caught.value.hint and "--force" not in caught.value.hint
    assert "me/tuned" not in hub.repositories and not list(runs["lora"].path.glob(".push-*"))


def test_a_base_on_the_hub_is_named_by_its_commit(runs: dict[str, Run], hub: Hub, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(runs["lora"].path, run.path)
    recipe = run.recipe_file.read_text(encoding="utf-8")
    run.recipe_file.write_text(recipe.replace(run.manifest["model"]["path"], BASE), encoding="utf-8")
    commit = hub.commit(BASE, "main")
    run.update_manifest(model={**run.manifest["model"], "name": BASE, "path": None, "fingerprint": f"{BASE}@{commit}"})
    done = push(run, "me/tuned")
    config = json.loads(hub.files("me/tuned")["adapter_config.json"])
    assert (config["base_model_name_or_path"], config["revision"]) == (BASE, commit)
    assert ModelCard(done.card).data.license == "mit"
    _refused(run, UsageError, "--base owner/x: .* was trained on owner/base", "omit --base", base="owner/x")
