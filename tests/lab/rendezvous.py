#!/usr/bin/env python3
"""Data over a rendezvous: the server, somebody who provides and somebody who asks are processes on
hosts of their own. What comes is opened with NumPy, and is verified between devices. Strangers that
speak the wire of the ICE guide meet the program in both directions, and nothing is verified there."""
import json
import os
import sys
import time

import numpy

from handout import PROGRAM, ROOT, digest, script, scratch, write_file
from lab import Lab, sh

SEED = [sys.executable, "-B", os.path.join(ROOT, "tests/plain/seed.py")]
SERVER, PROVIDER, REQUESTER, STRANGER = range(4)
SPECTRUM = {"frequency_start": 100_000_000, "frequency_end": 200_000_000, "sample_rate": 1_000_000}
SIGNAL = {"duration": 0.75, "frequency": 100_250_000, "sample_rate": 1_000_000}
FALLBACK = "4s"  # how long WebRTC is tried where it cannot work


class Scene:
    """A server, and tokens of users there."""

    def __init__(self, lab, folder):
        self.lab, self.folder, self.made = lab, folder, 0
        self.url = f"http://{lab.address(SERVER)}:8080"
        self.serve()
        self.tokens = {1: self.token(1), 2: self.token(2)}

    def state(self, name):
        return ["--state", os.path.join(self.folder, name)]

    def serve(self):
        bind = ["--set", f"rendezvous.serve.bind={self.lab.address(SERVER)}:8080"]
        self.server = self.lab.run(SERVER, [PROGRAM, *self.state("server"), *bind, "rendezvous", "--json"], "rendezvous")
        self.server.until("listening", 30)

    def token(self, kind):
        path = os.path.join(self.folder, f"token{kind}-{self.made}")
        self.made += 1
        command = [PROGRAM, *self.state("server"), "rendezvous", "token", "--subject", f"user{kind}", "--client-type", str(kind)]
        process = self.lab.run(SERVER, command, "token")
        process.end(30)
        with open(path, "w") as file:
            file.write("".join(process.text))
        return path

    def where(self, kind, plain):
        return ["--url", self.url, "--token-file", self.tokens[kind], *(["--plain"] if plain else [])]

    def provide(self, config="", plain=False, name="provider", host=PROVIDER):
        file = os.path.join(self.folder, f"{name}.toml")
        with open(file, "w") as out:
            out.write(config)
        command = [PROGRAM, *self.state(name), "--config", file, "--set", f"rendezvous.fallback_after={FALLBACK}",
                   "provide", "--json", *self.where(1, plain)]
        process = self.lab.run(host, command, name)
        process.until("providing", 30)
        return process

    def request(self, kind, parameters, *options, into="received", state="requester", plain=False, verified=True,
                expect=0, wait="20s"):
        into = os.path.join(self.folder, into)
        command = [PROGRAM, *self.state(state), "--set", f"rendezvous.fallback_after={FALLBACK}", "request", kind,
                   "--json", *self.where(2, plain), "--to", into, "--wait", wait, *options]
        for name, value in parameters.items():
            command += ["--param", f"{name}={json.dumps(value) if not isinstance(value, str) else value}"]
        process = self.lab.run(REQUESTER, command, f"request-{kind}")
        if expect is not None:
            process.end(90, expect)
        if expect == 0:
            received(process, verified)
        return process

    def seed(self, host, kind, *verb, options=()):
        common = ["--url", self.url, "--token-file", self.tokens[kind], "--fallback-after", "4", *options]
        return self.lab.run(host, [*SEED, *common, *verb], f"seed-{verb[0]}")

    def folder_of_stranger(self):
        into = os.path.join(self.folder, "stranger")
        os.makedirs(into, exist_ok=True)
        return into


def received(process, verified):
    process.received = process.find("received") or process.fail("received nothing")
    assert process.received["verified"] is verified, f"verified is {process.received['verified']}"
    return process.received


def block_udp(lab, host):
    for rule in (["add", "table", "inet", "noudp"],
                 ["add", "chain", "inet", "noudp", "out", "{ type filter hook output priority 0 ; }"],
                 ["add", "chain", "inet", "noudp", "in", "{ type filter hook input priority 0 ; }"],
                 ["add", "rule", "inet", "noudp", "out", "meta l4proto udp drop"],
                 ["add", "rule", "inet", "noudp", "in", "meta l4proto udp drop"]):
        sh(*lab.enter(host), "nft", *rule)


def check_spectrum(path, start=100e6, end=200e6, rate=1e6):
    with numpy.load(path, allow_pickle=False) as file:
        axis, power = file["frequencies"], file["power_db"]
        assert axis.dtype == numpy.float64 and power.dtype == numpy.float32, (axis.dtype, power.dtype)
        bins = int((end - start) * int(file["fft_size"]) / rate) + 1
        assert axis.shape == power.shape == (bins,), (axis.shape, power.shape, bins)
        assert axis[0] == start and axis[-1] == end and file["sample_rate"] == rate
        steps = numpy.diff(axis)
        assert numpy.allclose(steps, rate / int(file["fft_size"])), (steps.min(), steps.max())
        assert numpy.isfinite(power).all()
        peak = axis[power.argmax()]
        assert abs(peak - (start + end) / 2) <= steps[0], f"the peak is at {peak} Hz"
        assert power.max() > -2 and numpy.median(power) < -60, (power.max(), numpy.median(power))
        for hertz, level in zip(file["carrier_frequencies"], file["carrier_power_db"]):
            near = abs(axis - hertz) <= steps[0]
            assert abs(power[near].max() - level) < 1.6, (hertz, level, power[near].max())


def check_signal(path, duration=0.75, frequency=100_250_000, rate=1e6):
    with numpy.load(path, allow_pickle=False) as file:
        samples = file["samples"]
        assert samples.dtype == numpy.complex64 and samples.shape == (round(duration * rate),), samples.shape
        assert file["sample_rate"] == rate and file["frequency"] == frequency
        powers = abs(numpy.fft.fft(samples)) ** 2
        peak = numpy.fft.fftfreq(len(samples), 1 / rate)[powers.argmax()] + file["center_frequency"]
        assert abs(peak - frequency) <= rate / len(samples), f"the peak is at {peak} Hz"
        assert powers.max() > 0.99 * powers.sum(), "the carrier is not what stands out"


def spectrum_and_signal_come_by_three_processes(scene):
    provider = scene.provide()
    spectrum = scene.request("spectrum", SPECTRUM).received
    assert not spectrum["relayed"]
    check_spectrum(spectrum["path"])
    signal = scene.request("signal", SIGNAL).received
    check_signal(signal["path"])
    # The same again is the same bytes; with another seed it is not.
    again = scene.request("signal", SIGNAL, into="again").received
    other = scene.request("signal", SIGNAL | {"seed": 7}).received
    assert len({signal["path"], again["path"], other["path"]}) == 3
    assert digest(again["path"]) == digest(signal["path"]) != digest(other["path"])
    check_signal(other["path"])
    # Narrow and odd ones, and one that takes several blocks.
    narrow = scene.request("spectrum", {"frequency_start": 1000.5, "frequency_end": 2000.5, "sample_rate": 250000, "fft_size": 65536})
    with numpy.load(narrow.received["path"], allow_pickle=False) as file:
        axis, power = file["frequencies"], file["power_db"]
        assert axis[0] == 1000.5 and abs(axis[-1] - 2000.5) < 4 and abs(axis[power.argmax()] - 1500.5) < 4
    assert provider.find("sent")["verified"] is True
    provider.kill()


def wrong_parameters_are_refused_and_both_sides_are_told(scene):
    provider = scene.provide()
    for wrong, says in [({"duration": -1}, "duration"), ({"frequency": "high"}, "frequency"),
                        ({"colour": 3}, "colour"), ({"duration": 2000}, "ask for less")]:
        refused = scene.request("signal", SIGNAL | wrong, expect=2)
        why = refused.find("error")["message"]
        assert says in why, why
    codes = lambda: [e["code"] for e in provider.events if e["event"] == "refused"]
    # The provider tells of it when the other side may know already.
    with provider.news:
        provider.news.wait_for(lambda: len(codes()) == 4, 20)
    assert codes() == ["parameters"] * 4, codes()
    assert not os.path.exists(os.path.join(scene.folder, "received")) or not os.listdir(os.path.join(scene.folder, "received"))
    provider.kill()


def a_provider_that_is_absent_is_said(scene):
    process = scene.request("spectrum", SPECTRUM, expect=5, wait="2s")
    assert "nobody" in process.find("error")["message"]


def who_cannot_prove_itself_gets_nothing_and_gives_nothing_unless_that_is_allowed(scene):
    file = write_file(os.path.join(scene.folder, "plain.npz"), 200_000, "plain")
    stranger = scene.seed(STRANGER, 1, "type1", "theirs", file)
    stranger.until("listening")
    process = scene.request("theirs", {}, expect=4)
    assert "trust.plain_peers" in process.find("error")["message"]
    stranger.kill()
    config = "[[provider]]\nname = \"signal\"\ngenerator = \"signal\"\n" \
             "[[provider]]\nname = \"spectrum\"\ngenerator = \"spectrum\"\nplain = true\n"
    provider = scene.provide(config)
    into = scene.folder_of_stranger()
    refused = scene.seed(STRANGER, 2, "type2", "signal", json.dumps(SIGNAL), "--into", into)
    refused.until("session")
    stranger = scene.seed(STRANGER, 2, "type2", "spectrum", json.dumps(SPECTRUM), "--into", into)
    stranger.end(90)
    check_spectrum(os.path.join(into, stranger.find("received")["name"]))
    assert refused.find("open") is None
    refused.kill()
    with open(provider.errors) as errors:
        assert "provider.plain" in errors.read(), "the log does not say which switch to set"
    # Devices get both.
    scene.request("signal", SIGNAL)
    scene.request("spectrum", SPECTRUM)
    provider.kill()


def a_service_that_has_the_key_leaves_plain_ones_to_others(scene):
    provider = scene.provide(plain=True)
    service = scene.lab.run(REQUESTER, [PROGRAM, *scene.state("requester"), "--set", "discovery.enabled=false", "receive", "--json"], "service")
    service.until("listening", 30)
    refused = scene.request("signal", SIGNAL, expect=2)
    assert "a service runs" in refused.find("error")["message"]
    got = scene.request("signal", SIGNAL, plain=True, verified=False).received
    check_signal(got["path"])
    service.kill(2)
    provider.kill()


def a_command_answers_and_no_shell_reads_what_is_asked(scene):
    script = os.path.join(scene.folder, "make")
    with open(script, "w") as out:
        out.write("#!/bin/sh\n[ \"$1\" = slow ] && sleep 600\n[ \"$1\" = large ] && exec yes >\"$2\"\n"
                  "[ \"$1\" = bad ] && { echo why >&2; exit 3; }\nprintf '%s|%s' \"$#\" \"$1\" >\"$2\"\n")
    os.chmod(script, 0o755)
    provider = scene.provide(f"""[[provider]]
name = "words"
command = ["{script}", "{{text}}", "{{output}}"]
file_name = "words.txt"
max_size = "1MB"
timeout = "2s"
[provider.parameters]
text = {{ type = "text", max_length = 100 }}
""")
    hostile = "a b; $(touch /tmp/no) `id` '\" {output} -rf"
    got = scene.request("words", {"text": hostile}).received
    with open(got["path"]) as file:
        assert file.read() == f"2|{hostile}"
    assert os.path.basename(got["path"]) == "words.txt"
    for word in ("slow", "large", "bad"):
        failed = scene.request("words", {"text": word}, expect=1)
        assert "could not make it" in failed.find("error")["message"], failed.find("error")
    with open(provider.errors) as errors:
        log = errors.read()
    assert "provider.timeout" in log and "more than 1000000 bytes" in log and "why" in log, log
    left = os.listdir(os.path.join(scene.folder, "received"))
    assert left == ["words.txt"], left
    provider.kill()


def a_provider_that_is_stopped_takes_its_commands_along(scene):
    provider = scene.provide("""[[provider]]
name = "slow"
command = ["/bin/sh", "-c", "trap '' TERM; sleep 617 & sleep 617", "{output}"]
""")
    process = scene.request("slow", {}, expect=None)
    running = lambda: sh("pgrep", "-x", "-f", "sleep 617", check=False).split()
    end = time.monotonic() + 20
    while len(running()) < 2:
        assert time.monotonic() < end, "the command was not started"
        time.sleep(0.1)
    os.kill(provider.pid, 15)
    provider.end(30, 0)
    assert not running(), "the command is still there"
    process.kill(2)
    assert process.process.returncode == 130, process.process.returncode


def a_stranger_receives_from_us(scene):
    provider = scene.provide(plain=True)
    into = scene.folder_of_stranger()
    for kind, parameters, check in (("spectrum", SPECTRUM, check_spectrum), ("signal", SIGNAL, check_signal)):
        stranger = scene.seed(STRANGER, 2, "type2", kind, json.dumps(parameters), "--into", into)
        stranger.end(90)
        assert stranger.find("open")["label"] == "file-transfer"
        got = stranger.find("received")
        assert got["largest"] == 16384 and got["messages"] == -(-got["bytes"] // 16384), got
        check(os.path.join(into, got["name"]))
    sent = provider.until("sent", 30)
    assert sent["verified"] is False and sent["relayed"] is False, sent
    provider.kill()


def we_receive_from_a_stranger(scene):
    file = write_file(os.path.join(scene.folder, "from a stranger.npz"), 3_000_001, "seed")
    stranger = scene.seed(STRANGER, 1, "type1", "anything", file)
    stranger.until("listening")
    got = scene.request("anything", {"frequency": 5, "name": "x"}, plain=True, verified=False).received
    assert digest(got["path"]) == digest(file) and not got["relayed"]
    stranger.end(60)
    assert stranger.find("session")["parameters"] == {"frequency": 5, "name": "x"}
    # A name that leads elsewhere stays in the folder, and what is there stays as it is.
    evil = write_file(os.path.join(scene.folder, ".. evil"), 1, "evil")
    stranger = scene.seed(STRANGER, 1, "type1", "evil", evil)
    stranger.until("listening")
    got = scene.request("evil", {}, plain=True, verified=False).received
    assert os.path.dirname(got["path"]) == os.path.join(scene.folder, "received") and not os.path.basename(got["path"]).startswith(".")
    stranger.end(60)


def a_stranger_that_dies_leaves_nothing(scene):
    file = write_file(os.path.join(scene.folder, "cut.npz"), 60_000_000, "cut")
    stranger = scene.seed(STRANGER, 1, "type1", "cut", file)
    stranger.until("listening")
    process = scene.request("cut", {}, "--set", "rendezvous.relay=false", plain=True, expect=None)
    process.until("begun", 60)
    stranger.kill()
    process.end(90, 1)
    assert "nothing of it was kept" in process.find("error")["message"], process.find("error")
    left = [os.path.join(f, n) for f, _, names in os.walk(os.path.join(scene.folder, "received")) for n in names]
    assert left == [], f"left behind: {left}"


def without_udp_it_goes_over_the_rendezvous_and_that_is_said(scene):
    provider = scene.provide(plain=True)
    block_udp(scene.lab, REQUESTER)
    block_udp(scene.lab, STRANGER)
    # Between devices: sealed, and verified.
    process = scene.request("signal", SIGNAL)
    assert process.received["relayed"], "it did not go over the rendezvous"
    check_signal(process.received["path"])
    assert provider.until("sent", 30)["relayed"]
    # A stranger takes it from us.
    into = scene.folder_of_stranger()
    stranger = scene.seed(STRANGER, 2, "type2", "spectrum", json.dumps(SPECTRUM), "--into", into)
    stranger.end(90)
    assert stranger.find("fallback") and not stranger.find("open")
    check_spectrum(os.path.join(into, stranger.find("received")["name"]))
    plain_sent = lambda: [e for e in provider.events if e["event"] == "sent" and not e["verified"]]
    provider.until("fallback", 30)
    end = time.monotonic() + 30
    while not plain_sent():
        assert time.monotonic() < end, "the provider does not say that it was sent"
        time.sleep(0.1)
    assert plain_sent()[0]["relayed"]
    # We take it from a stranger.
    file = write_file(os.path.join(scene.folder, "theirs.npz"), 1_000_001, "theirs")
    stranger = scene.seed(STRANGER, 1, "type1", "theirs", file)
    stranger.until("listening")
    process = scene.request("theirs", {}, plain=True, verified=False)
    assert process.received["relayed"] and process.find("fallback") and digest(process.received["path"]) == digest(file)
    stranger.end(60)
    # Without that way it fails, and says so.
    stranger = scene.seed(STRANGER, 1, "type1", "theirs", file)
    stranger.until("listening")
    failed = scene.request("theirs", {}, "--set", "rendezvous.relay=false", plain=True, expect=1)
    assert "rendezvous.relay" in failed.find("error")["message"]
    stranger.kill()
    provider.kill()


def a_way_that_breaks_in_the_middle_costs_a_plain_transfer_nothing_but_time(scene):
    size = 8_000_000
    file = write_file(os.path.join(scene.folder, "breaks.npz"), size, "breaks")
    stranger = scene.seed(STRANGER, 1, "type1", "breaks", file, options=["--break-at", "3000000"])
    stranger.until("listening")
    process = scene.request("breaks", {}, plain=True, verified=False)
    assert process.received["relayed"] and process.find("fallback"), process.events
    assert [e["relayed"] for e in process.events if e["event"] == "connected"] == [False, True]
    assert digest(process.received["path"]) == digest(file)
    assert os.listdir(os.path.dirname(process.received["path"])) == ["breaks.npz"]
    stranger.end(60)
    provider = scene.provide(plain=True)
    into = scene.folder_of_stranger()
    stranger = scene.seed(STRANGER, 2, "type2", "signal", json.dumps(SIGNAL), "--into", into, options=["--break-at", "3000000"])
    stranger.end(90)
    assert stranger.find("open") and stranger.find("fallback")
    check_signal(os.path.join(into, stranger.find("received")["name"]))
    provider.kill()


def many_at_once_get_one_answer_and_a_server_that_was_gone_is_found_again(scene):
    provider = scene.provide()
    # Some have a folder in common, and take turns.
    running = [scene.request("signal", SIGNAL, into=f"many{n}", state=f"many{n % 5}", expect=None) for n in range(8)]
    for process in running:
        process.end(90)
        check_signal(received(process, True)["path"])
    scene.server.kill()
    provider.until("unreachable", 60)
    scene.serve()
    provider.until("reachable", 90)
    check_signal(scene.request("signal", SIGNAL).received["path"])
    provider.kill(15)
    left = os.listdir(os.path.join(scene.folder, "provider/provided"))
    assert left == [], f"answers are left: {left}"


CASES = [spectrum_and_signal_come_by_three_processes, wrong_parameters_are_refused_and_both_sides_are_told,
         a_provider_that_is_absent_is_said,
         who_cannot_prove_itself_gets_nothing_and_gives_nothing_unless_that_is_allowed,
         a_service_that_has_the_key_leaves_plain_ones_to_others,
         a_command_answers_and_no_shell_reads_what_is_asked, a_provider_that_is_stopped_takes_its_commands_along,
         a_stranger_receives_from_us, we_receive_from_a_stranger,
         a_stranger_that_dies_leaves_nothing, without_udp_it_goes_over_the_rendezvous_and_that_is_said,
         a_way_that_breaks_in_the_middle_costs_a_plain_transfer_nothing_but_time,
         many_at_once_get_one_answer_and_a_server_that_was_gone_is_found_again]


def main():
    failed = []
    only = sys.argv[1:]
    for case in CASES:
        if only and not any(word in case.__name__ for word in only):
            continue
        with scratch() as folder, Lab(4, logs=folder) as lab:
            try:
                case(Scene(lab, folder))
                print("ok     ", case.__name__, flush=True)
            except AssertionError as error:
                failed.append(case.__name__)
                print("FAILED ", case.__name__, error, flush=True)
    assert not failed, f"{len(failed)} of {len(CASES)}: {', '.join(failed)}"


if __name__ == "__main__":
    script(main)
