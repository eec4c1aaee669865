"""Imported by every Python process with the environment of `helpers.kills.environment_with_hooks`."""

import json
import os

from killing import kill_at_event

if specification := os.environ.get("CONTRAIL_TEST_KILL"):
    kill_at_event(**json.loads(specification))
