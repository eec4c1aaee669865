"""Kill programs at moments that depend on what they have done, never on a clock."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HOOKS = Path(__file__).parent / "hooks"


def environment_with_hooks(**kill: object) -> dict[str, str]:
    """Return an environment whose Python programs can import `killing`.

    Args:
        kill: Arguments of `killing.kill_at_event`, which every program calls at its start. Without arguments, no
            program is killed.
    """
    path = os.pathsep.join(filter(None, [str(HOOKS), os.environ.get("PYTHONPATH")]))
    variables = {**os.environ, "PYTHONPATH": path}
    return {**variables, "CONTRAIL_TEST_KILL": json.dumps(kill)} if kill else variables


def run_until_killed(command: Sequence[object], **kill: object) -> None:
    """Run a Python program until it or a child kills the process group; fail if it ends in another way."""
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        env=environment_with_hooks(**kill),
        start_new_session=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
