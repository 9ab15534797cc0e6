"""Runs the checks one after another, each within a time limit, and prints what they find."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from threading import Thread
from traceback import extract_tb
from typing import Any

from serve_app.cli.config import ConfigError, load_config, secrets_of_environment, settings_of
from serve_app.cli.doctor.configuration import check_config, check_secrets
from serve_app.cli.doctor.engines import engine_checks
from serve_app.cli.doctor.finding import Check, Code, Finding, Status, problem
from serve_app.cli.doctor.machine import check_disks, check_ports, check_shared_memory
from serve_app.cli.doctor.ray_cluster import check_ray
from serve_app.cli.doctor.store import check_store
from serve_app.settings import Secrets, Settings

LIMIT_S = 12.0
"""Seconds that a check may take. Those that ask another machine have shorter limits of their own, which say more."""


def check_machine(config: str, *, as_json: bool) -> int:
    """Print a line for each finding, or one JSON object. Returns the exit status: 1 if there is a problem."""
    findings = []
    for finding in examine(config):
        findings.append(finding)
        if not as_json:
            print(f"{finding.status:8} {finding.check}: {finding.message}", flush=True)
    worst = max((finding.status for finding in findings), key=list(Status).index)
    if as_json:
        checks = [_as_json(finding) for finding in findings]
        print(json.dumps({"config": config, "status": worst, "checks": checks}, indent=2, ensure_ascii=False))
    return int(worst is Status.PROBLEM)


def examine(config: str) -> Iterator[Finding]:
    """Yield what the checks find. Nothing raises: a config that cannot be read is a finding."""
    try:
        raw = load_config(config)
        settings = settings_of(raw)
    except ConfigError as error:
        yield problem("configuration", Code.CONFIG_INVALID, str(error))
        return
    try:
        secrets = secrets_of_environment()
    except ConfigError:
        secrets = Secrets()  # `check_secrets` tells
    for check in _checks(config, raw, settings, secrets):
        findings = within(check, LIMIT_S)
        yield from findings
        if check.name == "configuration" and any(each.status is Status.PROBLEM for each in findings):
            return  # the others would judge what the service will not get


def _checks(config: str, raw: dict[str, Any], settings: Settings, secrets: Secrets) -> Sequence[Check]:
    return (
        Check("configuration", partial(check_config, config, raw, settings)),
        Check("secrets", partial(check_secrets, raw, settings)),
        Check("store", partial(check_store, settings.store, secrets)),
        *engine_checks(config, raw, settings, secrets),
        Check("ports", partial(check_ports, raw["http_options"])),
        Check("shared memory", check_shared_memory),
        Check("disk", partial(check_disks, settings)),
        Check("Ray", partial(check_ray, raw)),
    )


def within(check: Check, limit_s: float) -> Sequence[Finding]:
    """Run a check. If it takes longer than the limit or fails, the last finding says so."""
    found: list[Finding] = []

    def run() -> None:
        try:
            for finding in check.find():
                found.append(finding)
        except Exception as error:  # one check that fails must not end the others; its text may have secrets
            place = extract_tb(error.__traceback__)[-1]
            where = f"{Path(place.filename).name}:{place.lineno}"
            message = f"the check itself failed with {type(error).__name__} in {where}: report this"
            found.append(problem(check.name, Code.CHECK_FAILED, message))

    # A daemon, as a hanging disk cannot be interrupted: the command ends without it.
    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(limit_s)
    if thread.is_alive():
        message = (
            f"took more than {limit_s:g} s: something that it asks hangs, such as a disk or a server of names (DNS)"
        )
        return [*found, problem(check.name, Code.CHECK_TIMED_OUT, message)]
    return found


def _as_json(finding: Finding) -> dict[str, str | None]:
    return {
        "check": finding.check,
        "status": finding.status,
        "code": finding.code,
        "message": finding.message,
    }
