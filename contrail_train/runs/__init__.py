"""What a training run leaves behind, and where it computes.

`begun` locks a run directory and checks what was begun there, `directory` writes and logs into it, and its files have
their `names`. `checkpoint` stores tensors in it, and `sealed` JSON files, both with a checksum; `calibration` is the
file that marks a run as finished and states its thresholds and scores. `listing` summarises the runs in a folder
without torch. `distributed` chooses the device and connects the processes that `torchrun` starts. `address` finds the
model that a command or a setting names.

Training and workflows write run directories through these modules; inference and evaluation read them back.
"""
