"""The simulators' base: strict with and without a description, faults, start and stop."""

import json
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from reconciler.sdk.testing.faults import capped, html, lost_answer, replay, reset, stall, status, truncated
from reconciler.sdk.testing.openapi import Description
from reconciler.sdk.testing.simulator import VIOLATION, Call, Reply, Simulator, route

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "made"],
    "properties": {
        "id": {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
        "made": {"type": "string", "readOnly": True},
        "note": {"type": "string", "nullable": True, "enum": ["a", "b"]},
    },
}
THING = {"application/json": {"schema": {"$ref": "#/components/schemas/T"}}}
V3: dict[str, Any] = {
    "openapi": "3.0.3",
    "servers": [{"url": "https://vendor.example/api/v2"}],
    "paths": {
        "/things/{id}": {
            "parameters": [{"$ref": "#/components/parameters/Version"}],
            "get": {
                "parameters": [
                    {"name": "limit", "in": "query", "required": True, "schema": {"type": "integer", "maximum": 100}},
                    {"name": "all", "in": "query", "schema": {"type": "boolean"}},
                    {"name": "sort", "in": "query", "schema": {"type": "string", "enum": ["up", "down"]}},
                    {"name": "page", "in": "query", "style": "deepObject", "schema": {"type": "object"}},
                ],
                "responses": {"200": {"$ref": "#/components/responses/Thing"}},
            },
            "put": {
                "requestBody": {"required": True, "content": THING},
                "responses": {"2XX": {"description": "done"}},
            },
        },
        "/things/newest": {"get": {"responses": {"200": {"description": "any"}}}},
    },
    "components": {
        "parameters": {"Version": {"name": "X-Version", "in": "header", "required": True, "schema": {"type": "string"}}},
        "schemas": {"T": SCHEMA},
        "responses": {"Thing": {"description": "one", "content": THING}},
    },
}  # fmt: skip
V2: dict[str, Any] = {
    "swagger": "2.0",
    "basePath": "/rest",
    "paths": {
        "/things": {
            "post": {
                "parameters": [
                    {"name": "thing", "in": "body", "required": True, "schema": {"$ref": "#/definitions/T"}}
                ],
                "responses": {"200": {"description": "one", "schema": {"$ref": "#/definitions/T"}}},
            }
        }
    },
    "definitions": {"T": SCHEMA},
}
HEADERS = {"x-version": "1", "content-type": "application/json"}
GET = ("GET", "/api/v2/things/7")


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ((*GET, [("limit", "5")], HEADERS, b""), ""),
        ((*GET, [("limit", "5"), ("page[size]", "3")], HEADERS, b""), ""),
        (("GET", "/api/v2/things/newest", [], {}, b""), ""),
        (("GET", "/api/v2/thing", [], HEADERS, b""), "is not in the vendor's description"),
        (("POST", "/api/v2/things/7", [], HEADERS, b""), "is not in the vendor's description"),
        ((*GET, [], HEADERS, b""), "required query parameter limit is missing"),
        ((*GET, [("limit", "5"), ("limits", "5")], HEADERS, b""), "query parameter limits is not"),
        ((*GET, [("limit", "five")], HEADERS, b""), "must be an integer"),
        ((*GET, [("limit", "500")], HEADERS, b""), "out of range"),
        ((*GET, [("limit", "5"), ("all", "yes")], HEADERS, b""), "must be true or false"),
        ((*GET, [("limit", "5"), ("sort", "left")], HEADERS, b""), "must be one of"),
        ((*GET, [("limit", "5")], {}, b""), "required header X-Version is missing"),
        ((*GET, [("limit", "5")], HEADERS, b"{}"), "takes no body"),
        (("PUT", "/api/v2/things/7", [], HEADERS, b'{"id": 1}'), ""),
        (("PUT", "/api/v2/things/7", [], HEADERS, b'{"id": 1, "note": null}'), ""),
        (("PUT", "/api/v2/things/7", [], HEADERS, b'{"id": 1, "note": "c"}'), "body/note"),
        (("PUT", "/api/v2/things/7", [], HEADERS, b'{"id": 0}'), "excluded border"),
        (("PUT", "/api/v2/things/7", [], HEADERS, b"{}"), "'id' is missing"),
        (("PUT", "/api/v2/things/7", [], HEADERS, b""), "the body is missing"),
        (("PUT", "/api/v2/things/7", [], HEADERS, b"{"), "the body is not application/json"),
        (("PUT", "/api/v2/things/7", [], {**HEADERS, "content-type": "text/plain"}, b"x"), "content type text/plain"),
    ],
)
def test_requests_are_judged_by_openapi_3(request_: Any, complaint: str) -> None:
    _, complaints = Description(V3).request(*request_)
    assert complaint in "; ".join(complaints)
    assert bool(complaints) == bool(complaint)


@pytest.mark.parametrize(
    ("body", "complaint"), [(b'{"id": 1}', ""), (b'{"id": "1"}', "body/id"), (b"", "the body is missing")]
)
def test_requests_are_judged_by_swagger_2(body: bytes, complaint: str) -> None:
    _, complaints = Description(V2).request("POST", "/rest/things", [], HEADERS, body)
    assert complaint in "; ".join(complaints)
    assert bool(complaints) == bool(complaint)


@pytest.mark.parametrize("document", [V3, V2])
def test_answers_are_judged(document: dict[str, Any]) -> None:
    where = GET if document is V3 else ("POST", "/rest/things")
    judge = Description(document)
    assert judge.answer(*where, 200, "application/json", b'{"id": 1, "made": "x"}')[1] == []
    assert judge.answer(*where, 200, "application/json", b'{"id": 1}')[1] == ["body: 'made' is missing"]
    assert judge.answer(*where, 204, "application/json", b"")[1] == ["status 204 is not in the vendor's description"]
    assert judge.answer(*where, 503, "text/html", b"<html>")[1] == []


def test_every_published_description_is_understood(shared: Path) -> None:
    files = sorted(shared.glob("vendor/*/openapi*.json"))
    assert files
    for file in files:
        judge = Description.load(file)
        for path in json.loads(file.read_text("utf-8"))["paths"]:
            bare = path.partition("?")[0].partition("#")[0]
            assert any(judge.operation(m, bare) for m in ("GET", "POST", "PUT", "PATCH", "DELETE")), (file, path)


class Vendor(Simulator):
    @route("GET", "/a/{id}", query=("x",), required=("y",), headers={"Accept": "application/json*"})
    def one(self, call: Call) -> Reply:
        return Reply(json={"id": call.path["id"], "size": call.size(10), "n": len(self.requests)})

    @route("POST", "/form", body="form", fields=("name",))
    def form(self, call: Call) -> Reply:
        return Reply(json=call.form)

    @route("POST", "/json", body="json", fields=("name", "x_*"))
    def taken(self, call: Call) -> Reply:
        return Reply(json=call.json)

    @route("GET", "/open", is_open=True)
    def unguarded(self, call: Call) -> Reply:
        return Reply(json={})

    def admit(self, call: Call) -> Reply | None:
        return None if call.headers.get("authorization") else self.error(401)


@pytest.fixture
def vendor() -> Any:
    with Vendor() as sim:
        yield sim


@pytest.fixture
def client(vendor: Vendor) -> Any:
    headers = {"accept": "application/json", "authorization": "x"}
    with httpx.Client(base_url=vendor.url, trust_env=False, timeout=120, headers=headers) as made:
        yield made


def test_what_is_declared_passes(vendor: Vendor, client: httpx.Client) -> None:
    assert client.get("/a/7?y=1").json() == {"id": "7", "size": 10, "n": 1}
    assert client.post("/form", data={"name": "x"}).json() == {"name": "x"}
    assert client.post("/json", json={"name": 1, "x_more": 2}).json() == {"name": 1, "x_more": 2}
    assert client.get("/a/7?y=1", headers={"authorization": ""}).status_code == 401
    assert client.get("/open", headers={"authorization": ""}).status_code == 200
    assert vendor.violations == []


@pytest.mark.parametrize(
    ("method", "path", "more", "said"),
    [
        ("GET", "/b", {}, "is not an endpoint"),
        ("DELETE", "/a/7?y=1", {}, "is not an endpoint"),
        ("GET", "/a/7?y=1&z=1", {}, "query parameter z is not declared"),
        ("GET", "/a/7", {}, "required query parameter y is missing"),
        ("GET", "/a/7?y=1", {"headers": {"accept": "text/html"}}, "header Accept must be application/json*"),
        ("POST", "/form", {"json": {"name": "x"}}, "content type must be application/x-www-form-urlencoded"),
        ("POST", "/json", {"data": {"name": "x"}}, "content type must be json"),
        ("POST", "/json", {"json": {"nam": "x"}}, "body field nam is not declared"),
        ("POST", "/json", {"content": b"{", "headers": {"content-type": "application/json"}}, "the body is not json"),
    ],
)
def test_what_is_not_declared_is_refused_without_any_description(
    vendor: Vendor, client: httpx.Client, method: str, path: str, more: Any, said: str
) -> None:
    answer = client.request(method, path, **more)
    assert answer.status_code == 400
    assert VIOLATION in answer.headers
    assert said in answer.json()["message"]
    assert any(said in v for v in vendor.violations)


def test_own_answers_are_judged_and_may_be_excused() -> None:
    class Described(Vendor):
        descriptions = (V3,)

        @route("GET", "/api/v2/things/{id}", query=("limit",))
        def thing(self, call: Call) -> Reply:
            return Reply(json={"id": int(call.path["id"])})

        def lets_pass(self, operation: str, complaint: str) -> bool:
            return operation == "GET /things/{id}" and "made" in complaint and self.is_lax

        is_lax = False

    with (
        Described() as sim,
        httpx.Client(base_url=sim.url, trust_env=False, timeout=120, headers={"authorization": "x"}) as client,
    ):
        client.get("/api/v2/things/7?limit=1", headers={"x-version": "1"})
        assert sim.violations == ["own answer 200 to GET /things/{id}: body: 'made' is missing"]
        sim.violations.clear()
        sim.is_lax = True
        client.get("/api/v2/things/7?limit=1", headers={"x-version": "1"})
        assert sim.violations == []
        assert client.get("/api/v2/things/7?limit=1").status_code == 400


@pytest.mark.parametrize("fault", [reset(), stall(), lost_answer()], ids=lambda f: f.effect)
def test_faults_that_give_no_answer(vendor: Vendor, client: httpx.Client, fault: Any) -> None:
    armed = vendor.faults.add(fault, path="/a/*", first=2, times=1)
    assert client.get("/a/7?y=1").status_code == 200
    with pytest.raises(httpx.TransportError):
        client.get("/a/7?y=1", timeout=2)
    assert client.get("/a/7?y=1").status_code == 200
    assert armed.struck == 1


def test_faults_that_answer_wrongly(vendor: Vendor, client: httpx.Client) -> None:
    for fault in (status(429, retry_after="7"), html(), truncated(), capped(3)):
        vendor.faults.add(fault, first=1 + len(vendor.faults.armed), times=1)
    limited, page, broken, small = (client.get("/a/7?y=1") for _ in range(4))
    assert (limited.status_code, limited.headers["retry-after"]) == (429, "7")
    assert page.headers["content-type"].startswith("text/html")
    with pytest.raises(ValueError, match=r"."):
        broken.json()
    assert small.json()["size"] == 3
    vendor.faults.clear()
    vendor.faults.add(replay(), times=1)
    assert client.get("/a/7?y=1").content == small.content


def test_starts_and_stops_many_times() -> None:
    for _ in range(10):
        with Vendor():
            pass


def test_over_tls(tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with Vendor(tls=context) as sim, httpx.Client(verify=trust, trust_env=False, timeout=120) as client:
        assert sim.url.startswith("https://")
        assert client.get(f"{sim.url}/open").status_code == 200
