"""Write `deploy/` into the folder of an artefact: the files for serving it in a container and on a cluster."""

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

from robustcls import __version__
from robustcls.core.errors import InputError
from robustcls.results.artefact import DRIFT, EVALUATION, MANIFEST, MODEL, REFERENCE, Manifest
from robustcls.serving.config import ServeConfig

FOLDER = "deploy"
NEEDS = "`deploy` needs PyYAML: pip install 'robustcls[onnx]'"
REQUIREMENTS = {  # the imports of `robustcls serve`, without PyTorch, plus httptools and uvloop, which make uvicorn faster
    "click": ">=8.1,<9",
    "httptools": ">=0.6,<1",
    "numpy": ">=1.26,<3",
    "onnxruntime": ">=1.22,<2",
    "pillow": ">=13,<14",  # the limits on image headers were measured with this version
    "prometheus-client": ">=0.22,<1",
    "pydantic": ">=2.9,<3",
    "starlette": ">=0.46,<2",
    "uvicorn": ">=0.36,<1",
    "uvloop": ">=0.21,<1",
}
INSIDE, USER = "/artefact", 10001  # in the container: the path of the artefact, and the user id of the service
READY, LIVE, METRICS = "/v2/health/ready", "/v2/health/live", "/metrics"
REGISTRY = "registry.example.com"
PROMETHEUS = "http://prometheus.monitoring.svc:9090"
REPLICAS = (1, 4)
CALM = 300  # seconds of lower load before replicas are removed
MARGIN = 15  # seconds that Kubernetes waits in addition to draining and the longest request
RAY_APP, RAY_DEPLOYMENT = "robustcls.serving.ray_app:build", "Service"
LABEL = 40  # largest length of a name: KServe appends a suffix to it, and Kubernetes allows 63 characters

READ_ME = """\
# Deploying {name}

Written by `robustcls export --deploy` for the file with SHA-256 {sha256}. Exporting again overwrites this folder.

These files were tested with another artefact, as far as stated here:

- `Dockerfile`, `requirements.txt`: a container image without PyTorch that serves this artefact. The `pip` commands, the service
  and the health check were run in an empty environment; no image was built.
- `kserve.yaml`: a KServe InferenceService (v1beta1, Standard mode). Checked against the fields of KServe's API; **untested on a
  cluster**.
- `keda.yaml`: a KEDA ScaledObject (v1alpha1) that scales the service by the number of waiting requests. Checked against the
  fields of KEDA's API; **untested on a cluster**.
- `ray_serve.yaml`: a Ray Serve configuration. Checked against Ray's own schema, and run on one machine by `serve run`;
  **untested on a cluster**.

## Container

Run these commands in the artefact's folder. The image includes `evaluation.json` if the artefact was attacked before.

    docker build -f deploy/Dockerfile -t {image} .
    docker run --rm -p 127.0.0.1:{port}:{port} {image}
    curl -s http://127.0.0.1:{port}/v2/models/{name}

The image installs robustcls by name and version. For a version that is not published, put a wheel (`pip wheel --no-deps -w DIR
.`) into `deploy/` and add `--build-arg ROBUSTCLS=/install/NAME.whl`. `docker stop --time {grace}` leaves enough time to answer
all accepted requests.

## Cluster

Replace the registry in `kserve.yaml` and the address of Prometheus in `keda.yaml`, then run `kubectl apply -f` on both. The
autoscaling of KServe is turned off because KEDA scales the service. Prometheus must scrape the pods (they have the usual
`prometheus.io` annotations). For Ray: `serve deploy deploy/ray_serve.yaml`, with robustcls[serve,ray] and the artefact at
{inside} on every node.
"""


def require_yaml() -> Any:
    """Return the module yaml. Raises InputError if PyYAML is not installed."""
    try:
        import yaml
    except ImportError:
        raise InputError(NEEDS) from None
    return yaml


def write_deployment(folder: Path, name: str, manifest: Manifest) -> None:
    """Write `deploy/` into the folder of an artefact. name: under which it is served. Raises InputError without PyYAML."""
    yaml = require_yaml()
    home = folder / FOLDER
    home.mkdir()
    config, name = ServeConfig(), label(name)
    image = f"{REGISTRY}/{name}:{manifest.file.sha256[:12]}"
    texts = {
        "Dockerfile": "".join(f"{line}\n" for line in dockerfile(name, config)),
        "requirements.txt": "".join(f"{package}{versions}\n" for package, versions in REQUIREMENTS.items()),
        "README.md": READ_ME.format(
            name=name, sha256=manifest.file.sha256, image=image, port=config.port, grace=grace(config), inside=INSIDE
        ),
    }
    for file, content in {
        "kserve.yaml": kserve(name, image, config),
        "keda.yaml": keda(name, config),
        "ray_serve.yaml": ray_serve(name, config),
    }.items():
        texts[file] = yaml.safe_dump(content, sort_keys=False, width=120)
    for file, text in texts.items():
        (home / file).write_text(text, encoding="utf-8")


def label(name: str) -> str:
    """The name in the form that Kubernetes accepts: lower-case letters, digits and dashes, starting with a letter."""
    plain = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    return (plain if plain[:1].isalpha() else f"model-{plain}")[:LABEL].strip("-")


def grace(config: ServeConfig) -> int:
    """The termination grace period: seconds from SIGTERM to SIGKILL."""
    return math.ceil(config.drain + config.timeout) + MARGIN


def dockerfile(name: str, config: ServeConfig) -> list[str]:
    """The lines of a Dockerfile whose context is the artefact's folder."""
    optional = f"{EVALUATION[:-1]}[{EVALUATION[-1]}]"  # as a pattern, so that COPY does not fail if the file is missing
    health = (
        "import http.client, sys; "
        f"there = http.client.HTTPConnection('127.0.0.1', {config.port}, timeout=4); "
        f"there.request('GET', '{READY}'); sys.exit(there.getresponse().status != 200)"
    )
    serve = ["robustcls", "serve", "--model", f"{name}={INSIDE}", "--host", "0.0.0.0", "--port", str(config.port)]
    install = "pip install --no-cache-dir"
    instructions = [
        ("FROM", f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"),
        ("ARG", f"ROBUSTCLS=robustcls=={__version__}"),
        ("ENV", "PYTHONUNBUFFERED=1"),
        ("RUN", f"useradd --uid {USER} --no-create-home --shell /usr/sbin/nologin serve"),
        ("COPY", f"{FOLDER}/requirements.txt {FOLDER}/*.whl /install/"),
        ("RUN", f'{install} --requirement /install/requirements.txt && {install} --no-deps "$ROBUSTCLS"'),
        ("COPY", f"{MODEL} {MANIFEST} {REFERENCE} {DRIFT} {optional} {INSIDE}/"),
        ("USER", str(USER)),
        ("EXPOSE", str(config.port)),
        (
            "HEALTHCHECK",
            f"--interval=10s --timeout=5s --start-period=30s CMD {json.dumps(['python', '-c', health])}",
        ),
        ("ENTRYPOINT", json.dumps(serve)),
    ]
    return [f"{instruction} {argument}" for instruction, argument in instructions]


def kserve(name: str, image: str, config: ServeConfig) -> dict[str, Any]:
    """An InferenceService of serving.kserve.io/v1beta1. KServe names its Deployment `NAME-predictor`."""

    def probe(path: str, **timing: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": config.port}, **timing}

    container = {
        "name": "kserve-container",
        "image": image,
        "ports": [{"containerPort": config.port, "protocol": "TCP"}],
        "startupProbe": probe(LIVE, periodSeconds=1, failureThreshold=60),
        # Short enough to notice a terminating service as unready while it still accepts requests.
        "readinessProbe": probe(READY, periodSeconds=2, timeoutSeconds=1, failureThreshold=1),
        "livenessProbe": probe(LIVE, periodSeconds=10, timeoutSeconds=5, failureThreshold=3),
        "resources": {"requests": {"cpu": "1", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    annotations = {
        "serving.kserve.io/deploymentMode": "Standard",
        "serving.kserve.io/autoscalerClass": "external",
        "prometheus.io/scrape": "true",
        "prometheus.io/port": str(config.port),
        "prometheus.io/path": METRICS,
    }
    predictor = {
        "minReplicas": REPLICAS[0],
        "terminationGracePeriodSeconds": grace(config),
        "containers": [container],
    }
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"predictor": predictor},
    }


def keda(name: str, config: ServeConfig) -> dict[str, Any]:
    """A ScaledObject of keda.sh/v1alpha1, which aims at a quarter of a batch of waiting requests per replica."""
    query = f'sum(avg_over_time(robustcls_queue_requests{{model="{name}"}}[1m]))'
    metadata = {
        "serverAddress": PROMETHEUS,
        "query": query,
        "threshold": str(max(1, config.batch // 4)),
        "ignoreNullValues": "false",  # missing data is an error, not an empty queue
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": {"name": name},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-predictor"},
            "pollingInterval": 15,
            "minReplicaCount": REPLICAS[0],
            "maxReplicaCount": REPLICAS[1],
            "advanced": {
                "horizontalPodAutoscalerConfig": {
                    "behavior": {"scaleDown": {"stabilizationWindowSeconds": CALM}},
                }
            },
            "triggers": [{"type": "prometheus", "metricType": "AverageValue", "metadata": metadata}],
        },
    }


def ray_serve(name: str, config: ServeConfig) -> dict[str, Any]:
    """A configuration for `serve deploy`. Ray scales by the number of requests that a replica has not answered yet."""
    deployment = {
        "name": RAY_DEPLOYMENT,
        "max_ongoing_requests": config.replica_requests,
        "max_queued_requests": config.replica_requests,
        "graceful_shutdown_timeout_s": float(math.ceil(config.timeout) + MARGIN),
        "autoscaling_config": {
            "min_replicas": REPLICAS[0],
            "max_replicas": REPLICAS[1],
            "target_ongoing_requests": max(1, config.batch // 2),
            "upscale_delay_s": 10.0,
            "downscale_delay_s": float(CALM),
        },
        "ray_actor_options": {"num_cpus": 1},
    }
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": RAY_APP,
        "args": {"models": [f"{name}={INSIDE}"]},
        "deployments": [deployment],
    }
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": "0.0.0.0", "port": config.port},
        "applications": [application],
    }
