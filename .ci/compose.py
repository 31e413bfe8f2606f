"""Does docker-compose.yml hold together? No Docker engine is needed.

Beside the schema of what we use: every name that it mentions exists (services, volumes, networks, build targets,
settings, modules, files of the Dockerfile), what another service waits for can become healthy, and every service is
hardened: few rights, limits, an exact version, no port but the proxy's to the world, no secret with a default, or where
it is not needed.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import pathlib
import re
import sys

import jsonschema
import yaml

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))
NOT_SETTINGS = {"BIMT_TORCH_SPEC", "BIMT_TORCH_INDEX", "BIMT_KERNEL_CACHE"}  # of the build and of the engine
OF_COMPOSE = {"BIMT_DOMAIN", "BIMT_ACME_EMAIL", "BIMT_BIND", "BIMT_WORKER_MEMORY"}  # read by docker-compose.yml alone
SECRETS = ("PASSWORD", "SECRET", "KEY")
PUBLISHES = {"proxy", "objects"}  # on loopback, unless BIMT_BIND says otherwise
ONE_SHOT = {"migrate"}


def main() -> int:
    """Print the faults; 1 where there are any."""
    found = faults(
        yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text(encoding="utf-8")),
        (REPOSITORY / "Dockerfile").read_text(encoding="utf-8"),
    )
    print("\n".join(found) or "docker-compose.yml holds together")
    return bool(found)


def faults(compose: dict, dockerfile: str) -> list[str]:
    """Every fault as a sentence that says where."""
    schema = json.loads((REPOSITORY / ".ci" / "compose.schema.json").read_text(encoding="utf-8"))
    found = [
        f"{error.json_path}: {error.message}"
        for error in jsonschema.Draft202012Validator(schema).iter_errors(compose)
    ]  # fmt: skip
    if found:
        return found
    services = compose["services"]
    for name, service in services.items():
        found += [f"{name}: {fault}" for fault in faults_of_service(name, service, services, compose)]
        found += [f"{name}: {fault}" for fault in faults_of_hardening(name, service)]
    if (compose["networks"].get("inside") or {}).get("internal") is not True:
        found.append("networks: `inside` must be internal, so that database and broker are reached by services alone")
    found += faults_of_images(services, dockerfile)
    return found


def faults_of_service(name: str, service: dict, services: dict, compose: dict) -> list[str]:
    """Faults of one service."""
    found = []
    for other, wish in service.get("depends_on", {}).items():
        if other not in services:
            found.append(f"waits for {other}, which is no service")
        elif wish["condition"] == "service_healthy" and "healthcheck" not in services[other]:
            found.append(f"waits until {other} is healthy, but {other} has no health check")
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        if source.startswith("./") and not (REPOSITORY / source).is_file():
            found.append(f"mounts {source}, which does not exist")
        if not source.startswith("./") and source not in compose["volumes"]:
            found.append(f"volume {source} is not declared")
    found += [f"network {n} is not declared" for n in service.get("networks", []) if n not in compose["networks"]]
    if name not in ONE_SHOT and "healthcheck" not in service:
        found.append("has no health check")
    if "build" in service:
        found += faults_of_settings(service) + faults_of_modules(service)
    return found


def faults_of_hardening(name: str, service: dict) -> list[str]:
    """What would let a service do, or be reached by, more than it needs."""
    found = []
    wanted = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"], "init": True}
    for key, value in wanted.items():
        if service.get(key) != value:
            found.append(f"must have {key}: {json.dumps(value)}")
    found += [f"has no {limit}" for limit in ("mem_limit", "pids_limit", "networks") if not service.get(limit)]
    if "build" not in service and not re.search(r":v?[0-9]+(\.[0-9]+)+", service["image"]):
        found.append(f"{service['image']} is no exact version")
    for port in service.get("ports", []):
        if name not in PUBLISHES:
            found.append(f"publishes {port}; only {' and '.join(sorted(PUBLISHES))} may")
        if not port.startswith(("127.0.0.1:", "${BIMT_BIND:-127.0.0.1}:")):
            found.append(f"publishes {port} on all addresses; begin with ${{BIMT_BIND:-127.0.0.1}}:")
    for variable, value in service.get("environment", {}).items():
        default = re.fullmatch(r"\$\{\w+:-(.+)\}", str(value))
        literal = "$" not in str(value)
        if any(word in variable for word in SECRETS) and (default or literal):
            found.append(f"{variable} has a default, which everybody knows")
    if name != "api" and "BIMT_SECRET_KEY" in service.get("environment", {}):
        found.append("gets BIMT_SECRET_KEY, which only the API needs")
    return found


def faults_of_settings(service: dict) -> list[str]:
    """Variables that are no settings."""
    from store.settings import table

    known = {setting.name for setting in table()} | NOT_SETTINGS | OF_COMPOSE
    named = set(re.findall(r"\bBIMT_[A-Z_]+", json.dumps([service.get("environment"), service["build"]])))
    return [f"{name} is no setting of store/settings.py" for name in sorted(named - known)]


def faults_of_modules(service: dict) -> list[str]:
    """`python -m MODULE` in a command or a health check must name a module that can be run."""
    found = []
    for words in (service.get("command", []), service.get("healthcheck", {}).get("test", [])):
        for option, module in itertools.pairwise(words):
            if option == "-m" and not runs(module):
                found.append(f"`python -m {module}` cannot be run: there is no such module")
    return found


def runs(module: str) -> bool:
    """Whether `python -m MODULE` would find something to run."""
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations is not None:
        found = importlib.util.find_spec(f"{module}.__main__")
    return found is not None


def faults_of_images(services: dict, dockerfile: str) -> list[str]:
    """Faults of the Dockerfile and of what the services want of it."""
    stages = re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)
    found = [
        f"{name}: the Dockerfile has no stage {service['build']['target']}"
        for name, service in services.items()
        if "build" in service and service["build"]["target"] not in stages
    ]
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        for source in line.split()[:-1]:
            if not (REPOSITORY / source).exists():
                found.append(f"Dockerfile: COPY names {source}, which does not exist")
    if not re.search(r"^USER (?!root)", dockerfile, re.MULTILINE):
        found.append("Dockerfile: the images run as root")
    return found


if __name__ == "__main__":
    sys.exit(main())
