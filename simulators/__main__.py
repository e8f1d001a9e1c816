"""`python -m simulators TYPE [--port N]`: one vendor alone, with an account that may do everything, until interrupted."""

import argparse
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from reconciler.sdk.testing.simulator import Simulator


def _servicenow(port: int) -> tuple[Simulator, str]:
    from simulators.servicenow import ServiceNow

    made, password = ServiceNow(port=port), secrets.token_urlsafe(12)
    made.users["reconciler"] = password
    made.put("sys_user", {"user_name": "reconciler"})
    return made, f"auth: {{type: basic, username: reconciler, password: {password}}}"


def _slack(port: int) -> tuple[Simulator, str]:
    from simulators.slack import SCOPES, Slack

    made, token = Slack(port=port), secrets.token_urlsafe(12)
    made.tokens[token] = SCOPES
    made.put_channel("C0OPS", datetime.now(UTC), name="ops")
    return made, f"auth: {{type: bot_token, token: {token}}}; base_url ends in /api; one channel: C0OPS"


def _github(port: int) -> tuple[Simulator, str]:
    from simulators.github import GitHub

    made, token = GitHub(port=port), secrets.token_urlsafe(12)
    made.tokens[token] = "repo"
    return made, f"auth: {{type: token, token: {token}}}"


def _custom(port: int) -> tuple[Simulator, str]:
    from simulators.custom import CustomSystem

    secret = secrets.token_urlsafe(24)
    return CustomSystem(secret, port=port), f"config: {{outbound: {{url: .../hook, secret: {secret}}}}}"


HTTP: Mapping[str, Callable[[int], tuple[Simulator, str]]] = {
    "servicenow": _servicenow,
    "slack": _slack,
    "github": _github,
    "custom": _custom,
}
OTHERS = {"email": "python -m simulators.email", "hr_ldap": "python -m simulators.hr_ldap"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulators", description=__doc__)
    parser.add_argument("type", choices=sorted({*HTTP, *OTHERS}))
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    given = parser.parse_args()
    if given.type in OTHERS:
        sys.stderr.write(f"{given.type} speaks another protocol: {OTHERS[given.type]} --help\n")
        return 1
    simulator, credential = HTTP[given.type](given.port)
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    with simulator:
        sys.stdout.write(f"url: {simulator.url}\n{credential}\n")
        sys.stdout.flush()
        over.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
