# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From a scan to a map
#
# A trained model finds the contrails of a satellite scan, and their centre lines are put on a map. The model is the
# run of [the other notebook](records_to_model.md); another finished run does as well. The scans are synthetic
# unless `SCANS` holds GOES files, such as those of `contrail-data build-ash goes-east --time ...`.

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import contrail_data
import contrail_train
from contrail_data.geo.coastline import coastline
from contrail_data.synthetic.abi import write_abi
from contrail_train.scenes.series import contrail_table

SCANS = Path("data/scans")
RUN = Path("runs/notebook")
ROWS, COLUMNS = 400, 500

# %% [markdown]
# ## Scans
#
# `open_abi` reads nothing yet but the description of the files. Brightness temperature is in kelvin; latitude,
# longitude and the angles of sun and satellite are computed from the projection.

# %%
if not SCANS.exists():
    write_abi(SCANS, np.datetime64("2024-03-01T12:00"), scans=2, seed=3, size=(ROWS, COLUMNS))
scans = contrail_data.open_abi(SCANS)
scans

# %%
scan = scans.isel(time=[0])
ash = contrail_data.composite_of(scan, "ash").isel(time=0).transpose("y", "x", "channel").compute()
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.imshow(scan.brightness_temperature.sel(band=14).isel(time=0), cmap="gray_r")
left.set_title("band 14, inverted")
right.imshow(ash)
right.set_title("ash-RGB")
for ax in (left, right):
    ax.set_axis_off()

# %% [markdown]
# ## Predict
#
# The model saw tiles, so the scan is covered with overlapping tiles of the same kind, whose predictions are blended
# back onto the satellite's grid.

# %%
predictor = contrail_train.load_predictor(RUN)
predicted = contrail_train.predict(predictor, scan)
predicted

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
image = left.imshow(predicted.probability.isel(time=0), vmin=0, vmax=1)
figure.colorbar(image, ax=left, label="probability of a contrail")
right.imshow(ash)
if predicted.mask.any():
    right.contour(predicted.mask.isel(time=0), levels=[0.5], colors="white", linewidths=0.8)
for ax in (left, right):
    ax.set_axis_off()

# %% [markdown]
# ## Single contrails
#
# Masks are separated into single contrails, each with a centre line, length, width, heading and a confidence: a
# GeoDataFrame, which geopandas writes to any file that a GIS reads.

# %%
table = contrail_table(predictor, str(SCANS), times=[scan.scan_start.values[0]])
table.drop(columns="outline").to_file("contrails.gpkg")
table[["time", "length_km", "width_km", "confidence"]].sort_values("length_km", ascending=False).head()

# %% [markdown]
# ## The map

# %%
latitude, longitude = scan.latitude.values, scan.longitude.values
figure, ax = plt.subplots(figsize=(7, 6), layout="constrained")
ax.plot(*coastline().T, color="#4d5b66", linewidth=0.8)
table.plot(ax=ax, column="length_km", cmap="plasma", linewidth=2, legend=True, legend_kwds={"label": "length in km"})
ax.set(xlim=(np.nanmin(longitude), np.nanmax(longitude)), ylim=(np.nanmin(latitude), np.nanmax(latitude)))
ax.set(xlabel="longitude", ylabel="latitude", title=f"{len(table)} contrails")
ax.set_aspect(1 / np.cos(np.deg2rad(np.nanmean(latitude))))

# %% [markdown]
# `contrail-train predict-scans` does the same for many scans, follows contrails from scan to scan (`--tracks`),
# corrects for parallax (`--altitude`), and writes NetCDF, zarr, GeoTIFF, GeoJSON and GeoParquet.
