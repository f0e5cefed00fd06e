"""Writes a GitLab child pipeline from `deployer build --plan --json`: a job for each image that changed."""

import json
import sys
from pathlib import Path

SCRIPT = [
    "apk add --no-cache python3 py3-pip docker-cli-buildx git",
    "python3 -m venv /venv && /venv/bin/pip install -q '.[sbom]'",
    'docker login -u "$CI_REGISTRY_USER" -p "$CI_REGISTRY_PASSWORD" "$CI_REGISTRY"',
    '/venv/bin/deployer build "$IMAGE" --platform "$PLATFORM" --sbom sbom'
    ' --cache-from "$CACHE" --cache-to "type=registry,ref=$CACHE,mode=max"',
    'if [ "$CI_COMMIT_BRANCH" = "$CI_DEFAULT_BRANCH" ]; then /venv/bin/deployer build "$IMAGE" --platform "$PLATFORM"'
    ' --registry "$CI_REGISTRY_IMAGE" --push --provenance max --json | tee pushed.json; fi',
]


def job(row: dict[str, str]) -> dict[str, object]:
    """The job for one row of the plan."""
    machine = row["platform"].rsplit("/", 1)[1]
    return {
        "image": "docker:28",
        "services": [{"name": "docker:28-dind", "command": ["--feature", "containerd-snapshotter"]}],
        "tags": [f"saas-linux-medium-{machine}"],
        "variables": {
            "DOCKER_TLS_CERTDIR": "/certs",
            "IMAGE": f"{row['image']}:{row['variant']}",
            "PLATFORM": row["platform"],
            # of the image, and of each that it stands on
            "CACHE": f"$CI_REGISTRY_IMAGE/cache:{{image}}-{{variant}}-{machine}",
        },
        "script": SCRIPT,
        "artifacts": {"paths": ["sbom/", "pushed.json"], "reports": {"cyclonedx": ["sbom/*.cdx.json"]}},
        "timeout": "6 hours",
    }


def main(path: str) -> None:
    rows = [row for row in json.loads(Path(path).read_text())["images"] if row["changed"] != []]
    jobs = {f"{row['image']}:{row['variant']} {row['platform']}": job(row) for row in rows}
    # a pipeline without jobs is an error
    print(json.dumps(jobs or {"nothing changed": {"script": ["true"]}}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
