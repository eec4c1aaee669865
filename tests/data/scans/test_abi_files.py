"""Names of ABI files, and which spacecraft filled a role at a given time."""

from __future__ import annotations

import numpy as np
import pytest

from contrail_data.scans.abi_files import describe


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("OR_ABI-L1b-RadC-M6C11_G16_s20232561536173_e20232561538546_c20232561539034.nc", (16, "C", "L1b-Rad", 11)),
        ("OR_ABI-L1b-RadF-M3C14_G17_s20191000000341_e20191000011107_c20191000011153.nc", (17, "F", "L1b-Rad", 14)),
        ("OR_ABI-L2-CMIPM2-M6C13_G18_s20240611200000_e20240611200057_c20240611200102.nc", (18, "M2", "L2-CMIP", 13)),
        ("OR_ABI-L2-MCMIPF-M4_G19_s20251000000341_e20251000005107_c20251000005153.nc", (19, "F", "L2-MCMIP", 0)),
    ],
)
def test_names_of_abi_files_are_parsed(name: str, fields: tuple) -> None:
    file = describe(f"s3://bucket/{name}")
    assert file is not None
    assert (file.satellite, file.scene, file.product, file.band) == fields
    assert file.name == name
    year, day = int(name.split("_s")[1][:4]), int(name.split("_s")[1][4:7])
    assert file.start.astype("datetime64[D]") == np.datetime64(f"{year}-01-01") + (day - 1)


def test_names_of_other_files_are_ignored() -> None:
    for name in ("OR_SUVI-L1b-Fe093_G16_s1_e1_c1.nc", "OR_ABI-L1b-RadC-M6_G16_s20232561536173_e1_c1.nc", "x.nc"):
        assert describe(name) is None
