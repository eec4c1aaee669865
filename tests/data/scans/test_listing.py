"""Files as people have them, archives over time, and imagers through satpy become lists of scans."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from contrail_data.errors import ContrailError
from contrail_data.scans.abi_files import describe, find_files, local_paths
from contrail_data.scans.listing import assign_frames, list_abi_scans, list_satpy_scans, spans_around
from contrail_data.storage.place import Place
from contrail_data.synthetic.abi import write_abi
from helpers.permissions import shared_folder, without_privileges

BANDS = (11, 14, 15)
SMALL = {"size": (24, 30), "bands": BANDS}
CHANGE = np.datetime64("2025-04-07T15:00")


def stem_of(path: Path) -> str:
    return path.name.removesuffix(".nc")


@pytest.mark.parametrize(
    "renamed",
    [
        lambda stem: f"{stem} (1).nc",
        lambda stem: f"{stem} - Copy.nc",
        lambda stem: f"Copy of {stem}.nc",
        lambda stem: f"{stem}.NC",
        lambda stem: f"{stem}.nc.1",
        lambda stem: f"{stem}.nc.download",
        lambda stem: f"{stem}.h5",
        lambda stem: stem.replace("RadM1-", "RadM1-Reproc-") + ".nc",
        lambda stem: f"{stem}_Reproc-v2.nc",
        lambda stem: f"{stem.lower()}.nc",
        lambda stem: f"night {len(stem)} band {stem[20:22]} at {stem[34:45]}.nc",
    ],
)
def test_renamed_files_are_recognised_by_their_contents(tmp_path: Path, renamed) -> None:
    paths = write_abi(tmp_path / "as-published", np.datetime64("2024-03-01T12:00"), scans=1, **SMALL)
    (tmp_path / "renamed").mkdir()
    for path in paths:
        copy = tmp_path / "renamed" / renamed(stem_of(path))
        shutil.copy(path, copy)
        with h5py.File(copy, "r+") as file:
            file.attrs["dataset_name"] = np.bytes_(copy.name)
    (tmp_path / "renamed" / "notes.nc.txt").write_text("no file of an ABI")
    expected, listing = (list_abi_scans(str(tmp_path / name), BANDS) for name in ("as-published", "renamed"))
    assert len(listing.scans) == 1
    assert not listing.problems
    for ours, theirs in zip(listing.scans, expected.scans, strict=True):
        assert (ours.start, ours.bands, ours.platform, ours.grid) == (
            theirs.start,
            theirs.bands,
            theirs.platform,
            theirs.grid,
        )
        np.testing.assert_array_equal(ours.open()["brightness_temperature"], theirs.open()["brightness_temperature"])


@pytest.mark.parametrize("product", ["L1b", "CMIP", "MCMIP"])
@pytest.mark.parametrize("scene", ["F", "C", "M1"])
def test_attributes_say_what_a_name_says(tmp_path: Path, product: str, scene: str) -> None:
    begin = np.datetime64("2024-03-01T12:00")
    (path, *_) = write_abi(tmp_path, begin, scans=1, scene=scene, product=product, satellite=18, **SMALL)
    named = describe(str(path))
    renamed = path.rename(tmp_path / "x.nc")
    with h5py.File(renamed, "r+") as file:
        del file.attrs["dataset_name"]
    assert named is not None
    assert describe(str(renamed)) == replace(named, url=str(renamed))


def test_copies_of_one_scan_and_band_are_used_once_and_reported(tmp_path: Path) -> None:
    paths = write_abi(tmp_path, np.datetime64("2024-03-01T12:00"), scans=1, **SMALL)
    for number in (1, 2):
        shutil.copy(paths[0], tmp_path / f"{stem_of(paths[0])} ({number}).nc")
    (tmp_path / "mirror").mkdir()
    shutil.copy(paths[0], tmp_path / "mirror")
    (tmp_path / f".{paths[1].name}.Xy12Ab").write_bytes(paths[1].read_bytes()[:3000])  # what rsync has not finished
    cut = tmp_path / f"{stem_of(paths[1])}.nc.download"
    cut.write_bytes(paths[1].read_bytes()[:3000])
    size = paths[1].stat().st_size
    listing = list_abi_scans(str(tmp_path), BANDS)
    used = tmp_path / "mirror" / paths[0].name
    assert listing.scans[0].files == tuple(sorted(map(str, [used, *paths[1:]])))
    assert len(listing.notes) == 3  # each names the file that is used
    for number in (1, 2):
        note = f"({number}).nc: replaced by a copy of the same scan and band, {paths[0].name}"
        assert sum(note in line for line in listing.notes) == 1
    assert f"{paths[0]}: replaced by a copy of the same scan and band, {used}" in listing.notes
    assert listing.problems == [f"{cut}: cannot be read (truncated: 3,000 of {size:,} bytes); fetch the file again"]


def test_one_bad_file_or_missing_band_sets_aside_its_scan_only(tmp_path: Path) -> None:
    paths = write_abi(tmp_path, np.datetime64("2024-03-01T12:00"), scans=4, **SMALL)
    paths[1].write_bytes(paths[1].read_bytes()[:5000])
    paths[3 * 2].unlink()
    listing = list_abi_scans(str(tmp_path), BANDS)
    assert [str(scan.start)[11:16] for scan in listing.scans] == ["12:10", "12:30"]
    broken, incomplete = listing.problems
    assert broken.startswith(f"{paths[1]}: cannot be read")
    assert "its scan of 2024-03-01T12:20:00 lacks band 11; fetch it" in incomplete


def upload(folder: Path, bucket: str) -> None:
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client("s3")
    with suppress(ClientError):  # there already
        client.create_bucket(Bucket=bucket)
    for path in folder.iterdir():
        file = describe(str(path))
        assert file is not None
        when = file.start.astype("datetime64[s]").astype(object)
        client.upload_file(str(path), bucket, f"ABI-L1b-RadM/{when:%Y/%j/%H}/{path.name}")


@pytest.mark.slow
def test_each_frame_comes_from_the_spacecraft_that_stood_there(s3: str, tmp_path: Path) -> None:
    """Both fly and archive for days before and after the change, on one grid."""
    centre = (29.5, -92.0)
    for satellite in (16, 19):
        begin = CHANGE - np.timedelta64(30, "m")
        write_abi(tmp_path / str(satellite), begin, scans=6, satellite=satellite, centre=centre, **SMALL)
        upload(tmp_path / str(satellite), f"noaa-goes{satellite}")
    spans = spans_around([CHANGE], before=3, after=2, tolerance=5)
    listing = list_abi_scans("goes-east", BANDS, spans=spans, product="L1b-RadM1")
    frames = assign_frames(listing.scans, CHANGE, before=3, after=2, tolerance=5)
    assert [frame and frame.platform for frame in frames] == ["GOES-16"] * 3 + ["GOES-19"] * 3
    assert "scans of GOES-16, GOES-19" in listing.notes[0]
    named = list_abi_scans("goes16", BANDS, spans=spans, product="L1b-RadM1")
    assert {scan.platform for scan in named.scans} == {"GOES-16"}
    assert len(named.scans) == 6
    with pytest.raises(ContrailError, match="no GOES-R spacecraft at 2015-01-01"):
        find_files("goes-east", [(np.datetime64("2015-01-01"), np.datetime64("2015-01-02"))], "L1b-RadM1")


def test_frames_of_other_projections_are_not_mixed(tmp_path: Path) -> None:
    begin = np.datetime64("2024-03-01T12:00")
    write_abi(tmp_path / "east", begin, scans=2, satellite=16, centre=(30.0, -105.0), **SMALL)
    write_abi(tmp_path / "west", begin + np.timedelta64(20, "m"), scans=2, satellite=18, centre=(30.0, -105.0), **SMALL)
    scans = [scan for name in ("east", "west") for scan in list_abi_scans(str(tmp_path / name), BANDS).scans]
    frames = assign_frames(scans, begin + np.timedelta64(20, "m"), before=2, after=1, tolerance=5)
    assert [frame and frame.platform for frame in frames] == [None, None, "GOES-18", "GOES-18"]


@pytest.mark.slow
def test_only_needed_hours_of_an_archive_are_listed_and_at_the_same_time(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = [np.datetime64("2022-03-01T12:30"), np.datetime64("2022-03-08T23:55")]
    for day, moment in enumerate(times):
        write_abi(tmp_path / str(day), moment, scans=1, **SMALL)
        upload(tmp_path / str(day), "noaa-goes16")
    listed: list[str] = []
    original, lock, four_asked = Place.sizes, threading.Lock(), threading.Event()

    def sizes(place: Place) -> dict[str, int]:
        with lock:
            listed.append(place.url)
            if len(listed) == 4:
                four_asked.set()
        assert four_asked.wait(timeout=300)  # before the first is answered
        return original(place)

    monkeypatch.setattr(Place, "sizes", sizes)
    spans = spans_around(times, before=4, after=3, tolerance=5)
    files = find_files("goes-east", spans, "L1b-RadM1")
    assert len(files) == 6
    assert sorted(url[-11:] for url in listed) == [
        "2022/060/11",
        "2022/060/12",
        "2022/060/13",
        "2022/067/23",
        "2022/068/00",
    ]


@pytest.mark.slow
def test_bad_files_of_other_imagers_are_set_aside(real_data: Path, tmp_path: Path, capfd) -> None:
    pytest.importorskip("satpy")
    for path in (real_data / "ami").iterdir():
        shutil.copy(path, tmp_path)
        later = shutil.copy(path, tmp_path / path.name.replace("0034.nc", "0036.nc"))
        if "ir112" in path.name:
            later.write_bytes(later.read_bytes()[:200_000])
    (tmp_path / "readme.txt").write_text("not a scan")
    listing = list_satpy_scans(str(tmp_path), "auto", BANDS)
    assert len(listing.scans) == 1
    (problem,) = listing.problems
    assert "ir112_la020ge_202308090036.nc: satpy cannot read it (band 14: " in problem
    assert np.isfinite(listing.scans[0].open()["brightness_temperature"].isel(x=slice(0, 9)).values).all()
    assert capfd.readouterr() == ("", "")
    (tmp_path / "gk2a_ami_le1b_ir123_la020ge_202308090034.nc").unlink()
    with pytest.raises(ContrailError, match=r"no scan has all of bands 11, 14, 15, since .*ir112"):
        list_satpy_scans(str(tmp_path), "auto", BANDS)
    with pytest.raises(
        ContrailError, match="contains files of another imager, which satpy reads; give --reader ami_l1b"
    ):
        find_files(str(tmp_path))


@pytest.mark.slow
def test_cut_segments_of_himawari_are_set_aside(real_data: Path, tmp_path: Path, capfd) -> None:
    """One file compressed and cut, and one unpacked and cut, of two times; a third time is whole."""
    pytest.importorskip("satpy")
    import bz2

    for path in (real_data / "ahi").iterdir():
        if "B13" in path.name:
            continue
        shutil.copy(path, tmp_path)
        cut = path.read_bytes()[:50_000] if "B14" in path.name else path.read_bytes()
        (tmp_path / path.name.replace("_0430_", "_0440_")).write_bytes(cut)
        unpacked = bz2.decompress(path.read_bytes())
        cut = unpacked[: len(unpacked) // 2] if "B15" in path.name else unpacked
        (tmp_path / path.name.replace("_0430_", "_0450_").removesuffix(".bz2")).write_bytes(cut)
    listing = list_satpy_scans(str(tmp_path), "ahi_hsd", BANDS)
    assert len(listing.scans) == 1
    assert len(listing.problems) == 2
    assert "_0440_B14_JP02_R20_S0101.DAT.bz2: satpy cannot read it (band 14: " in listing.problems[0]
    assert "_0450_B15_JP02_R20_S0101.DAT: contains " in listing.problems[1]
    assert capfd.readouterr() == ("", "")


def test_what_may_not_be_read_is_not_called_damaged() -> None:
    with shared_folder() as folder:
        paths = write_abi(folder / "scans", np.datetime64("2024-03-01T12:00"), scans=2, **SMALL)
        paths[1].chmod(0)
        with without_privileges():
            listing = list_abi_scans(str(folder / "scans"), BANDS)
        assert listing.problems == [
            f"{paths[1]}: cannot be read (Permission denied); check the address and permissions"
        ]
        assert len(listing.scans) == 1
        renamed = paths[1].rename(folder / "scans" / "night.nc")
        for closed, where in (
            (renamed, folder / "scans"),
            (folder / "scans", folder / "scans"),
            (folder / "scans", folder / "scans" / "*C11*"),
            (folder / "scans", paths[0]),
            (folder, folder / "scans"),
        ):
            mode = closed.stat().st_mode
            closed.chmod(0)
            with without_privileges(), pytest.raises(ContrailError, match=r"Permission denied.*; check .* permissions"):
                list_abi_scans(str(where), BANDS)
            closed.chmod(mode)


def test_only_files_are_opened_whatever_is_named_like_one(tmp_path: Path) -> None:
    paths = write_abi(tmp_path, np.datetime64("2024-03-01T12:00"), scans=2, **SMALL)
    paths[0].unlink()
    os.mkfifo(paths[0])  # to open it would wait for a writer
    (tmp_path / "night.nc").symlink_to(paths[0])
    (tmp_path / "day.nc").mkdir()
    (tmp_path / ".Trashes").mkdir()
    shutil.copy(paths[4], tmp_path / ".Trashes")
    paths[5].unlink()
    paths[5].symlink_to(paths[5].name)  # leads to itself
    signal.alarm(30)
    with pytest.raises(ContrailError, match=f"no scan has all of bands 11, 14, 15, since {paths[5]}: cannot be read"):
        list_abi_scans(str(tmp_path), BANDS)
    signal.alarm(0)
    assert set(map(Path, local_paths(str(tmp_path)))) == set(paths[1:])


def test_a_scan_that_ends_before_it_starts_is_set_aside(tmp_path: Path) -> None:
    paths = write_abi(tmp_path, np.datetime64("2024-03-01T12:00"), scans=2, **SMALL)
    with h5py.File(paths[0], "r+") as file:
        file["time_bounds"][:] = file["time_bounds"][:][::-1]
    listing = list_abi_scans(str(tmp_path), BANDS)
    assert [str(scan.start)[11:16] for scan in listing.scans] == ["12:10"]
    assert listing.problems == [f"{paths[0]}: ends before it starts; fetch the file again"]
