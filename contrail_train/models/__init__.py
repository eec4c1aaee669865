"""The networks, built from the settings in `contrail_train.config.model.ModelConfig`.

Frames of shape (b, t, c, h, w) pass through these modules in order, and logits come out:

- `encoder`: any timm model as a pyramid of features, shared by all frames, once `encoder_names` has found its name;
  `pretrained` finds the weights to start with, and `encoder_weights` loads them.
- `temporal`, `valid3d`, `transformer`: mixers, which turn the frames of one level of the pyramid into a single one;
  `panels` instead shows all frames to the encoder at once.
- `video`: video models of torchvision, which take the place of encoder and mixers.
- `decoders`: from the pyramid back to pixels, with the building blocks in `layers`.
- `heads`: the logits of pixels and of the record. `point_rend` predicts the least certain pixels of a mask again.
- `flow_stream`: a second, small encoder, of optical flow; `raft` computes such flow, once `raft_weights` has found its
  weights.
- `segmenter`: puts the parts together, on images that `padding` makes fit; `segmenter.build` is the way in.

The suffix of a tensor's name gives the order of its axes: batch, time, channel, height, width; n is time x batch, or
counts points, and k counts predictions.
"""
