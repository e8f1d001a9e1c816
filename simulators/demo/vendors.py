"""The remote systems of the demo, in this process: seeded, with credentials made up at each start.

In: a folder for certificates and mails. Out: running simulators and the values for the placeholders of the quickstart
manifests. Called by `story`. The directory is there only where slapd and bonsai are installed.
"""

import importlib.util
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from simulators.email import MailServer
from simulators.github import GitHub
from simulators.hr_ldap import Slapd, find_slapd
from simulators.servicenow import ServiceNow
from simulators.slack import SCOPES, Slack

INCIDENTS = 4000
_SUBJECTS = ("Printer offline", "VPN drops", "Password expired", "Laptop slow", "Shared folder read-only")


@dataclass(frozen=True)
class Vendors:
    """`values` fill the placeholders; `passwords` are the two accounts' at ServiceNow."""

    servicenow: ServiceNow
    slack: Slack
    github: GitHub
    mail: MailServer
    slapd: Slapd | None
    values: dict[str, str]

    def open_incident(self, text: str) -> str:
        """Somebody opens an urgent incident; its number."""
        return self.servicenow.put("incident", {"short_description": text, "priority": "1", "state": "1"})["number"]

    def said_in(self, channel: str, part: str) -> str | None:
        """The first message with this part."""
        found = (m["text"] for m in tuple(self.slack.messages[channel].values()) if part in m["text"])
        return next(found, None)

    def mail_about(self, part: str) -> str | None:
        """The first mail with this part in its subject, as its reader sees it."""
        for received in tuple(self.mail.received):
            mail = received.message
            if part in str(mail["Subject"]):
                body = mail.get_body(("plain",))
                text = body.get_content().strip() if body else ""
                return f"From: {mail['From']}\nTo: {mail['To']}\nSubject: {mail['Subject']}\n\n{text}"
        return None


@contextmanager
def vendors(folder: Path, authorities: Path) -> Iterator[Vendors]:
    """Running until the block ends. `authorities` gets the certificates that clients must trust."""
    values = {
        f"{name}_PASSWORD": secrets.token_urlsafe(18)
        for name in ("SERVICENOW", "SERVICENOW_ENGINEERING", "SMTP", "LDAP")
    }
    values |= {f"{name}_TOKEN": secrets.token_urlsafe(24) for name in ("SLACK", "SLACK_ENGINEERING", "GITHUB")}
    with ExitStack() as running:
        servicenow, slack = running.enter_context(ServiceNow()), running.enter_context(Slack())
        github = running.enter_context(GitHub())
        mail = MailServer(folder=folder / "mail", users={"reconciler": values["SMTP_PASSWORD"]})
        running.enter_context(mail)
        slapd = _directory(folder / "slapd", values["LDAP_PASSWORD"])
        if slapd:
            running.enter_context(slapd)
        for simulator in (servicenow, slack, github):
            simulator.checks_answers = False  # the contract tests do; here it would only cost time
        _seed_servicenow(servicenow, values)
        _seed_slack(slack, values)
        _seed_github(github, values)
        (authorities / "mail-ca.pem").write_bytes(mail.ca_file.read_bytes())
        if slapd:
            (authorities / "ldap-ca.pem").write_bytes(slapd.ca_file.read_bytes())
        values |= {"SERVICENOW_URL": servicenow.url, "SLACK_URL": slack.url, "GITHUB_URL": github.url}
        values |= {"SMTP_HOST": mail.host, "SMTP_PORT": str(mail.port), "LDAP_URL": slapd.url if slapd else ""}
        yield Vendors(servicenow, slack, github, mail, slapd, values)


def _directory(folder: Path, password: str) -> Slapd | None:
    is_possible = find_slapd() is not None and importlib.util.find_spec("bonsai") is not None
    return Slapd(folder, people=400, password=password) if is_possible else None


def _seed_servicenow(simulator: ServiceNow, values: dict[str, str]) -> None:
    simulator.users["svc-reconciler"] = values["SERVICENOW_PASSWORD"]
    simulator.users["svc-engineering"] = values["SERVICENOW_ENGINEERING_PASSWORD"]
    for name in simulator.users:
        simulator.put("sys_user", {"user_name": name})
    first = datetime.now(UTC) - timedelta(days=30)
    for number in range(INCIDENTS):
        text = f"{_SUBJECTS[number % len(_SUBJECTS)]} (desk {number % 97})"
        opened = first + timedelta(minutes=10 * number)
        simulator.put("incident", {"short_description": text, "priority": str(number % 5 + 1)}, opened)
    for number in range(60):
        simulator.put("change_request", {"short_description": f"Patch host {number}"}, first + timedelta(hours=number))


def _seed_slack(simulator: Slack, values: dict[str, str]) -> None:
    at = datetime.now(UTC) - timedelta(days=100)
    simulator.tokens |= {values["SLACK_TOKEN"]: SCOPES, values["SLACK_ENGINEERING_TOKEN"]: SCOPES}
    for channel, name in (("C0OPS", "ops"), ("C0DEV", "dev")):
        simulator.put_channel(channel, at, name=name)
    for number in range(150):
        simulator.put_user(f"U{number:04}", at)


def _seed_github(simulator: GitHub, values: dict[str, str]) -> None:
    simulator.tokens[values["GITHUB_TOKEN"]] = "repo"
    at = datetime.now(UTC) - timedelta(days=50)
    for name in ("acme/shop", "acme/docs"):
        repo = simulator.add_repo(name)
        for number in range(1, 121):
            simulator.put_issue(repo, number, at + timedelta(hours=number), title=f"Issue {number}")
            simulator.put_commit(
                repo, f"{name}-{number}".encode().hex().ljust(40, "0")[:40], at + timedelta(hours=number)
            )
