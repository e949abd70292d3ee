"""Zones of the real archive against what is known from elsewhere, and archives that are damaged or meant to do harm."""

import io
import os
import shutil
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from ride_duration.data import zones
from ride_duration.data.demo import demo_zones
from ride_duration.data.zones import find_zone, zone_names, zone_shapes, zone_table
from ride_duration.errors import BrokenContract, RideDurationError, UnknownZone, UnreadableFile
from ride_duration.model.place_figures import zone_error_picture

KINDS = ("shp", "shx", "dbf", "prj")


def area(ring: np.ndarray) -> float:
    "Square miles inside a closed ring; negative where it runs clockwise."
    (x, y), (after_x, after_y) = ring[:-1].T, ring[1:].T
    return float((x * after_y - after_x * y).sum() / 2)


def miles(latitude: float, longitude: float) -> np.ndarray:
    "Where a place lies on the plane: Lambert's conformal cone for Long Island (EPSG:2263), by its textbook formula."
    flattening, foot = 1 / 298.257222101, 0.3048006096012192
    excentricity = np.sqrt(flattening * (2 - flattening))
    south, north, zero, meridian = np.radians([40 + 40 / 60, 41 + 2 / 60, 40 + 10 / 60, -74.0])

    def thickness(at: float) -> float:
        sine = excentricity * np.sin(at)
        return np.tan(np.pi / 4 - at / 2) / ((1 - sine) / (1 + sine)) ** (excentricity / 2)

    def width(at: float) -> float:
        return np.cos(at) / np.sqrt(1 - (excentricity * np.sin(at)) ** 2)

    cone = np.log(width(south) / width(north)) / np.log(thickness(south) / thickness(north))
    scale = width(south) / (cone * thickness(south) ** cone) * 6378137.0
    radius, turn = scale * thickness(np.radians(latitude)) ** cone, cone * (np.radians(longitude) - meridian)
    x, y = 300_000 + radius * np.sin(turn), scale * thickness(zero) ** cone - radius * np.cos(turn)
    return np.array([x, y]) / foot / 5280


def test_every_zone_of_the_real_archive_has_a_place(mirror: Path):
    table = zone_table("green", mirror)
    assert list(table.index) == list(range(1, 266)) and list(table.columns) == ["Zone", "Borough", "x", "y"]
    assert table.index[table.x.isna() | table.y.isna()].tolist() == [264, 265]
    pd.testing.assert_frame_equal(table[["Zone", "Borough"]], zone_names("green", mirror))


@pytest.mark.parametrize(
    ("zone", "latitude", "longitude"),
    [
        (132, 40.6413, -73.7781),  # JFK's terminals
        (138, 40.7769, -73.8740),  # LaGuardia
        (230, 40.7580, -73.9855),  # Times Square
        (164, 40.7484, -73.9857),  # the Empire State Building
        (103, 40.6892, -74.0445),  # the Statue of Liberty
        (104, 40.6995, -74.0396),  # Ellis Island
        (105, 40.6895, -74.0168),  # Governors Island
        (1, 40.6895, -74.1745),  # Newark Airport
        (43, 40.7812, -73.9665),  # Central Park
        (55, 40.5749, -73.9786),  # Coney Island
    ],
)
def test_places_lie_in_their_zones(mirror: Path, zone: int, latitude: float, longitude: float):
    place = miles(latitude, longitude)
    inside = [number for number, rings in zones._outlines(mirror).items() if any(Outline(ring).contains_point(place) for ring in rings)]
    assert inside == [zone]


def test_the_real_zones_cover_the_city(mirror: Path):
    "New York's land is 302.6 square miles by its own account; zone 1 is Newark Airport, and some zones hold water."
    ground = {number: -sum(map(area, rings)) for number, rings in zones._outlines(mirror).items()}
    assert min(ground.values()) > 0 and 295 < sum(ground.values()) - ground[1] < 312
    boroughs = pd.Series(ground).groupby(zone_names("green", mirror).Borough).sum()
    for borough, published in {"Manhattan": 22.7, "Bronx": 42.2, "Brooklyn": 69.4, "Queens": 108.7, "Staten Island": 57.5}.items():
        assert boroughs[borough] == pytest.approx(published, rel=0.06)


def test_the_airports_are_ten_miles_apart(mirror: Path):
    table = zone_table("green", mirror)[["x", "y"]]
    assert np.hypot(*(table.loc[132] - table.loc[138])) == pytest.approx(9.91, abs=0.01)
    assert np.hypot(*(miles(40.6413, -73.7781) - miles(40.7769, -73.8740))) == pytest.approx(10.6, abs=0.1)  # by the terminals


def test_shapes_to_draw_are_light_and_true(mirror: Path):
    exact, shapes = zones._outlines(mirror), zone_shapes("green", mirror)
    assert list(shapes) == list(exact) and sum(len(ring) for rings in shapes.values() for ring in rings) < 10_000
    assert all((ring[0] == ring[-1]).all() for rings in shapes.values() for ring in rings)
    for number in shapes:
        lost = abs(sum(map(area, exact[number])) - sum(map(area, shapes[number])))
        length = sum(np.hypot(*np.diff(ring, axis=0).T).sum() for ring in exact[number])
        assert lost <= 0.021 * length


def test_a_map_of_the_real_zones_is_light(mirror: Path):
    shapes = zone_shapes("green", mirror)
    errors = pd.Series(np.random.default_rng(0).uniform(4, 18, 263), index=list(shapes)).drop([264, 265, *range(1, 50)], errors="ignore")
    stream = io.BytesIO()
    zone_error_picture(errors, shapes).savefig(stream, dpi=110, bbox_inches="tight")
    assert len(stream.getvalue()) < 60_000


@pytest.mark.parametrize(
    ("said", "number"),
    [(132, 132), ("132", 132), (" Zone 7 ", 7), ("007", 7), (np.int16(5), 5), ("JFK", 132), ("jfk  AIRPORT", 132), ("la-guardia airport", 138),
     ("EWR", 1), ("Times Sq", 230), ("astoria", 7), ("central park", 43), ("264", 264), (265, 265), ("57", 57)],
)  # fmt: skip
def test_a_zone_is_found(mirror: Path, said: object, number: int):
    assert find_zone(said, zone_table("green", mirror)) == number


@pytest.mark.parametrize(
    ("said", "says"),
    [("corona", "56 (Corona, Queens), 57 (Corona, Queens)"), ("Governors Island", "103 ("), ("Times Square", "did you mean 230 ("),
     ("guardia", "138 (LaGuardia"), ("Queens", "69 zones"), ("Yorkville", "262 ("), (0, "1 to 265"), (266, "1 to 265"), ("132.0", "1 to 265"),
     ("-5", "1 to 265"), ("", "1 to 265"), ("!?", "1 to 265"), (None, "no zone"), ("x" * 100_000, "no zone")],
)  # fmt: skip
def test_what_could_be_several_or_none_is_not_guessed(mirror: Path, said: object, says: str):
    with pytest.raises(UnknownZone) as raised:
        find_zone(said, zone_table("green", mirror))
    assert says in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 500


def test_a_mirror_of_trips_alone_has_numbers(tmp_path: Path):
    (tmp_path / "mirror" / "misc").mkdir(parents=True)
    table = zone_table("green", tmp_path / "mirror")
    assert table.Zone[132] == "zone 132" and table.x.dtype == "float64" and table[["x", "y"]].isna().all(axis=None)
    assert zone_shapes("green", tmp_path / "mirror") == {}
    assert find_zone("132", table) == find_zone("zone 132", table) == 132


def test_zones_come_with_the_months_and_again_when_asked(tmp_path: Path, mirror: Path):
    "A model of real taxis needs them, also when the source is away."
    source, home = tmp_path / "mirror", {**os.environ, "RIDE_DURATION_HOME": str(tmp_path / "home")}
    shutil.copytree(mirror / "misc", source / "misc")
    (source / "trip-data").mkdir()
    shutil.copy(mirror / "trip-data" / "green_tripdata_2023-02.parquet", source / "trip-data")
    lookup = (source / "misc" / "taxi_zone_lookup.csv").read_text()

    def after(*command: str) -> str:  # what zone 132 is called for a command that cannot reach the source
        done = subprocess.run([sys.executable, "-m", "ride_duration", *command, "--source", str(source)], env=home, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr.count("ride-duration: ")) == (0, 0), done.stderr
        source.rename(tmp_path / "away")
        try:
            code = f"from ride_duration.data.zones import zone_table; table = zone_table('green', {str(source)!r}); print(table.Zone[132], table.x.notna().sum())"
            return subprocess.run([sys.executable, "-c", code], env=home, capture_output=True, text=True, timeout=60).stdout
        finally:
            (tmp_path / "away").rename(source)

    assert after("fetch", "2023-02") == "JFK Airport 263\n"
    (source / "misc" / "taxi_zone_lookup.csv").write_text(lookup.replace("JFK", "Kennedy"))
    assert after("fetch", "2023-02") == "JFK Airport 263\n"
    assert after("fetch", "2023-02", "--force") == "Kennedy Airport 263\n"


def test_the_demo_citys_zones_lie_around_their_middles():
    shapes, places = zone_shapes("demo"), demo_zones().set_index("LocationID")[["x", "y"]]
    assert list(shapes) == list(places.index)
    for number, x, y in places.itertuples():
        assert [other for other, rings in shapes.items() if Outline(rings[0]).contains_point((x, y))] == [number]


@given(st.text(max_size=40) | st.integers() | st.floats())
@settings(max_examples=200, deadline=None)
def test_whatever_is_said_is_a_zone_or_an_unknown_one(said: object):
    table = zones.zone_table("demo")
    try:
        assert find_zone(said, table) in table.index
    except UnknownZone as error:
        assert str(error)


def parts(places: tuple[int, ...] = (1, 2, 3)) -> dict[str, bytes]:
    "The members of a small archive: a square mile a zone."
    import shapefile

    files = {kind: io.BytesIO() for kind in KINDS[:3]}
    with shapefile.Writer(**files, shapeType=shapefile.POLYGON) as writer:
        writer.field("OBJECTID", "N", 9)
        writer.field("LocationID", "N", 4)
        for row, said in enumerate(places, start=1):
            writer.poly([[(5280 * (row + x), 5280 * y) for x, y in ((0, 0), (0, 1), (1, 1), (1, 0), (0, 0))]])
            writer.record(row, said)
    frame = b'PROJCS["NAD_1983_StatePlane_New_York_Long_Island_FIPS_3104_Feet",UNIT["Foot_US",0.3048006096012192]]'
    return {kind: file.getvalue() for kind, file in files.items()} | {"prj": frame}


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for kind, content in members.items():
            archive.writestr(f"taxi_zones/taxi_zones.{kind}", content)
    return stream.getvalue()


def publish(folder: Path, archive: bytes) -> Path:
    (folder / "mirror" / "misc").mkdir(parents=True, exist_ok=True)
    (folder / "mirror" / "misc" / "taxi_zones.zip").write_bytes(archive)
    return folder / "mirror"


def bomb() -> dict[str, bytes]:
    return parts() | {"shp": bytes(50_000_000)}


def backwards() -> dict[str, bytes]:
    "An index whose records have a length below zero, so that a naive reader goes round in circles."
    good = parts()
    return good | {"shx": good["shx"][:104] + struct.pack(">i", -4) + good["shx"][108:]}


def endless() -> dict[str, bytes]:
    "A table that promises four thousand million rows."
    good = parts()
    return good | {"dbf": good["dbf"][:4] + b"\xff\xff\xff\xff" + good["dbf"][8:]}


DAMAGED = {
    "empty": (lambda: b"", UnreadableFile),
    "a web page": (lambda: b"<html>not here</html>", UnreadableFile),
    "half": (lambda: packed(parts())[:300], UnreadableFile),
    "huge": (lambda: bytes(9_000_000), UnreadableFile),
    "no shapes": (lambda: packed({kind: content for kind, content in parts().items() if kind != "shp"}), BrokenContract),
    "no frame": (lambda: packed({kind: content for kind, content in parts().items() if kind != "prj"}), BrokenContract),
    "a bomb": (lambda: packed(bomb()), BrokenContract),
    "degrees": (lambda: packed(parts() | {"prj": b'GEOGCS["GCS_WGS_1984",UNIT["Degree",0.0174]]'}), BrokenContract),
    "metres": (lambda: packed(parts() | {"prj": parts()["prj"].replace(b"Foot_US", b"Metre")}), BrokenContract),
    "half the shapes": (lambda: packed(parts() | {"shp": parts()["shp"][:200]}), BrokenContract),
    "no rows": (lambda: packed(parts() | {"dbf": b""}), BrokenContract),
    "fewer shapes than rows": (lambda: packed(parts((1, 2, 3)) | {"dbf": parts((1, 2, 3, 4))["dbf"]}), BrokenContract),
    "a zone that is none": (lambda: packed(parts((1, 2, 900))), BrokenContract),
    "numbers beyond repair": (lambda: packed(parts((2, 3, 3))), BrokenContract),
    "backwards": (lambda: packed(backwards()), BrokenContract),
    "endless": (lambda: packed(endless()), BrokenContract),
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_archive_is_one_clear_line(fault: str, tmp_path: Path, quick: None):
    make, kind = DAMAGED[fault]
    source = publish(tmp_path, make())
    began = time.process_time()
    with pytest.raises(kind, match=r"^taxi_zones\.zip ?.+$") as raised:
        zone_shapes("green", source)
    assert "\n" not in str(raised.value) and time.process_time() - began < 5
    assert not list((tmp_path / "home").rglob("taxi_zones.zip"))  # what was refused was not kept
    publish(tmp_path, packed(parts()))
    assert zone_table("green", source).x[:3].tolist() == [1.5, 2.5, 3.5]


def test_zones_that_share_a_number_are_told_apart_by_their_rows(tmp_path: Path):
    source = publish(tmp_path, packed(parts((1, 2, 2, 4, 4))))
    assert zone_table("green", source).x[:5].tolist() == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_nothing_is_unpacked_to_the_disk(tmp_path: Path):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for kind, content in parts().items():
            archive.writestr(f"../../../taxi_zones.{kind}", content)
    source = publish(tmp_path, stream.getvalue())
    assert len(zone_shapes("green", source)) == 3
    assert not [path for kind in KINDS for path in (*tmp_path.rglob(f"taxi_zones.{kind}"), *tmp_path.parent.glob(f"taxi_zones.{kind}"))]


@given(st.sampled_from(KINDS), st.integers(min_value=0), st.binary(min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_bytes_gone_wrong_never_raise_what_is_not_ours(tmp_path_factory: pytest.TempPathFactory, kind: str, place: int, junk: bytes):
    members = parts()
    at = place % len(members[kind])
    members[kind] = members[kind][:at] + junk + members[kind][at + len(junk) :]
    path = tmp_path_factory.mktemp("damaged") / "taxi_zones.zip"
    path.write_bytes(packed(members))
    try:
        assert zones._rings(path)
    except RideDurationError as error:
        assert str(error).startswith("taxi_zones.zip")
