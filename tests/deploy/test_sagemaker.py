"""What is sent to SageMaker is what its API takes, and the container starts as it wants it."""

import importlib.util
import json
import sys

import pytest

from .proxy import DEPLOY

SAGEMAKER = DEPLOY / "sagemaker"
FILES = ("create-endpoint-config", "create-endpoint", "create-model")


def command(environment):
    spec = importlib.util.spec_from_file_location("serve", SAGEMAKER / "serve.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.command(environment)


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_what_the_api_takes(name):
    session = pytest.importorskip("botocore.session").get_session()
    from botocore.validate import ParamValidator

    operation = "".join(part.title() for part in name.split("-"))
    shape = session.get_service_model("sagemaker").operation_model(operation).input_shape
    report = ParamValidator().validate(json.loads((SAGEMAKER / f"{name}.json").read_text()), shape)
    assert not report.has_errors(), report.generate_report()


def test_the_files_name_each_other():
    config, endpoint, model = (json.loads((SAGEMAKER / f"{name}.json").read_text()) for name in FILES)
    assert {variant["ModelName"] for variant in config["ProductionVariants"]} == {model["ModelName"]}
    assert endpoint["EndpointConfigName"] == config["EndpointConfigName"]


def test_without_settings_the_model_of_the_endpoint_is_served():
    start = [sys.executable, "-m", "octavo", "serve", "/opt/ml/model", "--host", "0.0.0.0", "--port"]
    assert command({}) == [*start, "8080"]
    assert command({"SAGEMAKER_BIND_TO_PORT": "9000"}) == [*start, "9000"]


def test_settings_become_flags():
    from octavo.cli.server_flags import SERVER_FLAGS

    environment = json.loads((SAGEMAKER / "create-model.json").read_text())["PrimaryContainer"]["Environment"]
    made = command(environment)
    assert made[made.index("--served-model-name") + 1] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert made[made.index("--max-model-len") + 1] == "2048"
    assert command({"SM_VLLM_MODEL": "a/b", "SM_OCTAVO_MODEL": "c/d"})[4] == "c/d"
    made = command({"SM_OCTAVO_LOG_REQUESTS": "true", "SM_VLLM_ENABLE_DOCS": "false"})
    assert made[-1] == "--log-requests"
    assert not any("enable-docs" in each for each in made)
    assert "log_requests" in {flag.name for flag in SERVER_FLAGS}
