"""Every query of the dashboard, the alerts and the autoscalers asks for metrics and labels that a server has."""

import json
import re
import subprocess

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from .conftest import MODEL
from .proxy import DEPLOY, require

PROMETHEUS = DEPLOY / "prometheus"
DASHBOARD = json.loads((DEPLOY / "grafana/octavo.json").read_text())
COMPONENTS = DEPLOY / "kubernetes/components"
OF_SCRAPING = {"job", "instance", "namespace", "pod"}  # labels that Prometheus adds
OF_PROMETHEUS = {"up"}
NAME = re.compile(r"\b((?:vllm|octavo|process|http|python)[:_][a-z0-9_:]+)\b")
SELECTOR = re.compile(r"([a-z][a-z0-9_:]*)\{([^}]*)\}")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")
LEGEND = re.compile(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}")


def dashboard_queries():
    return {
        f"{panel['title']}, {target['refId']}": (target["expr"], target["legendFormat"])
        for panel in DASHBOARD["panels"]
        for target in panel.get("targets", [])
    }


def rules():
    groups = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def autoscaler_queries():
    """Those of KEDA and KServe, and of the adapter with its templates filled in."""
    triggers = yaml.safe_load((COMPONENTS / "keda/scaledobject.yaml").read_text())["spec"]["triggers"]
    found = {f"keda {trigger['name']}": trigger["metadata"]["query"] for trigger in triggers}
    adapter = yaml.safe_load((COMPONENTS / "hpa/prometheus-adapter.yaml").read_text())
    for rule in adapter["rules"]["custom"]:
        filled = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
        filled = filled.replace("<<.LabelMatchers>>", 'namespace="n"').replace("<<.GroupBy>>", "pod")
        found[f"adapter {rule['name']['as']}"] = filled
    service = yaml.safe_load((DEPLOY / "kserve/inferenceservice-raw.yaml").read_text())
    for metric in service["spec"]["predictor"]["autoScaling"]["metrics"]:
        found["kserve"] = metric["external"]["metric"]["query"]
    return found


def queries():
    found = {f"dashboard: {name}": query for name, (query, _) in dashboard_queries().items()}
    found |= {f"alert: {name}": rule["expr"] for name, rule in rules().items()}
    return found | autoscaler_queries()


@pytest.fixture(scope="session")
def served(tiny_folder, tmp_path_factory):
    """The names of a server's series with their labels, after an answer, an error and a refusal."""
    from server.running import Server

    server = Server(
        tmp_path_factory.mktemp("metrics") / "log",
        *(tiny_folder, "--served-model-name", MODEL, "--requests-per-minute", "2"),
        environment={"OCTAVO_NUM_THREADS": "1"},
    )
    try:
        with server.wait().client() as client:
            body = {"prompt": "Once", "max_tokens": 3}
            assert client.post("/v1/completions", json=body).status_code == 200
            endless = {**body, "max_tokens": 10000, "ignore_eos": True, "stream": True}
            with client.stream("POST", "/v1/completions", json=endless) as answer:
                pieces = answer.iter_raw()
                next(pieces)  # and leave
            server.settle()
            assert client.post("/v1/completions", json=body).status_code == 429
            text = client.get("/metrics").text
    finally:
        server.stop()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
        if not family.samples:  # a counter whose label nobody has used yet
            found.setdefault(family.name, set())
    return found


@pytest.mark.parametrize("name", queries())
def test_a_query_asks_for_what_a_server_has(served, name):
    query = queries()[name]
    names = set(NAME.findall(re.sub(r'"[^"]*"', '""', query)))
    assert names or any(each in query for each in OF_PROMETHEUS)
    assert names <= set(served), names - set(served)
    known = OF_SCRAPING.union(*(served[each] for each in names))
    for metric, matchers in SELECTOR.findall(query):
        if metric in served:
            assert set(LABEL.findall(re.sub(r'"[^"]*"', '""', matchers))) <= served[metric] | OF_SCRAPING
    for labels in GROUPING.findall(query):
        assert {label.strip() for label in labels.split(",")} <= known


@pytest.mark.parametrize("name", dashboard_queries())
def test_a_legend_names_labels_that_are_left(name):
    query, legend = dashboard_queries()[name]
    grouped = {label.strip() for labels in GROUPING.findall(query) for label in labels.split(",")}
    is_summed = re.search(r"\b(sum|histogram_quantile)\b", query) is not None
    assert not is_summed or set(LEGEND.findall(legend)) <= grouped


@pytest.mark.parametrize("name", queries())
def test_a_query_is_promql(name, tmp_path):
    query = queries()[name].replace("$__rate_interval", "5m").replace("$job", "octavo").replace("$model", ".+")
    path = tmp_path / "rules.yaml"
    path.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"record": "r", "expr": query}]}]}))
    result = subprocess.run([require("promtool"), "check", "rules", path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_alerts_fire_when_they_must_and_only_then():
    command = [require("promtool"), "test", "rules", PROMETHEUS / "alerts.test.yaml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_alert_says_what_to_do():
    for name, rule in rules().items():
        assert name.startswith("Octavo")
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert set(rule["annotations"]) == {"summary", "description"}


def test_prometheus_takes_its_configuration(tmp_path):
    text = (PROMETHEUS / "prometheus.yml").read_text()
    (tmp_path / "key").write_text("none")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/octavo-metrics-key", str(tmp_path / "key")))
    (tmp_path / "alerts.yaml").write_text((PROMETHEUS / "alerts.yaml").read_text())
    command = [require("promtool"), "check", "config", tmp_path / "prometheus.yml"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_dashboard_is_whole():
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(numbers)) == len(numbers)
    for panel in DASHBOARD["panels"]:
        if panel["type"] != "row":
            assert panel["description"]
            assert panel["datasource"]["uid"] == "${datasource}"
    places = {(p["gridPos"]["x"], p["gridPos"]["y"]) for p in DASHBOARD["panels"]}
    assert len(places) == len(numbers)
    provided = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert provided["datasources"][0]["name"] == DASHBOARD["templating"]["list"][0]["current"]["text"]
