"""A page in a real browser: nothing in it runs, and nothing is fetched."""

import http.server
import json
import shutil
import subprocess
import threading
from pathlib import Path

import pytest
from conftest import REPOSITORY
from nbformat import v4

from ride_duration.model.page import notebook_page, page
from ride_duration.ops import index

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")
QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def dom(path: Path, profile: Path) -> str:
    "The page as the browser has it after all that could run has run."
    command = [BROWSER, *QUIET.split(), f"--user-data-dir={profile}", "--dump-dom", path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.fixture
def listener():
    "A server that remembers what was asked of it."
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def hostile(address: str) -> str:
    return (
        f"<script>document.title='taken'</script><img src='{address}/a.png' onerror=\"document.title='taken'\">"
        f"<svg onload=\"document.title='taken'\"></svg><iframe src='{address}/b'></iframe>"
        f"<link rel='stylesheet' href='{address}/c.css'><a href=\"javascript:document.title='taken'\">x</a>"
        f"<style>@import url('{address}/d.css');</style><meta http-equiv='refresh' content='0;url={address}/e'>"
    )


def test_data_cannot_run_or_fetch(tmp_path, listener):
    address, asked = listener
    html = hostile(address)
    outputs = [v4.new_output("display_data", data={"text/html": html}), v4.new_output("display_data", data={"image/svg+xml": html})]
    notebook = v4.new_notebook(cells=[v4.new_markdown_cell(html), v4.new_code_cell("1", outputs=outputs)])
    (tmp_path / "page.html").write_text(notebook_page(notebook, "An honest title"))
    shown = dom(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>An honest title</title>" in shown and "<script" not in shown and asked == []


def test_the_frame_alone_would_hold(tmp_path, listener):
    "Were sanitising to miss something, the page's content security policy still stops it."
    address, asked = listener
    (tmp_path / "page.html").write_text(page("An honest title", hostile(address).partition("<meta")[0]))
    shown = dom(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>An honest title</title>" in shown and asked == []


def test_the_browser_would_have_noticed(tmp_path, listener):
    "The same data on a page without our care does run and fetch: the two tests above can fail."
    address, asked = listener
    (tmp_path / "page.html").write_text(f"<!doctype html><title>An honest title</title><body>{hostile(address).partition('<meta')[0]}")
    shown = dom(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>taken</title>" in shown and asked


def test_the_index_sorts_and_filters_and_runs_nothing_else(tmp_path):
    cells = {"green 2023-02": "4.95", "green 2023-03": "12.10", "yellow 2023-02": "3.80"}
    rows = "".join(f"<tr><td>{name}</td><td>{rmse}</td></tr>" for name, rmse in cells.items())
    body = f"<input id='filter'><table><thead><tr><th>report</th><th>RMSE</th></tr></thead><tbody>{rows}</tbody></table><img src='x' onerror=\"document.title='taken'\">"
    clicks = "heads[1].click();"
    types = "box.value = 'green -02'; box.dispatchEvent(new Event('input'));"
    script = f"{index._SCRIPT}const heads = document.querySelectorAll('thead th'), box = document.querySelector('#filter'); {clicks} {types}"
    (tmp_path / "index.html").write_text(page("Reports", body + "<script>document.title='taken'</script>", script=script))
    shown = dom(tmp_path / "index.html", tmp_path / "profile")
    assert "<title>Reports</title>" in shown, "only the page's own script runs"
    places = [shown.index(name) for name in ("yellow 2023-02", "green 2023-02", "green 2023-03")]
    assert places == sorted(places), "by number, not by letters"
    assert shown.count('<tr hidden="">') == 2


def test_no_column_of_the_index_is_hidden_at_the_right(tmp_path: Path):
    "In a window of 1000 pixels, where names, months and references are as long as they get."
    from playwright.sync_api import sync_playwright

    folder = tmp_path / "reports" / "demo" / "2023-02"
    folder.mkdir(parents=True)
    report, decision = (json.loads((REPOSITORY / "reports" / "green" / "2023-02" / f"{name}.json").read_text()) for name in ("report", "decision"))
    (folder / "report.json").write_text(json.dumps(report | {"fleet": "demo", "synthetic": True, "train": [f"2022-{month:02}" for month in range(1, 13)] + ["2023-01"]}))
    (folder / "decision.json").write_text(json.dumps(decision | {"reference": "champion (version 12)"}))
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1000, "height": 900})
        shown.goto(index.write_index(tmp_path / "reports").as_uri())
        needed, there = shown.evaluate("(table => [table.scrollWidth, table.clientWidth])(document.querySelector('table'))")
        cells = shown.locator("tbody tr").first.inner_text()
        browser.close()
    assert "version 12" in cells and "yes" in cells
    assert needed <= there
