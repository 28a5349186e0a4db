#!/usr/bin/env python3
"""Transfers are steered while they run: paused, resumed, cancelled, revoked, stopped by a full disk,
carried on by a service that died, and not sent twice. Bytes are counted at the links.

With names, only those cases."""
import json
import os
import re
import shutil
import sys
import time

from handout import Device, digest, everyone_trusts_everyone, same, script, scratch, summary, write_file
from lab import Lab, sh

MIB = 1 << 20
RATE = 160  # Mbit/s of each link: 20 MB/s, so a file takes seconds
SIZE = 60 * MIB


class Pair:
    """A sender on host 0, a receiver on host 1, and a file."""

    def __init__(self, lab, folder, size=SIZE, trusted=True, **config):
        self.lab, self.folder = lab, folder
        self.file = write_file(os.path.join(folder, "lesson.bin"), size, folder)
        self.sender, self.receiver = self.devices = [Device(lab, host, folder, **config) for host in range(2)]
        if trusted:
            everyone_trusts_everyone(self.devices)
        self.size, self.sent_before, self.came_before = size, lab.sent(0), lab.received(1)

    def sent(self):
        """How much of the file's size the sender has put on its link."""
        return (self.lab.sent(0) - self.sent_before) / self.size

    def send(self, wait="60s"):
        return self.sender.send(self.file, to=[self.receiver], wait=wait)

    def until_under_way(self, process, share=0.25):
        end = time.monotonic() + 60
        while self.lab.received(1) - self.came_before < share * self.size:
            assert not process.ended or process.fail(f"ended before {share:.0%} had arrived")
            time.monotonic() < end or process.fail(f"did not bring {share:.0%} of the file within 60 s")
            time.sleep(0.01)

    def complete(self, sending, most):
        """Holds a broadcast to its good end and to what it may have cost."""
        result = summary(sending, timeout=60)[self.receiver.id]
        assert result["state"] == "complete", result
        same(self.file, self.receiver)
        assert self.sent() <= most, f"{self.sent():.2f} times the file was sent, not at most {most}"
        return result


def transfers(device):
    """The transfers of a device, as its own `transfers` tells: oldest first."""
    process = device.start("transfers", "--json")
    process.end(20)
    return [event for event in process.events if event["event"] == "transfer"]


def steer(verb, device):
    """`pause`, `resume` or `cancel` of the device's newest unfinished transfer."""
    over = ("complete", "cancelled", "failed")
    newest = [t["transfer"] for t in transfers(device) if t["state"]["is"] not in over][-1]
    device.start(verb, newest, "--json").end(20)


def until_state(device, word, timeout=10):
    """The newest transfer of a device, once it is in that state."""
    end = time.monotonic() + timeout
    while True:
        found = transfers(device)
        if found and found[-1]["state"]["is"] == word:
            return found[-1]
        if time.monotonic() > end:
            seen = json.dumps([t["state"] for t in found])
            raise AssertionError(f"{device.name} has no transfer that is {word} after {timeout} s, but {seen}")


def until_event(process, what, condition, timeout=30):
    """The first event for which the condition holds."""
    def find():
        return next((event for event in process.events if condition(event)), None)
    with process.news:
        process.news.wait_for(lambda: find() or process.ended, timeout)
    return find() or process.fail(f"did not tell of {what} within {timeout} s")


def is_paused_for(code):
    return lambda e: e["event"] == "transfer" and e["state"]["is"] == "paused" and e["state"]["code"] == code


def assert_quiet(lab, within=0.0, seconds=1.5, most=200_000):
    """Nothing to speak of reaches the receiver: from now, or from some moment within that time."""
    end = time.monotonic() + within
    while True:
        before = lab.received(1)
        time.sleep(seconds if time.monotonic() >= end else 0.25)
        came = lab.received(1) - before
        if time.monotonic() >= end + seconds:
            assert came <= most, f"{came} bytes still came in {seconds} s"
            return
        if came <= most * 0.25 / seconds:
            end = time.monotonic()


def until_nothing_is_left(device, timeout=5):
    """The staging folder of a destination is empty or gone."""
    staging, end = os.path.join(device.destination, ".handout"), time.monotonic() + timeout
    left = True
    while left and time.monotonic() < end:
        time.sleep(0.05)
        left = [os.path.join(at, f) for at, subs, files in os.walk(staging) for f in subs + files]
    assert not left, f"{device.name} still has {sorted(left)[:6]} after {timeout} s"
    assert not os.path.exists(os.path.join(device.destination, "lesson.bin")), "the file was put in place"


def a_sender_pauses_and_resumes(lab, folder):
    pair = Pair(lab, folder)
    pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    steer("pause", pair.sender)
    assert until_state(pair.sender, "paused")["state"]["by"] == "ours"
    assert until_state(pair.receiver, "paused")["state"]["by"] == "theirs"
    assert_quiet(lab)
    steer("resume", pair.sender)
    pair.complete(sending, 1.15)


def a_receiver_pauses_and_resumes(lab, folder):
    pair = Pair(lab, folder)
    pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    steer("pause", pair.receiver)
    assert until_state(pair.receiver, "paused")["state"]["by"] == "ours"
    assert until_state(pair.sender, "paused")["state"]["by"] == "theirs"
    assert_quiet(lab)
    steer("resume", pair.receiver)
    pair.complete(sending, 1.15)


def a_pause_of_the_receiver_outlives_its_death(lab, folder):
    pair = Pair(lab, folder)
    receiving = pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    steer("pause", pair.receiver)
    until_state(pair.sender, "paused")
    receiving.kill()
    receiving = pair.receiver.receive()
    # The sender may notice the loss only now; a new link must not lift the pause.
    assert_quiet(lab, seconds=6)
    state = until_state(pair.receiver, "paused")["state"]
    assert state["by"] == "ours" and state["code"] == "paused", state
    steer("resume", pair.receiver)
    pair.complete(sending, 1.2)


def a_receiver_cancels(lab, folder):
    pair = Pair(lab, folder)
    pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    steer("cancel", pair.receiver)
    result = summary(sending, 3, timeout=20)[pair.receiver.id]
    assert (result["state"], result["code"]) == ("cancelled", "cancelled"), result
    assert until_state(pair.receiver, "cancelled")["state"]["by"] == "ours"
    until_nothing_is_left(pair.receiver)


def a_sender_cancels(lab, folder):
    pair = Pair(lab, folder)
    pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    steer("cancel", pair.sender)
    result = summary(sending, 3, timeout=20)[pair.receiver.id]
    assert result["state"] == "cancelled", result
    assert until_state(pair.receiver, "cancelled")["state"]["by"] == "theirs"
    until_nothing_is_left(pair.receiver)


def a_paused_transfer_is_cancelled_by_whom_it_was_paused(lab, folder):
    pair = Pair(lab, folder)
    pair.receiver.receive()
    for one, other, part in ((pair.receiver, pair.sender, 0.2), (pair.sender, pair.receiver, 0.4)):
        sending = pair.send()
        pair.until_under_way(sending, part)
        steer("pause", one)
        until_state(other, "paused")
        steer("cancel", one)
        summary(sending, 3, timeout=20)
        assert until_state(pair.receiver, "cancelled")["state"]["by"] == ("ours" if one is pair.receiver else "theirs")
        until_nothing_is_left(pair.receiver)


class SmallDisk:
    """A tmpfs as a device's destination, while the `with` lasts."""

    def __init__(self, device, mib):
        self.device, self.path = device, device.destination
        sh("mount", "-t", "tmpfs", "-o", f"size={mib}m", "handout-test", self.path)

    def grow(self, mib):
        sh("mount", "-o", f"remount,size={mib}m", self.path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.device.lab.processes:
            process.kill()
        sh("umount", "-l", self.path)


FULL = {"transfer": {"disk_retry": "1s"}, "receive": {"reserve": "1MiB"}}


def a_disk_that_is_too_small_grows(lab, folder):
    pair = Pair(lab, folder, **FULL)
    with SmallDisk(pair.receiver, 30) as disk:
        pair.receiver.receive()
        sending = pair.send()
        until_event(sending, "a pause for a full disk", is_paused_for("disk_full"))
        assert until_state(pair.receiver, "paused")["state"]["code"] == "disk_full"
        disk.grow(100)
        pair.complete(sending, 1.15)


def a_disk_fills_up_meanwhile(lab, folder):
    pair = Pair(lab, folder, **FULL)
    with SmallDisk(pair.receiver, 70) as disk:
        pair.receiver.receive()
        sending = pair.send()
        pair.until_under_way(sending)
        # Somebody else's file takes all that is free.
        other = os.path.join(disk.path, "other.bin")
        try:
            write_file(other, 70 * MIB, "other")
        except OSError:
            pass
        until_event(sending, "a pause for a full disk", is_paused_for("disk_full"))
        time.sleep(1.2)  # one look of the receiver at a disk that is still full
        assert sending.find("summary") is None, sending.find("summary")
        os.remove(other)
        pair.complete(sending, 1.5)


def the_lower_id_connects_whoever_sends(lab, folder):
    pair = Pair(lab, folder, size=8 * MIB, signaling={"initiator": "lower-id"})
    for sender, receiver in (sorted(pair.devices, key=lambda d: d.id), sorted(pair.devices, key=lambda d: d.id, reverse=True)):
        receiving = receiver.receive()
        result = summary(sender.send(pair.file, to=[receiver], wait="30s"), timeout=60)
        assert result[receiver.id]["state"] == "complete", result
        same(pair.file, receiver)
        receiving.kill()


def authorized_by_command(lab, folder):
    """Here the devices are authorized by command."""
    pair = Pair(lab, folder, trusted=False)
    pair.sender.ask("authorize", pair.receiver.id)
    pair.receiver.ask("authorize", pair.sender.id)
    return pair


def a_sender_revokes(lab, folder):
    pair = authorized_by_command(lab, folder)
    pair.receiver.receive()
    sending = pair.send()
    pair.until_under_way(sending)
    pair.sender.start("revoke", pair.receiver.id).end(20)
    assert_quiet(lab, within=5)
    result = summary(sending, 4, timeout=20)[pair.receiver.id]
    assert (result["state"], result["code"]) == ("cancelled", "unauthorized"), result


def a_receiver_revokes(lab, folder):
    pair = authorized_by_command(lab, folder)
    pair.receiver.receive()
    sending = pair.send(wait="4s")
    pair.until_under_way(sending)
    pair.receiver.start("revoke", pair.sender.id).end(20)
    assert_quiet(lab, within=5)
    state = until_state(pair.receiver, "cancelled")["state"]
    assert (state["by"], state["code"]) == ("ours", "unauthorized"), state
    until_nothing_is_left(pair.receiver)
    result = summary(sending, 4, timeout=40)[pair.receiver.id]
    assert result["state"] in ("cancelled", "failed") and result["code"] == "unauthorized", result


def a_service_that_dies_carries_on(lab, folder):
    pair = Pair(lab, folder)
    receiving = pair.receiver.receive()
    service = pair.sender.start("run", "--json")
    service.until("listening", 30)
    sending = pair.send()
    pair.until_under_way(sending)
    assert sending.ended is None
    service.kill()
    sending.end(20, 1)  # it says that it does not know how it went
    service = pair.sender.start("run", "--json")
    service.until("listening", 30)
    receiving.until("received", 60)
    same(pair.file, pair.receiver)
    assert until_state(pair.sender, "complete")["bytes"] == pair.size
    assert pair.sent() <= 1.25, f"{pair.sent():.2f} times the file was sent"


def nothing_is_sent_twice(lab, folder):
    pair = Pair(lab, folder, size=30 * MIB)
    pair.receiver.receive()
    assert pair.complete(pair.send(), 1.15)["already"] is False
    before = lab.sent(0)
    again = summary(pair.send(), timeout=60)[pair.receiver.id]
    count = (lab.sent(0) - before) / pair.size
    assert (again["state"], again["already"]) == ("complete", True), again
    assert count < 0.05, f"{count:.2f} of the file was sent again"
    first = digest(pair.file)
    with open(pair.file, "r+b") as file:
        file.seek(pair.size // 2)
        file.write(b"changed")
    changed = summary(pair.send(), timeout=60)[pair.receiver.id]
    assert (changed["state"], changed["already"]) == ("complete", False), changed
    there = sorted(n for n in os.listdir(pair.receiver.destination) if not n.startswith("."))
    assert there == ["lesson (2).bin", "lesson.bin"], there
    arrived = [digest(os.path.join(pair.receiver.destination, name)) for name in there]
    assert arrived == [digest(pair.file), first], "the two files are not the two that were sent"


def main():
    cases = [f for name, f in globals().items() if re.match("(a|the|nothing)_", name) and callable(f)]
    if sys.argv[1:]:
        cases = [case for case in cases if case.__name__ in sys.argv[1:]]
    failed = []
    for case in cases:
        begin = time.monotonic()
        with scratch() as folder, Lab(2, rate=RATE, logs=folder) as lab:
            try:
                case(lab, folder)
                print(f"ok      {case.__name__}, {time.monotonic() - begin:.0f} s", flush=True)
            except AssertionError as error:
                failed.append(case.__name__)
                print("FAILED ", case.__name__, error, flush=True)
                if keep := os.environ.get("HANDOUT_KEEP_LOGS"):
                    shutil.copytree(folder, os.path.join(keep, case.__name__), dirs_exist_ok=True,
                                    ignore=shutil.ignore_patterns("*.bin", "*.sock", ".handout"))
    assert not failed, f"{len(failed)} of {len(cases)}: {', '.join(failed)}"


if __name__ == "__main__":
    script(main)
