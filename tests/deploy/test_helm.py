"""What the chart makes of the example's values: valid to Kubernetes, restricted, and true of the service.

It is read as it was rendered and committed; `make check-deploy` renders it anew with Helm and compares. Where Helm has
been built, what it makes of other values is looked at, too.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dev.chart import CUSTOM, EXAMPLE, OLDEST, RENDERED, helm_program, problems_of, rendered, resources_in
from enrollment_service.settings import Settings

RESOURCES = resources_in(RENDERED.read_text(encoding="utf-8"))
VERSIONS = [OLDEST, kubernetes_validate.latest_version()]
# Beside those of the example; each is what somebody needs who differs in one thing.
OTHERS: dict[str, dict[str, Any]] = {
    "a proxy ends TLS": {"auth": "jwt", "tls": {"mode": "proxy"}},
    "as many pods as are said": {"autoscaling": {"enabled": False}, "replicas": 2},
    "nothing that is watched": {"metrics": {"enabled": False}},
    "nothing that is not needed": {
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "metrics": {"serviceMonitor": {"enabled": False}},
    },
    "an image by its digest": {"image": {"digest": "sha256:" + "0" * 64}, "imagePullSecrets": [{"name": "registry"}]},
    "somewhere else": {"nodeSelector": {"zone": "a"}, "tolerations": [{"key": "spot", "operator": "Exists"}]},
}


def resource(kind: str) -> dict[str, Any]:
    (found,) = [one for one in RESOURCES if one["kind"] == kind]
    return found


def pod_of(kind: str) -> dict[str, Any]:
    spec: dict[str, Any] = resource(kind)["spec"]["template"]["spec"]
    return spec


def environment_of(kind: str) -> dict[str, str]:
    (container,) = pod_of(kind)["containers"]
    return {one["name"]: one["value"] for one in container["env"]}


def settings_of(kind: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the service reads from the environment of a pod. The files in it are only there in the pod."""
    for name, value in environment_of(kind).items():
        assert name in Settings.variables()
        if name != "ENROLLMENT_DATABASE_PASSWORD_FILE":
            monkeypatch.setenv(name, value)
    return Settings()


def require_helm() -> None:
    """Skips the test where Helm has not been built."""
    if not helm_program().exists():
        pytest.skip("Helm is not built: `make check-deploy` builds it")


def test_there_is_what_a_release_needs() -> None:
    assert sorted(one["kind"] for one in RESOURCES) == [
        "ConfigMap",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Job",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Service",
        "ServiceMonitor",
    ]


def test_kubernetes_accepts_it() -> None:
    assert problems_of(RESOURCES) == []


def test_a_mistake_would_be_found() -> None:
    """The negative control: a misspelt field, which Kubernetes would drop without a word."""
    deployment = resource("Deployment")
    deployment = {**deployment, "spec": {**deployment["spec"], "replica": 3}}
    problems = problems_of([deployment])
    assert len(problems) == len(VERSIONS)
    assert all("replica" in problem for problem in problems)


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pods_meet_the_restricted_standard(kind: str) -> None:
    """Kubernetes calls it `restricted`, in its Pod Security Standards."""
    pod = pod_of(kind)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert {next(iter(volume.keys() - {"name"})) for volume in pod["volumes"]} <= {"emptyDir", "secret", "configMap"}
    for container in pod["containers"]:
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["readOnlyRootFilesystem"] is True
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_the_service_starts_with_these_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("Deployment", monkeypatch)
    assert list(settings.problems_of_serving()) == []
    assert settings.profile == "production"


def test_the_migration_gets_the_same_database_as_another_role(monkeypatch: pytest.MonkeyPatch) -> None:
    migrator = settings_of("Job", monkeypatch).database_url
    assert (
        migrator.replace("enrollment_migrator@", "enrollment_app@")
        == environment_of("Deployment")["ENROLLMENT_DATABASE_URL"]
    )
    (container,) = pod_of("Job")["containers"]
    assert container["args"] == ["migrate", "--app-role=enrollment_app"]


def test_ports_are_those_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("Deployment", monkeypatch)
    (container,) = pod_of("Deployment")["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {
        "grpc": int(settings.listen.rpartition(":")[2]),
        "metrics": int(settings.metrics_listen.rpartition(":")[2]),
    }
    assert {port["targetPort"] for port in resource("Service")["spec"]["ports"]} == ports.keys()
    opened = [port["port"] for rule in resource("NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    assert opened == list(ports.values())


def test_a_pod_is_left_alone_until_its_drain_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of("Deployment", monkeypatch)
    longest = settings.shutdown_delay + settings.shutdown_grace + 5
    assert pod_of("Deployment")["terminationGracePeriodSeconds"] > longest


def test_files_are_where_the_settings_say() -> None:
    (container,) = pod_of("Deployment")["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    files = [value for value in environment_of("Deployment").values() if value.startswith("/")]
    assert len(files) == 5
    for file in files:
        assert file.rpartition("/")[0] in mounts


def test_what_selects_pods_finds_the_servers_only() -> None:
    labels = {kind: resource(kind)["spec"]["template"]["metadata"]["labels"] for kind in ("Deployment", "Job")}
    selectors = [
        resource("Deployment")["spec"]["selector"]["matchLabels"],
        resource("Service")["spec"]["selector"],
        resource("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels["Deployment"].items()
        assert not selector.items() <= labels["Job"].items()
    for pod in labels.values():
        assert resource("NetworkPolicy")["spec"]["podSelector"]["matchLabels"].items() <= pod.items()


def test_the_scraper_finds_the_service() -> None:
    monitor, service = resource("ServiceMonitor"), resource("Service")
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} == {"metrics"}


def test_the_chart_is_for_the_versions_that_it_is_held_to() -> None:
    chart = yaml.safe_load((RENDERED.parent / "enrollment-service/Chart.yaml").read_text(encoding="utf-8"))
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"
    assert {one["kind"] for one in RESOURCES} & CUSTOM == CUSTOM


def test_what_is_committed_is_what_helm_makes() -> None:
    require_helm()
    assert rendered() == RENDERED.read_text(encoding="utf-8")


@pytest.mark.parametrize("what", OTHERS)
def test_of_other_values_helm_makes_what_kubernetes_accepts(what: str, tmp_path: Path) -> None:
    require_helm()
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump(OTHERS[what]), encoding="utf-8")
    made = resources_in(rendered(f"--values={values}"))
    assert problems_of(made) == []
    assert made != RESOURCES
    (deployment,) = [one for one in made if one["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert set(variables) <= Settings.variables()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in deployment["spec"]["template"]["spec"]["volumes"]}


@pytest.mark.parametrize("missing", ["database.url", "database.passwordSecret", "jwt.issuer", "tls.secretName"])
def test_what_is_needed_is_asked_for(missing: str, tmp_path: Path) -> None:
    require_helm()
    values = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    part, name = missing.split(".")
    del values[part][name]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    with pytest.raises(subprocess.CalledProcessError) as refused:
        rendered(values=file)
    assert f"{missing} is needed" in refused.value.stderr
