"""Texts and conditions of users: what they render, and that no text costs more than its bound."""

import time
from typing import Any

import pytest

from reconciler.sdk.template import TemplateError, compile_condition, compile_map, compile_template

CONTEXT: dict[str, Any] = {
    "record": {
        "number": "INC1",
        "priority": "1",
        "count": 3,
        "tags": ["a", "b"],
        "at": "2024-05-01T10:00:00+02:00",
        "none": None,
    },
    "changed": ["state", "priority"],
    "event": {"type": "incident.created"},
}


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("{{ record.number }}: {{ event.type }}", "INC1: incident.created"),
        ("[{{ record.missing.deeper }}]", "[]"),
        ("{{ record.none }}", ""),
        ("{{ record.missing | default: 'x' }}", "x"),
        ("{{ record.tags | join: ', ' }}", "a, b"),
        ("{{ record.tags | json }} {{ record.missing | json }}", '["a", "b"] null'),
        ("{{ record.at | date: '%Y-%m-%d %H:%M' }}", "2024-05-01 08:00"),
        ("{{ 0 | date: '%Y' }} {{ 'soon' | date: '%Y' }}", "1970 soon"),
        ("{{ 'abcdef' | truncate: 5 }}", "ab..."),
        ("{% for t in record.tags %}<{{ t }}>{% endfor %}", "<a><b>"),
        ("{% if record.count > 2 %}many{% endif %}", "many"),
        ("{% raw %}{{ x }}{% endraw %}", "{{ x }}"),
        ("{{ record.__class__ }}{{ record.number.__class__ }}{{ record.items }}", ""),
    ],
)
def test_templates_render(text: str, rendered: str) -> None:
    assert compile_template(text).render(CONTEXT) == rendered


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("record.priority == '1'", True),
        ("record.priority == 1", False),
        ("record.missing == nil", True),
        ("record.missing > 3", False),
        ("changed contains 'state'", True),
        ("record.count > 2 and (record.priority == '2' or not record.missing)", True),
        ("record.tags contains 'z'", False),
        ("record.count\n  == 3", True),
        ("record.missing", False),
    ],
)
def test_conditions_hold_or_not(text: str, holds: bool) -> None:
    assert compile_condition(text).matches(CONTEXT) is holds


@pytest.mark.parametrize("text", ["a %} {% if b", "{{ a }}", "", "  ", "a ==", "a ===  b", "a | upcase == 'B'"])
def test_what_is_no_condition_is_refused(text: str) -> None:
    with pytest.raises(TemplateError):
        compile_condition(text)


def test_errors_name_the_place_in_the_users_own_text() -> None:
    with pytest.raises(TemplateError, match="primitive expression") as caught:
        compile_condition("record.number ===")
    assert (caught.value.line, caught.value.column) == (1, 17)
    with pytest.raises(TemplateError, match="no filter upcsae, did you mean upcase") as caught:
        compile_template("first\n {{ 'a' | upcsae }}")
    assert (caught.value.line, caught.value.column) == (2, 11)


def test_a_comparison_of_text_and_number_is_an_error_not_false() -> None:
    with pytest.raises(TemplateError, match="not supported between 'int' and 'str'"):
        compile_condition("record.priority > 3").matches(CONTEXT)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_seconds_since_1970_are_the_same_on_every_machine(zone: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", zone)
        time.tzset()
        made = compile_template("{{ record.at | date: '%s %%s' }} {{ record.at | date: '%s' | minus: 600 }}").render(
            CONTEXT
        )
    time.tzset()
    assert made == "1714550400 %s 1714549800"


def test_a_map_keeps_the_type_of_a_lone_placeholder() -> None:
    fields = {"n": "{{ record.count }}", "t": " {{ record.tags }} ", "s": "x{{ record.count }}", "c": "plain", "i": 7,
              "deep": {"list": ["{{ record.none }}", "{{ record.missing }}"]}}  # fmt: skip
    assert compile_map(fields).render(CONTEXT) == {
        "n": 3, "t": ["a", "b"], "s": "x3", "c": "plain", "i": 7, "deep": {"list": [None, None]},
    }  # fmt: skip


def test_what_is_put_into_html_is_escaped_and_the_authors_own_is_not() -> None:
    record = {"x": "<b>&'\n", "list": ["<i>", "b"], "n": 3}
    fields = {
        "html": "<p>{{ record.x }}</p>{{ '<hr>' }}", "lone": "{{ record.x }}", "n": "{{ record.n }}",
        "twice": "{{ record.x | escape }}", "lines": "{{ record.x | escape | replace: '\n', '<br>' }}",
        "filters": "{{ record.x | upcase | strip_html | append: '<hr>' }}{{ record.x | json }}{{ record.missing }}",
        "join": ["{{ record.list | join: '<br>' }}"], "captured": "{% capture c %}{{ record.x }}{% endcapture %}{{ c }}",
        "text": "{{ record.x }}",
    }  # fmt: skip
    assert compile_map(fields, set(fields) - {"text"}).render({"record": record}) == {
        "html": "<p>&lt;b&gt;&amp;&#39;\n</p><hr>", "lone": "&lt;b&gt;&amp;&#39;\n", "n": "3",
        "twice": "&lt;b&gt;&amp;&#39;\n", "lines": "&lt;b&gt;&amp;&#39;<br>",
        "filters": "&amp;&#39;\n<hr>&#34;&lt;b&gt;&amp;&#39;\\n&#34;",
        "join": ["&lt;i&gt;<br>b"], "captured": "&lt;b&gt;&amp;&#39;\n",
        "text": "<b>&'\n",
    }  # fmt: skip


def test_unknown_names_are_told_and_own_names_are_not() -> None:
    text = "{% assign x = 1 %}{% for t in record.tags %}{{ t }}{{ x }}{{ forloop.index }}{% endfor %}{{ recrod.a }}"
    assert compile_template(text).unknown_names() == ("recrod",)
    assert compile_condition("changed contains 'a' and priority == 1").unknown_names() == ("priority",)


@pytest.mark.parametrize(
    "tag", ["include 'x'", "render 'x'", "increment a", "tablerow a in b", "cycle 'a'", "liquid\nassign a = 1"]
)
def test_tags_that_read_files_or_keep_state_do_not_exist(tag: str) -> None:
    with pytest.raises(TemplateError, match="unexpected tag"):
        compile_template(f"{{% {tag} %}}")


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in (1..1000000000) %}x{% endfor %}",
        "{{ (1..1000000000) | join: 'aa' }}",
        "{{ (1..9999) | uniq | size }}",
        "{{ 'xxxxxxxxxx' " + "| replace: 'x', 'xxxxxxxxxx' " * 30 + "}}",
        "{% assign a = 'xxxxxxxxxx' %}{% for i in (1..100) %}{% assign a = a | append: a %}{% endfor %}",
        "{% assign a = 10 %}{% for i in (1..1000) %}{% assign a = a | times: a %}{% endfor %}",
        "{% assign a = record.tags %}{% for i in (1..100) %}{% assign a = a | concat: a %}{% endfor %}",
        "{% for i in (1..100) %}{% for j in (1..100) %}{% for k in (1..100) %}{% endfor %}{% endfor %}{% endfor %}",
        "{% for i in (1..10000) %}" + "{% if 1 %}{% endif %}" * 800 + "{% endfor %}",
        "{% for i in (1..100) %}{% for j in (1..99) %}{% assign x = 'a' | upcase | downcase | upcase %}{% endfor %}{% endfor %}"
        * 3,
        "{% capture a %}{{ record.number }}{% endcapture %}" + "{% capture a %}{{ a }}{{ a }}{% endcapture %}" * 100,
        "{% if " + "1 and " * 3000 + "1 %}a{% endif %}",
        "{{ " + "a[" * 3000 + "1" + "]" * 3000 + "}}",
        "{{ 'x' | slice: 0, 99999999999999999999999 | times: 1e308 }}{{ 1 | divided_by: 0 }}",
        "x" * 30_000,
    ],
)
def test_no_text_costs_more_than_its_bound(text: str) -> None:
    began = time.process_time()
    with pytest.raises(TemplateError):
        compile_template(text).render(CONTEXT)
    assert time.process_time() - began < 3
