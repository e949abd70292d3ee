"""What the documentation tells people to type is typed here, or it says beside it why not; and the site is whole and needs no network."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY

PAGES = sorted([*(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("*.md")])
BLOCK = re.compile(r"^(?:[ ]*<!-- (?P<mark>[^\n]*?) -->\n)?(?P<indent>[ ]*)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL)
NOT_HERE, BACKGROUND, WITH_TLC = "not run here: ", "runs in the background until the page ends", "run on a sample of real months"
RUNNABLE = ("sh", "bash", "python")


@dataclass(frozen=True)
class Block:
    "Something to type, as a page has it."

    language: str
    text: str
    mark: str

    @property
    def runs(self) -> bool:
        return self.language in RUNNABLE and not self.mark.startswith(NOT_HERE)


def blocks(page: Path) -> list[Block]:
    found = []
    for match in BLOCK.finditer(page.read_text()):
        text = "\n".join(line.removeprefix(match["indent"]) for line in match["text"].splitlines()) + "\n"
        found.append(Block(match["language"], text, match["mark"] or ""))
    return found


def name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return door.getsockname()[1]


class Reader:
    "Somebody who types what a page says, in a folder of their own, on the demo city or on real months."

    def __init__(self, folder: Path, mirror: Path | None):
        self.folder, self.port, self.services = folder, free_port(), []
        self.environment = {
            **os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY),
            "RIDE_DURATION_HOME": str(folder / ".ride-duration"), **({"RIDE_DURATION_SOURCE": str(mirror)} if mirror else {}),
        }  # fmt: skip

    def type(self, block: Block) -> None:
        text = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{self.port}")
        if block.mark == BACKGROUND:
            self._serve(text.strip())
            return
        command = [sys.executable, "-c", text] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", text]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{text}\n{done.stdout[-1500:]}\n{done.stderr[-1500:]}"

    def _serve(self, line: str) -> None:
        log = open(self.folder / "service.log", "w")  # noqa: SIM115 - the service writes it until it ends
        self.services.append(subprocess.Popen([*line.split(), "--port", str(self.port)], cwd=self.folder, env=self.environment, stderr=log))
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/ready", timeout=5)
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.services[-1].poll() is None, (self.folder / "service.log").read_text()
                time.sleep(0.2)
        raise AssertionError("the service was not ready after two minutes")

    def leave(self) -> None:
        for service in self.services:
            service.send_signal(signal.SIGTERM)
            assert service.wait(30) == 0


@pytest.fixture
def sample(tmp_path: Path, mirror: Path) -> Path:
    "Every tenth row of the real months that pages speak of, with TLC's own zones: enough to see commands work."
    small = tmp_path / "sample"
    (small / "trip-data").mkdir(parents=True)
    shutil.copytree(mirror / "misc", small / "misc")
    for month in ("2023-01", "2023-02", "2023-03"):
        file = f"trip-data/green_tripdata_{month}.parquet"
        table = pq.read_table(mirror / file)
        pq.write_table(table.take(np.arange(0, table.num_rows, 10)), small / file)
    return small


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.runs and block.mark != WITH_TLC for block in blocks(page))], ids=name)
def test_what_a_page_says_works(page: Path, tmp_path: Path):
    if any("curl " in block.text and block.runs for block in blocks(page)) and shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    reader = Reader(tmp_path, None)
    try:
        for block in blocks(page):
            if block.runs and block.mark != WITH_TLC:
                reader.type(block)
    finally:
        reader.leave()


@pytest.mark.parametrize("page", [page for page in PAGES if any(block.mark == WITH_TLC for block in blocks(page))], ids=name)
def test_what_a_page_says_of_real_months_works(page: Path, tmp_path: Path, sample: Path):
    reader = Reader(tmp_path, sample)
    for block in blocks(page):
        if block.mark == WITH_TLC:
            reader.type(block)


def test_what_is_not_run_says_why():
    marks = [(name(page), block.mark) for page in PAGES for block in blocks(page) if block.mark]
    assert len(marks) > 10
    wrong = [(page, mark) for page, mark in marks if mark not in (BACKGROUND, WITH_TLC) and (not mark.startswith(NOT_HERE) or len(mark) < len(NOT_HERE) + 10)]
    assert not wrong
    named = {file for _, mark in marks for file in re.findall(r"(?:tests|benchmarks|tools)/\w+\.py", mark)}
    assert not [file for file in named if not (REPOSITORY / file).exists()]
    unmarked = [(name(page), block.text) for page in PAGES for block in blocks(page) if block.language == "" and not block.mark]
    assert not unmarked, "say what language it is: sh and python are run, text and others are shown"


def test_every_kind_of_mistake_says_how_to_mend_it():
    from ride_duration.errors import error_kinds

    for kind in error_kinds():
        assert len(kind.repair) > 20 and kind.repair[0].isupper() and kind.repair.endswith("."), kind


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="MkDocs is not installed: pip install 'ride-duration[docs]'")
    folder = tmp_path_factory.mktemp("documentation")
    command = [sys.executable, REPOSITORY / "tools" / "documentation.py", "--site", folder / "site", "--pages", folder / "pages"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]  # strict: a link or an anchor that leads nowhere is an error
    return folder / "site"


@pytest.mark.xdist_group("site")
def test_the_site_is_whole_and_fetches_nothing(site: Path):
    from ride_duration.errors import error_kinds
    from ride_duration.ops import training

    assert len(list((site / "notebooks").rglob("*.html"))) == len([path for path in (REPOSITORY / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts])
    for page in site.rglob("*.html"):
        if "reports" in page.relative_to(site).parts:
            continue
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*?\bsrc=[\"'](?:https?:)?//[^\"']+|<link\b[^>]*?rel=[\"'](?:stylesheet|preconnect|icon)[\"'][^>]*?href=[\"'](?:https?:)?//[^\"']+", text)
        assert not loaded, (page, loaded[:3])
    trouble = (site / "reference" / "troubleshooting.html").read_text()
    assert all(f'id="{kind.__name__.lower()}"' in trouble for kind in error_kinds())
    assert "is not a month: write it as 2023-01" in trouble
    commands = (site / "reference" / "commands.html").read_text()
    for verb in ("fetch", "experiment start", "log prune", "cycle"):
        assert f"ride-duration {verb}" in commands
    assert training.train.__doc__ in (site / "reference" / "api" / "ops.training.html").read_text()


@pytest.mark.xdist_group("site")
def test_a_browser_reads_and_searches_it_without_asking_anybody_else(site: Path):
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Silent, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    home, asked = f"http://127.0.0.1:{server.server_port}/", []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.goto((site / "index.html").as_uri())  # from a folder, too
        page.get_by_role("link", name="Explanation").first.click()
        page.wait_for_url("**/leakage.html")
        page.goto(home)
        page.locator("input.md-search__input").press_sequentially("leakage")  # it listens to keys
        page.locator(".md-search-result__item").first.wait_for(timeout=60_000)
        browser.close()
    server.shutdown()
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:", home))], asked


class Silent(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass
