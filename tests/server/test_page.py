"""The files of the page: who gets them, and how they are sent."""

import gzip
import re

import pytest

from octavo.server.page import FOLDER, POLICY, page_files

BUNDLE = 200_000  # bytes that all files together may have


@pytest.fixture(scope="module")
def locked(tiny_model, tmp_path_factory):
    """A server with a key."""
    from .running import Server

    server = Server(tmp_path_factory.mktemp("locked") / "log", tiny_model, "--api-key", "right")
    yield server.wait()
    server.stop()


def test_all_files_together_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= BUNDLE


def test_the_page_names_no_other_host():
    for path in FOLDER.iterdir():
        named = set(re.findall(r"https?://[\w.-]+", path.read_text()))
        assert named <= {"http://www.w3.org", "http://localhost"}, path.name  # a name of SVG, and a piece of advice


@pytest.mark.parametrize("path", sorted(page_files()))
def test_every_file_is_open_to_everyone_and_says_what_it_may_do(locked, path):
    with locked.client() as client:
        answer = client.get(path, headers={"accept-encoding": "identity"})
        assert (answer.status_code, answer.content) == (200, page_files()[path].body)
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert client.head(path).status_code == 200
        assert client.post(path).status_code == 401


def test_files_are_compressed_and_sent_once(http):
    with http.stream("GET", "/", headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == page_files()["/"].body
    tag = answer.headers["etag"]
    assert http.get("/", headers={"if-none-match": tag}).status_code == 304
    assert http.get("/", headers={"if-none-match": f'"other", {tag}'}).status_code == 304
    assert http.get("/", headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["none.js", "index.html", "%2e%2e/version.py", "../server/keys.py"])
def test_nothing_else_is_sent(http, name):
    assert http.get(f"/ui/{name}").status_code == 404


def test_without_the_page_everything_is_as_it_was(start, tiny_model):
    server = start(tiny_model, "--no-ui", "--api-key", "right")
    with server.client() as client:
        assert client.get("/").status_code == 401
        assert client.get("/ui/app.js").status_code == 401
        answer = client.get("/", headers={"authorization": "Bearer right"})
        assert answer.status_code == 404
        assert "--no-ui" in answer.json()["error"]["message"]
