#!/usr/bin/env python3
"""A class hands in: thirty devices at once give a file of the same name, and a folder, to the one that
collects. Each ends in a folder of its own there, what is given a second time stands beside the first,
whatever a device calls itself, and nobody gets into another's folder, or in by `send`."""
import argparse
import json
import os
import time

from changes import until
from handout import Device, digest, script, scratch, summary, write_file
from lab import Loopback

PORT = 31890  # below those that the system gives to outgoing connections


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pupils", type=int, default=30)
    args = parser.parse_args()
    with scratch() as folder, Loopback(logs=folder) as lab:
        teacher, *pupils = [device(lab, folder, n) for n in range(args.pupils + 1)]
        collected = os.path.join(folder, "collected")
        teacher.config["hand_in"] = {"enabled": True, "destination": os.path.join(collected, "{group}", "{device}"), "reserve": 0}
        teacher.config["receive"]["enabled"] = False
        # One calls itself like a way out, one like the folder of another.
        pupils[0].config["device"] = {"name": "../../outside"}
        pupils[1].config["device"] = {"name": f"Kim ({pupils[2].id[:8]})"}
        for pupil in pupils:
            pupil.trust(teacher)
            pupil.config["discovery"]["static_peers"] = [f"{teacher.id}@127.0.0.1:{PORT}"]
            pupil.write_config()
        # Without names, so that what they call themselves counts.
        teacher.write_config(f'[[group]]\nname = "class"\nroles = ["receive"]\nmembers = {json.dumps([pupil.id for pupil in pupils])}')
        running = teacher.start("run", "--json")
        running.until("listening", 60)
        begin = time.monotonic()
        for round_ in (1, 2):
            giving = [(pupil, pupil.start("hand-in", *work(pupil, round_), "--to", teacher.id, "--wait", "60s", "--json")) for pupil in pupils]
            for pupil, process in giving:
                state = summary(process, timeout=180)[teacher.id]
                assert state["state"] == "complete", (pupil.name, state)
        seconds = time.monotonic() - begin
        arrived = {}
        until(lambda: not [at for at, _, names in os.walk(collected) if ".handout" in at and names], "it is cleared up", running)
        for at, _, names in os.walk(collected):
            if names:
                arrived.setdefault(os.path.relpath(at, collected).split(os.sep)[1], []).append(at)
        assert len(arrived) == len(pupils), f"{len(arrived)} folders for {len(pupils)}: {sorted(arrived)}"
        assert os.listdir(collected) == ["class"] and not [n for n in os.listdir(folder) if "outside" in n], os.listdir(folder)
        for pupil in pupils:
            own = [name for name in arrived if pupil.id[:8] in name.rsplit("(", 1)[-1]]
            assert len(own) == 1, (pupil.name, own)
            got = digest(os.path.join(collected, "class", own[0]))
            got = sorted(str(value[1]) for path, value in got.items() if isinstance(value, tuple) and ".handout" not in path)
            given = [digest(path) for path in (os.path.join(pupil.folder, f"round{r}", *name) for r in (1, 2) for name in (("essay.txt",), ("drawings", "a.png")))]
            assert got == sorted(given), f"{pupil.name}: {os.listdir(os.path.join(collected, 'class', own[0]))}"
        # What is sent, and not handed in, needs a right that they do not have.
        sending = pupils[3].send(os.path.join(pupils[3].folder, "round1/essay.txt"), to=[teacher.id], wait="20s")
        sending.end(60, 4)
        print(f"{len(pupils)} devices handed in twice in {seconds:.1f} s, each into a folder of its own", flush=True)


def device(lab, folder, number):
    # All but the one that collects have the same name.
    name = "teacher" if not number else f"pupil{number}"
    return Device(lab, 0, folder, name, device={"name": "teacher" if not number else "Kim"},
                  discovery={"interfaces": [], "loopback_only": True, "enabled": False}, network={"loopback": True},
                  signaling={"port": 0 if number else PORT, "bind": "127.0.0.1", "max_connections_per_address": 64}, receive={"reserve": 0})


def work(pupil, round_):
    """A file and a folder, called the same everywhere."""
    at = os.path.join(pupil.folder, f"round{round_}")
    os.makedirs(os.path.join(at, "drawings"))
    return [write_file(os.path.join(at, "essay.txt"), 20_000, f"{pupil.name} {round_}"),
            os.path.dirname(write_file(os.path.join(at, "drawings", "a.png"), 90_000, f"{pupil.name} {round_} drawing"))]


if __name__ == "__main__":
    script(main)
