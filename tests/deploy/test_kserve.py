"""KServe's resources, against kserve's own models; containers in them against Kubernetes' schemas."""

import importlib.util
import inspect
import sys
import types

import pytest
import yaml

from .proxy import DEPLOY

KSERVE = DEPLOY / "kserve"
FILES = sorted(path.name for path in KSERVE.glob("*.yaml"))
RUNTIMES = [name for name in FILES if name.startswith("servingruntime")]
SERVICES = [name for name in FILES if name.startswith("inferenceservice")]
PLAIN = {"str": str, "bool": bool, "int": int, "float": float}


def read(name):
    return yaml.safe_load((KSERVE / name).read_text())


@pytest.fixture(scope="session")
def models():
    """kserve's models alone: what else is in the package needs all of its dependencies."""
    found = importlib.util.find_spec("kserve") if "kserve" not in sys.modules else None
    if found is None and "kserve" not in sys.modules:
        pytest.skip("kserve is not installed")
    if found is not None:
        package = types.ModuleType("kserve")
        package.__path__ = list(found.submodule_search_locations)
        sys.modules["kserve"] = package
    return pytest.importorskip("kserve.models")


def check(models, kind, value, where):
    """`value` is a `kind`: no field is unknown or of another type, and none that must be there is missing."""
    if kind.startswith("list["):
        assert isinstance(value, list), where
        for i, each in enumerate(value):
            check(models, kind[5:-1], each, f"{where}[{i}]")
    elif kind.startswith("dict("):
        assert isinstance(value, dict), where
        for name, each in value.items():
            check(models, kind.removesuffix(")").partition(", ")[2], each, f"{where}.{name}")
    elif kind in PLAIN:
        assert type(value) is PLAIN[kind], f"{where} is {value!r}"
    elif (model := getattr(models, kind, None)) is not None:
        fields = {key: (name, model.openapi_types[name]) for name, key in model.attribute_map.items()}
        assert set(value) <= set(fields), f"{where}: {set(value) - set(fields)}"
        for name, each in value.items():
            check(models, fields[name][1], each, f"{where}.{name}")
        assert "local_vars_configuration" in inspect.signature(model).parameters
        model(**{fields[name][0]: each for name, each in value.items()})  # raises for what must be there


@pytest.mark.parametrize("name", FILES)
def test_a_resource_is_valid(models, name):
    resource = read(name)
    version = resource["apiVersion"].rpartition("/")[2].title()
    check(models, f"{version}{resource['kind']}", resource, resource["kind"])


def test_a_mistake_is_found(models):
    resource = read("inferenceservice-raw.yaml")
    resource["spec"]["predictor"]["model"]["modelformat"] = {}
    with pytest.raises(AssertionError, match="modelformat"):
        check(models, "V1beta1InferenceService", resource, "InferenceService")


def pod(containers, **more):
    head = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "octavo"}}
    return {**head, "spec": {"containers": containers, **more}}


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_container_of_a_runtime_is_valid_and_has_no_rights(name):
    validate = pytest.importorskip("kubernetes_validate").validate
    spec = read(name)["spec"]
    validate(pod(spec["containers"], volumes=spec["volumes"]), "1.35", strict=True)
    (container,) = spec["containers"]
    assert container["name"] == "kserve-container"
    context = container["securityContext"]
    assert (context["runAsNonRoot"], context["readOnlyRootFilesystem"]) == (True, True)
    assert "runAsUser" not in context
    assert not {"lifecycle"} & set(container)  # Knative takes none
    (port,) = container["ports"]
    assert f"--port={port['containerPort']}" in container["args"]
    assert container["args"][:2] == ["serve", "/mnt/models"]


@pytest.mark.parametrize("name", RUNTIMES)
def test_the_flags_of_a_runtime_are_the_servers(name):
    from octavo.cli.server_flags import SERVER_FLAGS

    known = {f"--{flag.name.replace('_', '-')}" for flag in SERVER_FLAGS} | {"--served-model-name"}
    (container,) = read(name)["spec"]["containers"]
    assert {flag.partition("=")[0] for flag in container["args"][2:]} <= known


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_names_a_runtime_and_its_format(name):
    model = read(name)["spec"]["predictor"]["model"]
    runtimes = {runtime["metadata"]["name"]: runtime for runtime in map(read, RUNTIMES)}
    formats = {each["name"] for each in runtimes[model["runtime"]]["spec"]["supportedModelFormats"]}
    assert model["modelFormat"]["name"] in formats


def test_what_drains_has_time_and_what_is_serverless_scales_to_zero():
    raw, serverless = (read(f"inferenceservice-{name}.yaml")["spec"]["predictor"] for name in ("raw", "serverless"))
    pause = int(raw["model"]["lifecycle"]["preStop"]["exec"]["command"][1])
    (container,) = read("servingruntime.yaml")["spec"]["containers"]
    (timeout,) = [int(flag.partition("=")[2]) for flag in container["args"] if "shutdown-timeout" in flag]
    assert raw["terminationGracePeriodSeconds"] >= pause + timeout + 5
    assert serverless["minReplicas"] == 0
