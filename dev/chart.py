"""The Helm chart in `deploy/helm`: what it makes of the example's values, and whether Kubernetes would take it.

What Helm has made is committed as `rendered.yaml`, so that a change of the chart shows what it means.

- `python -m dev.chart validate` holds that to Kubernetes' schemas, as `kubernetes-validate` carries them.
- `python -m dev.chart render` makes it anew, with the Helm that `build` has built from its Go module.
- `python -m dev.chart compare [CONTEXT]` tells whether it is as Helm would make it now, and lints the chart; with the
  name of a context of kubectl, the cluster is asked, too, whether it would take the release. Nothing is changed there.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from dev.golang import BuildError, run, with_some_go

DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "helm"
CHART = DEPLOY / "enrollment-service"
EXAMPLE = DEPLOY / "example-values.yaml"
RENDERED = DEPLOY / "rendered.yaml"
# The oldest that the chart is for, beside the newest that is known.
OLDEST = "1.29"
# Kinds that Kubernetes does not have by itself, so there is no schema for them.
CUSTOM = {"ServiceMonitor"}
RELEASE = "enrollment"
_TOOLS = DEPLOY / "tools"
_BUILD_SECONDS = 1800


def helm_program() -> Path:
    """Where `build` puts Helm."""
    return Path(sys.prefix) / "go" / "helm"


def rendered(*arguments: str, values: Path = EXAMPLE) -> str:
    """What Helm makes of the chart.

    Args:
        arguments: further ones of `helm template`.
        values: the values of the release.

    Raises:
        subprocess.CalledProcessError: Helm refuses them.
    """
    command = ["template", RELEASE, f"{CHART}", f"--namespace={RELEASE}", f"--values={values}", *arguments]
    return _helm(*command).stdout


def problems_of(resources: Sequence[dict[str, Any]]) -> list[str]:
    """What Kubernetes would not take, in the oldest and in the newest version."""
    import kubernetes_validate

    problems = []
    for version in (OLDEST, kubernetes_validate.latest_version()):
        for resource in resources:
            if resource["kind"] in CUSTOM:
                continue
            try:
                kubernetes_validate.validate(resource, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                problems.append(f"Kubernetes {version}, {resource['kind']}: {error.message}")
    return problems


def resources_in(text: str) -> list[dict[str, Any]]:
    """The resources in a render."""
    import yaml

    return [one for one in yaml.safe_load_all(text) if one]


def _helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm_program(), *arguments], capture_output=True, text=True, timeout=120, check=True)


@click.group()
def cli() -> None:
    """Look after the chart."""


@cli.command()
def validate() -> None:
    """Hold what is committed to Kubernetes' schemas."""
    _end(problems_of(resources_in(RENDERED.read_text(encoding="utf-8"))))


@cli.command()
def build() -> None:
    """Build Helm from its Go module. That takes minutes."""
    target = helm_program().parent

    def install(go: str) -> Path:
        run(_TOOLS, go, "install", "-trimpath", "tool", timeout=_BUILD_SECONDS, GOBIN=f"{target}")
        return target

    try:
        with_some_go("Helm", install)
    except BuildError as error:
        _end([str(error)])


@cli.command()
def render() -> None:
    """Make what is committed anew."""
    RENDERED.write_text(rendered(), encoding="utf-8")


@cli.command()
@click.argument("context", default="")
def compare(context: str) -> None:
    """Tell whether what is committed is as Helm makes it, and ask a cluster, if one is named."""
    committed, fresh = RENDERED.read_text(encoding="utf-8"), rendered()
    lines = partial(str.splitlines, keepends=True)
    difference = list(difflib.unified_diff(lines(committed), lines(fresh), "committed", "as Helm makes it"))
    try:
        _helm("lint", "--strict", "--quiet", f"--values={EXAMPLE}", f"{CHART}")
        if context:
            asked = ["--install", "--dry-run=server", f"--namespace={RELEASE}", f"--kube-context={context}"]
            _helm("upgrade", RELEASE, f"{CHART}", f"--values={EXAMPLE}", *asked)
    except subprocess.CalledProcessError as error:
        difference += [error.stdout, error.stderr]
    _end(["".join(difference)] if difference else [])


def _end(problems: Sequence[str]) -> None:
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    cli(prog_name="python -m dev.chart")
