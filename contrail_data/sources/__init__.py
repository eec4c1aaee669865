"""Where samples come from: one small class of `Source` per kind of input.

`base` defines what a build needs from a source. `records` reads OpenContrails records and ready-made ash frames.
`tfrecords` reads the same records in TFRecord files: `tfrecord_shards` finds the files, `tfrecord_index` lists and
remembers their contents, `tfrecord_features` reads what a record holds, and `instance_masks` recognises masks of single
contrails. `scans` cuts tiles, which `scan_tiles` chooses, out of satellite scans, and `stores` takes samples from
sealed stores (subsets, merges, appended stores). `joined` makes one source of several, and `kept_frames` keeps some
frames of each sample. `recognise` says by names of files what lies at a place, `open` opens it, `select` chooses
samples of a store, `npy` reads untrusted `.npy` files, and `votes` combines masks of annotators.

Labels that people drew on scans are read by `label_files` and `label_masks` as `drawn_shapes`; `drawn_labels` finds the
scan of each, and `tile_labels` its pixels on a tile. `mask_files` reads files of masks, ours and others'.

Data passes from files through a source's `read_sample` to a checked sample (`contrail_data.sample`), and from there to
`contrail_data.build`.
"""
