"""The commands that people type: flags, module names, --config, several models, TLS and Unix sockets."""

import json
import subprocess
import sys

import httpx
import pytest

from octavo.cli.serve import _parser, read_arguments
from octavo.errors import OctavoError
from octavo.server.models import ModelRegistry

HELLO = [{"role": "user", "content": "Hello"}]


def read(*arguments):
    return read_arguments(_parser("octavo serve").parse(list(map(str, arguments))))


def registry(*arguments):
    config, specs = read(*arguments)
    return ModelRegistry(specs, config)


# What guides have, and a value that means something here.
ACCEPTED = {
    "--tool-call-parser": "hermes",
    "--reasoning-parser": "deepseek_r1",
    "--enable-auto-tool-choice": None,
    "--model": "m",
    "--task": "generate",
    "--dtype": "half",
    "--served-model-name": "name",
    "--host": "0.0.0.0",
    "--port": "8001",
    "--api-key": "key",
    "--device": "cpu",
    "--gpu-memory-utilization": "0.95",
    "--max-model-len": "4k",
    "--max-num-seqs": "64",
    "--max-num-batched-tokens": "2048",
    "--block-size": "16",
    "--swap-space": "8",
    "--tensor-parallel-size": "1",
    "--pipeline-parallel-size": "1",
    "--trust-remote-code": None,
    "--disable-log-requests": None,
    "--enable-log-requests": None,
    "--disable-log-stats": None,
    "--disable-async-output-proc": None,
    "--worker-cls": "vllm.worker.worker.Worker",
    "--enable-chunked-prefill": None,
    "--no-enable-chunked-prefill": None,
    "--chunked-prefill-size": "512",
    "--enable-prefix-caching": None,
    "--no-enable-prefix-caching": None,
    "--generation-config": "vllm",
    "--chat-template": "{{ messages }}",
    "--seed": "0",
    "--tokenizer": "m",
    "--revision": "main",
    "--download-dir": "/models",
    "--load-format": "safetensors",
    "--enforce-eager": None,
    "--max-logprobs": "5",
    "--response-role": "assistant",
    "--root-path": "/api",
    "--ssl-keyfile": "key.pem",
    "--allowed-origins": '["*"]',
    "--uds": "/tmp/socket",
    "--uvicorn-log-level": "warning",
    "--disable-fastapi-docs": None,
    "--max-log-len": "10",
    "--disable-frontend-multiprocessing": None,
}
REFUSED = {
    "--task": "draft",
    "--device": "cuda",
    "--tensor-parallel-size": "2",
    "--pipeline-parallel-size": "2",
    "--quantization": "int3",
    "--limit-mm-per-prompt": "image=1",
    "--lora-modules": "a=b",
    "--enable-lora": None,
    "--speculative-config": '{"model": "m"}',
    "--tool-call-parser": "no-such-format",
    "--reasoning-parser": "no-such-format",
    "--middleware": "a.b",
    "--load-format": "tensorizer",
    "--dtype": "int3",
    "--port": "70000",
    "--root-path": "api",
    "--request-timeout": "0",
    "--max-queued-requests": "0",
}


@pytest.mark.parametrize(("flag", "value"), ACCEPTED.items())
def test_a_flag_of_the_guides_is_accepted(flag, value):
    more = ("--ssl-certfile", "cert.pem") if flag == "--ssl-keyfile" else ()
    models = registry(*(() if flag == "--model" else ("m",)), flag, *([] if value is None else [value]), *more)
    assert models.find(None).config.model == "m"


@pytest.mark.parametrize(("flag", "value"), REFUSED.items())
def test_a_flag_that_asks_for_what_is_not_there_is_refused_by_name(flag, value):
    with pytest.raises(OctavoError) as caught:
        registry("m", flag, *([] if value is None else [value]))
    assert flag[2:].replace("-", "_") in str(caught.value)


@pytest.mark.parametrize("task", ["auto", "generate", "transcription", "transcribe", "translation", "translate"])
def test_a_task_is_taken_before_it_is_known_what_the_model_can_do(task):
    assert registry("m", "--task", task).find(None).config.task == task


def test_vllm_s_name_for_the_access_log_and_the_queue_are_known():
    config, _ = read("m", "--disable-uvicorn-access-log", "--max-num-queued-reqs", 7, "--max-num-queued-tokens", "8k")
    assert (config.log_requests, config.max_queued_requests, config.max_queued_tokens) == (False, 7, 8000)


def test_variables_of_vllm_set_the_server_too_and_flags_win(monkeypatch):
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "WARNING")
    monkeypatch.setenv("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "20")
    config, _ = read("m", "--keep-alive-timeout", 30)
    assert (config.log_level, config.keep_alive_timeout) == ("warning", 30)


WHISPER = "openai/whisper-tiny.en"


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["whisper-tiny.en"], ["whisper-tiny.en", WHISPER]),
        (["tiny.en"], ["tiny.en", WHISPER]),
        ([WHISPER], [WHISPER, "whisper-tiny.en"]),
        (["/workspace/models/openai/whisper-tiny.en"], [WHISPER, "whisper-tiny.en"]),
        (["/models/whisper-tiny.en"], [WHISPER, "whisper-tiny.en", "/models/whisper-tiny.en"]),
        (["/models/some-folder", "--served-model-name", WHISPER], [WHISPER, "whisper-tiny.en", "some-folder"]),
    ],
)
def test_a_model_is_found_by_the_name_that_it_has_on_the_hub(arguments, names):
    models = registry(*arguments)
    assert len({models.find(name).id for name in names}) == 1


def test_flags_of_the_server_have_their_meaning():
    config, (spec,) = read(
        *("m", "--host", "::1", "--port", 9, "--served-model-name", "a", "b", "--api-key", "x", "--api-key", "y"),
        *("--disable-log-requests", "--disable-log-stats", "--disable-fastapi-docs", "--max-queued-tokens", "4k"),
        *("--allowed-origins", "http://a,http://b", "--uvicorn-log-level", "error", "--max_num_seqs", 3),
    )
    assert (config.host, config.port, config.api_keys) == ("::1", 9, ("x", "y"))
    assert (config.log_requests, config.log_stats, config.enable_docs) == (False, False, False)
    assert (config.max_queued_tokens, config.log_level) == (4000, "error")
    assert config.allowed_origins == ("http://a", "http://b")
    assert spec.names == ("a", "b")
    assert spec.options == {"model": "m", "max_num_seqs": 3}


def test_keys_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("OCTAVO_API_KEY", "one")
    monkeypatch.setenv("VLLM_API_KEY", "")
    assert read("m", "--api-key", "two")[0].api_keys == ("two", "one")


def test_a_file_has_flags_and_what_is_typed_wins(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(
        "model: m\nport: 9000\nmax-model-len: 4k\nuvicorn-log-level: error\nenable_prefix_caching: false\n"
        "served-model-name: name\nallowed-origins: ['*']\ndisable-log-requests: true\napi-key: [a, b]\n"
    )
    config, (spec,) = read("--config", file, "--port", 9001)
    assert (config.port, config.log_level, config.allowed_origins) == (9001, "error", ("*",))
    assert (config.log_requests, config.api_keys, spec.names) == (False, ("a", "b"), ("name",))
    assert spec.options == {"model": "m", "max_model_len": 4000, "enable_prefix_caching": False}
    assert read("--config", file, "--log-requests")[0].log_requests


def test_a_file_has_options_for_each_of_several_models(tmp_path):
    file = tmp_path / "serve.yaml"
    file.write_text(
        "max_num_seqs: 8\nmodels:\n- org/first\n"
        "- {model: /folder/second, served-model-name: [two], aliases: [zwei, deux], max-num-seqs: 2}\n"
    )
    models = registry("--config", file)
    assert [model.config.max_num_seqs for model in models] == [8, 2]
    assert models.find("first").id == models.find("org/first").id == "org/first"
    assert {models.find(name).id for name in ("two", "zwei", "deux", "second", "/folder/second")} == {"two"}


BAD_FILES = {
    "nothing": "must have lines",
    "- a": "must have lines",
    "prot: 1": "did you mean port",
    "port: [1": "can't be read",
    "port: many": "port: must be an integer, got 'many'",
    "port: 1\nport: 2": "port is there twice, at line 1",
    "models: [{model: a, seed: 1, seed: 2}]": "seed is there twice",
    "host: ''": "host must not be empty",
    "served-model-name: ''": "served_model_name must be a name",
    "api-key: ['']": "api_key must not be empty",
    "models: 5": "models must be a list",
    "models: []": "models must be a list of at least one model",
    "models:": "models must be a list of at least one model",
    "a: " + "[" * 5000: "can't be read",
    "a: \0": "can't be read",
    "models: [5]": "an entry of models",
    "models: [{model: a, aliases: 5}]": "aliases must be",
    "models: [{model: a, max_modle_len: 5}]": "did you mean max_model_len",
    "models: [a, a]": "two models have this name",
    "enable_prefix_caching: 5": "must be true or false",
}


@pytest.mark.parametrize(("text", "says"), BAD_FILES.items())
def test_a_bad_file_is_refused(tmp_path, text, says):
    file = tmp_path / "serve.yaml"
    file.write_text(text)
    with pytest.raises(OctavoError, match=says):
        registry("--config", file)


MISTAKES = {
    ("a", "--api-key", ""): "--api-key: must not be empty",
    ("a", "--api-key", "k", "--api-key", "a b"): "api_key='…': a key has",
    ("a", "--served-model-name", ""): "--served-model-name: must not be empty",
    ("a", "--served-model-name", "b", " "): "--served-model-name: must not be empty",
    ("a", "--response-role", ""): "--response-role: must not be empty",
    ("a", "--log-level", "loud"): "log_level='loud': must be one of debug, info",
    ("a", "--log-format", "xml"): "log_format='xml': must be one of text, json",
    ("a", "--header-timeout", "inf"): "header_timeout=inf: must be in 0.001..",
    ("a", "--shutdown-timeout", "nan"): "shutdown_timeout=nan: must be in 0..",
    ("a", "--tokens-per-minute", "9" * 18): "tokens_per_minute=9+: must be in 1..",
    ("a", "--allowed-origins", "[bad"): "--allowed-origins: must be like",
    ("a", "--allowed-origins", ","): "--allowed-origins: must be like",
    ("a", "--allowed-origins", "example.com"): "must be . or like https://example.com, without a path",
    ("a", "--allowed-origins", "https://a.b/"): "must be . or like https://example.com, without a path",
    ("a", "--allowed-methods", "GET,A B"): "must be . or like GET",
    ("a", "--ssl-ca-certs", "c"): "needs ssl_certfile too",
    ("a", "--ssl-cert-reqs", "3"): "ssl_cert_reqs=3: must be 0, 1 or 2",
    ("a", "--ssl-cert-reqs", "2"): "needs ssl_ca_certs too",
    ("a", "--config", "/dev/zero"): "can't be read: it is no regular file",
    ("a", "--config", "/"): "can't be read: it is a directory",
    ("a", "--model", "b"): "two models were given",
    ("a", "b", "--model", "c"): "models were given as arguments and with --model",
    ("a", "b", "--served-model-name", "c"): "--served-model-name names one model",
    ("a", "b", "--alias", "c"): "--alias names one model",
    ("a", "b", "--tags", "c"): "--tags names one model",
    ("a", "--prot", "5"): "did you mean --port",
    ("a", "--ssl-keyfile", "k"): "ssl_certfile",
}


@pytest.mark.parametrize(("arguments", "says"), MISTAKES.items())
def test_a_mistake_is_refused(arguments, says):
    with pytest.raises(OctavoError, match=says):
        read(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ("/nowhere/model",),
        ("{model}", "--port", "1", "--host", "192.0.2.1"),
        ("{model}", "--ssl-certfile", "/nowhere"),
        ("{model}", "--chat-template", "/nowhere"),
        ("{model}", "--chat-template", "/dev/zero"),
        ("{model}", "--ssl-certfile", "/dev/zero"),
        ("{model}", "--api-key-file", "/dev/zero"),
        ("{model}", "--api-key-file", "{model}/config.json"),
        ("{model}", "--config", "/dev/zero"),
        ("{model}", "--host", "a..b"),
        ("{model}", "--log-level", "loud"),
        ("{model}", "--max-model-len", "10000000"),
        ("{model}", "--task", "transcription"),
    ],
)
def test_a_server_that_can_t_begin_ends_with_one_line_and_code_2(tiny_model, arguments):
    command = [sys.executable, "-m", "octavo", "serve", "--log-level", "error"]
    command += [argument.format(model=tiny_model) for argument in arguments]
    command += [] if "--port" in arguments else ["--port", "0"]
    environment = {"PYTHONPATH": ":".join(sys.path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("octavo: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_whisper_for_english_is_not_served_to_translate(start, whisper_model):
    server = start(whisper_model, "--task", "translation", "--log-level", "error", wait=None)
    assert server.process.wait(60) == 2
    assert "--task 'translation': this model knows only English" in server.read_log()


@pytest.mark.parametrize(
    "module",
    [
        ("octavo", "serve", "--model"),
        ("octavo.entrypoints.openai.api_server", "--model"),
        ("octavo.entrypoints.api_server", "--model"),
    ],
)
def test_the_module_names_that_people_type_start_the_server(start, tiny_model, module):
    server = start(tiny_model, module=module)
    with server.client() as client:
        assert client.get("/v1/models").json()["data"][0]["id"] == str(tiny_model)


def test_several_models_are_served_and_requests_say_which(start, tiny_model, tmp_path):
    other = tmp_path / "other"
    other.symlink_to(tiny_model)
    server = start(tiny_model, other)
    with server.client() as client:
        cards = client.get("/v1/models").json()["data"]
        assert [card["id"] for card in cards] == [str(tiny_model), str(other)]
        body = {"messages": HELLO, "max_tokens": 4, "temperature": 0}
        answers = [
            client.post("/v1/chat/completions", json={**body, "model": name}).json()["choices"]
            for name in ("tiny", "other", str(other))
        ]
        assert answers[0] == answers[1] == answers[2]  # they are the same weights
        assert client.get("/v1/models/other").json()["id"] == str(other)
        missing = client.post("/v1/chat/completions", json=body)
        assert (missing.status_code, missing.json()["error"]["param"]) == (400, "model")
        unknown = client.post("/v1/chat/completions", json={**body, "model": "othr"})
        assert unknown.status_code == 404
        assert "'other'" in unknown.json()["error"]["message"]
        assert client.get("/readyz").json()["models"] == {"tiny": "ready", "other": "ready"}
    assert server.stop() == 0


def test_it_listens_on_a_unix_socket_for_this_user_only(start, tiny_model, tmp_path):
    path = tmp_path / "socket"
    server = start(tiny_model, "--uds", path)
    assert path.stat().st_mode & 0o777 == 0o600
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://a", timeout=60) as client:
        body = {"messages": HELLO, "max_tokens": 4}
        assert client.post("/v1/chat/completions", json=body).status_code == 200
    assert server.stop() == 0
    assert not path.exists()


def test_it_speaks_tls(start, tiny_model, tmp_path):
    key, cert = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-keyout", key, "-out", cert], check=True, capture_output=True)
    server = start(tiny_model, "--ssl-keyfile", key, "--ssl-certfile", cert)
    assert server.url.startswith("https://")
    with server.client(verify=False) as client:
        assert client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 4}).status_code == 200


def test_behind_a_proxy_paths_work_with_and_without_its_prefix(start, tiny_model):
    server = start(tiny_model, "--root-path", "/api", "--api-key", "k", "--log-format", "json")
    with server.client(headers={"authorization": "Bearer k"}) as client:
        for prefix in ("", "/api"):
            assert client.get(f"{prefix}/v1/models").status_code == 200
    with server.client() as client:
        for prefix in ("", "/api"):
            assert client.get(f"{prefix}/readyz").status_code == 200
            assert client.get(f"{prefix}/v1/models").status_code == 401
    assert all("message" in json.loads(line) for line in server.read_log().splitlines())


def test_help_lists_the_flags_and_imports_nothing_heavy():
    code = "import sys; from octavo.cli.main import main\ntry: main(['serve', '--help'])\nexcept SystemExit: pass\n"
    code += "print({m for m in ('numpy', 'fastapi', 'pydantic', 'uvicorn', 'yaml') if m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert "--max-queued-requests" in done.stdout
    assert done.stdout.strip().endswith("set()")


@pytest.mark.parametrize("module", ["octavo", "octavo.llm", "octavo.async_llm"])
def test_the_library_needs_nothing_of_the_server(module):
    code = f"import sys, {module}\nprint({{m for m in ('fastapi', 'pydantic', 'uvicorn', 'yaml', 'prometheus_client')"
    code += " if m in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert done.stdout.strip() == "set()"
