"""`fastserve deploy`: an application in YAML as a Dockerfile, a compose file or Kubernetes manifests."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import fastserve
from fastserve.atomic_files import OutputError
from fastserve.importing import extra

FAILED, USAGE = 1, 2
FORMS = ("compose", "kubernetes", "docker", "local")
PROJECT = "pyproject.toml"
NEXT = {
    "compose": "in {out}: docker compose up -d --build (with --profile gpu for what needs a GPU)",
    "kubernetes": "push the images, create the secrets (docs/deploy.md), kubectl apply --filename {out}/kubernetes/",
    "docker": "docker build --target cpu --file {out}/Dockerfile {clone} (or another target)",
    "local": "python -m fastserve.deploy.service start {out}",
}
"""Form -> what to do with its files. Told on stderr: stdout lists the files alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("application", metavar="APP.yaml", type=Path, help="what is deployed: see docs/deploy.md")
    parser.add_argument(
        "--to",
        choices=FORMS,
        help="which form it takes; local: processes of this machine, for python -m fastserve.deploy.service",
    )
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder for the files")
    parser.add_argument(
        "--source", metavar="CLONE", type=Path,
        help="clone of this project, from which images are made (by default the one that this command is of)",
    )  # fmt: skip
    parser.add_argument("--check", action="store_true", help="only say what is wrong; writes nothing")
    parser.add_argument(
        "--force", action="store_true", help="overwrite files in DIR that are not this command's, or were changed"
    )


def run(args: argparse.Namespace) -> int:
    """Returns 0, 1 where files cannot be written, 2 for what is wrong with the application or the arguments."""
    try:
        from fastserve.deploy import application, checks, forms, output
    except ModuleNotFoundError as error:
        return _failed([f"{error.name} is not installed; {extra('deploy')}"], FAILED)
    if not args.check and (args.to is None or args.out is None):
        return _failed([f"give --to {{{','.join(FORMS)}}} and --out DIR, or --check"], USAGE)
    try:
        app, document = application.read(args.application)
        checks.check(app, document)
        clone = _clone(args.source)
        out = args.out or Path()
        found = {form: forms.files(app, document, form, out, clone) for form in [args.to or FORMS[0]]}
        if args.check:
            print(f"{args.application}: {_summary(app)}")
            return 0
        written = output.write(out, args.to, found[args.to], args.force)
    except OutputError as error:
        return _failed([str(error)], FAILED)
    except (ValueError, OSError) as error:
        return _failed(str(error).splitlines(), USAGE)
    print("\n".join(map(str, written)))
    print(f"next: {NEXT[args.to].format(out=out, clone=clone)}", file=sys.stderr)
    return 0


def _clone(given: Path | None) -> Path:
    """Raises ValueError."""
    found = given or Path(fastserve.__file__).resolve().parents[1]
    if not (found / PROJECT).is_file() or not (found / "requirements" / "constraints.txt").is_file():
        raise ValueError(
            f"{found} is no clone of this project, from which images are made: give one with --source CLONE"
        )
    return found


def _summary(app: object) -> str:
    from fastserve.deploy.schema import Application

    assert isinstance(app, Application)
    servers = ", ".join(
        f"{server.name} ({server.model.uri}{f', {server.replicas.min} replicas' if server.replicas.min > 1 else ''})"
        for server in app.servers
    )
    return f"nothing is wrong; the gateway and {servers}"


def _failed(messages: list[str], status: int) -> int:
    for message in messages:
        print(f"fastserve deploy: error: {message}", file=sys.stderr)
    return status
