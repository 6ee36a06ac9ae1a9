#!/usr/bin/env python3
"""Four writers on one disk, each in a region of its own, until the disk is gone; what they have synced is checked first.

    e2e/synced_writers.py DISK RECORD ROUND

RECORD.N says which blocks of writer N are known to be durable, and with which round's bytes: a block that was written after its
last sync may have either.
"""

import json
import os
import random
import sys
import threading

BLOCK = 4096
BLOCKS = 2000
WRITERS = 4


def content(writer, block, value):
    return random.Random(f"{writer} {block} {value}").randbytes(64) * (BLOCK // 64)


def run(disk, record, writer, value):
    file = f"{record}.{writer}"
    known = {int(k): v for k, v in json.load(open(file)).items()} if os.path.exists(file) else {}
    at = lambda block: (writer * BLOCKS + block) * BLOCK
    for block, values in known.items():
        found = os.pread(disk, BLOCK, at(block))
        if found not in [content(writer, block, value) for value in values]:
            problems.append(f"writer {writer}: block {block} has none of {values}")
    chance = random.Random(f"{writer} {value}")
    serial = 0
    try:
        while True:
            blocks = [chance.randrange(BLOCKS) for _ in range(20)]
            for block in blocks:
                serial += 1
                # Before it is written: from now on it may be either.
                known[block] = known.get(block, [])[-1:] + [f"{value}.{serial}"]
                if len(known[block]) == 1:
                    known[block].insert(0, "unknown")
                os.pwrite(disk, content(writer, block, known[block][-1]), at(block))
            os.fsync(disk)
            for block in blocks:
                known[block] = known[block][-1:]
    except OSError:
        pass
    # What was never synced is not known.
    json.dump({k: v for k, v in known.items() if "unknown" not in v}, open(file, "w"))
    counts.append(serial)


disk = os.open(sys.argv[1], os.O_RDWR)
problems, counts = [], []
threads = [threading.Thread(target=run, args=(disk, sys.argv[2], n, sys.argv[3])) for n in range(WRITERS)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
if len(counts) < WRITERS:
    problems.append("a writer ended by itself")
print(f"round {sys.argv[3]}: {sum(counts)} writes")
sys.exit("\n".join(problems) or 0)
