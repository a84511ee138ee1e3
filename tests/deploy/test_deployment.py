"""`deploy/` of an artefact: its files, read with the APIs of their consumers, and the imports of the service."""

import builtins
import importlib.util
import json
import math
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import nn

import robustcls
from robustcls.core.classifier import Classifier
from robustcls.core.errors import InputError
from robustcls.deploy.deployment import FOLDER, INSIDE, REQUIREMENTS, USER, label
from robustcls.results.artefact import MANIFEST
from robustcls.serving.config import ServeConfig
from tests.helpers import ROOT

yaml = pytest.importorskip("yaml")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

NAME = "my-model-2"
FILES = ("Dockerfile", "README.md", "keda.yaml", "kserve.yaml", "ray_serve.yaml", "requirements.txt")
IMPORTED = """
import importlib.abc, importlib.metadata, importlib.util, json, pkgutil, sys
from pathlib import Path
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

def closure(names):
    known, waiting = set(), list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in known:
            continue
        known.add(name)
        try:
            needs = map(Requirement, importlib.metadata.requires(name) or ())
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return known

owners = {top: set(map(canonicalize_name, all)) for top, all in importlib.metadata.packages_distributions().items()}
allowed = closure(json.loads(sys.argv[1])) | {"robustcls"}

class Container(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        there = owners.get(name.partition(".")[0])
        if there and not there & allowed:
            raise ModuleNotFoundError(f"{name} is not in the container", name=name)

for name in [name for name in sys.modules if owners.get(name.partition(".")[0], allowed).isdisjoint(allowed)]:
    del sys.modules[name]
sys.meta_path.insert(0, Container())

import robustcls.serving
for module in pkgutil.iter_modules(robustcls.serving.__path__):
    if importlib.util.find_spec("ray") or not module.name.startswith("ray_"):  # what runs on Ray has Ray's own environment
        importlib.import_module(f"robustcls.serving.{module.name}")
import robustcls.cli.main
if importlib.util.find_spec("robustcls.cli.serve"):
    import robustcls.cli.serve

from robustcls.images.decode import Form, decode_image
from robustcls.results.artefact import Manifest
from robustcls.runtime.session import check_file, check_reference, open_session
import numpy
folder = Path(sys.argv[2])
manifest = Manifest.of(folder)
session = open_session(check_file(folder, manifest), 1)
check_reference(folder, manifest, lambda pixels: session.run(["logits"], {"images": pixels})[0])
with numpy.load(folder / "reference.npz") as reference:
    first = reference["png"][: reference["png_ends"][0]].tobytes()
decode_image(first, Form(6, 6, 3), {})

direct = set()
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] == "robustcls" and module.__file__:
        import ast
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            tops = {one.partition(".")[0] for one in names} & set(sys.modules)
            direct |= {owner for top in tops for owner in owners.get(top, ())}
heavy = [name for name in ("torch", "torchvision", "scipy", "matplotlib") if name in sys.modules]
print(json.dumps([sorted(direct - {"robustcls"}), heavy]))
"""


@pytest.fixture(scope="module")
def artefact(tmp_path_factory):
    """Return an artefact exported with its deployment files; no test changes it."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    model = Classifier(net, classes=("cat", "dog"), input_size=(3, 6, 6), arch="small")
    out = tmp_path_factory.mktemp("deploy") / "My model_2"
    return robustcls.export(model, out, calibration=torch.rand(70, 3, 6, 6), deploy=True)


def read(artefact, file):
    return yaml.safe_load((artefact.folder / FOLDER / file).read_text())


def instructions(artefact):
    lines = (artefact.folder / FOLDER / "Dockerfile").read_text().splitlines()
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def one(artefact, instruction):
    (found,) = [argument for name, argument in instructions(artefact) if name == instruction]
    return found


# The fields that we use, as the public definitions of the APIs describe them. Any other field is refused.


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


Name = Annotated[str, Field(pattern=r"^[a-z]([-a-z0-9]*[a-z0-9])?$", max_length=53)]
Port = Annotated[int, Field(ge=1, le=65535)]
Positive = Annotated[int, Field(ge=1)]
Quantity = Annotated[str, Field(pattern=r"^\d+(m|Ki|Mi|Gi)?$")]


class HttpGet(Strict):
    path: Annotated[str, Field(pattern="^/")]
    port: Port


class Probe(Strict):
    httpGet: HttpGet
    periodSeconds: Positive = 10
    timeoutSeconds: Positive = 1
    failureThreshold: Positive = 3


class ContainerPort(Strict):
    containerPort: Port
    protocol: Literal["TCP"]


class Amounts(Strict):
    cpu: Quantity
    memory: Quantity


class Resources(Strict):
    requests: Amounts
    limits: Amounts


class Capabilities(Strict):
    drop: list[str]


class SecurityContext(Strict):
    runAsNonRoot: bool
    runAsUser: Positive
    allowPrivilegeEscalation: bool
    capabilities: Capabilities


class Container(Strict):
    name: Literal["kserve-container"]
    image: Annotated[str, Field(pattern=r"^[a-z0-9.]+/[a-z0-9-]+:[0-9a-f]{12}$")]
    ports: list[ContainerPort]
    startupProbe: Probe
    readinessProbe: Probe
    livenessProbe: Probe
    resources: Resources
    securityContext: SecurityContext


class Predictor(Strict):
    minReplicas: Annotated[int, Field(ge=0)]
    terminationGracePeriodSeconds: Positive
    containers: Annotated[list[Container], Field(min_length=1)]


class Metadata(Strict):
    name: Name
    annotations: dict[str, str] = {}


class InferenceServiceSpec(Strict):
    predictor: Predictor


class InferenceService(Strict):
    apiVersion: Literal["serving.kserve.io/v1beta1"]
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: InferenceServiceSpec


class ScaleTarget(Strict):
    apiVersion: Literal["apps/v1"]
    kind: Literal["Deployment"]
    name: Annotated[str, Field(max_length=63)]


class PrometheusTrigger(Strict):
    serverAddress: Annotated[str, Field(pattern="^https?://")]
    query: str
    threshold: Annotated[str, Field(pattern=r"^\d+(\.\d+)?$")]
    ignoreNullValues: Literal["true", "false"]


class Trigger(Strict):
    type: Literal["prometheus"]
    metricType: Literal["AverageValue", "Value"]
    metadata: PrometheusTrigger


class ScaleDown(Strict):
    stabilizationWindowSeconds: Annotated[int, Field(ge=0, le=3600)]


class Behavior(Strict):
    scaleDown: ScaleDown


class PodAutoscaler(Strict):
    behavior: Behavior


class Advanced(Strict):
    horizontalPodAutoscalerConfig: PodAutoscaler


class ScaledObjectSpec(Strict):
    scaleTargetRef: ScaleTarget
    pollingInterval: Positive
    minReplicaCount: Annotated[int, Field(ge=0)]
    maxReplicaCount: Positive
    advanced: Advanced
    triggers: Annotated[list[Trigger], Field(min_length=1)]


class ScaledObject(Strict):
    apiVersion: Literal["keda.sh/v1alpha1"]
    kind: Literal["ScaledObject"]
    metadata: Metadata
    spec: ScaledObjectSpec


def test_the_folder_holds_the_files_and_the_artefact_is_what_it_was(artefact):
    assert sorted(path.name for path in (artefact.folder / FOLDER).iterdir()) == sorted(FILES)
    assert robustcls.load(artefact.folder).classes == ("cat", "dog")


def test_kserve_takes_its_file(artefact):
    service = InferenceService.model_validate(read(artefact, "kserve.yaml"))
    assert service.metadata.name == NAME
    annotations = service.metadata.annotations
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"
    assert annotations["serving.kserve.io/autoscalerClass"] == "external"  # scaled by KEDA
    (container,) = service.spec.predictor.containers
    assert container.image.endswith(artefact.manifest.file.sha256[:12])
    config, ready = ServeConfig(), container.readinessProbe
    assert service.spec.predictor.terminationGracePeriodSeconds > config.drain + config.timeout
    assert ready.periodSeconds * ready.failureThreshold + ready.timeoutSeconds <= config.drain
    assert (ready.httpGet.path, container.livenessProbe.httpGet.path) == ("/v2/health/ready", "/v2/health/live")
    probes = (ready, container.startupProbe, container.livenessProbe)
    ports = {config.port, container.ports[0].containerPort, int(annotations["prometheus.io/port"])}
    assert ports == {probe.httpGet.port for probe in probes} == {int(one(artefact, "EXPOSE"))}


def test_keda_takes_its_file_and_its_query_is_of_a_metric_that_is_served(artefact):
    scaled = ScaledObject.model_validate(read(artefact, "keda.yaml"))
    assert scaled.spec.scaleTargetRef.name == f"{NAME}-predictor"  # the name that KServe gives it
    assert scaled.spec.minReplicaCount < scaled.spec.maxReplicaCount
    pytest.importorskip("prometheus_client")
    from robustcls.serving.metrics import Metrics

    query = scaled.spec.triggers[0].metadata.query
    (metric, named) = re.search(r'(robustcls_\w+)\{model="([^"]+)"\}', query).groups()
    assert named == NAME == json.loads(one(artefact, "ENTRYPOINT"))[3].partition("=")[0]
    found = next(family for family in Metrics().registry.collect() if family.name == metric)
    assert found.type == "gauge"


@pytest.mark.parametrize(("schema", "file"), [(InferenceService, "kserve.yaml"), (ScaledObject, "keda.yaml")])
def test_a_misspelt_field_would_be_found(schema, file, artefact):
    content = read(artefact, file)
    first = next(iter(content["spec"]))
    content["spec"][f"{first}s"] = content["spec"].pop(first)
    with pytest.raises(ValidationError):
        schema.model_validate(content)


def test_ray_serve_takes_its_file(artefact):
    pytest.importorskip("ray")
    from ray.serve.config import AutoscalingConfig
    from ray.serve.schema import DeploymentSchema, ServeDeploySchema

    content = read(artefact, "ray_serve.yaml")
    (application,) = ServeDeploySchema(**content).applications
    (deployment,) = content["applications"][0]["deployments"]  # Ray would ignore unknown fields
    assert deployment.keys() <= DeploymentSchema.model_fields.keys()
    assert deployment["autoscaling_config"].keys() <= AutoscalingConfig.model_fields.keys()
    assert application.args == {"models": [f"{NAME}={INSIDE}"]}


def test_the_configuration_of_ray_names_what_is_there(artefact):
    (application,) = read(artefact, "ray_serve.yaml")["applications"]
    module, _, function = application["import_path"].partition(":")
    scaling = application["deployments"][0]["autoscaling_config"]
    assert scaling["min_replicas"] < scaling["max_replicas"]
    assert scaling["target_ongoing_requests"] <= application["deployments"][0]["max_ongoing_requests"]
    if importlib.util.find_spec(module) is None or importlib.util.find_spec("ray") is None:
        pytest.skip(f"{module} needs Ray")
    assert callable(getattr(importlib.import_module(module), function))


def test_the_dockerfile_copies_what_is_there_and_no_more_rights_than_needed(artefact):
    assert instructions(artefact)[0][0] == "FROM"
    assert re.fullmatch(r"python:3\.\d+-slim", one(artefact, "FROM"))
    copied = [argument.split() for name, argument in instructions(artefact) if name == "COPY"]
    assert len(copied) == 2
    for *sources, target in copied:
        assert target.endswith("/")
        for source in sources:
            assert "*" in source or "[" in source or (artefact.folder / source).is_file(), source
    needed = {path.name for path in artefact.folder.iterdir() if path.is_file()}
    assert needed | {"evaluation.jso[n]"} == set(copied[1][:-1])
    (artefact.folder / "evaluation.json").write_text("{}")
    try:
        assert [path.name for path in artefact.folder.glob("evaluation.jso[n]")] == ["evaluation.json"]
    finally:
        (artefact.folder / "evaluation.json").unlink()
    names = [name for name, _ in instructions(artefact)]
    assert int(one(artefact, "USER")) == USER > 0
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert f"--uid {USER}" in "".join(argument for name, argument in instructions(artefact) if name == "RUN")
    entry = json.loads(one(artefact, "ENTRYPOINT"))
    assert entry[:4] == ["robustcls", "serve", "--model", f"{NAME}={INSIDE}"]
    assert entry[4:6] == ["--host", "0.0.0.0"]


@pytest.mark.skipif(importlib.util.find_spec("robustcls.cli.serve") is None, reason="there is no `serve` yet")
def test_its_command_has_options_that_exist(artefact):
    from robustcls.cli.serve import command

    command.make_context("serve", json.loads(one(artefact, "ENTRYPOINT"))[2:])


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_the_health_check_tells_ready_from_not(status, expected, artefact):
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status if self.path == "/v2/health/ready" else 200)
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Health)
    threading.Thread(target=server.handle_request, daemon=True).start()
    command = json.loads(one(artefact, "HEALTHCHECK").partition("CMD ")[2])
    assert command[:2] == ["python", "-c"]
    code = command[2].replace(one(artefact, "EXPOSE"), str(server.server_port))
    assert subprocess.run([sys.executable, "-c", code]).returncode == expected
    server.server_close()


def test_the_requirements_are_what_the_service_imports(artefact):
    """The requirements are sufficient for the service, and none of them is superfluous."""
    if importlib.util.find_spec("prometheus_client") is None or importlib.util.find_spec("starlette") is None:
        pytest.skip("the extra `serve` is not installed")
    lines = (artefact.folder / FOLDER / "requirements.txt").read_text().splitlines()
    listed = {canonicalize_name(Requirement(line).name) for line in lines}
    assert listed == set(REQUIREMENTS)
    command = [sys.executable, "-c", IMPORTED, json.dumps(sorted(listed)), str(artefact.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    direct, heavy = json.loads(done.stdout)
    assert heavy == []
    direct = {"pydantic" if name == "pydantic-core" else name for name in direct}  # pydantic requires it
    assert direct == listed - {"httptools", "uvloop"}  # uvicorn imports these if they are installed


def test_an_import_that_is_not_listed_would_be_found(artefact):
    listed = sorted(set(REQUIREMENTS) - {"pillow"})
    command = [sys.executable, "-c", IMPORTED, json.dumps(listed), str(artefact.folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "PIL is not in the container" in done.stderr


def test_the_ranges_hold_what_is_installed_and_what_the_package_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*map(Requirement, project["dependencies"] + project["optional-dependencies"]["serve"])]
    floors = {canonicalize_name(each.name): each.specifier for each in asked}
    written = {"pyyaml"}  # only `robustcls monitor --write` needs it, which does not run in the container
    extra = {canonicalize_name(Requirement(line).name) for line in project["optional-dependencies"]["serve"]}
    assert set(REQUIREMENTS) >= extra - written
    for package, versions in REQUIREMENTS.items():
        assert re.fullmatch(r">=[\d.]+,<\d+", versions)
        least = versions.split(",")[0].removeprefix(">=")
        assert package not in floors or floors[package].contains(least), package
        assert Requirement(package + versions).specifier.contains(Version(version(package))) if there(package) else True


def there(package):
    return importlib.util.find_spec({"pillow": "PIL"}.get(package, package.replace("-", "_"))) is not None


def test_the_guide_says_what_was_not_run(artefact):
    text = (artefact.folder / FOLDER / "README.md").read_text()
    assert all(f"`{file}`" in text for file in FILES if file != "README.md")
    items = {item.partition("`")[2].partition("`")[0]: " ".join(item.split()) for item in text.split("\n- ")[1:]}
    for file in ("kserve.yaml", "keda.yaml", "ray_serve.yaml"):
        assert "untested on a cluster" in items[file]
    assert "no image was built" in text
    assert artefact.manifest.file.sha256 in text
    grace = int(re.search(r"--time (\d+)", text)[1])
    assert grace >= math.ceil(ServeConfig().drain + ServeConfig().timeout)


def test_an_artefact_with_its_deployment_is_replaced_as_a_whole(artefact, tmp_path):
    out = tmp_path / "artefact"
    model = artefact.load()
    robustcls.export(model, out, deploy=True)
    (out / FOLDER / "of-mine.yaml").write_text("a: 1")
    robustcls.export(model, out, deploy=True)
    assert sorted(path.name for path in (out / FOLDER).iterdir()) == sorted(FILES)
    robustcls.export(model, out)
    assert not (out / FOLDER).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["artefact"]


def test_a_folder_of_files_for_a_cluster_alone_is_no_artefact(artefact, tmp_path):
    (tmp_path / "other" / FOLDER).mkdir(parents=True)
    with pytest.raises(InputError, match="is not an artefact folder"):
        robustcls.export(artefact.load(), tmp_path / "other", deploy=True)
    assert not (tmp_path / "other" / MANIFEST).exists()


def test_without_pyyaml_one_line_says_so_and_nothing_is_written(artefact, tmp_path, monkeypatch):
    plain = builtins.__import__

    def without(name, *arguments, **options):
        if name == "yaml":
            raise ImportError(name)
        return plain(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"`deploy` needs PyYAML: pip install 'robustcls\[onnx\]'"):
        robustcls.export(artefact.load(), tmp_path / "artefact", deploy=True)
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("artefact8", "artefact8"), ("My model_2", NAME), ("8bit", "model-8bit"), ("Prüfling", "pr-fling"), ("模型", "model"),
        ("-", "model"), ("a" * 100, "a" * 40), ("a" * 39 + "-b", "a" * 39),
    ],
)  # fmt: skip
def test_names_are_those_that_kubernetes_takes(name, expected):
    assert label(name) == expected
    Metadata(name=label(name))


def test_the_command_writes_it_too(artefact, tmp_path):
    from tests.cli.conftest import run_main

    out = tmp_path / "digits"
    done = run_main("export", "--model", artefact.folder, "--out", out, "--deploy")
    assert done.status == 0, done.err
    assert sorted(path.name for path in Path(out, FOLDER).iterdir()) == sorted(FILES)
