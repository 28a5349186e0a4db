#!/usr/bin/env python3
"""`handout doctor` on hosts of a lab: in order; alone; with multicast kept out and in by nft; with
clients that are isolated from each other; with the port taken; with a rendezvous that is there, and
with what is none; with a DHT that does not answer; with a tunnel, and with no network.
Each trouble is named, with what to do, and where there is none there is no alarm."""
import os
import sys

from handout import PORT, Device, everyone_trusts_everyone, script, scratch
from lab import Lab, sh


def doctor(device, *words):
    """What was found, by what it is about; and the exit code."""
    process = device.start("doctor", "--json", "--wait", "3s", *words)
    code = process.end(60, expect=None)
    found = {}
    for event in process.events:
        if event["event"] == "finding":
            found.setdefault(event["about"], []).append(event)
    assert process.events and process.events[-1]["event"] == "end", process.text
    assert process.events[-1]["code"] == code
    return found, code


def level(found, about):
    levels = ["fine", "note", "warning", "problem"]
    return max((event["level"] for event in found.get(about, [])), key=levels.index, default=None)


def says(found, about, what):
    texts = [f'{e["what"]} -> {e.get("do", "")}' for e in found.get(about, [])]
    assert any(what in text for text in texts), f"{about} does not say {what!r}: {texts}"


def nft(lab, host, rules):
    sh("ip", "netns", "exec", lab.namespace(host), "nft", "flush", "ruleset")
    for rule in rules:
        sh("ip", "netns", "exec", lab.namespace(host), "nft", *rule.split())


def the_rendezvous_and_the_dht(lab, folder, here):
    host = lab.address(1)
    at = Device(lab, 1, folder, "rendezvous", **{"rendezvous.serve": {"bind": f"{host}:8080"}})

    def token(name, life):
        path = os.path.join(folder, name)
        with open(path, "w") as file:
            file.write(at.ask("rendezvous", "token", "--subject", "us", "--client-type", "device", "--for", life))
        return path

    def look(url, token_file):
        here.config["rendezvous"] = {"url": url, "token_file": token_file}
        here.write_config()
        return doctor(here)

    good, short, url = token("good", "1h"), token("short", "1s"), f"http://{host}:8080"
    found, code = look(url, good)
    assert code == 1 and level(found, "rendezvous") == "problem", found
    says(found, "rendezvous", "efused")
    says(found, "rendezvous", "-> see that it runs")
    running = here.start("run", "--json")
    running.until("rendezvous", 30)
    health = here.ask("health")
    assert "rendezvous: not at the rendezvous" in health and "efused" in health, health
    running.kill()

    serving = at.start("rendezvous", "--json")
    serving.until("listening", 30)
    found, code = look(url, good)
    assert code == 0 and level(found, "rendezvous") == "fine", found
    says(found, "rendezvous", f"{url} answers")
    # By now the short one has expired: each look takes seconds.
    for where, token_file, what, do in ((url, short, "expired", "handout rendezvous token"),
                                        (url, os.path.join(folder, "none"), "holds no token", "handout rendezvous token"),
                                        (url.replace("http", "https"), good, "TLS", "https:// where it speaks TLS"),
                                        (f"{url}/elsewhere", good, "HTTP 404", "path")):
        found, code = look(where, token_file)
        assert code == 1 and level(found, "rendezvous") == "problem", found
        says(found, "rendezvous", what)
        says(found, "rendezvous", do)
    serving.kill()
    web = lab.run(1, [sys.executable, "-c", "from http.server import *; s = HTTPServer(('%s', 8080), SimpleHTTPRequestHandler); "
                      "print('{\"event\": \"listening\"}', flush=True); s.serve_forever()" % host], "web")
    web.until("listening")
    found, code = look(url, good)
    assert code == 1, found
    says(found, "rendezvous", "no rendezvous")
    assert "<" not in found["rendezvous"][0]["what"], found["rendezvous"]
    web.kill()
    print("a rendezvous that answers: fine; one that is down or refuses, and what is none: a problem")

    here.config["rendezvous"] = {}
    here.config["dht"] = {"enabled": True, "bootstrap": [f"{host}:6881"]}
    here.write_config()
    found, code = doctor(here)
    assert code == 0 and level(found, "dht") == "warning" and "rendezvous" not in found, found
    says(found, "dht", "no node of it answers")
    here.config["dht"] = {}
    here.write_config()
    print("a DHT that does not answer: a warning")


def main():
    with scratch() as folder, Lab(3, logs=folder) as lab:
        here, there, _ = devices = [Device(lab, host, folder) for host in range(3)]
        everyone_trusts_everyone(devices)

        found, code = doctor(here)
        assert level(found, "multicast") == "warning", found["multicast"]
        says(found, "multicast", "nobody else is heard")
        assert code == 0, "alone is no problem"
        print("alone: a warning")

        receiving = there.receive()
        found, code = doctor(here)
        assert code == 0, found
        for about in ("multicast", "interfaces", "firewall", "reach", "port", "clock"):
            assert level(found, about) == "fine", (about, found.get(about))
        says(found, "reach", "1 devices can be reached")
        print("two devices in order: no alarm")

        table = ["add table inet filter", "add chain inet filter input { type filter hook input priority 0 ; policy accept ; }"]
        nft(lab, 0, table + ["add rule inet filter input udp dport 5353 drop"])
        found, code = doctor(here)
        assert code == 1 and level(found, "multicast") == "problem", found
        says(found, "multicast", "keeps mDNS out")
        says(found, "firewall", "nft insert rule inet filter input udp dport 5353 accept")
        # What it says helps.
        sh("ip", "netns", "exec", lab.namespace(0), "nft", "insert rule inet filter input udp dport 5353 accept")
        found, code = doctor(here)
        assert code == 0 and level(found, "multicast") == "fine", found
        print("mDNS dropped by nft: a problem, and the rule that it names mends it")

        nft(lab, 0, ["add table inet filter", "add chain inet filter output { type filter hook output priority 0 ; }",
                     "add rule inet filter output udp dport 5353 drop"])
        found, code = doctor(here)
        assert code == 1 and level(found, "multicast") == "problem", found
        says(found, "multicast", "does not let mDNS out")
        nft(lab, 0, table[:1] + ["add chain inet filter input { type filter hook input priority 0 ; policy drop ; }",
                                 "add rule inet filter input ct state established accept"])
        found, code = doctor(here)
        assert code == 1, found
        says(found, "firewall", f"TCP port {PORT}")
        says(found, "firewall", "UDP to any port above 1023")
        nft(lab, 0, [])
        print("mDNS not let out, and a policy of drop: problems")

        # The other one is heard of, and what is for it alone is dropped: isolated clients.
        nft(lab, 1, table + [f"add rule inet filter input tcp dport {PORT} drop"])
        found, code = doctor(here)
        assert code == 1 and level(found, "reach") == "problem", found
        says(found, "reach", "isolates clients")
        nft(lab, 1, [])
        receiving.kill()
        print("a device that is heard of and not reached: a problem")

        taker = lab.run(0, [sys.executable, "-c", "import socket,time; s=socket.socket(); "
                            f"s.bind(('0.0.0.0',{PORT})); s.listen(); print('{{\"event\":\"taken\"}}',flush=True); time.sleep(600)"], "taker")
        taker.until("taken")
        found, code = doctor(here)
        assert code == 1 and level(found, "port") == "problem", found
        says(found, "port", f"by process {taker.pid} (python")
        taker.kill()
        print("the port taken: a problem, with who has it")

        service = here.start("run", "--json")
        service.until("listening")
        found, code = doctor(here)
        assert level(found, "port") == "fine" and level(found, "service") == "fine", found
        os.kill(service.pid, 19)  # SIGSTOP: it holds the folder, and does not answer
        found, code = doctor(here)
        assert code == 1, found
        says(found, "service", f"process {service.pid} has the state folder")
        os.kill(service.pid, 18)
        service.kill()
        print("a service that answers: fine; one that hangs: a problem")

        state = os.path.join(here.folder, "state")
        os.utime(os.path.join(state, "authorizations.log"), (4e9, 4e9))
        found, code = doctor(here)
        assert code == 1 and level(found, "clock") == "problem", found
        os.utime(os.path.join(state, "authorizations.log"))
        print("a clock that went back: a problem")

        the_rendezvous_and_the_dht(lab, folder, here)

        # A tunnel, as far as anybody can tell from here.
        sh("ip", "-n", lab.namespace(2), "link", "add", "wg0", "type", "veth", "peer", "name", "far")
        sh("ip", "-n", lab.namespace(2), "addr", "add", "10.99.0.1/24", "dev", "wg0")
        for name in ("wg0", "far"):
            sh("ip", "-n", lab.namespace(2), "link", "set", name, "up")
        third = devices[2]
        third.config["discovery"]["interfaces"] = []
        third.write_config()
        found, _ = doctor(third)
        assert level(found, "interfaces") == "warning", found["interfaces"]
        says(found, "interfaces", 'discovery.interfaces = ["eth0"')
        print("a tunnel: a warning, and the setting that leaves it out")
        for name in ("wg0", "eth0"):
            sh("ip", "-n", lab.namespace(2), "link", "set", name, "down")
        sh("ip", "-n", lab.namespace(2), "link", "set", "far", "down")
        found, code = doctor(third)
        assert code == 1 and level(found, "interfaces") == "problem", found
        print("no network: a problem")

        process = third.start("doctor", "--for-it", "--wait", "1s")
        process.end(30, expect=None)
        text = "".join(process.text)
        assert "5353" in text and str(PORT) in text and "isolation" in text, text
        print("the text for the IT department names ports, multicast and isolation")


if __name__ == "__main__":
    script(main)
