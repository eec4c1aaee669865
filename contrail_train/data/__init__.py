"""From sealed stores to batches of training data on the device.

`named` checks by their metadata whether the stores that settings name fit, and `training_data` opens them: `items`
tabulates their labelled and pseudo-labelled frames, and `holdout` decides which of them are held out. `taught` mixes
labels with a teacher's answers. `epochs` says what an epoch draws. `loader` reads items into batches, whose values
`normalise` scales. `draw` chooses the random augmentation of a batch, which `augment` (geometry, mixing) and
`appearance` (values) carry out. `dataset` offers all of it to training loops other than ours.

Data passes stores → items → hold-out → loader → augmentation → model.
"""
