"""Messages of synchronizations: what templates make is text, also where the channel wants a number."""

import pytest

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
