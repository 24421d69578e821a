"""The chart, rendered by Helm itself, keeps the promises that the manifests of kustomize do."""

import json

import pytest
import yaml

from .proxy import DEPLOY
from .test_kubernetes import check, check_pods, check_server, one

CHART = DEPLOY / "helm/octavo"
KEYS = {"secret": {"apiKey": "sk-1", "hfToken": "hf_1"}}
CASES = {
    "as it is": {},
    "keys": KEYS,
    "a Secret that is there": {"secret": {"existing": "keys"}, "serviceMonitor": {"enabled": True}},
    "a GPU": {"gpu": {"count": 1}, "tolerations": [{"key": "team", "operator": "Exists"}]},
    "a volume of models": {
        "modelsVolume": {"existingClaim": "models"},
        "cache": {"existingClaim": "cache"},
        "models": [{"model": "/models/a.gguf", "served-model-name": "a", "max-model-len": 2048}, "/models/b"],
    },
    "S3": {"s3Secret": "octavo-s3", "models": ["s3://models/a"]},
    "HPA": {"autoscaling": {"kind": "hpa", "ttftSeconds": 0.5}},
    "KEDA": {"autoscaling": {"kind": "keda", "minReplicas": 1}, "serviceMonitor": {"enabled": True}},
    "more ways out": {"networkPolicy": {"extraEgress": [{"ports": [{"protocol": "TCP", "port": 4317}]}]}},
    "an ingress": {"ingress": {"enabled": True, "host": "llm.example", "tlsSecret": "tls", "className": "nginx"}},
    "a route": {"route": {"enabled": True, "host": "llm.example"}},
    "all of it": {
        **KEYS,
        "ingress": {"enabled": True},
        "route": {"enabled": True},
        "autoscaling": {"kind": "hpa"},
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "env": [{"name": "OCTAVO_NUM_THREADS", "value": "4"}],
        "podLabels": {"team": "a"},
        "podAnnotations": {"a/b": "c"},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"a": "b"},
        "affinity": {"nodeAffinity": {}},
        "image": {"repository": "registry.example/octavo", "tag": "1"},
        "flags": {"max-queued-requests": 10},
        "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
    },
    "nothing that can be left out": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "resources": {"limits": {"memory": "8Gi"}},
    },
}


@pytest.fixture(scope="session")
def chart():
    return pytest.importorskip("helm_python").Chart.load(CHART)


def rendered(chart, values, name="llm"):
    files = chart.render(values, name=name, namespace="serving")
    texts = [text for path, text in files.items() if path.endswith(".yaml")]
    return [each for text in texts for each in yaml.safe_load_all(text) if each], files


@pytest.mark.parametrize("case", CASES)
def test_what_is_rendered_is_valid_and_keeps_its_promises(chart, case):
    values = CASES[case]
    chart.validate_schema(values)
    objects, _ = rendered(chart, values)
    check(objects)
    check_pods(objects)
    if case.startswith("nothing"):
        assert {each["kind"] for each in objects} == {"ConfigMap", "Deployment", "Service", "ServiceAccount"}
    else:
        check_server(objects)


def test_linting_finds_nothing():
    helm = pytest.importorskip("helm_python")
    report = helm.lint(CHART)
    assert report["errors"] == []
    assert [each["error"] for each in report["messages"]] == ["icon is recommended"]  # there is none


@pytest.mark.parametrize(
    "values",
    [
        {"model": "a"},
        {"models": []},
        {"models": [{"name": "a"}]},
        {"replicas": "two"},
        {"gpu": {"count": -1}},
        {"autoscaling": {"kind": "magic"}},
        {"autoscaling": {"kind": "keda", "minReplicas": 0}},
        {"image": {"repo": "a"}},
        {"service": {"port": 70000}},
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(chart, values):
    from helm_python import HelmError

    with pytest.raises(HelmError):
        chart.validate_schema(values)


def test_flags_that_the_chart_sets_are_refused(chart):
    from helm_python import HelmError

    with pytest.raises(HelmError, match="the chart sets it"):
        rendered(chart, {"flags": {"port": 9000}})


def test_keda_needs_what_prometheus_scrapes(chart):
    from helm_python import HelmError

    with pytest.raises(HelmError, match=r"set serviceMonitor\.enabled"):
        rendered(chart, {"autoscaling": {"kind": "keda"}})
    objects, _ = rendered(chart, CASES["KEDA"])
    for trigger in one(objects, "ScaledObject")["spec"]["triggers"]:  # the job of a ServiceMonitor is the Service
        assert f'job="{one(objects, "Service")["metadata"]["name"]}"' in trigger["metadata"]["query"]


def test_values_reach_the_server(chart):
    objects, _ = rendered(chart, CASES["all of it"])
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["serve.yaml"])
    assert config["max-queued-requests"] == 10
    assert config["models"] == ["HuggingFaceTB/SmolLM2-135M-Instruct"]
    deployment = one(objects, "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example/octavo:1"
    pod = one(rendered(chart, {"podSecurityContext": {"fsGroup": 1001}})[0], "Deployment")["spec"]["template"]["spec"]
    assert (pod["securityContext"]["fsGroup"], pod["securityContext"]["runAsNonRoot"]) == (1001, True)
    assert "replicas" not in deployment["spec"]
    objects, _ = rendered(chart, CASES["a GPU"])
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "16Gi", "nvidia.com/gpu": "1"}
    assert container["image"] == "octavo:cuda"
    tolerated = one(objects, "Deployment")["spec"]["template"]["spec"]["tolerations"]
    assert [each["key"] for each in tolerated] == ["team", "nvidia.com/gpu"]
    policy = one(rendered(chart, CASES["more ways out"])[0], "NetworkPolicy")
    assert policy["spec"]["egress"][-1] == {"ports": [{"protocol": "TCP", "port": 4317}]}


@pytest.mark.parametrize(("count", "given", "memory"), [(0, {}, "4Gi"), (1, {"memory": "32Gi"}, "32Gi")])
def test_the_memory_is_what_is_asked_for_or_what_is_usual(chart, count, given, memory):
    objects, _ = rendered(chart, {"gpu": {"count": count}, "resources": {"limits": given}})
    (container,) = one(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["memory"] == memory


@pytest.mark.parametrize("values", [{"models": ["b"]}, {"secret": {"apiKey": "sk-2"}}], ids=["models", "key"])
def test_another_configuration_rolls_the_pods(chart, values):
    before, after = (one(rendered(chart, each)[0], "Deployment")["spec"]["template"] for each in ({}, values))
    assert before["metadata"]["annotations"] != after["metadata"]["annotations"]


def test_the_notes_say_whether_a_key_is_asked_for(chart):
    notes = {name: rendered(chart, CASES[name])[1]["octavo/templates/NOTES.txt"] for name in ("as it is", "keys")}
    assert "It asks for no key" in notes["as it is"]
    assert "Bearer YOUR-KEY" in notes["keys"]


def test_a_release_is_named_once(chart):
    assert one(rendered(chart, {}, name="octavo")[0], "Deployment")["metadata"]["name"] == "octavo"
    assert one(rendered(chart, {}, name="llm")[0], "Deployment")["metadata"]["name"] == "llm-octavo"


def test_the_version_is_the_packages(chart):
    from octavo.version import __version__

    assert chart.metadata["appVersion"] == __version__
