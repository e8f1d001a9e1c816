"""What the examples under `examples/deploy` start, in one form for both: compose services and containers of Kubernetes.

In: `compose.yaml` as it is written or as docker-compose renders it, and the documents that kustomize renders. Out: one
`Started` for each service or Deployment that runs our image. Used by the tests of the examples and by the one that starts them.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "examples" / "deploy" / "compose"
KUBERNETES = ROOT / "examples" / "deploy" / "kubernetes"
SECRETS = ("database-url", "master-key", "age-key", "git-token")


@dataclass(frozen=True)
class Started:
    """`files` are what is mounted: path in the container to what stands there, e.g. the name of a secret."""

    name: str
    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    writable: frozenset[str] = frozenset()
    count: int = 1


def composed() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8"))
    return loaded


def of_compose(document: Mapping[str, Any]) -> Iterator[Started]:
    for name, service in document["services"].items():
        if "build" not in service:
            continue
        secrets = [s if isinstance(s, str) else s["source"] for s in service["secrets"]]
        yield Started(
            name=name,
            words=tuple(service["command"]),
            env=service["environment"],
            files={
                **{f"/run/secrets/{one}": one for one in secrets},
                **{one["target"]: one["source"] for one in service["configs"]},
            },
            writable=frozenset(place.partition(":")[0] for place in service["tmpfs"]),
            count=service.get("deploy", {}).get("replicas", 1),
        )


def of_kubernetes(documents: Iterable[Mapping[str, Any]]) -> Iterator[Started]:
    every = list(documents)
    for one in every:
        if one["kind"] == "Deployment":
            pod = one["spec"]["template"]["spec"]
            (container,) = pod["containers"]
            volumes = {volume["name"]: volume for volume in pod["volumes"]}
            mounts = {m["mountPath"]: volumes[m["name"]] for m in container["volumeMounts"]}
            yield Started(
                name=one["metadata"]["labels"]["app.kubernetes.io/component"],
                words=tuple(container["args"]),
                env={e["name"]: e["value"] for e in container["env"]},
                files={
                    str(PurePosixPath(path, key)): key for path, v in mounts.items() for key in sorted(_keys(v, every))
                },
                writable=frozenset(path for path, volume in mounts.items() if "emptyDir" in volume),
                count=one["spec"]["replicas"],
            )


def _keys(volume: Mapping[str, Any], documents: Iterable[Mapping[str, Any]]) -> set[str]:
    """The files that a volume of settings or secrets brings; its source must be among the documents."""
    found: set[str] = set()
    for kind, name in _sources(volume):
        (source,) = [d for d in documents if (d["kind"], d["metadata"]["name"]) == (kind, name)]
        found |= set(source["data"])
    return found


def _sources(volume: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for part in volume.get("projected", {}).get("sources", [volume]):
        if "configMap" in part:
            yield "ConfigMap", part["configMap"]["name"]
        if "secret" in part:
            yield "Secret", part["secret"].get("secretName") or part["secret"]["name"]
