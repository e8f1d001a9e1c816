"""/docs in a real browser that reaches nothing but this server: it renders every operation, and asks nobody else."""

import asyncio
import html
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from reconciler.serve.api import make_routes
from tests.conftest import find_program
from tests.integration.serve.installation import Installation

BROWSER = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--virtual-time-budget=60000",
    "--window-size=1400,1000",
    "--enable-logging=stderr",
)


async def browse(folder: Path, url: str) -> tuple[str, list[str], list[str]]:
    """The page as it came to be, what its console says, and every address that it asked for."""
    program, log = find_program("chromium"), folder / "net.json"
    assert program is not None
    own = (f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", f"--screenshot={folder / 'page.png'}")
    process = await asyncio.create_subprocess_exec(
        program,
        *BROWSER,
        *own,
        "--dump-dom",
        url,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"HOME": str(folder), "PATH": "/usr/bin:/bin"},
    )
    try:
        async with asyncio.timeout(200):
            page, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    # The browser has errands of its own, which get nowhere; those of the page name it as their initiator.
    events = [line for line in log.read_text().splitlines() if f'"initiator":"{url.removesuffix("/docs")}"' in line]
    asked = [found for line in events for found in re.findall(r'"url":"([^"]+)"', line)]
    console = [line for line in said.decode(errors="replace").splitlines() if "CONSOLE" in line]
    return page.decode(), console, asked


@pytest.mark.needs("chromium")
async def test_the_page_renders_and_asks_nobody_else(installation: Installation, tmp_path: Path) -> None:
    server = installation.server()
    await server.start()
    try:
        page, console, asked = await browse(tmp_path, f"http://{server.address}/docs")
    finally:
        await server.stop()
    # The script's one wish for something from elsewhere, its maker's sign, is blocked by the page's policy.
    # What it says of its samples is no request.
    blocked = [line for line in console if "OpenAPI Sampler" not in line]
    assert all("has been blocked" in line and "redoc/logo-mini.svg" in line for line in blocked), console
    elsewhere = [url for url in asked if urlsplit(url).scheme not in {"blob", "data"}]
    assert {urlsplit(url).netloc for url in elsewhere} == {server.address}
    assert {urlsplit(url).path for url in elsewhere} >= {"/docs/redoc.js", "/openapi.json"}
    shown = html.unescape(re.sub("<[^>]*>", " ", re.sub("<style.*?</style>", "", page, flags=re.DOTALL)))
    document = json.loads(json.dumps(make_routes().openapi()))
    summaries = {one["summary"] for path in document["paths"].values() for one in path.values()}
    assert not {summary for summary in summaries if summary not in shown}
    assert (tmp_path / "page.png").stat().st_size > 20_000
