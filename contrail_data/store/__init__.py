"""The store: a zarr v3 group of samples, written once, sealed, and named by the digest of its contents.

    zarr.json        group attributes and consolidated metadata, written last: without it the folder is not a store
    image/           uint8, float16 or float32 (sample, time, channel, y, x), chunk = frame, shard = 16 samples
    mask/            uint8 (sample, y, x), 0/1, chunk = sample, shard = 16 samples
    annotators/      uint8 (sample, y, x) bit field, only where some sample has annotators
    instance_masks/  uint8 (sample, instance, y, x) bit field, only where contrails were marked one by one
    valid/           uint8 (sample, time, y, x), 0/1, chunk = frame, only where some pixel is missing
    ...              per-sample variables, one chunk each; among them the checksum of every chunk of the above
    manifest.txt     xxh3 checksum, size and path of every other file of the store
    provenance.json  command, time, versions: the only file in which two builds of the same input differ

`xarray.open_zarr(path)` opens a sealed store without this package.

On the way in, `schema` and `settings` say what is stored, `frames` computes images and `logits` encodes probabilities,
`journal` makes the building of a store resumable, `layout` says where chunks lie, `shards` writes them, `moments`,
`stats` and `samples` compute statistics and per-sample variables, `encoding` turns those and metadata into bytes, and
`writer` seals. On the way out, `metadata` checks what a store claims, `reader` opens it, guarded by `manifest`, and
reads pixels through `shards`. `verify` finds damage, `transfer` copies and repairs, `cache` keeps local copies of
remote stores.
"""
