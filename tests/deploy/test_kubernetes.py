"""Manifests as kustomize renders them, against Kubernetes' own schemas and against what they have to promise."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from .proxy import DEPLOY, require

KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ["base", *sorted(f"overlays/{path.name}" for path in (KUBERNETES / "overlays").iterdir())]
FOREIGN = {"ScaledObject", "ServiceMonitor", "PrometheusRule", "Route"}  # kinds of operators, with schemas of their own
CHART = DEPLOY / "helm/octavo"


def rendered(overlay):
    result = subprocess.run([require("kubectl"), "kustomize", KUBERNETES / overlay], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "deprecated" not in result.stderr
    return list(yaml.safe_load_all(result.stdout))


def one(objects, kind):
    (found,) = [each for each in objects if each["kind"] == kind]
    return found


def check(objects):
    """Against the schemas of the newest Kubernetes and of one that is three years old, without unknown fields."""
    validate = pytest.importorskip("kubernetes_validate").validate
    for each in objects:
        if each["kind"] not in FOREIGN:
            for version in ("1.29", "1.35"):
                validate(each, version, strict=True)


def check_pods(objects):
    """What every pod promises: the restricted standard, no uid, a read-only root, all writes in volumes."""
    pods = [each for each in objects if each["kind"] in ("Deployment", "Job")]
    assert pods
    for pod in [each["spec"]["template"]["spec"] for each in pods]:
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "runAsUser" not in context
            mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert mounts.items() >= {("cache", "/cache"), ("tmp", "/tmp")}
            assert set(mounts) <= {volume["name"] for volume in pod["volumes"]}
            assert container["resources"]["limits"]["memory"]


def check_server(objects):
    """What the server's pods promise beside that: probes that are right, and a drain that is not cut short."""
    deployment = one(objects, "Deployment")
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    probes = {name: container[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "readiness", "liveness")}
    assert probes == {"startup": "/readyz", "readiness": "/readyz", "liveness": "/livez"}
    config = yaml.safe_load(one(objects, "ConfigMap")["data"]["serve.yaml"])
    assert (config["host"], config["port"]) == ("0.0.0.0", container["ports"][0]["containerPort"])
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] >= pause + config["shutdown-timeout"] + 5
    assert config["models"]
    selector = deployment["spec"]["selector"]["matchLabels"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert selector
    assert selector.items() <= labels.items()
    for selected in (
        one(objects, "Service")["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ):
        assert selected == selector
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == one(objects, "ConfigMap")["metadata"]["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_is_valid_and_keeps_its_promises(overlay):
    objects = rendered(overlay)
    check(objects)
    check_pods(objects)
    check_server(objects)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_flags_of_an_overlay_are_the_servers(overlay):
    from octavo.cli.server_flags import SERVER_FLAGS

    config = yaml.safe_load(one(rendered(overlay), "ConfigMap")["data"]["serve.yaml"])
    known = {flag.name.replace("_", "-") for flag in SERVER_FLAGS} | {"models"}
    assert set(config) <= known


def test_gpus_are_asked_for_and_the_image_has_cuda():
    (container,) = one(rendered("overlays/gpu"), "Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["image"] == "octavo:cuda"


def test_autoscalers_decide_on_the_number_of_replicas_alone():
    for overlay, kind in (("hpa", "HorizontalPodAutoscaler"), ("keda", "ScaledObject")):
        objects = rendered(f"overlays/{overlay}")
        deployment = one(objects, "Deployment")
        assert "replicas" not in deployment["spec"]
        target = one(objects, kind)["spec"]["scaleTargetRef"]
        assert target["name"] == deployment["metadata"]["name"]


@pytest.mark.parametrize("overlay", ["overlays/hpa", "overlays/keda"])
def test_what_an_autoscaler_asks_for_is_scraped(overlay):
    objects = rendered(overlay)
    monitor, service = one(objects, "ServiceMonitor"), one(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    for trigger in one(objects, "ScaledObject")["spec"]["triggers"] if overlay.endswith("keda") else []:
        assert f'job="{service["metadata"]["name"]}"' in trigger["metadata"]["query"]


def test_object_stores_that_are_not_https_can_be_reached():
    egress = one(rendered("overlays/s3"), "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 5353, 443, 9000, 80}


def test_the_metrics_of_the_autoscaler_are_those_of_the_adapter():
    metrics = one(rendered("overlays/hpa"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    adapter = yaml.safe_load((KUBERNETES / "components/hpa/prometheus-adapter.yaml").read_text())
    named = [rule["name"]["as"] for rule in adapter["rules"]["custom"]]
    assert [metric["pods"]["metric"]["name"] for metric in metrics] == named


def test_the_service_monitor_finds_the_service():
    objects = rendered("overlays/monitoring")
    monitor, service = one(objects, "ServiceMonitor"), one(objects, "Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}


def test_the_alerts_of_the_operator_are_those_of_prometheus():
    alerts = yaml.safe_load((DEPLOY / "prometheus/alerts.yaml").read_text())
    assert one(rendered("overlays/monitoring"), "PrometheusRule")["spec"] == alerts


def test_the_job_that_fills_the_volume_is_valid():
    job = yaml.safe_load((KUBERNETES / "components/pvc/fill.yaml").read_text())
    check([job])
    check_pods([job])
    claimed = {
        v["persistentVolumeClaim"]["claimName"]
        for v in job["spec"]["template"]["spec"]["volumes"]
        if len(v) > 1 and "persistentVolumeClaim" in v
    }
    assert claimed == {one(rendered("overlays/pvc"), "PersistentVolumeClaim")["metadata"]["name"]}


def test_every_folder_is_named_on_the_page():
    page = (Path(__file__).parents[2] / "docs/deployment.md").read_text()
    missing = [name for name in OVERLAYS if not re.search(rf"\b{re.escape(name.rpartition('/')[2])}\b", page)]
    assert missing == []
