#!/usr/bin/env python3
"""Strangers: a client written from the protocol page alone meets the program, unsigned and signed."""
import os

from handout import CLIENT, PORT, Device, digest, same, script, scratch, summary, write_file
from lab import Lab


class Room:
    """The program on host 0, the Python client on host 1, a file on each."""

    def __init__(self, lab, folder, **trust):
        self.lab, self.folder = lab, folder
        self.file = write_file(os.path.join(folder, "lesson.bin"), 3_000_001, "plain")
        self.into = os.path.join(folder, "client")
        self.key = os.path.join(folder, "client.key")
        self.client_id = self.client("id", key=True, end=0).find("id")["device_id"]
        self.device = Device(lab, 0, folder, trust=trust)

    def client(self, *verb, key=False, end=None):
        options = ["--timeout", 90, *(["--key", self.key] if key else [])]
        process = self.lab.run(1, [*CLIENT, *options, *verb], "client")
        if end is not None:
            process.end(100, end)
        return process

    def listening_client(self, peer_id, key=False):
        """The client waits at a fixed port, and the program knows it as a static peer."""
        address = f"{self.lab.address(1)}:{PORT}"
        self.device.config["discovery"]["static_peers"] = [f"{peer_id}@{address}"]
        self.device.write_config()
        process = self.client("receive", "--into", self.into, "--listen", address, key=key)
        process.until("listening")
        return process

    def dial(self):
        return ["--dial", f"{self.lab.address(0)}:{PORT}", "--peer-id", self.device.id]

    def arrived(self):
        assert digest(os.path.join(self.into, "lesson.bin")) == digest(self.file), "the client's file differs"


def a_plain_client_receives_where_plain_peers_are_allowed(lab, folder):
    room = Room(lab, folder, plain_peers=True)
    client = room.listening_client("plain-client")
    result = summary(room.device.send(room.file, to="plain-client"))
    assert result["plain-client"]["state"] == "complete", result
    client.end(30)
    room.arrived()


def a_plain_client_that_offers_is_told_why_it_is_refused(lab, folder):
    room = Room(lab, folder)
    receiving = room.device.receive()
    client = room.client("receive", "--into", room.into, "--dial", room.dial()[1], end=4)
    why = client.find("refused")["why"]
    assert "plain" in why or "unsigned" in why or "proof" in why, f"the reason given was {why!r}"
    assert receiving.ended is None, "the program ended over a refused peer"


def a_plain_client_is_sent_no_offer_where_plain_peers_are_not_allowed(lab, folder):
    room = Room(lab, folder)
    client = room.listening_client("plain-client")
    room.device.send(room.file, to="plain-client", wait="5s").end(60, (2, 3, 4, 5))
    assert client.find("offer") is None, "a plain peer was sent an offer"


def a_signed_client_receives(lab, folder):
    room = Room(lab, folder)
    client = room.listening_client(room.client_id, key=True)
    room.device.trust(room.client_id)
    result = summary(room.device.send(room.file, to=room.client_id))
    assert result[room.client_id]["state"] == "complete", result
    client.end(30)
    assert client.find("verified"), "the channel handshake did not happen"
    room.arrived()


def a_signed_client_resumes(lab, folder):
    room = Room(lab, folder)
    room.device.trust(room.client_id)
    client = room.listening_client(room.client_id, key=True)
    client.kill()
    dying = room.client("receive", "--into", room.into, "--listen", f"{lab.address(1)}:{PORT}", "--die-after", 1_500_000, key=True)
    dying.until("listening")
    sending = room.device.send(room.file, to=room.client_id, wait="60s")
    dying.end(60, 9)
    client = room.listening_client(room.client_id, key=True)
    summary(sending)
    client.end(30)
    assert client.find("start")["have"] > 0, "the second connection began from nothing"
    room.arrived()


def a_signed_client_sends(lab, folder):
    room = Room(lab, folder)
    room.device.trust(room.client_id)
    receiving = room.device.receive("--once")
    room.client("send", room.file, *room.dial(), key=True, end=0)
    receiving.end(30)
    same(room.file, room.device)


def a_signed_client_without_authorization_is_refused(lab, folder):
    room = Room(lab, folder)
    receiving = room.device.receive()
    client = room.client("send", room.file, *room.dial(), key=True, end=4)
    assert "authoriz" in client.find("refused")["why"], client.find("refused")
    assert receiving.ended is None, "the program ended over a refused peer"
    assert os.listdir(room.device.destination) == [], "something was written for a stranger"


def a_chunk_that_was_not_signed_is_never_kept(lab, folder):
    room = Room(lab, folder)
    room.device.trust(room.client_id)
    receiving = room.device.receive()
    room.client("send", room.file, "--corrupt", 3, *room.dial(), key=True, end=(1, 4))
    assert receiving.ended is None, "the program ended over a lying peer"
    assert not os.path.exists(os.path.join(room.device.destination, "lesson.bin")), "a false file was kept"


def main():
    cases = [f for name, f in globals().items() if name.startswith("a_")]
    failed = []
    for case in cases:
        with scratch() as folder, Lab(2, logs=folder) as lab:
            try:
                case(lab, folder)
                print("ok     ", case.__name__, flush=True)
            except AssertionError as error:
                failed.append(case.__name__)
                print("FAILED ", case.__name__, error, flush=True)
    assert not failed, f"{len(failed)} of {len(cases)}: {', '.join(failed)}"


if __name__ == "__main__":
    script(main)
