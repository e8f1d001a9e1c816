"""What happens in the demo, in order. Called by `__main__`.

In: a folder and whether to end by itself. Out: text for a reader; DemoError where something did not come about in time.
"""

import os
import shutil
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from simulators.demo import DemoError, say, title, wait_for
from simulators.demo.daemon import Command, Daemon, told
from simulators.demo.repository import Repository
from simulators.demo.vendors import INCIDENTS, Vendors, vendors

_CHANGED = "it-ops/slack.yaml"
FIRST_SECONDS, CHANGE_SECONDS, INCIDENT_SECONDS = 300, 180, 180
_OLD_TEXT, _NEW_TEXT = "Urgent: {{ record.number }}", "All hands: {{ record.number }}"


@dataclass(frozen=True)
class Scene:
    """Everything that runs."""

    vendors: Vendors
    repository: Repository
    daemon: Daemon
    command: Command

    @property
    def shown_repository(self) -> str:
        return os.path.relpath(self.repository.folder)


def play(folder: Path, *, once: bool) -> None:
    """The whole story; with `once` it ends with a change that has converged, else with the reader's Ctrl-C."""
    shutil.rmtree(folder, ignore_errors=True)
    authorities = folder / "authorities"
    authorities.mkdir(parents=True)
    started = time.monotonic()
    with ExitStack() as running:
        title("Simulated vendors on loopback")
        remote = running.enter_context(vendors(folder, authorities))
        _introduce(remote)
        scene = _prepare(folder, remote)
        title("The plan, as a pull request would show it")
        scene.command.show("plan", *_where(scene), permitted=(2,))
        title("The daemon")
        scene.daemon.configure(scene.repository.folder, authorities)
        running.enter_context(scene.daemon.running())
        _converge(scene, FIRST_SECONDS)
        scene.command.show("status", "--state-dir", str(scene.daemon.state))
        _incident(scene, "Mail is down in all offices", "Urgent:")
        _addresses(scene, is_strict=once)
        if once:
            _change(scene)
            _prove(scene)
            say(f"\neverything converged, in {time.monotonic() - started:.0f} s altogether")
        else:
            head = scene.repository.head
            _invite(scene)
            _follow(scene, head)


def _where(scene: Scene) -> tuple[str, ...]:
    return "--repo", str(scene.repository.folder), "--state-dir", str(scene.daemon.state)


def _introduce(remote: Vendors) -> None:
    say(f"ServiceNow  {remote.servicenow.url}  {INCIDENTS} incidents")
    say(f"Slack       {remote.slack.url}  channels #ops and #dev")
    say(f"GitHub      {remote.github.url}  acme/shop and acme/docs")
    say(f"SMTP        {remote.mail.host}:{remote.mail.port}, STARTTLS")
    if remote.slapd:
        say(f"LDAP        {remote.slapd.url}, STARTTLS, {remote.slapd.people} people")
    else:
        say(
            "LDAP        left out: it needs slapd and bonsai (apt-get install slapd ldap-utils gcc python3-dev libldap-dev"
        )
        say("            libsasl2-dev libkrb5-dev, then make clean setup)")


def _prepare(folder: Path, remote: Vendors) -> Scene:
    title("A Git repository with manifests; credentials encrypted for an age key of this run")
    command = Command(folder)
    recipient = command.run("secrets", "keygen", "-o", str(command.key_file)).strip()
    repository = Repository(folder / "repo", command.run)
    repository.build({**remote.values, "AGE_RECIPIENT": recipient}, has_directory=remote.slapd is not None)
    say(f"{os.path.relpath(repository.folder)} at {repository.head[:12]}:")
    for path in repository.manifests:
        say(f"  {path}")
    encrypted = (repository.folder / _CHANGED).read_text().split("token: ", 1)[1].split("\n", 1)[0]
    say(f"a credential as it is committed: token: {encrypted[:60]}...")
    return Scene(remote, repository, Daemon(command), command)


def _converge(scene: Scene, seconds: float) -> None:
    """Until every integration of the repository's HEAD is ready; tells each change on the way."""
    head, started = scene.repository.head, time.monotonic()
    expected = sum("kind: Integration" in (scene.repository.folder / f).read_text() for f in scene.repository.manifests)
    said = {name: told(view) for name, view in scene.daemon.status().integrations.items()}

    def look() -> bool | None:
        seen = scene.daemon.status()
        for name, view in seen.integrations.items():
            words = told(view)
            if said.get(name) != words:
                said[name] = words
                say(f"{time.monotonic() - started:5.1f} s  {view.row.ref}: {words}")
        is_whole = seen.revision == head and len(seen.integrations) == expected
        return True if is_whole and not seen.unready() else None

    def why() -> str:
        missing = "; ".join(scene.daemon.status().unready()) or "not all integrations are known yet"
        return f"{missing}\nthe end of {scene.daemon.log}:\n{scene.daemon.log_end()}"

    wait_for(f"{expected} integrations connected and synced at {head[:12]}", look, seconds, why)


def _incident(scene: Scene, text: str, opening: str) -> None:
    title("A new urgent incident at ServiceNow")
    remote, started = scene.vendors, time.monotonic()
    number = remote.open_incident(text)
    say(f"{number} {text!r} was opened with priority 1")

    def why() -> str:
        return f"the end of {scene.daemon.log}:\n{scene.daemon.log_end()}"

    said = wait_for(
        f"a message about {number} in Slack", lambda: remote.said_in("C0OPS", number), INCIDENT_SECONDS, why
    )
    mail = wait_for(f"a mail about {number}", lambda: remote.mail_about(number), INCIDENT_SECONDS, why)
    say(f"after {time.monotonic() - started:.1f} s in Slack, #ops:\n    {said}\nand in the mailbox:")
    say("\n".join(f"    {line}".rstrip() for line in mail.splitlines()))
    if not said.startswith(opening):
        raise DemoError(f"the message should start with {opening!r}")


def _addresses(scene: Scene, *, is_strict: bool) -> None:
    title("Where to look")
    url, state = scene.daemon.url, os.path.relpath(scene.daemon.state)
    say(f"metrics   {url}/metrics")
    say(f"health    {url}/healthz")
    say(f"API       {url}/v1/integrations, described at {url}/docs")
    say(f"status    {scene.command.name} status --state-dir {state}")
    try:
        say(f"\n$ curl -s {url}/healthz\n{scene.daemon.get('/healthz').strip()}")
    except DemoError as error:
        if is_strict:
            raise
        say(f"note: {error}")


def _change(scene: Scene) -> None:
    title("A change in Git")
    scene.repository.replace(_CHANGED, _OLD_TEXT, _NEW_TEXT)
    say(scene.repository.git("diff", "--unified=0", "--", _CHANGED).split("@@", 2)[-1].strip("\n "))
    before = _generation(scene)
    revision = scene.repository.commit("Call everybody")
    say(f"committed as {revision[:12]}")
    _converge(scene, CHANGE_SECONDS)
    after = _generation(scene)
    if after <= before:
        raise DemoError(f"the change of {_CHANGED} raised no generation: {before} before, {after} after")
    _incident(scene, "Telephones are dead, too", "All hands:")


def _generation(scene: Scene) -> int:
    return scene.daemon.status().integrations["ops-slack"].row.generation


def _prove(scene: Scene) -> None:
    title("Nothing is left to do")
    scene.command.show("plan", *_where(scene), permitted=(0,))
    scene.command.show("status", "--state-dir", str(scene.daemon.state))
    say(f"\n$ curl -s {scene.daemon.url}/metrics | grep ...")
    head, wanted = scene.repository.head, len(scene.daemon.status().integrations)

    def look() -> list[str] | None:
        ready = scene.daemon.metrics('reconciler_condition{ condition="Ready" status="True"')
        changed = scene.daemon.metrics(f'reconciler_integration_info name="ops-slack" {head}')
        sent = scene.daemon.metrics('reconciler_deliveries{ status="delivered"')
        synced = scene.daemon.metrics("reconciler_syncs_total{")
        return [*changed, *ready, *sent, *synced] if changed and sent and len(ready) == wanted else None

    for line in wait_for(
        f"metrics that show {wanted} integrations ready and ops-slack at {head[:12]}", look, CHANGE_SECONDS
    ):
        say(line)


def _invite(scene: Scene) -> None:
    title("Try it")
    password, url = scene.vendors.values["SERVICENOW_PASSWORD"], scene.vendors.servicenow.url
    say(f"edit {scene.shown_repository}/{_CHANGED}, for example its template, then")
    say(f"  git -C {scene.shown_repository} commit --all --message 'Say it differently'")
    say("open an urgent incident:")
    say(f"  curl --user svc-reconciler:{password} -H 'Accept: application/json' -H 'Content-Type: application/json' \\")
    say("""    --data '{"short_description": "Fire", "priority": "1"}' \\""")
    say(f"    {url}/api/now/table/incident")
    token = scene.command.run(
        "token", "create", "demo", "--every-workspace", "--allow", "admin", "--state-dir", str(scene.daemon.state)
    ).strip()
    say("use the API; what it changes is a commit (docs/api.md has more):")
    say(f"  export RECONCILER_URL={scene.daemon.url} RECONCILER_TOKEN={token}")
    say("""  curl -s -H "Authorization: Bearer $RECONCILER_TOKEN" "$RECONCILER_URL/v1/integrations?limit=3\"""")
    say("Ctrl-C ends the daemon and the simulators.\n")


def _follow(scene: Scene, head: str) -> None:
    """Tell what happens since that commit until somebody interrupts."""
    told = set(scene.vendors.slack.messages["C0OPS"])
    mails = len(scene.vendors.mail.received)
    while True:
        time.sleep(0.3)
        scene.daemon.check_alive()
        for ts, message in tuple(scene.vendors.slack.messages["C0OPS"].items()):
            if ts not in told:
                told.add(ts)
                say(f"Slack, #ops: {message['text']}")
        for received in scene.vendors.mail.received[mails:]:
            mails += 1
            say(f"mail to {', '.join(received.recipients)}: {received.message['Subject']}")
        if scene.repository.head != head:
            head = scene.repository.head
            _picked_up(scene, head)


def _picked_up(scene: Scene, head: str) -> None:
    started = time.monotonic()
    try:
        wait_for(f"revision {head[:12]} in force", lambda: scene.daemon.status().revision == head or None, 30)
        say(f"{head[:12]} was picked up after {time.monotonic() - started:.1f} s")
        scene.command.show("status", "--state-dir", str(scene.daemon.state))
    except DemoError as error:
        say(f"note: {error}")
