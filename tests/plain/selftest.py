#!/usr/bin/env python3
"""Holds the Python client to its own reading of the protocol: it talks to itself over loopback."""
import filecmp
import json
import os
import subprocess
import sys
import tempfile

CLIENT = [sys.executable, "-B", os.path.join(os.path.dirname(os.path.abspath(__file__)), "plain_client.py"), "--loopback"]


class Party:
    """A client process and the events it has printed."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen([*CLIENT, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
        self.events = []

    def until(self, event):
        for line in self.process.stdout:
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"no {event!r} in {self.events}")

    def end(self):
        self.events += map(json.loads, self.process.stdout)
        return self.process.wait(60)

    def find(self, event):
        return next(e for e in self.events if e["event"] == event)


class Room:
    """A scratch folder, a sender's key and a receiver's."""

    def __init__(self, folder):
        self.folder = folder
        self.ids = {name: self.key(name) for name in ("sender", "receiver")}
        self.file = os.path.join(folder, "lesson.bin")
        with open(self.file, "wb") as file:
            file.write(os.urandom(5_000_001))

    def path(self, name):
        return os.path.join(self.folder, name)

    def key(self, name):
        out = subprocess.run([*CLIENT, "--key", self.path(name), "id"], stdout=subprocess.PIPE, check=True)
        return json.loads(out.stdout)["device_id"]

    def receiver(self, *more, signed=True, into="out"):
        party = Party(*(["--key", self.path("receiver")] if signed else []), "receive", "--into", self.path(into),
                      "--listen", "127.0.0.1:0", *more)
        listening = party.until("listening")
        return party, ["--dial", f"127.0.0.1:{listening['port']}", "--peer-id", listening["device_id"]]

    def sender(self, where, *more, path=None, options=()):
        return Party("--key", self.path("sender"), *options, "send", path or self.file, *where, *more)

    def same(self, into="out"):
        return filecmp.cmp(self.file, self.path(into) + "/lesson.bin", shallow=False)


def a_signed_receiver_gets_the_file_and_checks_all_of_it(room):
    receiver, where = room.receiver()
    sender = room.sender(where)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert receiver.find("open")["verified"] and room.same()


def a_folder_keeps_its_tree_empty_files_and_empty_folders(room):
    tree = room.path("tree")
    os.makedirs(tree + "/a/empty")
    for name, size in (("a/nothing", 0), ("a/small", 5), ("ünïcode", 300_000)):
        with open(f"{tree}/{name}", "wb") as file:
            file.write(os.urandom(size))
    receiver, where = room.receiver()
    sender = room.sender(where, path=tree)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert os.path.isdir(room.path("out/tree/a/empty"))
    found = filecmp.cmpfiles(tree, room.path("out/tree"), ["a/nothing", "a/small", "ünïcode"], shallow=False)
    assert len(found[0]) == 3, found


def a_killed_receiver_takes_only_what_it_lacked(room):
    receiver, where = room.receiver("--die-after", 2_000_000)
    sender = room.sender(where)
    assert receiver.end() == 9
    sender.process.kill()
    sender.end()
    receiver, where = room.receiver()
    sender = room.sender(where)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert receiver.find("start")["have"] > 0 and room.same()
    assert sender.find("complete")["bytes"] < 5_000_001 - 1_000_000


def a_chunk_that_is_not_what_was_signed_is_refused(room):
    receiver, where = room.receiver()
    sender = room.sender(where, "--corrupt", 3)
    assert (sender.end(), receiver.end()) == (4, 4)
    assert "chunk 3" in receiver.find("refused")["why"]


def a_plain_client_is_dialled_and_receives(room):
    receiver, where = room.receiver(signed=False)
    sender = room.sender(where, options=["--allow-plain"])
    assert (sender.end(), receiver.end()) == (0, 0)
    assert not receiver.find("open")["verified"] and not sender.find("open")["verified"] and room.same()


def a_plain_client_offers_and_receives(room):
    sender = room.sender(["--listen", "127.0.0.1:0"], options=["--allow-plain"])
    port = sender.until("listening")["port"]
    receiver = Party("receive", "--into", room.path("out"), "--dial", f"127.0.0.1:{port}")
    assert (sender.end(), receiver.end()) == (0, 0)
    assert room.same()


def a_plain_client_is_told_why_it_is_refused(room):
    sender = room.sender(["--listen", "127.0.0.1:0"])
    port = sender.until("listening")["port"]
    receiver = Party("receive", "--into", room.path("out"), "--dial", f"127.0.0.1:{port}")
    assert receiver.end() == 4
    assert "plain peers are not allowed" in receiver.find("refused")["why"]
    sender.process.kill()
    sender.end()


def a_proof_for_another_device_and_an_unauthorized_sender_are_refused(room):
    receiver, where = room.receiver()
    assert room.sender([*where[:3], room.ids["sender"]]).end() == 4
    receiver.process.kill()
    receiver.end()
    out = Party("--key", room.path("receiver"), "--authorize", room.ids["receiver"], "receive", "--into", room.path("out"), "--listen", "127.0.0.1:0")
    port = out.until("listening")["port"]
    sender = room.sender(["--dial", f"127.0.0.1:{port}", "--peer-id", room.ids["receiver"]])
    assert sender.end() == 4 and "not authorized" in sender.find("refused")["why"]
    out.process.kill()
    out.end()


def main():
    cases = [f for name, f in globals().items() if name.startswith(("a_", "an_"))]
    failed = 0
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="handout-plain-") as folder:
            try:
                case(Room(folder))
                print("ok     ", case.__name__)
            except (AssertionError, StopIteration) as error:
                failed += 1
                print("FAILED ", case.__name__, repr(error))
    print(f"{len(cases) - failed} passed, {failed} failed")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
