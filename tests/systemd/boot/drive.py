"""Runs steps of a line PC in one boot, and records their results; `test_boot.py` checks them."""

import json

import bridging
import failing
import installing
import reloading
import running
from common import events, line
from machine import OUT
from steps import Steps

STEPS = {
    "install": installing.install,
    "set_up": installing.set_up,
    "start": running.start,
    "status": running.status,
    "page": running.page,
    "sandbox": running.sandbox,
    "reload_to_a_better_bundle": reloading.to_a_better_bundle,
    "reload_to_another_threshold": reloading.to_another_threshold,
    "reload_to_a_broken_bundle": reloading.to_a_broken_bundle,
    "reload_to_nonsense": reloading.to_nonsense,
    "select_another_product": reloading.to_another_product,
    "bridges": bridging.bridges,
    "no_camera": failing.no_camera,
    "one_address_for_two": failing.one_address_for_two,
    "upgrade": installing.upgrade,
    "roll_back": installing.roll_back,
    "kill_9": failing.kill_9,
    "stitching_hangs": failing.stitching_hangs,
    "publishing_hangs": failing.publishing_hangs,
    "stop": running.stop,
    "start_with_nonsense": running.start_with_nonsense,
}

wanted = json.loads((OUT / "wanted.json").read_text())
steps = Steps()
try:
    for name, step in STEPS.items():
        if name in wanted and not steps.run(name, step):
            break
finally:
    (OUT / "journal.txt").write_text("\n".join(line.journal()))
    events.close()
