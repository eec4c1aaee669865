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
# # From raw records to a trained model
#
# Raw bands become a store of ash-RGB images, a small network is trained on it, and its masks are compared with
# labels that it has not seen. On synthetic records this takes a few minutes on a CPU. For the real ones, set
# `RECORDS` to your folder of OpenContrails records with `train/` and `validation/`, and take a larger preset.

# %%
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import contrail_data
import contrail_train
from contrail_data.synthetic.records import write_records

RECORDS = Path("data/records")
COUNT, SIDE, EPOCHS = 300, 128, 10

# %% [markdown]
# ## Records
#
# Synthetic records have the layout of the real ones: brightness temperatures of three bands, eight frames 10
# minutes apart, and masks of contrails on the fifth frame.

# %%
if not RECORDS.exists():
    write_records(RECORDS, COUNT, size=SIDE, validation_fraction=0.3)
sorted(path.name for path in next((RECORDS / "train").iterdir()).iterdir())

# %% [markdown]
# ## Stores
#
# A store is a sealed zarr group: composite, masks, place, time and checksums. Nothing is done if it exists already.

# %%
for split in ("train", "validation"):
    built = contrail_data.build_store(RECORDS, f"data/{split}.zarr", split=split, size=SIDE)
    print(f"{split}: {built.samples} samples, {len(built.set_aside)} set aside")
store = contrail_data.open_store("data/train.zarr")
store

# %% [markdown]
# ## Look at them
#
# In ash-RGB, thin ice clouds such as contrails are dark against their surroundings. The white outline is the mask.

# %%
positive = np.flatnonzero(store.positive_pixels.values > 0)[:4]
figure, axes = plt.subplots(1, len(positive), figsize=(3 * len(positive), 3.2), layout="constrained")
for sample, ax in zip(positive, axes, strict=True):
    record = store.isel(sample=sample, time=int(store.labelled_frame[sample]))
    ax.imshow(record.image.transpose("y", "x", "channel"))
    ax.contour(record.mask, levels=[0.5], colors="white", linewidths=0.8)
    ax.set_title(np.datetime_as_string(record.time.values, "m"), fontsize=9)
    ax.set_axis_off()

# %% [markdown]
# How rare contrails are decides which losses and metrics make sense.

# %%
share = store.positive_pixels / SIDE**2
print(f"{float((share > 0).mean()):.0%} of the records and {float(share.mean()):.2%} of the pixels have a contrail")

# %% [markdown]
# ## Train
#
# A part of the training records is held out: the best epoch and the threshold are chosen on it. The same call
# continues an interrupted run. `contrail-train presets ls` lists larger models.

# %%
run = contrail_train.train(
    "unet2d",
    "runs/notebook",
    epochs=EPOCHS,
    batch_size=8,
    data={"train": "data/train.zarr", "holdout": 0.2},
    augment={"affine": None},
    model={"encoder": "resnet10t", "decoder": {"channels": [64, 32, 32, 16, 16]}},
    loss={"dice": 1.0, "pos_weight": 3.0},
    optim={"lr": 2e-3},
    loggers={"pictures": 0},
)
run

# %%
lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
epochs = [line for line in lines if line.get("holdout_dice") is not None]
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
left.plot([line["step"] for line in lines if "loss" in line], [line["loss"] for line in lines if "loss" in line])
left.set(xlabel="step", ylabel="loss")
right.plot([line["epoch"] for line in epochs], [line["holdout_dice"] for line in epochs], marker="o")
right.set(xlabel="epoch", ylabel="Dice of held-out records", ylim=(0, 1))

# %% [markdown]
# ## Predict records that it has not seen

# %%
predictor = contrail_train.load_predictor(run.path)
validation = contrail_data.open_store("data/validation.zarr")
predicted = contrail_train.predict(predictor, validation)
predicted

# %% [markdown]
# The global Dice coefficient is computed from the pixels of all records together, as the competition of 2023 did.

# %%
truth, mask = validation.mask.values == 1, predicted.mask.values == 1
dice = 2 * (truth & mask).sum() / max(truth.sum() + mask.sum(), 1)
expected = "" if run.holdout is None else f", while the hold-out said {run.holdout['dice']:.2f}"
print(f"Dice {dice:.2f} on {len(truth)} records{expected}")

# %% [markdown]
# Found contrails are white, missed ones red, false ones yellow.

# %%
shown = np.argsort(-truth.sum((1, 2)))[:4]
figure, axes = plt.subplots(1, len(shown), figsize=(3 * len(shown), 3.2), layout="constrained")
for sample, ax in zip(shown, axes, strict=True):
    record = validation.isel(sample=sample, time=int(validation.labelled_frame[sample]))
    picture = record.image.transpose("y", "x", "channel").values.copy()
    for where, colour in (
        (truth & mask, (1, 1, 1)),
        (truth & ~mask, (0.9, 0.1, 0.1)),
        (~truth & mask, (1, 0.9, 0.1)),
    ):
        picture[where[sample]] = colour
    ax.imshow(picture)
    ax.set_axis_off()

# %% [markdown]
# Continue with [a scan on a map](scan_to_map.md), which uses this run, or on the command line: `contrail-train
# evaluate runs/notebook data/validation.zarr` scores the run with intervals and lists its errors.
