"""What a training run leaves behind, and where it computes.

`directory` creates, locks and logs into a run directory; `checkpoint` stores tensors in it; `calibration` is the file
that marks a run as finished and states its thresholds and scores. `device` and `distributed` choose the device and
connect the processes that `torchrun` starts.

Training and workflows write run directories through these modules; inference and evaluation read them back.
"""
