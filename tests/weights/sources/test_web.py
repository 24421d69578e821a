"""Models at a URL, from servers that break off, lie, or know no ranges."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import sys
from email.message import Message
from http.client import HTTPResponse
from pathlib import Path
from types import SimpleNamespace
from urllib.error import HTTPError

import pytest

from file_server import FileServer, serving
from octavo.errors import ConfigError, ModelNotFoundError
from octavo.weights.source import resolve
from octavo.weights.sources import download, http, web

MODEL = b"GGUF" + random.Random(0).randbytes(3_000_000)
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture(autouse=True)
def model(server: FileServer) -> None:
    server.files["/m/x.gguf"] = MODEL


def get(reference: str, **options: object) -> Path:
    return resolve(reference, progress=False, **options)  # type: ignore[arg-type]


def test_a_file_is_fetched_once_and_asked_about_again(server: FileServer, url: str, cache: Path) -> None:
    path = get(f"{url}/m/x.gguf")
    assert path.name == "x.gguf"
    assert path.is_relative_to(cache)
    assert path.read_bytes() == MODEL
    assert get(f"{url}/m/x.gguf") == path
    assert server.sent == {"/m/x.gguf": len(MODEL)}
    assert sorted(entry.name for entry in path.parent.iterdir()) == [".octavo.json", "x.gguf"]
    assert [entry for entry in cache.iterdir() if entry.name.endswith(".partial")] == []


def test_a_file_that_changes_is_fetched_anew_and_the_old_one_goes_when_nobody_uses_it(
    server: FileServer, url: str
) -> None:
    old = get(f"{url}/m/x.gguf")
    server.files["/m/x.gguf"] = MODEL[::-1]
    new = get(f"{url}/m/x.gguf")
    assert new.read_bytes() == MODEL[::-1]
    assert old.read_bytes() == MODEL  # this process has asked for it, and may use it


@pytest.mark.parametrize("offline", [True, False])
def test_without_the_server_the_cached_file_is_used(
    offline: bool, server: FileServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(server) as url:
        path = get(f"{url}/m/x.gguf")
    assert get(f"{url}/m/x.gguf", offline=offline) == path
    assert ("using the copy in the cache" in capsys.readouterr().err) is not offline
    with pytest.raises(ModelNotFoundError, match="switched off" if offline else "can't be reached"):
        get(f"{url}/m/y.gguf", offline=offline)


def test_a_cached_file_that_was_cut_short_is_fetched_anew(url: str, cache: Path) -> None:
    path = get(f"{url}/m/x.gguf")
    path.write_bytes(MODEL[:-1])
    with pytest.raises(ModelNotFoundError, match="switched off"):
        get(f"{url}/m/x.gguf", offline=True)
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    path.unlink()
    assert get(f"{url}/m/x.gguf") == path


def test_a_cache_that_can_only_be_read_serves_what_is_in_it(
    url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = get(f"{url}/m/x.gguf")

    def fail(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("mkdir", "utime", "replace"):
        monkeypatch.setattr(os, name, fail)
    assert get(f"{url}/m/x.gguf") == path
    with pytest.raises(ModelNotFoundError, match=r"can't be written \(Read-only file system\)"):
        get(f"{url}/m/x.gguf#sha256={SHA256}", cache_dir=cache / "new")


def test_a_connection_that_is_cut_is_gone_on_with(server: FileServer, url: str) -> None:
    server.drop_after, server.drops = 700_000, -1
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    assert server.sent["/m/x.gguf"] == len(MODEL)
    ranges = [headers["Range"] for headers in server.headers if "If-Range" in headers]
    assert ranges == [f"bytes={at}-" for at in range(700_000, len(MODEL), 700_000)]


def test_a_server_that_gives_next_to_nothing_is_given_up_and_later_gone_on_with(server: FileServer, url: str) -> None:
    server.drop_after, server.drops = 1000, -1
    with pytest.raises(ModelNotFoundError, match=r"3\.0 MB are missing, what is there is kept"):
        get(f"{url}/m/x.gguf")
    assert server.sent["/m/x.gguf"] == 5000
    server.drop_after = None
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    assert server.sent["/m/x.gguf"] == len(MODEL)


def test_without_ranges_it_begins_again(server: FileServer, url: str) -> None:
    server.ranges, server.drop_after, server.drops = False, 2_000_000, 3  # one is how long it is
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    assert server.sent["/m/x.gguf"] >= 4_000_000 + len(MODEL)


def test_a_file_that_changes_while_it_is_fetched_is_not_mixed(server: FileServer, url: str) -> None:
    server.drop_after, server.drops = 1000, -1
    with pytest.raises(ModelNotFoundError, match="missing"):
        get(f"{url}/m/x.gguf")
    server.drop_after = None
    server.files["/m/x.gguf"] = MODEL[::-1]
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL[::-1]


def test_what_can_not_be_told_from_another_is_not_gone_on_with(server: FileServer, url: str) -> None:
    server.etags, server.drop_after, server.drops = False, 1000, -1
    with pytest.raises(ModelNotFoundError, match="missing"):
        get(f"{url}/m/x.gguf")
    server.drop_after = None
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    assert server.sent["/m/x.gguf"] == 5000 + len(MODEL)


def test_a_server_that_does_not_say_how_long_it_is(server: FileServer, url: str) -> None:
    server.ranges = server.lengths = False
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL


def test_errors_that_may_pass_are_waited_for(server: FileServer, url: str) -> None:
    server.statuses = [503, 429, 200, 500, 502]
    assert get(f"{url}/m/x.gguf").read_bytes() == MODEL
    server.statuses = [500] * 9
    with pytest.raises(ModelNotFoundError, match=r"can't be reached.*status 500"):
        get(f"{url}/m/y.gguf")


@pytest.mark.parametrize(
    ("status", "message"), [(403, "access is denied.*netrc"), (404, "does not exist"), (418, "418")]
)
def test_errors_that_stay_are_told_at_once(status: int, message: str, server: FileServer, url: str) -> None:
    server.statuses = [status]
    with pytest.raises(ModelNotFoundError, match=message):
        get(f"{url}/m/x.gguf")
    assert len(server.paths) == 1


def test_a_checksum_in_the_url_is_checked_and_saves_the_question(server: FileServer, url: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=f"SHA-256 {SHA256}, not 0{{64}}; it was not kept"):
        get(f"{url}/m/x.gguf#sha256={'0' * 64}")
    assert not list(cache.rglob("x.gguf*"))
    path = get(f"{url}/m/x.gguf#sha256={SHA256}")
    count = len(server.paths)
    assert get(f"{url}/m/x.gguf#sha256={SHA256}") == path
    assert len(server.paths) == count


def test_a_damaged_beginning_is_fetched_again_where_a_checksum_tells(server: FileServer, url: str, cache: Path) -> None:
    server.drop_after, server.drops = 100_000, -1
    with pytest.raises(ModelNotFoundError, match="missing"):
        get(f"{url}/m/x.gguf#sha256={SHA256}")
    (partial,) = cache.rglob("x.gguf.partial")
    partial.write_bytes(bytes(partial.stat().st_size))
    server.drop_after = None
    assert get(f"{url}/m/x.gguf#sha256={SHA256}").read_bytes() == MODEL


def test_parts_are_fetched_together(server: FileServer, url: str) -> None:
    for i in (1, 2, 3):
        server.files[f"/p/m-0000{i}-of-00003.gguf"] = MODEL + bytes([i])
    path = get(f"{url}/p/m-00001-of-00003.gguf")
    assert path.name == "m-00001-of-00003.gguf"
    assert len(list(path.parent.glob("*.gguf"))) == 3
    del server.files["/p/m-00002-of-00003.gguf"]
    with pytest.raises(ModelNotFoundError, match=r"m-00002-of-00003\.gguf does not exist"):
        get(f"{url}/p/m-00001-of-00003.gguf")


def test_the_folder_of_a_config_is_fetched_by_the_names_that_models_have(server: FileServer, url: str) -> None:
    server.files |= {"/f/config.json": b"{}", "/f/tokenizer.json": b"{}", "/f/a.safetensors": b"aa", "/f/evil.py": b"!"}
    server.files["/f/model.safetensors.index.json"] = b'{"weight_map": {"x": "a.safetensors", "y": "a.safetensors"}}'
    path = get(f"{url}/f/config.json")
    names = {"a.safetensors", "config.json", "model.safetensors.index.json", "tokenizer.json"}
    assert {file.name for file in path.iterdir()} == names | {".octavo.json"}
    for index in (b"[]", b"{", b'{"weight_map": {"x": "../../a.safetensors"}}'):
        server.files["/f/model.safetensors.index.json"] = index
        with pytest.raises(ModelNotFoundError):
            get(f"{url}/f/config.json")
    del server.files["/f/model.safetensors.index.json"]
    with pytest.raises(ModelNotFoundError, match="has none of"):
        get(f"{url}/f/config.json")


def test_redirects_are_few_and_keep_passwords_to_the_host(server: FileServer, url: str) -> None:
    other = FileServer()
    other.files["/x.gguf"] = MODEL
    with serving(other) as elsewhere:
        server.redirects = {
            "/m/x.gguf": f"{elsewhere}/x.gguf",
            "/loop.gguf": "/loop.gguf",
            "/f.gguf": "file:///etc/passwd",
        }
        assert get(url.replace("//", "//user:secret@") + "/m/x.gguf").read_bytes() == MODEL
    assert all(headers["Authorization"].startswith("Basic ") for headers in server.headers)
    assert not any("Authorization" in headers for headers in other.headers)
    with pytest.raises(ModelNotFoundError, match="redirects"):
        get(f"{url}/loop.gguf")
    with pytest.raises(ModelNotFoundError):
        get(f"{url}/f.gguf")


def test_nothing_encrypted_leads_to_what_is_not() -> None:
    from octavo.weights.sources.http import _Redirects, urllib

    request = urllib.request.Request("https://a/x.gguf")
    with pytest.raises(ModelNotFoundError, match="not encrypted"):
        _Redirects().redirect_request(request, None, 302, "", {}, "http://a/x.gguf")


@pytest.mark.parametrize("call", ["open", "read1"])
def test_a_network_without_a_route_is_no_failure_of_the_disk(
    call: str, server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    monkeypatch.setattr(*{"open": (http._opener(), "open"), "read1": (HTTPResponse, "read1")}[call], fail)
    with pytest.raises(ModelNotFoundError, match="No route to host") as raised:
        get(f"{url}/m/x.gguf")
    assert "cache folder" not in str(raised.value)


@pytest.mark.parametrize("names", [[], ["3513523f.0"]])
def test_authorities_of_its_own_come_where_the_system_has_none(
    names: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those in a folder are loaded when they are needed, so that they are not counted before."""
    for name in names:
        (tmp_path / name).write_text("")
    own: list[str] = []
    context = SimpleNamespace(load_verify_locations=own.append)
    monkeypatch.setattr(http.ssl, "create_default_context", lambda: context)
    paths = SimpleNamespace(cafile=None, capath=str(tmp_path))
    monkeypatch.setattr(http.ssl, "get_default_verify_paths", lambda: paths)
    monkeypatch.setitem(sys.modules, "certifi", SimpleNamespace(where=lambda: "own"))
    http._tls()
    assert own == ([] if names else ["own"])


def test_a_url_may_have_any_letters(server: FileServer, url: str) -> None:
    server.files["/mü/模 x.gguf"] = MODEL
    path = get(f"{url}/mü/模 x.gguf?q=ü")
    assert path.name == "模 x.gguf"
    assert get(f"{url}/m%C3%BC/%E6%A8%A1%20x.gguf") == path


@pytest.mark.parametrize(
    ("url", "spelled"),
    [
        ("https://bücher.example:80/x.gguf", "https://xn--bcher-kva.example:80/x.gguf"),
        ("https://ü:p@h/a|b.gguf", "https://%C3%BC:p@h/a%7Cb.gguf"),
        ("https://[::1]:8/a%20b.gguf?X-Sig=a%2Fb+c==&y", "https://[::1]:8/a%20b.gguf?X-Sig=a%2Fb+c==&y"),
    ],
)
def test_urls_are_asked_for_in_ascii(url: str, spelled: str) -> None:
    assert web._spell(url) == spelled


def test_a_length_in_other_digits_is_none(server: FileServer) -> None:
    error = HTTPError("", 503, "", Message(), None)
    error.headers["Retry-After"] = "²"
    assert http._wait(error) == 0.0


def test_a_signature_or_password_is_in_no_message_and_no_file(server: FileServer, url: str, cache: Path) -> None:
    with pytest.raises(ModelNotFoundError) as raised:
        get(url.replace("//", "//user:secret@") + "/m/y.gguf?X-Amz-Signature=secret")
    assert "secret" not in str(raised.value)
    get(url.replace("//", "//user:secret@") + "/m/x.gguf?X-Amz-Signature=secret")
    assert "X-Amz-Signature=secret" in server.paths[-1]
    (manifest,) = cache.rglob(".octavo.json")
    assert "secret" not in manifest.read_text()
    assert "secret" not in str(manifest)


def test_what_is_cached_under_one_signature_is_found_under_another(server: FileServer, url: str) -> None:
    path = get(f"{url}/m/x.gguf?signature=1")
    assert get(f"{url}/m/x.gguf?signature=2") == path


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("http://", "not a URL"),
        ("http://[", "not a URL"),
        ("https://host/folder/", "neither the URL"),
        ("https://host/m.safetensors", "neither the URL"),
        ("https://host/m.gguf#md5=1", "only sha256="),
        ("https://host/config.json#sha256=" + "0" * 64, "only sha256="),
        ("https://host/..%2Fm.gguf", "unsafe|neither"),
    ],
)
def test_urls_of_no_model_are_refused_without_a_question(reference: str, message: str) -> None:
    with pytest.raises(ModelNotFoundError, match=message):
        get(reference)


def test_a_url_has_no_revision(url: str) -> None:
    with pytest.raises(ConfigError, match="revision"):
        get(f"{url}/m/x.gguf", revision="v1")


def test_what_does_not_fit_is_not_begun(
    server: FileServer, url: str, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=1_000_000))
    with pytest.raises(ModelNotFoundError, match=r"needs 3\.0 MB more, 1\.0 MB are free in .*: set OCTAVO_CACHE or"):
        get(f"{url}/m/x.gguf")
    assert server.sent == {}
