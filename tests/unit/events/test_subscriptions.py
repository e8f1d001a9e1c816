"""Messages of synchronizations: what templates make is text, also where the channel wants a number, and no markup."""

import pytest

from connectors.email import Email
from connectors.github import GitHub
from reconciler.events.subscriptions import RenderError, compile_subscriptions
from reconciler.model.manifest import Integration

MANIFEST = {
    "apiVersion": "reconciler.dev/v1",
    "kind": "Integration",
    "metadata": {"name": "gh"},
    "spec": {
        "type": "github",
        "synchronizations": [
            {
                "name": "note",
                "event_type": "incident.created",
                "action": "comment_issue",
                "template": "{{ record.text }}",
                "map": {"repository": "acme/shop", "number": "{{ record.issue }}"},
            }
        ],
    },
}


@pytest.mark.parametrize("issue", ["12", 12])
def test_text_of_a_template_may_stand_for_a_number(issue: object) -> None:
    (wanted,) = compile_subscriptions(1, Integration.model_validate(MANIFEST), GitHub)
    rendered = wanted.render({"record": {"issue": issue, "text": "hello"}})
    assert rendered == {"repository": "acme/shop", "number": 12, "body": "hello"}


def test_text_that_is_no_number_is_told() -> None:
    (wanted,) = compile_subscriptions(1, Integration.model_validate(MANIFEST), GitHub)
    with pytest.raises(RenderError, match="does not fit comment_issue: number"):
        wanted.render({"record": {"issue": "twelve", "text": "hello"}})


def test_what_a_record_holds_is_no_markup_of_a_mail() -> None:
    title = "<img src=x onerror='go()'>"
    written = {
        "name": "mail", "event_type": "incident.created", "action": "send_mail", "template": "{{ record.title }}",
        "map": {"to": "ada@example.com", "subject": "{{ record.title }}", "html": "<p>{{ record.title }}</p>"},
    }  # fmt: skip
    manifest = {"metadata": {"name": "mail"}, "spec": {"type": "email", "synchronizations": [written]}}
    (wanted,) = compile_subscriptions(1, Integration.model_validate({**MANIFEST, **manifest}), Email)
    rendered = wanted.render({"record": {"title": title}})
    assert (rendered["text"], rendered["subject"]) == (title, title)
    assert rendered["html"] == "<p>&lt;img src=x onerror=&#39;go()&#39;&gt;</p>"
