"""Copies whole stores, verified and resumable, and repairs a store from a copy of it."""

import time
from collections.abc import Sequence
from contextlib import suppress

from contrail_data.errors import ContrailError
from contrail_data.storage.lock import Busy
from contrail_data.storage.place import Place, sync_folders
from contrail_data.store import journal, manifest
from contrail_data.store.manifest import Damaged, FileChecksum, Manifest, read_verified
from contrail_data.store.metadata import read_group
from contrail_data.store.reader import open_store
from contrail_data.store.schema import GROUP, MANIFEST, PROVENANCE
from contrail_data.store.verify import Damage, verify

_THREADS = 8  # concurrent requests to an object store


def copy_store(source: Place, target: Place) -> int:
    """Copy a sealed store, every file verified.

    An interrupted copy is continued. While another process copies to the same place, this one waits for it. A copy
    that exists already is verified, and repaired.

    Args:
        source: The store.
        target: Where the copy belongs.

    Returns:
        Number of files that were in place already.

    Raises:
        ContrailError: If the source is damaged, or another store is in the target.
    """
    digest = open_store(source, times=False).attrs["digest"]
    plan = journal.plan_of(["copy", digest])
    while True:
        try:
            if target.size(GROUP) is not None:
                if digest not in (digests := manifest.stated_digests(target)):
                    raise ContrailError(
                        f"{target}: holds another store ({', '.join(digests)[:22]}…); choose another place"
                    )
                if damage := verify(target):
                    repair(target, damage, source)
                return len(target.sizes()) - len(damage)
            with journal.building(target, plan):
                return _copy(source, target)
        except Busy:
            time.sleep(0.5)


def _copy(source: Place, target: Place) -> int:
    attributes = read_group(source)["attributes"]
    files = manifest.read_manifest(source, attributes["manifest"])
    sizes = target.sizes()

    def copy_file(key: str) -> bool:
        """Return whether the file was in place already."""
        if sizes.get(key) == files[key].size and FileChecksum.of(target.read(key)) == files[key]:
            return True
        target.write(key, [read_verified(source, key, files)])
        return False

    in_place = sum(was_in_place for _, was_in_place in manifest.map_files("copy", files, copy_file, _THREADS))
    target.write(PROVENANCE, [manifest.read_verified_provenance(source)])
    _copy_group(source, target, files)
    return in_place


def _copy_group(source: Place, target: Place, files: Manifest) -> None:
    attributes = read_group(source)["attributes"]
    arrays = {key: read_verified(source, key, files) for key in files if key.endswith(f"/{GROUP}")}
    target.write(MANIFEST, [manifest.read_manifest_file(source, attributes["manifest"])])
    sync_folders(target)
    target.write(GROUP, [manifest.encode_group(attributes, arrays)])


def repair(place: Place, damage: Sequence[Damage], source: Place) -> list[str]:
    """Replace the damaged files of a store by those of a copy.

    Other files are not touched. Files that are damaged in the copy, too, are left as they are.

    Args:
        place: The damaged store.
        damage: What `verify` has found.
        source: The copy.

    Returns:
        Keys of the files that were replaced.

    Raises:
        ContrailError: If the source is not a copy of the same store.
    """
    attributes = open_store(source, times=False).attrs
    digest = attributes["digest"]
    if digest not in (digests := manifest.stated_digests(place)):
        state = f"{digests[0][:15]}…" if digests else "which can no longer be recognised"
        raise ContrailError(f"{source}: is another store ({digest[:15]}…) than {place} ({state}); name a copy")
    files = manifest.read_manifest(source, attributes["manifest"])
    damaged = {item.path for item in damage}
    restored = sorted(damaged & {MANIFEST, GROUP})
    if restored:  # nothing else can be verified without these
        _copy_group(source, place, files)
        damaged = {item.path for item in verify(place)}
    for key in sorted(damaged & {*files, PROVENANCE}):
        with suppress(Damaged):  # verifying the store again reports it
            if key == PROVENANCE:
                place.write(key, [manifest.read_verified_provenance(source)])
            else:
                place.write(key, [read_verified(source, key, files)])
            restored.append(key)
    journal.clear_staging(place)
    return restored
