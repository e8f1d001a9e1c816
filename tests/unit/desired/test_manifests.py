"""One manifest at a time: every finding at once, at its place, with a remedy; secrets and ciphertext as designed."""

from datetime import timedelta
from pathlib import Path

import pytest

from reconciler.desired.policy import TenantPolicy, WorkspaceRule
from reconciler.model.ids import Ref
from reconciler.model.secret import Unresolved
from tests.unit.desired.manifest_kit import check, desk, lines, only_finding

CIPHER = f"'ENC[AES256_GCM,data:q83v,iv:{'q83v' * 10}q80=,tag:{'q83v' * 5}qw==,type:str]'"
SOPS = "sops: {mac: x}\n"
SEND = "{name: s, event_type: ticket.created, action: post, template: 'x', map: {channel: c}}"


def test_a_right_manifest_becomes_an_integration() -> None:
    checked = check({"teams/a.yaml": desk("a", labels="")})
    desired = checked.state.integrations[Ref("default", "a")]
    assert not checked.state.findings
    assert checked.state.is_complete
    assert desired.manifest.spec.auth["key"] == desired.tree["auth"]["key"]
    assert desired.tree["auth"]["key"] == Unresolved("from_env", desired.tree["auth"]["key"].digest, key="DESK_KEY")
    assert (desired.origin.file, desired.origin.line) == ("teams/a.yaml", 1)


@pytest.mark.parametrize(
    ("fields", "finding"),
    [
        ({"typ": "x"}, "m.yaml:8:3: unknown-field: unknown field spec.typ (did you mean type?)"),
        ({"type": "desk2"}, "m.yaml:5:9: unknown-type: there is no connector of type 'desk2' (did you mean desk?)"),
        ({"enabled": "maybe"}, ("m.yaml:8:12: invalid-value: spec.enabled must be true or false, not 'maybe' (false: the "
                               "configuration stays, connection and syncs stop.)")),
        ({"display_name": "7"}, ("m.yaml:8:17: invalid-value: spec.display_name must be text, not the number 7 (put it in "
                                 "quotes)")),
        ({"deletion_policy": "purg"}, ("m.yaml:8:20: invalid-value: spec.deletion_policy must be 'disconnect', 'purge' or "
                                      "'orphan', not 'purg' (did you mean purge?)")),
        ({"depends_on": "b"}, "m.yaml:8:15: invalid-value: spec.depends_on must be a list, not 'b' (write [b])"),
        ({"config": "{}"}, "m.yaml:7:3: missing-field: spec.config.url is missing"),
        ({"config": "{url: 'https://x', retries: 11}"}, ("m.yaml:7:39: invalid-value: spec.config.retries must be less than "
                                                        "or equal to 10, not 11")),
        ({"config": "{url: 'https://x', webhok: {}}"}, ("m.yaml:7:30: unknown-field: unknown field spec.config.webhok "
                                                       "(did you mean webhook?)")),
        ({"auth": "{type: kee, key: {from_env: X}}"}, ("m.yaml:6:16: invalid-value: spec.auth.type: desk has no such way to "
                                                      "sign in (did you mean key?)")),
        ({"auth": "{key: {from_env: X}}"}, ("m.yaml:6:3: missing-field: spec.auth.type is missing: desk must be told how to "
                                           "sign in (one of: basic, key)")),
        ({"auth": "{type: key}"}, "m.yaml:6:3: missing-field: spec.auth.key is missing"),
        ({"access": "[{client: a, allow: [read]}, {client: b, allow: [send]}, {client: a, allow: [sync]}]"}, (
            "m.yaml:8:77: duplicate-name: two entries are for the client 'a' (name all its rights in one entry)")),
        ({"access": "[{client: a, allow: [reed]}]"}, ("m.yaml:8:32: invalid-value: spec.access[0].allow[0] must be 'read', "
                                                     "'send' or 'sync', not 'reed' (did you mean read?)")),
        ({"sync": "{schedule: '61 * * * *'}"}, ("m.yaml:8:20: invalid-schedule: the schedule '61 * * * *' cannot be read: Bad "
                                               "minute (minute hour day-of-month month day-of-week, e.g. */15 * * * *)")),
        ({"sync": "{schedule: '* * * *'}"}, ("m.yaml:8:20: invalid-schedule: the schedule '* * * *' does not have five fields "
                                            "(minute hour day-of-month month day-of-week, e.g. */15 * * * *)")),
        ({"sync": "{schedule: '0 0 31 2 *'}"}, ("m.yaml:8:20: invalid-schedule: the schedule '0 0 31 2 *' cannot be read: Bad "
                                               "day-of-month (minute hour day-of-month month day-of-week, e.g. */15 * * * *)")),
        ({"sync": "{schedule: '0 5 * * *', every: 5m}"}, ("m.yaml:8:33: invalid-schedule: schedule and every exclude each "
                                                         "other (keep one of them)")),
        ({"sync": "{entities: [people], deletions: {schedule: '0 3 * * *', every: 1h}}"}, (
            "m.yaml:8:65: invalid-schedule: schedule and every exclude each other (keep one of them)")),
        ({"sync": "{entities: [people], deletions: {every: 0s}}"}, ("m.yaml:8:49: invalid-schedule: every is shorter than 1s "
                                                                   "(for example 15m)")),
        ({"sync": "{entities: [tickets], deletions: {every: 1h}}"}, (
            "m.yaml:8:31: invalid-value: desk lists no keys alone of what is read here, so spec.sync.deletions has no effect "
            "(remove it; see what finds deletions: reconciler connectors desk)")),
        ({"sync": "{every: 0s}"}, "m.yaml:8:17: invalid-schedule: every is shorter than 1s (for example 15m)"),
        ({"sync": "{every: 5 minutes}"}, ("m.yaml:8:17: invalid-value: spec.sync.every is not accepted: a duration is a number "
                                         "and a unit (ms, s, m, h, d, w), such as 15m or 1h30m (Interval such "
                                         "as 15m; instead of `schedule`.)")),
        ({"sync": "{time_zone: Europe/Berln}"}, ("m.yaml:8:21: invalid-schedule: there is no time zone 'Europe/Berln' (did you "
                                                "mean Europe/Berlin?)")),
        ({"sync": "{entities: [tickets, tikets]}"}, ("m.yaml:8:30: unknown-entity: desk has no entity 'tikets' (did you mean "
                                                    "tickets?)")),
        ({"sync": "{entities: [people], scope: delta}"}, ("m.yaml:8:37: invalid-value: scope delta: desk has no change feed for "
                                                         "people (use incremental, or name other entities)")),
        ({"sync_direction": "inbound", "synchronizations": f"[{SEND}]"}, ("m.yaml:8:19: invalid-value: sync_direction is "
            "inbound, but synchronizations deliver events to this integration (use bidirectional, or remove the "
            "synchronizations)")),
        ({"sync_direction": "outbound", "sync": "{entities: [people]}"}, ("m.yaml:9:10: invalid-value: sync_direction is "
            "outbound, so spec.sync.entities has no effect (remove it, or use bidirectional)")),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_a_remedy(fields: dict[str, str], finding: str) -> None:
    assert only_finding(desk(**fields)) == finding


@pytest.mark.parametrize(
    ("before", "after", "finding"),
    [
        ("action: post", "action: pots", "8:68: unknown-action: desk has no action pots (did you mean post?)"),
        ("ticket.created", "ticket.craeted", ("8:44: invalid-value: there is no event ticket.craeted (ticket.created, "
                                             "ticket.updated, ticket.deleted or ticket.*)")),
        ("channel: c", "chanel: c", "8:89: missing-field: spec.synchronizations[0]: post needs channel (set map.channel)"),
        ("{channel: c}", "{channel: c, text: y}", ("8:74: invalid-value: template and map.text fill the same field (keep one "
                                                  "of them)")),
        ("template: 'x', ", "", "8:74: missing-field: spec.synchronizations[0]: post needs text (set template or map.text)"),
        ("channel: c", "channel: c, urgency: hgh", ("8:116: invalid-value: spec.synchronizations[0].map.urgency must be 'low' or "
                                                   "'high', not 'hgh' (did you mean high?)")),
        ("'x'", "'{{ recrod.x }}'", ("8:84: invalid-template: spec.synchronizations[0].template uses recrod, which does not "
                                    "exist (did you mean record?)")),
        ("name: s", "name: s, when: 'record.x =='", ("8:38: invalid-template: spec.synchronizations[0].when: expected a "
                                                    "primitive expression, found end of expression (the language is Liquid)")),
    ],
)  # fmt: skip
def test_synchronizations_are_checked_against_the_channel(before: str, after: str, finding: str) -> None:
    text = desk(synchronizations=f"[{SEND.replace(before, after)}]")
    found = lines(check({"m.yaml": text}))
    assert f"m.yaml:{finding}" in found
    assert len(found) == (2 if "chanel" in after else 1)


def test_a_template_may_fill_what_is_typed_otherwise() -> None:
    send = SEND.replace("channel: c", "channel: '{{ record.room }}', urgency: '{{ record.urgency }}'")
    assert not lines(check({"m.yaml": desk(synchronizations=f"[{send}]")}))


def test_two_synchronizations_of_one_name_are_refused() -> None:
    assert "duplicate-name: two synchronizations are named s" in only_finding(
        desk(synchronizations=f"[{SEND}, {SEND}]")
    )


def test_all_findings_of_a_manifest_come_at_once() -> None:
    text = desk("Bad_Name", typo="1", auth="{type: key, key: clear-text-secret}", config="{}", drift="{mode: corect}",
                sync="{schedule: x, time_zone: Nowhere, entities: [tikets]}",
                synchronizations="[{name: s, event_type: a.created, action: pots, when: 'nobody == 1'}]")  # fmt: skip
    found = lines(check({"m.yaml": text}))
    assert [line.split(": ")[1] for line in found] == [
        "invalid-value", "secret-in-clear", "missing-field", "unknown-field", "invalid-value", "invalid-schedule",
        "invalid-schedule", "unknown-entity", "unknown-action", "invalid-template",
    ]  # fmt: skip
    assert not any("clear-text-secret" in line for line in found)


def test_every_document_of_a_file_is_checked() -> None:
    checked = check({"m.yaml": "---\n".join([desk("a"), desk("b", drift="{mode: x}"), desk("c")])})
    assert set(checked.state.integrations) == {Ref("default", "a"), Ref("default", "c")}
    assert checked.state.held == {Ref("default", "b")}
    assert lines(checked)[0].startswith("m.yaml:16:17: invalid-value: spec.drift.mode")


class TestEnvelope:
    @pytest.mark.parametrize(
        ("text", "finding"),
        [
            ("apiVersion: reconciler.dev/v2\nkind: Integration\n", "1:13: unknown-kind: there is no apiVersion"),
            ("apiVersion: reconcilr.dev/v1\nkind: Integration\n", "1:13: unknown-kind: there is no apiVersion"),
            ("apiVersion: reconciler.dev/v1\nkind: Integraton\n", "2:7: unknown-kind: there is no kind 'Integraton' (did you"),
            ("apiVersion: reconciler.dev/v1\nspec: {}\n", "1:1: missing-field: kind is missing"),
            ("kind: Integration\nspec: {}\n", "1:1: missing-field: apiVersion is missing"),
            ("metadata: {name: a}\nspec: {type: desk}\n", "1:1: missing-field: apiVersion is missing"),
            ("- apiVersion: reconciler.dev/v1\n  kind: Integration\n", "1:1: unknown-kind: a list of manifests"),
        ],
    )  # fmt: skip
    def test_what_was_meant_for_us_is_never_ignored(self, text: str, finding: str) -> None:
        checked = check({"m.yaml": text})
        assert finding in lines(checked)[0]
        assert not checked.state.is_complete

    @pytest.mark.parametrize(
        "text",
        [
            "apiVersion: apps/v1\nkind: Deployment\n",
            "apiVersion: camel.apache.org/v1\nkind: Integration\n", "on: push\njobs: {}\n",
            "- 1\n- 2\n", "just text\n", "", "# nothing\n", f"token: {CIPHER}\n{SOPS}",
        ],
    )  # fmt: skip
    def test_other_yaml_is_left_alone(self, text: str) -> None:
        checked = check({"m.yaml": text})
        assert not checked.state.findings
        assert checked.state.is_complete

    def test_hidden_files_and_other_endings_are_left_alone(self) -> None:
        assert not lines(
            check({".sops.yaml": "a: [", ".github/x.yaml": "a: [", "a/.b/c.yml": "a: [", "README.md": "a: ["})
        )

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            (desk().replace("name: a", f"name: {CIPHER}"), "metadata.name is encrypted"),
            (desk(type=CIPHER), "spec.type is encrypted"),
            (desk().replace("kind: Integration", f"kind: {CIPHER}"), "kind is encrypted"),
            (desk(sync=f"{{schedule: {CIPHER}}}"), "spec.sync.schedule is encrypted"),
        ],
    )
    def test_what_must_be_readable_without_a_key_is(self, text: str, place: str) -> None:
        found = lines(check({"m.yaml": text + SOPS}))
        assert any("encrypted-envelope" in line and place in line for line in found)


class TestSecrets:
    @pytest.mark.parametrize(
        "auth",
        [
            "{type: key, key: hunter22hunter22}",
            "{type: basic, username: u, password: hunter22hunter22}",
            "{type: kee, key: hunter22hunter22}",
        ],
    )
    def test_a_secret_in_clear_is_refused_and_never_shown(self, auth: str) -> None:
        found = lines(check({"m.yaml": desk(auth=auth)}))
        assert any("secret-in-clear" in line and "reconciler secrets encrypt" in line for line in found)
        assert "hunter22" not in "".join(found)

    def test_a_nested_secret_is_found_too(self) -> None:
        config = "{url: 'https://x', webhook: {signing_secret: hunter22}}"
        assert "spec.config.webhook.signing_secret is a secret" in only_finding(desk(config=config))

    def test_ciphertext_stands_for_any_value(self) -> None:
        text = desk(auth=f"{{type: {CIPHER}, key: {CIPHER}}}", config=f"{{url: {CIPHER}, retries: {CIPHER}}}") + SOPS
        checked = check({"m.yaml": text})
        assert not checked.state.findings
        assert checked.state.integrations[Ref("default", "a")].tree["config"]["retries"].kind == "encrypted"

    @pytest.mark.parametrize(
        "cut",
        [
            *("ENC[...]", "ENC[AES256_GCM,data:...]", "ENC[AES", CIPHER.strip("'")[:-1], CIPHER.strip("'")[:40]),
            *(CIPHER.strip("'").replace("q83vq80=", more) for more in ("q80=", "...", "q83vq83vq80=")),
            CIPHER.strip("'").replace("data:q83v", "data:q83"),
        ],
    )
    def test_cut_ciphertext_is_told_as_such(self, cut: str) -> None:
        assert only_finding(desk(auth=f"{{type: key, key: '{cut}'}}") + SOPS) == (
            "m.yaml:6:26: sops-malformed: spec.auth.key is only a part of an encrypted value: it was cut"
            " (copy the whole value once more, or take the file back from Git as it was)"
        )

    def test_ciphertext_without_a_sops_block_is_refused(self) -> None:
        assert "sops-malformed: there are encrypted values" in only_finding(desk(auth=f"{{type: key, key: {CIPHER}}}"))

    def test_an_alias_of_the_auth_type_becomes_the_connectors_own(self) -> None:
        checked = check({"m.yaml": desk(auth="{type: basic_auth, username: u, password: {from_file: p}}")})
        desired = checked.state.integrations[Ref("default", "a")]
        assert (desired.manifest.spec.auth["type"], desired.tree["auth"]["type"]) == ("basic", "basic_auth")

    @pytest.mark.parametrize(
        ("reference", "finding"),
        [
            ("{from_env: ''}", "from_env takes one name"),
            ("{from_sops: x.yaml}", "from_sops needs file and key"),
            ("{from_sops: {file: ../../../etc/passwd, key: a}}", "not-permitted: ../../../etc/passwd lies outside the source"),
            ("{from_sops: {file: gone.yaml, key: a}}", "secret-missing: there is no file teams/gone.yaml in this revision"),
            ("{from_sops: {file: ../s.yaml, kee: a}}", "unknown-field: unknown field kee in from_sops (did you mean key?)"),
        ],
    )  # fmt: skip
    def test_references_are_checked_without_reading_them(self, reference: str, finding: str) -> None:
        found = lines(check({"teams/m.yaml": desk(auth=f"{{type: key, key: {reference}}}"), "s.yaml": "a: 1"}))
        assert any(finding in line for line in found)

    def test_the_source_hash_follows_what_stands_in_git(self) -> None:
        def hash_of(text: str, secret_file: str = "a: 1") -> str:
            checked = check({"m.yaml": text, "s.yaml": secret_file})
            return checked.state.integrations[Ref("default", "a")].source_hash

        by_reference = desk(auth="{type: key, key: {from_sops: {file: s.yaml, key: a}}}")
        assert hash_of(desk()) == hash_of(
            desk().replace("{url: 'https://desk.test'}", "\n    url: https://desk.test  # why")
        )
        assert hash_of(desk()) != hash_of(desk(auth="{type: key, key: {from_env: OTHER}}"))
        assert hash_of(by_reference) != hash_of(by_reference, "a: 2")
        encrypted = desk(auth=f"{{type: key, key: {CIPHER}}}")
        assert hash_of(encrypted + SOPS) == hash_of(encrypted + "sops: {mac: y, lastmodified: z}\n")


class TestWorkspaces:
    WORKSPACE = (
        "apiVersion: reconciler.dev/v1\nkind: Workspace\nmetadata: {name: ops}\nspec:\n"
        "  defaults: {sync: {schedule: '0 5 * * *', time_zone: Europe/Berlin, fields: {mask: [x]}}, drift: {mode: detect}}\n"
    )

    def test_defaults_lie_below_what_the_integration_sets(self) -> None:
        files = {
            "w.yaml": self.WORKSPACE,
            "a.yaml": desk("a", "ops"),
            "b.yaml": desk("b", "ops", sync="{every: 5m, fields: {exclude: [y]}}", drift="{mode: off}"),
            "c.yaml": desk("c"),
        }
        state = check(files).state
        assert not state.findings
        plain, own, other = (
            state.integrations[Ref(w, n)].manifest.spec for w, n in (("ops", "a"), ("ops", "b"), ("default", "c"))
        )
        assert (plain.sync.schedule, plain.sync.time_zone, plain.drift.mode) == ("0 5 * * *", "Europe/Berlin", "detect")
        assert (own.sync.schedule, own.sync.time_zone, own.drift.mode) == (None, "Europe/Berlin", "off")
        assert (own.sync.fields.mask, own.sync.fields.exclude) == (("x",), ("y",))
        assert other.sync.schedule is None

    def test_each_of_the_two_schedules_drops_only_its_own_default(self) -> None:
        workspace = self.WORKSPACE.replace("fields: {mask: [x]}", "deletions: {schedule: '0 3 * * *'}")
        files = {
            "w.yaml": workspace,
            "a.yaml": desk("a", "ops", sync="{every: 5m}"),
            "b.yaml": desk("b", "ops", sync="{deletions: {every: 6h}}"),
            "c.yaml": desk("c", "ops", sync="{entities: [tickets]}"),
        }
        state = check(files).state
        assert not state.findings, "a default of the workspace is no contradiction where it has no effect"
        a, b = (state.integrations[Ref("ops", name)].manifest.spec.sync for name in ("a", "b"))
        assert (a.schedule, a.every, a.deletions.schedule) == (None, timedelta(minutes=5), "0 3 * * *")
        assert (b.schedule, b.deletions.schedule, b.deletions.every) == ("0 5 * * *", None, timedelta(hours=6))

    def test_changed_defaults_reach_integrations_whose_files_did_not_change(self) -> None:
        files = {"w.yaml": self.WORKSPACE, "a.yaml": desk("a", "ops")}
        before = check(files)
        after = check(files | {"w.yaml": self.WORKSPACE.replace("0 5", "0 6")}, before)
        first, second = (one.state.integrations[Ref("ops", "a")] for one in (before, after))
        assert second.manifest.spec.sync.schedule == "0 6 * * *"
        assert first.source_hash != second.source_hash

    def test_mistakes_in_defaults_are_told_where_they_stand(self) -> None:
        found = lines(check({"w.yaml": self.WORKSPACE.replace("0 5", "0 25"), "a.yaml": desk("a", "ops")}))
        assert found[0].startswith("w.yaml:5:31: invalid-schedule")
        assert len(found) == 1

    def test_a_broken_workspace_keeps_its_last_good_form(self) -> None:
        files = {"w.yaml": self.WORKSPACE, "a.yaml": desk("a", "ops")}
        before = check(files)
        for broken in (self.WORKSPACE.replace("detect", "dtect"), "a: [", self.WORKSPACE + "---\n" + self.WORKSPACE):
            after = check(files | {"w.yaml": broken}, before)
            assert after.state.findings
            assert after.state.workspaces == before.state.workspaces
            assert after.state.integrations == before.state.integrations


class TestPolicy:
    POLICY = TenantPolicy(
        (
            WorkspaceRule(
                ("ops",), paths=("ops/**",), types=("desk",), hosts=("*.desk.test", "desk.test"), env_prefix="OPS_"
            ),
            WorkspaceRule(("lab-*",), paths=("lab/*.yaml",), secret_folder=Path("/run/secrets/lab")),
        )
    )

    @pytest.mark.parametrize(
        ("path", "text", "finding"),
        [
            ("ops/a.yaml", desk("a", "other"), "3:32: not-permitted: the workspace other is not permitted here"),
            ("lab/a.yaml", desk("a", "ops"), "3:32: not-permitted: files at lab/a.yaml may not speak for the workspace ops"),
            ("lab/deep/a.yaml", desk("a", "lab-1", auth="{type: key, key: {from_file: x}}"), "may not speak for the workspace"),
            ("ops/a.yaml", desk("a", "ops"), "spec.auth.key: the workspace ops may not read the environment"),
            ("ops/a.yaml", desk("a", "ops", auth="{type: key, key: {from_file: x}}"), "ops may not read files of the daemon's"),
            ("lab/a.yaml", desk("a", "lab-1", auth="{type: key, key: {from_file: ../x}}"), "without leaving it"),
            ("lab/a.yaml", desk("a", "lab-1", auth="{type: key, key: {from_sops: {file: ../ops/s.yaml, key: k}}}"),
             "spec.auth.key: the workspace lab-1 may not read ops/s.yaml (name a file in lab/*.yaml)"),
            ("ops/a.yaml", desk("a", "ops", type="bell", auth="", config=""), "may not use connectors of type bell"),
            ("ops/a.yaml", desk("a", "ops", auth="{type: key, key: {from_env: OPS_K}}", config="{url: 'https://desk.test.evil.example'}"),
             "may not connect to desk.test.evil.example"),
        ],
    )  # fmt: skip
    def test_a_tenant_keeps_to_its_rule(self, path: str, text: str, finding: str) -> None:
        checked = check({path: text}, policy=self.POLICY)
        assert finding in "\n".join(lines(checked))
        assert not checked.state.integrations

    def test_what_the_rule_permits_passes(self) -> None:
        files = {
            "ops/x/a.yaml": desk("a", "ops", auth="{type: key, key: {from_env: OPS_KEY}}"),
            "lab/b.yaml": desk("b", "lab-7", auth="{type: key, key: {from_file: desk/key}}"),
        }
        assert not lines(check(files, policy=self.POLICY))

    def test_whether_another_tenant_has_a_file_is_not_told(self) -> None:
        manifest = desk("a", "lab-1", auth="{type: key, key: {from_sops: {file: ../ops/s.yaml, key: k}}}")
        there, not_there = (
            check({"lab/a.yaml": manifest, **files}, policy=self.POLICY) for files in ({"ops/s.yaml": "k: v\n"}, {})
        )
        assert lines(there) == lines(not_there)
        own = manifest.replace("../ops/s.yaml", "s.yaml")
        assert "may not read" not in "\n".join(
            lines(check({"lab/a.yaml": own, "lab/s.yaml": "k: v\n"}, policy=self.POLICY))
        )

    def test_a_source_speaks_for_its_own_workspaces_only(self) -> None:
        assert "the source test may not speak for the workspace ops" in only_finding(
            desk("a", "ops"), workspaces=("lab-*",)
        )
