#!/usr/bin/env python3
"""Checks the files for containers as far as that goes without a container engine. Needs PyYAML.

Prints each finding as a line and exits with 1 when there are any.
"""

import ipaddress
import json
import re
import sys
from pathlib import Path

import yaml

BUILD = "cargo build --release --locked"
SECRET = re.compile(r"PASS|SECRET|TOKEN|KEY")
REQUIRED = re.compile(r"\$\{(\w+):\?[^}]+\}")
VARIABLE = re.compile(r"\$\{(\w+)")
UNITS = {"k": 10, "m": 20, "g": 30}

findings = []


def check(holds, finding):
    if not holds:
        findings.append(finding)


def size(text):
    """Bytes of `600MiB`, `1g`; what RabbitMQ and Compose write, with all units taken as powers of two."""
    number, unit = re.fullmatch(r"(\d+)\s*([kmg])?i?b?", str(text).lower()).groups()
    return int(number) << UNITS.get(unit, 0)


def code(path):
    """The lines of a file without its comments, continued lines joined."""
    lines = [line for line in Path(path).read_text().splitlines() if not line.lstrip().startswith("#")]
    return "\n".join(lines).replace("\\\n", " ")


def memory_limit(service):
    return service.get("deploy", {}).get("resources", {}).get("limits", {}).get("memory")


def check_service(name, service, services):
    check(memory_limit(service), f"{name}: no memory limit")
    check(service.get("healthcheck", {}).get("test"), f"{name}: no health check")
    check(service.get("restart") == "unless-stopped", f"{name}: no restart policy")
    check(service.get("stop_grace_period"), f"{name}: no time to stop in")
    for other, how in service.get("depends_on", {}).items():
        check(how.get("condition") == "service_healthy", f"{name}: doesn't wait until {other} is healthy")
        check(other in services, f"{name}: depends on {other}, which isn't there")
    for key, value in service.get("environment", {}).items():
        # None passes on what the user has set.
        literal = value is not None and not REQUIRED.fullmatch(str(value))
        check(not (SECRET.search(key) and literal), f"{name}: {key} has a value or a default of its own")
        check(not re.search(r"://[^/@]*:[^/@]*@", str(value)), f"{name}: {key} carries a password in a URL")
    for volume in service.get("volumes", []):
        source = str(volume).split(":")[0]
        check(not source.startswith("./") or Path(source).exists(), f"{name}: {source} doesn't exist")
    for port in service.get("ports", []):
        published = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", port).rsplit(":", 1)[0]
        address = published.rpartition(":")[0]
        check(address and ipaddress.ip_address(address).is_loopback, f"{name}: {port} is published beyond loopback")


def check_compose(compose, text):
    services = compose["services"]
    for name, service in services.items():
        check_service(name, service, services)
    commands = {name: service.get("command") for name, service in services.items()}
    check("serve" in commands.values() and "worker" in commands.values(), "serve or worker is missing")
    check("guest" not in text, "docker-compose.yml: RabbitMQ's default user")

    example = Path(".env.example").read_text()
    offered = set(re.findall(r"^#?([A-Z]\w+)=", example, re.M))
    empty = set(re.findall(r"^([A-Z]\w+)=$", example, re.M))
    required = set(REQUIRED.findall(text))
    passed_on = {key for service in services.values() for key, v in service.get("environment", {}).items() if v is None}
    asked = set(VARIABLE.findall(text)) | passed_on
    check(offered == asked, f".env.example and docker-compose.yml differ: {sorted(offered ^ asked)}")
    check(empty == required, f".env.example: not exactly the required ones are to be filled in: {empty ^ required}")

    settings = dict(re.findall(r"^(\S+)\s*=\s*(\S+)", code("config/rabbitmq.conf"), re.M))
    watermark = size(settings["vm_memory_high_watermark.absolute"])
    limit = memory_limit(services["rabbitmq"])
    check(limit and watermark <= 0.7 * size(limit), "config/rabbitmq.conf: the memory watermark is too near to the container's limit")


def check_settings(services):
    """Every MAPX__SECTION__KEY is a key of the defaults."""
    known, section = set(), ""
    for line in code("config/default.toml").splitlines():
        if head := re.match(r"\[(\w+)\]", line):
            section = head[1]
        elif key := re.match(r"(\w+)\s*=", line):
            known.add(f"MAPX__{section}__{key[1]}".upper())
    for name, service in services.items():
        for key in service.get("environment", {}):
            check(not key.startswith("MAPX__") or key in known, f"{name}: {key} is no setting")


def check_image():
    docker = code("Dockerfile")
    check(BUILD in docker, f"Dockerfile: isn't built with {BUILD}")
    check(BUILD in Path("README.md").read_text(), f"README.md: doesn't say {BUILD}")
    stages = re.split(r"^FROM ", docker, flags=re.M)
    user = re.findall(r"^USER (\S+)", stages[-1], re.M)
    check(user and re.fullmatch(r"[1-9]\d*:[1-9]\d*", user[-1]), "Dockerfile: the image runs as root, or as a user without a number")
    check("\nHEALTHCHECK" in stages[-1], "Dockerfile: no health check")

    allowed = [line[1:] for line in code(".dockerignore").splitlines() if line.startswith("!")]
    check("\n*\n" in f"\n{code('.dockerignore')}\n", ".dockerignore: doesn't begin with leaving out everything")
    for path in allowed:
        check(Path(path).exists(), f".dockerignore: {path} doesn't exist")
    root = Path.cwd()
    needed = {root / path for path in re.findall(r"^COPY (?!--from)(.+) \S+$", docker, re.M) for path in path.split()}
    for folder in ("src", "models", "benches"):
        for source in Path(folder).rglob("*.rs"):
            for path in re.findall(r'include_(?:str|bytes)!\(\s*"([^"]+)"', source.read_text()):
                needed.add(root / source.parent / path)
    for path in needed:
        path = path.resolve()
        check(path.exists(), f"Dockerfile: {path.relative_to(root)} doesn't exist")
        inside = path == root or any(path.is_relative_to(root / each) for each in allowed)
        check(inside, f".dockerignore: leaves out {path.relative_to(root)}, which the build needs")


def check_monitoring(services):
    """The scraped targets are services, the alerts' jobs are scraped, and the dashboard's panels stand apart."""
    scrapes = yaml.safe_load(Path("config/prometheus/prometheus.yml").read_text())["scrape_configs"]
    jobs = {scrape["job_name"] for scrape in scrapes}
    hosts = {name for scrape in scrapes for dns in scrape.get("dns_sd_configs", []) for name in dns["names"]}
    hosts |= {t.split(":")[0] for s in scrapes for each in s.get("static_configs", []) for t in each["targets"]}
    check(hosts <= services.keys(), f"config/prometheus/prometheus.yml: {sorted(hosts - services.keys())} is no service")
    asked = set(re.findall(r'job="([^"]+)"', Path("config/prometheus/alerts.yml").read_text()))
    check(asked <= jobs, f"config/prometheus/alerts.yml: {sorted(asked - jobs)} isn't scraped")
    dashboard = json.loads(Path("config/grafana/dashboards/mapx-embeddings.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    check(len(ids) == len(set(ids)), "the dashboard: two panels have the same id")
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        check(at["x"] + at["w"] <= 24 and not cells & taken, f"the dashboard: {panel['title']} lies over another panel")
        taken |= cells


def check_keda():
    """The example is YAML, and names queues and metrics that there are."""
    documents = list(yaml.safe_load_all(Path("config/keda.yaml").read_text()))
    kinds = {document["kind"]: document["spec"] for document in documents}
    check(kinds.keys() == {"ScaledObject", "TriggerAuthentication"}, f"config/keda.yaml: {sorted(kinds)}")
    told = Path("src/metrics.rs").read_text()
    for trigger in kinds["ScaledObject"]["triggers"]:
        for metric in re.findall(r"mapx_\w+", trigger["metadata"].get("query", "")):
            check(f'"{metric}"' in told, f"config/keda.yaml: {metric} is no metric")


def main():
    text = Path("docker-compose.yml").read_text()
    compose = yaml.safe_load(text)
    check_compose(compose, text)
    check_settings(compose["services"])
    check_image()
    check_monitoring(compose["services"])
    check_keda()
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
