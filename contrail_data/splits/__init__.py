"""Splits that do not leak.

Records of OpenContrails overlap each other in space and time, and some occur twice, so that a score on a random split
is too good. `keys` holds what decides whether two records are related, `pairs` finds those that are. `leaks` describes
them, `audit` adds those that only images and labels reveal, `groups` joins related records into groups that no split
may divide, and `folds` deals the groups out.

All functions take `records`: the scalars of a store (`store.reader.read_scalars`) or of a metadata file.
"""
