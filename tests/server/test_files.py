"""/v1/files with OpenAI's own client: what is kept, for whom, for how long, and what is not taken."""

import json
import os
import resource
import threading

import openai
import pytest

from .running import Server, exchange
from .test_bad_input import check_error
from .test_keys_and_limits import bearer

LINE = b'{"custom_id": "a"}\n'
HEAD = b"POST /v1/files HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer one\r\n"
HEAD += b"Content-Type: multipart/form-data; boundary=b"
HOUR = {"anchor": "created_at", "seconds": 3600}


@pytest.fixture(scope="module")
def kept(tiny_model, tmp_path_factory):
    """A server of two keys with a data folder, which takes files of 1 MiB."""
    folder = tmp_path_factory.mktemp("files")
    flags = ("--data-dir", folder / "data", "--max-file-bytes", "1M", "--api-key", "one", "--api-key", "two")
    server = Server(folder / "log", tiny_model, *flags)
    server.data = folder / "data"
    yield server.wait()
    server.stop()


@pytest.fixture
def ai(kept):
    with kept.openai("one") as client:
        yield client


@pytest.fixture
def http(kept):
    with kept.client(headers=bearer("one")) as client:
        yield client


def contents(server):
    """Names of what the data folder has of files."""
    return {path.name for name in ("files", "temporary") for path in (server.data / name).iterdir()}


def send(http, data=LINE, name="lines.jsonl", **fields):
    return http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "batch", **fields})


def test_a_file_is_kept_listed_read_and_deleted(ai, kept):
    file = ai.files.create(file=("lines.jsonl", LINE * 3), purpose="batch", expires_after=HOUR)
    assert (file.object, file.status, file.purpose, file.filename) == ("file", "processed", "batch", "lines.jsonl")
    assert (file.bytes, file.expires_at) == (len(LINE) * 3, file.created_at + 3600)
    assert ai.files.retrieve(file.id) == file
    assert ai.files.content(file.id).read() == LINE * 3
    assert file in ai.files.list().data
    deleted = ai.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    for ask in (ai.files.retrieve, ai.files.content, ai.files.delete):
        with pytest.raises(openai.NotFoundError, match=file.id):
            ask(file.id)
    assert not any(name.startswith(file.id) for name in contents(kept))


def test_files_are_listed_in_pages_from_either_end(kept):
    with kept.openai("two") as ai:
        made = [
            ai.files.create(file=("f", b"x"), purpose=purpose).id
            for purpose in ("batch", "user_data", "batch", "batch")
        ]
        assert [file.id for file in ai.files.list()] == made[::-1]
        assert [file.id for file in ai.files.list(order="asc")] == made
        assert [file.id for file in ai.files.list(purpose="user_data")] == [made[1]]
        page = ai.files.list(limit=3, order="asc")
        assert ([file.id for file in page.data], page.has_more) == (made[:3], True)
        page = ai.files.list(limit=3, order="asc", after=made[2])
        assert ([file.id for file in page.data], page.has_more) == (made[3:], False)
        assert [file.id for file in ai.files.list(limit=1)] == made[::-1]  # the client asks for page after page
        assert ai.files.list(after=made[0]).data == []


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"after": "file-none"}, "after"),
        ({"order": "up"}, "order"),
        ({"page": "2"}, "page"),
        ([("limit", "1"), ("limit", "2")], None),
    ],
)
def test_a_bad_query_is_refused_by_name(http, query, param):
    check_error(http.get("/v1/files", params=query), 400, param)


def test_files_belong_to_their_key(ai, kept):
    file = ai.files.create(file=("f", b"x"), purpose="batch")
    with kept.openai("two") as other:
        assert file.id not in {each.id for each in other.files.list()}
        for ask in (other.files.retrieve, other.files.content, other.files.delete):
            with pytest.raises(openai.NotFoundError):
                ask(file.id)
        with pytest.raises(openai.NotFoundError):
            other.batches.create(input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h")
    assert ai.files.content(file.id).read() == b"x"
    with kept.client() as nobody:
        assert nobody.get("/v1/files").status_code == 401


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\boot.ini", "boot.ini"),
        ("/", ""),
        ("täg.jsonl", "täg.jsonl"),
        ("a\x07\x1b[31mb", "a[31mb"),
        ("n" * 400, "n" * 255),
    ],
)
def test_the_name_of_a_file_leads_nowhere(http, kept, name, shown):
    before = contents(kept)
    disposition = b'form-data; name="file"; filename="%b"' % name.encode().replace(b"\\", b"\\\\")
    body = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    body += b"--b\r\ncontent-disposition: %b\r\n\r\nx\r\n--b--\r\n" % disposition
    answer = http.post("/v1/files", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["filename"] == shown
    file_id = answer.json()["id"]
    assert contents(kept) - before == {f"{file_id}.json", f"{file_id}.data"}
    for path in ("..%2f..%2flock", "%2e%2e/lock", "lock"):
        assert http.get(f"/v1/files/{path}/content").status_code == 404


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": "Batch"}, "purpose"),
        ({"purpose": ""}, "purpose"),
        ({"expires_after[anchor]": "created_at"}, "expires_after"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after"),
        *(
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}, "expires_after")
            for seconds in ("3599", "2592001", "-1", "1e4", "nan", "9" * 400, "an hour")
        ),
        ({"expires_after": "3600"}, "expires_after"),
        ({"expires_after[minutes]": "60"}, "expires_after"),
        ({"note": "x"}, "note"),
    ],
)
def test_a_bad_field_of_an_upload_is_refused_by_name(http, kept, fields, param):
    before = contents(kept)
    check_error(send(http, **fields), 400, param)
    assert contents(kept) == before


def test_an_upload_needs_a_purpose_a_file_and_something_in_it(http, kept):
    before = contents(kept)
    check_error(http.post("/v1/files", files={"file": ("f", b"x")}), 400, "purpose")
    error = check_error(http.post("/v1/files", files={"purpose": (None, "batch")}), 400, "file")
    assert "the file, as curl" in error["message"]
    assert check_error(send(http, b""), 400, "file")["code"] == "invalid_file"
    check_error(http.post("/v1/files", json={"purpose": "batch"}), 415)
    assert contents(kept) == before


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(kept):
    """A gigabyte is announced, and never has to be sent."""
    before = contents(kept)
    status, _, body = exchange(kept, HEAD + b"\r\nContent-Length: %d\r\n\r\n--b\r\n" % (1 << 30))
    assert status == 413
    assert json.loads(body)["error"]["param"] == "file"
    assert "1048576 bytes (--max-file-bytes)" in json.loads(body)["error"]["message"]
    assert contents(kept) == before


def test_a_file_that_turns_out_too_large_leaves_nothing(http, kept):
    before = contents(kept)
    error = check_error(send(http, bytes((1 << 20) + 1)), 413, "file")
    assert error["code"] == "file_too_large"
    assert contents(kept) == before
    assert send(http, bytes(1 << 20)).status_code == 200


def test_a_client_that_leaves_amid_an_upload_leaves_nothing(kept):
    part = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n' + bytes(10_000)
    before = contents(kept)
    with kept.connect() as connection:
        connection.sendall(HEAD + b"\r\nContent-Length: 20000\r\n\r\n" + part)
        while contents(kept) == before:
            pass
    while contents(kept) != before:
        pass


def test_files_survive_kill_9_and_what_was_not_whole_does_not(start, tiny_model, tmp_path):
    flags = (tiny_model, "--data-dir", tmp_path / "data")
    server = start(*flags)
    with server.openai() as ai:
        file = ai.files.create(file=("f", LINE), purpose="batch")
    server.process.kill()
    server.process.wait()
    left = (tmp_path / "data/temporary/half", tmp_path / "data/files/file-unknown.data")
    for path in left:
        path.write_bytes(b"x")
    server = start(*flags)
    assert not any(path.exists() for path in left)
    with server.openai() as ai:
        assert ai.files.list().data == [file]
        assert ai.files.content(file.id).read() == LINE


def test_files_expire(start, tiny_model, tmp_path):
    flags = (tiny_model, "--data-dir", tmp_path / "data")
    server = start(*flags)
    with server.openai() as ai:
        gone = ai.files.create(file=("f", b"x"), purpose="batch", expires_after=HOUR)
        stays = ai.files.create(file=("f", b"x"), purpose="batch", expires_after=HOUR)
    assert server.stop() == 0
    record = tmp_path / f"data/files/{gone.id}.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "expires_at": gone.created_at - 1}))
    server = start(*flags)
    with server.openai() as ai:
        assert [file.id for file in ai.files.list()] == [stays.id]
        with pytest.raises(openai.NotFoundError):
            ai.files.content(gone.id)
    while record.exists() or record.with_suffix(".data").exists():
        assert server.process.poll() is None


def test_a_disk_that_is_full_is_503_and_nothing_half_is_there(start, tiny_model, tmp_path):
    """In place of a full disk: files may have 64 KiB."""
    limit = {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))}
    server = start(tiny_model, "--data-dir", tmp_path / "data", **limit)
    server.data = tmp_path / "data"
    with server.client() as http:
        error = check_error(send(http, bytes(1 << 17)), 503)
        assert error["code"] == "storage_full"
        assert contents(server) == set()
        assert send(http, bytes(1 << 10)).status_code == 200


def test_a_folder_has_one_server(start, tiny_model, tmp_path):
    flags = (tiny_model, "--data-dir", tmp_path / "data")
    server = start(*flags)
    second = start(*flags, wait=None)
    assert second.process.wait() == 2
    assert second.read_log().splitlines()[-1].endswith("another server uses this folder")
    assert server.stop() == 0
    start(*flags)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told(start, tiny_model, tmp_path):
    (tmp_path / "data").mkdir(mode=0o500)
    server = start(tiny_model, "--data-dir", tmp_path / "data", wait=None)
    assert server.process.wait() == 2
    assert "data_dir" in server.read_log()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"id": "file-a"}', '{"id": "a", "unknown": 1}'])
def test_a_record_that_was_spoilt_is_named_and_nothing_is_removed(start, tiny_model, tmp_path, text):
    folder = tmp_path / "data/files"
    folder.mkdir(parents=True)
    (folder / "file-a.json").write_text(text)
    (folder / "file-a.data").write_text("x")
    server = start(tiny_model, "--data-dir", tmp_path / "data", wait=None)
    assert server.process.wait() == 2
    assert "file-a.json" in server.read_log().splitlines()[-1]
    assert (folder / "file-a.data").read_text() == "x"


def test_without_a_data_folder_the_flag_is_named(audio_server):
    with audio_server.client() as http:
        answers = [http.get("/v1/files"), http.get("/v1/files/x"), http.get("/v1/batches"), send(http)]
        answers += [http.post("/v1/batches", json={}), http.post("/v1/batches/x/cancel")]
    for answer in answers:
        assert "--data-dir" in check_error(answer, 404)["message"]


def test_many_upload_at_once(http, kept):
    found = []

    def upload(number):
        found.append((number, send(http, b"%d" % number * 50_000).json()["id"]))

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, file_id in found:
        assert http.get(f"/v1/files/{file_id}/content").content == b"%d" % number * 50_000
    listed = http.get("/v1/files", params={"order": "asc"}).json()["data"]
    assert {file_id for _, file_id in found} <= {file["id"] for file in listed}
