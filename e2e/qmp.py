#!/usr/bin/env python3
"""Tells a QEMU machine what to do, over its QMP socket (-qmp unix:SOCKET,server=on,wait=off), and waits until it is done.

    e2e/qmp.py SOCKET stop               pauses the guest
    e2e/qmp.py SOCKET save FILE          writes memory and devices to FILE; a guest that runs goes on until the last moment
    e2e/qmp.py SOCKET restore FILE       reads them into a machine that was started with -incoming defer, and lets it run
    e2e/qmp.py SOCKET quit               ends QEMU without a word to the guest

QEMU: docs/interop/qmp-spec.rst, docs/devel/migration/main.rst.
"""

import json
import shlex
import socket
import sys
import time

LIMIT_SECONDS = 60
# Slow enough for the guest to go on for a second or two while it is saved, and to dirty what was written already.
SAVE_BYTES_PER_SECOND = 64 << 20
# So that it ends also where the guest dirties memory faster than it is written.
DOWNTIME_LIMIT_MS = 1000


class Machine:
    def __init__(self, path):
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            connection = socket.socket(socket.AF_UNIX)
            connection.settimeout(LIMIT_SECONDS)
            try:
                connection.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                connection.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.lines = connection.makefile("rw")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def ask(self, command, **arguments):
        self.lines.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.lines.flush()
        while True:
            answer = json.loads(self.lines.readline())
            if "error" in answer:
                sys.exit(f"qmp: {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]

    def wait_for_migration(self):
        deadline = time.monotonic() + LIMIT_SECONDS
        while True:
            found = self.ask("query-migrate")
            if found.get("status") == "completed":
                return
            if found.get("status") in ("failed", "cancelled") or time.monotonic() > deadline:
                sys.exit(f"qmp: {found}")
            time.sleep(0.02)


def main(path, verb, *rest):
    machine = Machine(path)
    if verb in ("stop", "quit"):
        machine.ask(verb)
    elif verb == "save":
        parameters = {"max-bandwidth": SAVE_BYTES_PER_SECOND, "downtime-limit": DOWNTIME_LIMIT_MS}
        machine.ask("migrate-set-parameters", **parameters)
        # As a command, not as `file:`, which QEMU has from 8.2 on.
        machine.ask("migrate", uri=f"exec:cat >{shlex.quote(rest[0])}")
        machine.wait_for_migration()
    elif verb == "restore":
        machine.ask("migrate-incoming", uri=f"exec:cat {shlex.quote(rest[0])}")
        machine.wait_for_migration()
        machine.ask("cont")
    else:
        sys.exit(f"qmp: no such verb: {verb}")


main(*sys.argv[1:])
