"""Imported by every Python process that is started with the environment of `helpers.kills.killed_at`."""

import json
import os

from killing import kill_at_event

if specification := os.environ.get("CONTRAIL_TEST_KILL"):
    kill_at_event(**json.loads(specification))
