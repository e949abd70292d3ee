"""The page for people, in a real browser, served by the real service: no stub answers in between."""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pytest
from conftest import REPOSITORY

from ride_duration.data.demo import write_demo_month
from ride_duration.data.month import Month
from ride_duration.data.trips import read_trips
from ride_duration.data.zones import zone_table
from ride_duration.model.bundle import keep_lesson, save_bundle
from ride_duration.model.intervals import RangedBoosted
from ride_duration.model.ladder import BOOKING, METERED
from ride_duration.serve.keys import add_key

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
if BROWSER is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
expect = sync_api.expect

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
PAGE = REPOSITORY / "ride_duration" / "serve" / "page"
AMBER, NORTHFIELD = 1, 71  # zones of the demo city


def question(address: str, path: str, body: dict | None = None) -> dict:
    "What the service answers to a program."
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


@contextmanager
def serving(bundle: Path, home: Path, *options: str, **environment: str) -> Iterator[str]:
    "The service as a process of its own; where it answers."
    command = [sys.executable, "-m", "ride_duration", "serve", "--bundle", bundle, "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "RIDE_DURATION_HOME": str(home), **environment}
    with open(home / "said.txt", "w") as said, subprocess.Popen(command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=said, text=True) as process:
        try:
            address = process.stdout.readline().partition(" ")[0]
            assert address, (home / "said.txt").read_text()
            yield address
        finally:
            process.terminate()
            assert process.wait(40) == 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def trips(folder) -> pd.DataFrame:
    write_demo_month(folder / "month.parquet", Month(2023, 1), 6000)
    return read_trips(folder / "month.parquet", "demo", Month(2023, 1))[0]


def small_bundle(trips: pd.DataFrame, zones: pd.DataFrame, folder: Path, fleet: str, regime: str = BOOKING) -> Path:
    model = RangedBoosted(zones, regime, trees=30, threads=1).fit(trips, trips["duration"])
    return save_bundle(model, folder, keep_lesson(trips), {"fleet": fleet, "synthetic": True, "train": ["2023-01"]})


@pytest.fixture(scope="module")
def service(folder, trips) -> Iterator[str]:
    (folder / "home").mkdir()
    booking, metered = (small_bundle(trips, zone_table("demo"), folder / regime, "demo", regime) for regime in (BOOKING, METERED))
    with serving(booking, folder / "home", "--metered-bundle", metered) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET.split())
        yield browser
        browser.close()


WATCH = "window.violations = []; addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective))"


@pytest.fixture
def visit(browser, service):
    """Opens the page. In the end nothing has gone wrong in it, and it has asked nobody but the service."""
    visits = []

    def visit(hash: str = "", address: str = service, width: int = 1200, height: int = 800, excused: str = "$^", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, reduced_motion="reduce", **options)
        context.set_default_timeout(8000)
        page, said, asked = context.new_page(), [], []
        page.add_init_script(WATCH)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{address}/{hash}")
        visits.append((page, said, asked, address, excused))
        return page

    yield visit
    for page, said, asked, address, excused in visits:
        assert [line for line in said if not re.search(excused, line)] == []
        assert [url for url in asked if not url.startswith(f"{address}/")] == []
        assert page.evaluate("window.violations") == []
        page.context.close()


def drawn(page) -> None:
    "Wait for the map, and for what comes last: from then on nothing moves by itself."
    page.locator(".zone").first.wait_for()
    expect(page.locator("#model")).not_to_be_empty()


def eventually(page, find, wanted) -> None:
    "What is found is soon as wanted: pictures are painted a moment after what people do."
    for _ in range(100):
        if find() == wanted:
            return
        page.wait_for_timeout(20)
    assert find() == wanted


def click_zone(page, zone: int) -> None:
    "Click in the middle of a zone, as people do."
    box = page.locator(f".zone[data-zone='{zone}']").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)


def says(page, answer: dict) -> None:
    "The page shows this answer, rounded to minutes."
    expect(page.locator("#minutes")).to_have_text(str(max(1, round(answer["minutes"]))))
    expect(page.locator("#minutes")).to_have_attribute("value", str(answer["minutes"]))
    low, high = (max(1, round(answer[name])) for name in ("low", "high"))
    expect(page.locator("#range")).to_have_text(f"Four such rides in five take {low} to {high}.")


RIDE = {"pickup": AMBER, "dropoff": NORTHFIELD, "at": "2023-03-01T08:30"}
LINK = f"#from={AMBER}&to={NORTHFIELD}&at=2023-03-01T08:30"


def test_two_clicks_are_answered_as_the_service_answers(visit, service):
    page = visit("#at=2023-03-01T08:30")
    drawn(page)
    click_zone(page, AMBER)
    expect(page.get_by_label("Pickup", exact=True).first).to_have_value("Amber Market")
    click_zone(page, NORTHFIELD)
    expect(page.get_by_label("Drop-off", exact=True).first).to_have_value("Northfield Airport")
    answer = question(service, "predict", RIDE)
    says(page, answer)
    expect(page.locator("#model")).to_contain_text(f"version {answer['model']['version']}")
    expect(page).to_have_title(re.compile("minutes: Amber Market to Northfield Airport"))
    expect(page.locator("#synthetic")).to_contain_text("made up")
    click_zone(page, 20)  # and on: from the same pickup to another place
    says(page, question(service, "predict", {**RIDE, "dropoff": 20}))


def test_keys_alone_are_enough(visit, service):
    page = visit("#at=2023-03-01T08:30")
    page.keyboard.press("Tab")
    pickup, dropoff = (page.get_by_role("combobox", name=name) for name in ("Pickup", "Drop-off"))
    expect(pickup).to_be_focused()
    expect(page.locator("#fleet")).to_contain_text("demo city")
    page.keyboard.type("market am")
    expect(pickup).to_have_attribute("aria-expanded", "true")
    option = page.get_by_role("option", selected=True)
    expect(option).to_have_text("Amber MarketSouthbank · 1")
    assert pickup.get_attribute("aria-activedescendant") == option.get_attribute("id")
    page.keyboard.press("Enter")
    expect(pickup).to_have_value("Amber Market")
    page.keyboard.press("Tab")
    page.keyboard.type("norhtfeild")  # nearly
    expect(page.locator("#to-list .head")).to_have_text("Did you mean")
    page.keyboard.press("Tab")  # takes what is marked
    expect(dropoff).to_have_value("Northfield Airport")
    says(page, question(service, "predict", RIDE))
    page.keyboard.press("Shift+Tab")
    page.keyboard.type("cen")  # a borough: all its zones, the first marked
    page.keyboard.press("ArrowDown")
    second = page.get_by_role("option").nth(1).inner_text().splitlines()[0]
    page.keyboard.press("Enter")
    expect(dropoff).to_have_value(second)
    dropoff.focus()
    page.keyboard.type("xyzzy")
    expect(page.locator("#to-hint")).to_contain_text("No zone is called “xyzzy”")
    page.keyboard.press("Tab")
    expect(dropoff).to_have_value(second)  # what was chosen stays


def test_a_link_keeps_the_choice_and_swap_turns_it(visit, service):
    page = visit(LINK)
    says(page, question(service, "predict", RIDE))
    page.get_by_role("button", name="Swap").click()
    says(page, question(service, "predict", {**RIDE, "pickup": NORTHFIELD, "dropoff": AMBER}))
    assert page.url.endswith(f"#from={NORTHFIELD}&to={AMBER}&at=2023-03-01T08:30")
    page.reload()
    says(page, question(service, "predict", {**RIDE, "pickup": NORTHFIELD, "dropoff": AMBER}))
    page.evaluate("location.hash = '#from=999&to=2&at=2023-03-01T08:30'")
    expect(page.get_by_role("alert")).to_contain_text("This link names zone 999, which is not here: choose another.")


def test_the_day_is_a_curve_with_a_slider(visit, service):
    page = visit(LINK)
    curve = question(service, "curve", RIDE)["curve"]
    assert len(curve) == 48
    quickest, slowest = (choose(curve, key=lambda point: point["minutes"]) for choose in (min, max))
    caption = page.locator("#curve-says")
    expect(caption).to_contain_text(f"({round(quickest['minutes'])} min), slowest at")
    expect(caption).to_contain_text(f"({round(slowest['minutes'])} min).")
    assert page.locator("#curve .line").get_attribute("d").count("L") == 48
    before = page.locator("#curve .dot").get_attribute("cx")
    slider = page.get_by_role("slider", name="Time of day")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", re.compile("8:40"))
    expect(page.get_by_label("Time", exact=False).first).to_have_value("08:40")
    says(page, question(service, "predict", {**RIDE, "at": "2023-03-01T08:40"}))
    assert page.locator("#curve .dot").get_attribute("cx") > before
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.75, box["y"] + box["height"] / 2)
    expect(slider).to_have_attribute("aria-valuetext", re.compile("^(5:[45]0|6:[01]0).PM"))
    page.locator("#day").fill("2023-07-04")
    page.locator("#time").fill("23:50")
    says(page, question(service, "predict", {**RIDE, "at": "2023-07-04T23:50"}))
    expect(page.locator("#flags li").last).to_have_text("Tuesday 4 July 2023 is a public holiday, and is reckoned as a Sunday.")
    expect(page.locator("#arrival")).to_contain_text("AM the next day")


def test_flags_are_said_in_words(visit, service):
    page = visit("#from=200&to=1&at=2023-03-01T08:30")  # no zone 200 in the demo city
    assert question(service, "predict", {**RIDE, "pickup": 200, "dropoff": 1})["flags"] == ["unknown_zone", "unseen_pair"]
    expect(page.locator("#flags li").first).to_contain_text("rough guess")
    expect(page.locator("#flags li").nth(1)).to_contain_text("never seen a ride from zone 200 to Amber Market")


def test_the_length_of_the_way_is_used_where_a_model_reads_it(visit, service):
    page = visit(LINK)
    page.get_by_label("Length of the way, miles").fill("14.5")
    answer = question(service, "predict", {**RIDE, "miles": 14.5})
    assert answer["regime"] == "metered"
    says(page, answer)
    expect(page.locator("#model")).to_contain_text(f"Answered by {answer['model']['name']}, version {answer['model']['version']}")
    assert page.url.endswith("&miles=14.5")


def test_the_map_is_moved_by_wheel_buttons_and_keys(visit):
    page = visit()
    drawn(page)
    ground = page.locator(".ground")

    def scale() -> float:
        return float(re.match(r"matrix\(([\d.]+)", ground.get_attribute("transform"))[1])

    whole = scale()
    page.get_by_role("button", name="Zoom in").click()
    eventually(page, scale, pytest.approx(1.7 * whole))
    box = page.locator("#chart").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, 200)
    eventually(page, lambda: whole < scale() < 1.7 * whole, True)
    page.get_by_role("button", name="Show the whole map").click()
    eventually(page, scale, pytest.approx(whole))
    page.get_by_role("button", name="Centre", exact=True).click()
    eventually(page, lambda: scale() > 1.5 * whole, True)
    page.locator("#chart").focus()
    page.keyboard.press("0")
    page.keyboard.press("+")
    eventually(page, scale, pytest.approx(1.5 * whole))
    before = ground.get_attribute("transform")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2 + 60, box["y"] + box["height"] / 2 + 30, steps=3)
    page.mouse.up()
    eventually(page, lambda: ground.get_attribute("transform") != before, True)
    expect(page.locator("#from")).to_have_value("")  # dragged, not clicked
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#chart-says")).to_contain_text("Enter sets the pickup")
    page.keyboard.press("Enter")
    expect(page.locator("#from")).not_to_have_value("")
    expect(page.locator("#chart-says")).to_contain_text(page.locator("#from").input_value())


def fingers(session, kind: str, *spots: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": place} for place, (x, y) in enumerate(spots)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_a_phone_taps_pinches_and_never_scrolls_sideways(visit, service):
    page = visit("#at=2023-03-01T08:30", width=360, height=740, has_touch=True, is_mobile=True, device_scale_factor=2)
    drawn(page)
    page.locator("#chart").scroll_into_view_if_needed()
    session = page.context.new_cdp_session(page)
    box = page.locator("#chart").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    before = page.locator(".zone").first.bounding_box()["width"]
    fingers(session, "touchStart", (x - 20, y), (x + 20, y))
    for far in (30, 40, 60):
        fingers(session, "touchMove", (x - far, y), (x + far, y))
    fingers(session, "touchEnd")
    eventually(page, lambda: page.locator(".zone").first.bounding_box()["width"], pytest.approx(3 * before, rel=0.05))
    page.touchscreen.tap(x, y)
    expect(page.locator("#from")).not_to_have_value("")
    page.touchscreen.tap(x + 90, y)
    expect(page.locator("#minutes-block")).to_be_visible()
    expect(page.locator("#day-curve")).to_be_visible()
    for width in (320, 360, 412):
        page.set_viewport_size({"width": width, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.locator("button:visible, input:not([type=radio]):visible").evaluate_all("nodes => nodes.map((node) => node.getBoundingClientRect()).filter(({ width, height }) => Math.min(width, height) < 24).length")
    assert small == 0


CONTRAST = """() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = (colour) => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
  const ratio = (one, other) => { const [dark, bright] = [light(one), light(other)].sort((a, b) => a - b); return (bright + 0.05) / (dark + 0.05); };
  const ground = (node) => { for (let at = node; at; at = at.parentElement) { const { backgroundColor } = getComputedStyle(at); if (!/, 0\\)$|transparent/.test(backgroundColor)) return backgroundColor; } };
  const poor = [];
  for (const node of document.querySelectorAll("body *:not(svg *):not(option)")) {
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) && node.tagName !== "INPUT") continue;
    if (!node.checkVisibility() || node.matches("[type=range], [type=radio]")) continue;
    const found = ratio(getComputedStyle(node).color, ground(node));
    if (found < 4.5) poor.push([node.id || node.className || node.tagName, found]);
  }
  const ink = getComputedStyle(document.body).color;
  for (const zone of document.querySelectorAll(".zone:not(.from, .to)")) if (ratio(ink, getComputedStyle(zone).fill) < 4.5) poor.push(zone.dataset.zone);
  for (const line of document.querySelectorAll("#curve .line, #curve .dot, .pin path")) {
    const { stroke, fill } = getComputedStyle(line);
    if (ratio(line.matches(".line") ? stroke : fill, getComputedStyle(document.documentElement).backgroundColor) < 3) poor.push(line.className.baseVal);
  }
  return poor;
}"""


def test_light_and_dark_can_both_be_read(visit):
    grounds = []
    for scheme in ("light", "dark"):
        page = visit(LINK, color_scheme=scheme)
        drawn(page)
        expect(page.locator("#day-curve")).to_be_visible()
        expect(page.locator("#result")).to_have_attribute("aria-busy", "false")
        page.locator("#from").click()
        assert page.evaluate(CONTRAST) == []
        grounds.append(page.evaluate("getComputedStyle(document.documentElement).backgroundColor"))
    assert grounds[0] != grounds[1]


def test_the_policy_holds(visit, service):
    with urllib.request.urlopen(service) as answer:
        policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy
    page = visit(excused="Content Security Policy")
    drawn(page)
    page.evaluate("""() => {
      const script = Object.assign(document.createElement("script"), { textContent: "window.taken = true" });
      document.head.append(script);
      document.body.insertAdjacentHTML("beforeend", "<p style='position: fixed' onclick='window.taken = true'>x</p>");
      document.body.lastChild.click();
    }""")
    assert page.evaluate("[window.taken, getComputedStyle(document.body.lastChild).position]") == [None, "static"]
    assert sorted(set(page.evaluate("window.violations.splice(0)"))) == ["script-src-attr", "script-src-elem", "style-src-attr"]
    for file in PAGE.iterdir():
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", file.read_text()), file
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", (PAGE / "index.html").read_text())


def test_when_nothing_can_be_logged_the_page_says_so_and_goes_on_by_itself(visit, service, folder):
    log = folder / "home" / "predictions.sqlite"
    page = visit(LINK, excused="status of 503")
    expect(page.locator("#minutes-block")).to_be_visible()
    log.rename(folder / "away.sqlite")
    try:
        page.get_by_role("button", name="Swap").click()
        alert = page.get_by_role("alert")
        expect(page.locator("#prompt")).to_have_text("Asking the service…")  # instead of the answer to another ride
        expect(page.locator("#minutes-block")).to_be_hidden()
        expect(alert).to_contain_text("cannot be logged, so nothing is said: ask again in 5 seconds.", timeout=15_000)
        expect(page.locator("#minutes-block")).to_be_hidden()
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
    finally:
        (folder / "away.sqlite").rename(log)
    expect(page.locator("#minutes-block")).to_be_visible(timeout=15_000)
    expect(alert).to_be_hidden()
    says(page, question(service, "predict", {**RIDE, "pickup": NORTHFIELD, "dropoff": AMBER}))


def test_a_locked_service_without_outlines_with_rude_names_in_a_slow_city(visit, folder, trips, monkeypatch):
    zones = zone_table("demo")
    zones.loc[AMBER, "Zone"] = "<img src=x onerror=alert(1)><b>Amber</b>"
    (folder / "locked").mkdir()
    (folder / "bare").mkdir()
    monkeypatch.setenv("RIDE_DURATION_HOME", str(folder / "locked"))
    key = add_key("a person")
    slow = trips.assign(duration=(3 * trips["duration"]).clip(upper=60))
    bundle = small_bundle(slow, zones, folder / "rude", "green")
    # 127.0.0.1 as one number: nobody else can ask, but the service cannot know, and wants keys
    with serving(bundle, folder / "locked", "--host", "2130706433", RIDE_DURATION_SOURCE=str(folder / "bare")) as address:
        page = visit(f"{LINK}&miles=12", address=address, excused="status of 401")
        expect(page.get_by_role("alert")).to_contain_text("This service needs a key: write yours here")
        page.get_by_label("API key").fill(key)
        page.keyboard.press("Enter")
        expect(page.locator("#from")).to_have_value("<img src=x onerror=alert(1)><b>Amber</b>")
        expect(page.locator("#minutes-block")).to_be_visible()
        expect(page.get_by_label("API key")).to_be_hidden()
        expect(page.locator("#flags")).to_contain_text("learnt from rides of at most an hour: this one may take longer.")
        expect(page.locator("#synthetic")).to_be_hidden()
        expect(page.locator("#flags")).to_contain_text("The length of the way was not used")
        drawn(page)  # dots in the zones' places
        assert page.locator(".zone").count() == 72
        click_zone(page, 20)
        expect(page.locator("#to")).to_have_value(zones.loc[20, "Zone"])
        assert page.locator("main img, main b").count() == 0


def test_the_whole_page_is_light():
    assert sum(file.stat().st_size for file in PAGE.iterdir()) < 80_000


def test_zones_are_found_as_people_write_them(visit, mirror):
    table = zone_table("green", mirror)
    zones = [{"id": int(number), "name": row.Zone, "borough": row.Borough} for number, row in table.iterrows()]
    page = visit()
    ask = """async ([zones, texts]) => {
      const { index, search } = await import("./page/search.js");
      return texts.map((text) => { const { zones: found, nearly } = search(index(zones), text); return [found[0]?.name, nearly]; });
    }"""
    asked = {
        "jfk": ("JFK Airport", False), "132": ("JFK Airport", False), "times square": ("Times Sq/Theatre District", False),
        "harlem north central": ("Central Harlem North", False), "la guardia": ("LaGuardia Airport", False), "wiliamsburg": ("Williamsburg (North Side)", True),
        "greenpiont": ("Greenpoint", True), "st george": ("Saint George/New Brighton", False), "qqqq": (None, True),
    }  # fmt: skip
    found = page.evaluate(ask, [zones, list(asked)])
    assert dict(zip(asked, map(tuple, found), strict=True)) == asked
