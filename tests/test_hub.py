"""The hub: a host that does not answer costs one short look, for every verb; a host that answers is used as before."""

from __future__ import annotations

import http.server
import importlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants, errors, get_session

from tunelab import hub
from tunelab.data.reader import load_examples
from tunelab.errors import DataError, ModelError, TunelabError
from tunelab.evaluation.benchmark_files import benchmark_files
from tunelab.evaluation.benchmarks import ifeval
from tunelab.models.load import load_config, load_model, load_tokenizer

COMMIT = "0123456789" * 4


@pytest.fixture
def silent_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A host that takes connections and never answers, as the hub; nothing is cached, nothing was asked before."""
    import datasets

    listening = socket.create_server(("127.0.0.1", 0))
    endpoint = f"http://127.0.0.1:{listening.getsockname()[1]}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "_known", {})
    monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "0.3")
    yield endpoint
    listening.close()


def _model() -> Any:
    import torch

    return load_model("nobody/nothing", dtype=torch.float32)


VERBS: dict[str, tuple[type[TunelabError], Callable[[], Any]]] = {
    "model": (ModelError, _model),
    "configuration": (ModelError, lambda: load_config("nobody/nothing")),
    "tokenizer": (ModelError, lambda: load_tokenizer("nobody/nothing")),
    "dataset": (DataError, lambda: load_examples("alpaca")),
    "benchmark": (DataError, lambda: benchmark_files(ifeval.BENCHMARK, None, name="ifeval")),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_host_that_does_not_answer_is_one_line_after_the_limit(
    verb: str, silent_host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, load = VERBS[verb]
    began = time.monotonic()
    with pytest.raises(kind, match=rf"{silent_host} did not answer within 0\.3 s") as caught:
        load()
    assert time.monotonic() - began < 3, "the libraries' own retries take half a minute"
    assert "\n" not in caught.value.message
    assert capfd.readouterr() == ("", ""), "the libraries say nothing of their own"
    assert not constants.HF_HUB_OFFLINE, "as it was"


def test_the_host_is_asked_once_and_again_a_minute_later(silent_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hub, "_ask", lambda endpoint: asked.append(endpoint) or "no")
    assert [hub.why_unreachable(), hub.why_unreachable()] == ["no", "no"] and asked == [silent_host]
    hub._known[silent_host] = (time.monotonic() - hub.SECONDS_REMEMBERED - 1, "no")
    assert hub.why_unreachable() == "no" and len(asked) == 2


def test_a_refused_connection_says_why(silent_host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", nobody)
    assert hub.why_unreachable().startswith(f"{nobody}: ") and "refused" in hub.why_unreachable()


@pytest.mark.parametrize(("status", "reason"), [(200, ""), (404, ""), (503, "answered with status 503")])
def test_a_server_s_error_is_no_answer(
    status: int, reason: str, silent_host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Head(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Head) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "5")
        assert hub.why_unreachable().endswith(reason) and bool(hub.why_unreachable()) == bool(reason)


def test_a_local_folder_and_offline_mode_ask_nobody(
    silent_host: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hub, "_ask", lambda endpoint: pytest.fail("asked"))
    with hub.hub_access(str(tmp_path)):
        assert not constants.HF_HUB_OFFLINE
    with hub.cache_only(), hub.hub_access("nobody/nothing"):
        assert constants.HF_HUB_OFFLINE
    assert not constants.HF_HUB_OFFLINE


def test_a_request_that_fails_on_its_way_is_an_error_that_the_verbs_explain(silent_host: str) -> None:
    library = importlib.import_module(type(get_session()).__module__.partition(".")[0])
    with pytest.raises(ConnectionError, match="ReadTimeout: too slow"), hub.hub_access(str(Path.cwd())):
        raise library.ReadTimeout("too slow")
    with pytest.raises(errors.GatedRepoError), hub.hub_access(str(Path.cwd())):
        raise errors.GatedRepoError.__new__(errors.GatedRepoError)


class OneFile(http.server.BaseHTTPRequestHandler):
    """A hub with one file, config.json, in every repository."""

    def do_HEAD(self) -> None:
        if not self.path.endswith("/config.json"):
            self.send_error(404)
            return
        self.send_response(200)
        for name, value in (("ETag", '"abc"'), ("X-Repo-Commit", COMMIT), ("Content-Length", "2")):
            self.send_header(name, value)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def test_a_host_that_answers_is_read(tmp_path: Path) -> None:
    """In a process of its own: the hub's library reads its settings when it is imported."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OneFile)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = (
        "from tunelab.hub import hub_access\nfrom huggingface_hub import hf_hub_download\n"
        "with hub_access('a/b'):\n    print(open(hf_hub_download('a/b', 'config.json')).read())"
    )
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True
    )
    server.shutdown()
    server.server_close()
    assert done.stdout.strip() == "{}", done.stderr
