#!/usr/bin/env python3
"""A service that another program drives over plain HTTP: everything that docs/openapi.json names is
asked, and the answers are held to it; a broadcast begun that way is told of by events, metrics, the
report and the audit log; and whoever may not ask, asks too much, too slowly, or from a page, costs it
nothing. At last its disk is full, and its state folder gone: /health says so."""
import http.client
import json
import os
import shutil
import socket
import stat
import subprocess
import threading
import time

import jsonschema

from handout import PROGRAM, ROOT, Device, same, script, scratch, write_file
from lab import Loopback

DOCUMENT = json.load(open(os.path.join(ROOT, "docs/openapi.json")))
STREAMS = 64  # api.max_streams


def resolved(schema):
    """A schema with what it refers to beside it."""
    return {**schema, "components": DOCUMENT["components"]}


class Api:
    """A client that knows the document: it holds every answer to what is documented."""

    def __init__(self, url, token):
        self.host, self.token, self.asked = url.removeprefix("http://"), token, set()

    def raw(self, method, path, body=None, **headers):
        """One request, as it is said; status, headers and body."""
        connection = http.client.HTTPConnection(self.host, timeout=60)
        headers = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, dict((n.lower(), v) for n, v in answer.getheaders()), text

    def ask(self, method, template, body=None, expect=200, query="", **names):
        path = template
        for name, value in names.items():
            path = path.replace("{%s}" % name, value)
        self.asked.add((method.lower(), template))
        kind = "application/json" if body is not None else None
        text = None if body is None else json.dumps(body)
        if body is not None:
            documented = DOCUMENT["paths"][template][method.lower()]["requestBody"]
            jsonschema.validate(body, resolved(documented["content"]["application/json"]["schema"]))
        status, headers, answer = self.raw(method, path + query, text, Content_Type=kind,
                                           Authorization=f"Bearer {self.token}")
        assert status == expect, f"{method} {path}: {status} {answer[:500]!r}, not {expect}"
        return self.checked(method, template, status, headers, answer)

    def checked(self, method, template, status, headers, text):
        """The answer, which is of a documented status, type and form."""
        answers = DOCUMENT["paths"][template][method.lower()]["responses"]
        documented = answers.get(str(status)) or answers["default"]
        if "$ref" in documented:
            documented = DOCUMENT["components"]["responses"][documented["$ref"].rsplit("/", 1)[1]]
        if "content" not in documented:
            assert not text, f"{method} {template}: {status} has a body"
            return None
        kind = headers.get("content-type", "").split(";")[0]
        assert kind in documented["content"], f"{method} {template}: {status} is {kind}"
        schema = resolved(documented["content"][kind]["schema"])
        if kind in ("application/json", "application/problem+json"):
            value = json.loads(text)
            jsonschema.validate(value, schema)
            return value
        if kind == "application/x-ndjson":
            values = [json.loads(line) for line in text.splitlines() if line]
            for value in values:
                jsonschema.validate(value, schema)
            return values
        return text.decode()


class Listener:
    """Server-Sent Events, read in the background."""

    def __init__(self, api):
        self.connection = http.client.HTTPConnection(api.host, timeout=60)
        self.connection.request("GET", "/v1/events", headers={"Authorization": f"Bearer {api.token}"})
        self.socket = self.connection.sock
        self.answer = self.connection.getresponse()
        self.events, self.news = [], threading.Condition()
        if self.answer.status == 200:
            threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        name = None
        try:
            for line in self.answer:
                line = line.decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    value = json.loads(line[6:])
                    assert value["event"] == name
                    with self.news:
                        self.events.append(value)
                        self.news.notify_all()
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            pass  # the connection was closed, here or there

    def until(self, fits, what, timeout=60):
        with self.news:
            self.news.wait_for(lambda: any(map(fits, self.events)), timeout)
            found = next(filter(fits, self.events), None)
        assert found, f"no event told of {what}: {[e['event'] for e in self.events]}"
        return found

    def close(self):
        try:
            self.socket.shutdown(socket.SHUT_RDWR)  # which also wakes the reader
        except OSError:
            pass  # it is closed
        self.connection.close()


def metric(text, name):
    line = next((line for line in text.splitlines() if line.startswith(name + " ")), None)
    assert line, f"{name} is not among the metrics"
    return float(line.split()[-1])


def eventually(holds, what, timeout=10):
    deadline = time.monotonic() + timeout
    while not holds():
        assert time.monotonic() < deadline, f"after {timeout} s it does not hold that {what}"
        time.sleep(0.2)


def device(lab, folder, name, **config):
    return Device(lab, 0, folder, name, discovery={"enabled": True, "interfaces": [], "loopback_only": True},
                  signaling={"port": 0, "bind": "127.0.0.1"}, **({"receive": {"reserve": 0}} | config))


def started(one):
    """The running service, and a client of it."""
    process = one.start("run", "--json")
    serving = process.until("serving", 30)
    mode = os.stat(serving["token_file"]).st_mode
    assert stat.S_IMODE(mode) == 0o600, oct(mode)
    token = open(serving["token_file"]).read().strip()
    return process, Api(serving["url"], token)


def driven(lab, folder, size):
    """A whole broadcast, by HTTP alone."""
    teacher = device(lab, folder, "teacher", api={"listen": "127.0.0.1:0"})
    pupils = [device(lab, folder, f"pupil-{n}") for n in range(3)]
    for pupil in pupils:
        pupil.trust(teacher)
    service, api = started(teacher)
    listener = Listener(api)
    assert api.ask("GET", "/v1/id")["device_id"] == teacher.id
    assert api.ask("GET", "/v1/openapi.json") == DOCUMENT
    for n, pupil in enumerate(pupils):
        let_in = api.ask("PUT", "/v1/authorizations/{device}", {"name": f"=Seat {n}", "group": "class-3b"}, device=pupil.id)
        assert let_in["authorized"] and let_in["groups"] == ["class-3b"]
    assert len(api.ask("GET", "/v1/groups")["items"]) == 1
    assert len(api.ask("GET", "/v1/groups/{group}", group="class-3b")["members"]) == 3
    running = [pupil.receive() for pupil in pupils[:2]]  # the third one is absent
    file = write_file(os.path.join(folder, "lesson.bin"), size, "api")
    begun = api.ask("POST", "/v1/broadcasts", {"paths": [file], "to": ["class-3b"]}, expect=202)
    assert begun["size"] == size
    for pupil, process in zip(pupils, running):
        process.until("received", 60)
        same(file, pupil)
        listener.until(lambda e: e["event"] == "transfer" and e["device_id"] == pupil.id
                       and e["state"]["is"] == "complete", f"{pupil.name} has it")
    # Loopback may have devices of other tests.
    ours = {pupil.id for pupil in pupils}
    assert ours <= {peer["device_id"] for peer in api.ask("GET", "/v1/peers")["items"] if peer["authorized"]}
    assert len(api.ask("GET", "/v1/transfers")["items"]) == 3
    listed = api.ask("GET", "/v1/broadcasts")["items"]
    assert [(b["broadcast"], b["devices"], b["have"]) for b in listed] == [(begun["broadcast"], 3, 2)]

    report = api.ask("GET", "/v1/broadcasts/{broadcast}/report", broadcast="lesson.bin")
    assert report["missing"] == 1 and len(report["seats"]) == 3
    absent = next(seat for seat in report["seats"] if not seat["has_it"])
    assert absent["device_id"] == pupils[2].id and "not here" in absent["reason"], absent
    has = next(seat for seat in report["seats"] if seat["has_it"])
    assert has["root"] and has["sent"] >= size and has["authorized"] == "by a person", has
    table = api.ask("GET", "/v1/broadcasts/{broadcast}/report", broadcast=begun["broadcast"][:8], query="?format=csv")
    assert len(table.splitlines()) == 4 and "'=Seat 0" in table and ",=Seat" not in table, table
    assert teacher.start("report", "lesson.bin").end(30, expect=3) == 3
    shown = teacher.start("report", "lesson.bin", "--csv")
    shown.end(30, expect=3)
    text = "".join(shown.text)
    assert text.splitlines() == table.splitlines(), f"{text}\n{table}"

    text = api.ask("GET", "/metrics")
    assert metric(text, 'handout_transfers_ended_total{direction="outgoing",result="complete"}') == 2
    moved = lambda: metric(api.ask("GET", "/metrics"), 'handout_payload_bytes_total{direction="outgoing"}')
    eventually(lambda: moved() >= 2 * size, "the metrics have counted what was sent")  # once a second
    assert metric(text, "handout_devices_authorized") == 3
    assert all(f"{pupil.id}" not in text for pupil in pupils), "a label names a device"

    # The rest of what there is.
    api.ask("POST", "/v1/transfers/{id}/{action}", id=begun["broadcast"], action="pause")
    api.ask("POST", "/v1/transfers/{id}/{action}", id=begun["broadcast"], action="resume")
    api.ask("POST", "/v1/transfers/{id}/{action}", id="ffff", action="cancel", expect=404)
    api.ask("POST", "/v1/transfers/{id}/{action}", id="all", action="cancel")
    made = api.ask("POST", "/v1/invites", {"uses": 2, "for_ms": 60000, "group": "class-3b"}, expect=201)
    assert made["token"] and made["uses"] == 2
    assert len(api.ask("GET", "/v1/invites")["items"]) == 1
    api.ask("DELETE", "/v1/invites/{invite}", invite=made["invite"])
    api.ask("PUT", "/v1/groups/{group}/roles", {"roles": ["receive"]}, group="class-3b")
    draft = api.ask("POST", "/v1/groups/{group}/roster", {"note": "a word"}, group="class-3b")
    signed = api.ask("POST", "/v1/rosters/sign", {"draft": draft["text"], "seconds": 3600})
    api.ask("POST", "/v1/rosters", {"roster": signed["text"]})
    api.ask("DELETE", "/v1/groups/{group}/devices/{device}", group="class-3b", device=pupils[0].id)
    api.ask("PUT", "/v1/groups/{group}/devices/{device}", group="class-3b", device=pupils[0].id)
    api.ask("GET", "/v1/groups/{group}", group="nobody", expect=404)
    api.ask("GET", "/v1/versions")
    api.ask("GET", "/v1/plans")
    api.ask("POST", "/v1/versions/rollback", {"what": "no such series"}, expect=400)
    api.ask("POST", "/v1/hand-ins", {"paths": ["not/absolute"]}, expect=400)
    assert api.ask("POST", "/v1/reload")["changes"] == []
    teacher.write_config("[nonsense]\nkey = 1")
    assert "nonsense" in api.ask("POST", "/v1/reload", expect=400)["detail"]
    teacher.write_config()
    events = api.ask("POST", "/v1/requests", {"request": "peers"})
    assert events[-1] == {"event": "end", "code": 0} and ours <= {e.get("device_id") for e in events}
    assert api.ask("POST", "/v1/joins", {"invite": "nonsense"})[-1]["code"] != 0
    paired = api.ask("POST", "/v1/pairings", {"with": "nobody-of-that-name", "way": "code", "for_ms": 1000})
    assert paired[-1]["code"] != 0
    api.ask("PUT", "/v1/pairings/{device}", {"yes": True}, device=pupils[0].id, expect=400)
    assert api.ask("GET", "/health")["ok"] and api.ask("GET", "/health")["checks"]
    gone = api.ask("DELETE", "/v1/authorizations/{device}", device=pupils[2].id)
    assert not gone["authorized"]
    api.ask("DELETE", "/v1/authorizations/{device}", device="nobody", expect=404)
    api.ask("DELETE", "/v1/groups/{group}", expect=204, group="class-3b")
    api.asked.add(("get", "/v1/events"))
    documented = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods if method != "parameters"}
    assert api.asked == documented, f"not asked: {documented - api.asked}"
    listener.close()
    print(f"every one of {len(documented)} operations was asked and answered as documented")
    return teacher, service, api


def audited(teacher, pupils_had):
    """The audit log says who got what, and is whole; after a kill in the middle of a line, too."""
    path = os.path.join(teacher.folder, "state/audit.jsonl")
    lines = [json.loads(line) for line in open(path)]
    got = [line for line in lines if line["what"] == "transfer" and line["ended"] == "complete"]
    assert len(got) == pupils_had and all(g["root"] and g["authorized"] == "by a person" for g in got), got
    for what in ("started", "authorized", "revoked", "broadcast", "invite", "group", "roster", "group_removed", "reloaded"):
        assert any(line["what"] == what for line in lines), f"the audit log has no {what!r}"
    assert [line["seq"] for line in lines] == list(range(1, len(lines) + 1))
    assert "0 are not" in teacher.ask("audit", "check")
    return path, len(lines)


def unwelcome(api):
    """Whoever may not ask."""
    token = f"Bearer {api.token}"
    status = lambda *args, **headers: api.raw(*args, **headers)[0]
    assert status("GET", "/v1/id", Authorization=token) == 200
    assert status("GET", "/v1/id") == 401
    assert status("GET", "/v1/id", Authorization=token[:-1]) == 401
    assert status("GET", "/v1/id", Authorization="Bearer " + "x" * 100_000) in (400, 401, 431)
    assert status("GET", "/v1/id", Authorization=token, Host="evil.example") == 403
    assert status("GET", "/v1/id", Authorization=token, Host="evil.example:80") == 403
    assert status("GET", "/v1/id", Authorization=token, Host="localhost:" + api.host.split(":")[1]) == 200
    assert status("GET", "/v1/id", Authorization=token, Origin="http://evil.example") == 403
    assert status("GET", "/v1/id", Authorization=token, Origin="null") == 403
    assert status("GET", "/v1/id", Authorization=token, Origin=f"http://{api.host}") == 200
    assert status("OPTIONS", "/v1/transfers", Origin="http://evil.example") == 403
    assert status("GET", "/health", Host="evil.example") == 403
    _, headers, text = api.raw("GET", "/health")
    assert json.loads(text) == {"ok": True}, "strangers learn nothing more"
    assert not [name for name in headers if name.startswith("access-control")]
    body = json.dumps({"request": "peers"})
    assert status("POST", "/v1/requests", body, Authorization=token, Content_Type="text/plain") == 415
    assert status("POST", "/v1/requests", body[1:], Authorization=token, Content_Type="application/json") == 400
    assert status("POST", "/v1/requests", '{"request": "no such"}', Authorization=token, Content_Type="application/json") == 400
    assert status("PATCH", "/v1/transfers", Authorization=token) == 405
    assert status("GET", "/v1/../../etc/passwd", Authorization=token) == 404
    large = json.dumps({"request": "revoke", "device": "x" * (2 << 20)})
    try:
        assert status("POST", "/v1/requests", large, Authorization=token, Content_Type="application/json") == 413
    except (BrokenPipeError, ConnectionResetError):
        pass  # it was closed before everything was sent: as good
    answer = api.raw("GET", "/v1/nothing", Authorization=token)
    assert answer[1]["content-type"] == "application/problem+json", answer
    print("wrong token, Host and Origin, forms, oversize and odd requests are refused")


def slow(api):
    """Clients that say half of what they want, and nothing more."""
    address, port = api.host.split(":")
    said = [b"", b"GET /v1/id HT", f"POST /v1/requests HTTP/1.1\r\nHost: {api.host}\r\nAuthorization: Bearer {api.token}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{".encode()]
    clients = []
    for n in range(90):
        client = socket.create_connection((address, int(port)))
        client.sendall(said[n % 3])
        clients.append(client)
    begin = time.monotonic()
    assert api.raw("GET", "/health")[0] == 200
    quick = time.monotonic() - begin
    assert quick < 2, f"/health took {quick:.1f} s beside slow clients"
    for client in clients:
        client.settimeout(max(0.1, begin + 30 - time.monotonic()))
        try:
            while client.recv(4096):
                pass
        except ConnectionResetError:
            pass
        except TimeoutError:
            raise AssertionError("a client that says nothing more keeps its connection")
        client.close()
    print(f"90 slow clients were let go within {time.monotonic() - begin:.0f} s, and /health took {quick * 1000:.0f} ms meanwhile")


def listeners(api, count):
    """More listeners than there are places."""
    streams = lambda: metric(api.ask("GET", "/metrics"), "handout_api_streams")
    # A listener that has gone is noticed when the next heartbeat finds nobody.
    eventually(lambda: streams() == 0, "the places of earlier listeners are given back", 60)
    all_of_them = [Listener(api) for _ in range(count)]
    taken = [one for one in all_of_them if one.answer.status == 200]
    assert len(taken) == STREAMS, f"{len(taken)} of {count} listeners were taken"
    assert all(one.answer.status in (200, 503) for one in all_of_them)
    begin = time.monotonic()
    assert api.raw("GET", "/health")[0] == 200
    quick = time.monotonic() - begin
    assert quick < 2, f"/health took {quick:.1f} s beside {count} listeners"
    api.ask("PUT", "/v1/authorizations/{device}", {"name": "news"}, device="a" * 32)
    for one in taken:
        one.until(lambda e: e["event"] == "peer" and e["device_id"] == "a" * 32, "a device that was let in")
    for one in all_of_them:
        one.close()
    eventually(lambda: streams() == 0, "places are given back when their listeners have gone", 60)
    print(f"{STREAMS} of {count} listeners were taken and told everything, the others refused; "
          f"/health took {quick * 1000:.0f} ms meanwhile")


def deaf(api):
    """A listener that does not read costs a bounded queue: it is let go, and told so when it reads
    again; the connection of one that never does is closed."""
    address, port = api.host.split(":")

    def connect():
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect((address, int(port)))
        client.sendall(f"GET /v1/events HTTP/1.1\r\nHost: {api.host}\r\nAuthorization: Bearer {api.token}\r\n\r\n".encode())
        return client

    late, never = connect(), connect()
    eventually(lambda: metric(api.ask("GET", "/metrics"), "handout_api_streams") == 2, "both are listened to")
    connection = http.client.HTTPConnection(api.host, timeout=60)
    begin = time.monotonic()
    for n in range(1500):
        body = json.dumps({"name": f"{n} " + "x" * 50})
        connection.request("PUT", f"/v1/authorizations/{'b' * 32}", body,
                           {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
    took = time.monotonic() - begin
    text = ""
    late.settimeout(30)
    while "event: lagged" not in text:
        piece = late.recv(1 << 16)
        assert piece, f"it ended without a word about what was missed: {text[-300:]!r}"
        text += piece.decode(errors="replace")
    late.close()
    begin = time.monotonic()
    streams = lambda: metric(api.ask("GET", "/metrics"), "handout_api_streams")
    eventually(lambda: streams() == 0, "the connection of a listener that never reads is closed", 90)
    print(f"1500 changes in {took:.0f} s, beside two deaf listeners: one read {len(text) >> 10} KiB late and was told "
          f"that it lagged, the other was let go {time.monotonic() - begin:.0f} s later")
    never.close()


def unhealthy(lab, folder):
    """A full disk, and a state folder that is gone."""
    disk = os.path.join(folder, "small")
    os.makedirs(disk)
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", disk]).returncode == 0
    try:
        one = device(lab, disk, "sick", api={"listen": "127.0.0.1:0"})
        service, api = started(one)
        assert one.start("health").end(30) == 0
        assert api.raw("GET", "/health")[0] == 200
        if mounted:
            filler = os.path.join(disk, "filler")
            with open(filler, "wb") as file:
                try:
                    while file.write(b"x" * 65536):
                        file.flush()
                except OSError:
                    pass
            sick(api, one, "state_disk")
            os.remove(filler)
            well(api, one)
        state = os.path.join(one.folder, "state")
        os.rename(state, state + ".gone")
        sick(api, None, "store")
        os.rename(state + ".gone", state)
        well(api, one)
        shutil.rmtree(state)
        sick(api, None, "store")
        service.kill()
    finally:
        lab.down()
        if mounted:
            subprocess.run(["umount", "-l", disk], check=True)
    print("a full disk and a state folder that is gone are seen, and that all is well again" if mounted else
          "a state folder that is gone is seen (a full disk was not tried: that needs root)")


def sick(api, one, part):
    look = lambda: api.raw("GET", "/health", Authorization=f"Bearer {api.token}")
    eventually(lambda: look()[0] == 503, f"/health sees what is wrong with {part}")
    found = look()
    health = api.checked("GET", "/health", *found)
    wrong = {check["part"]: check["reason"] for check in health["checks"] if not check["ok"]}
    assert found[0] == 503 and part in wrong and wrong[part], health
    status, _, text = api.raw("GET", "/health")
    assert (status, json.loads(text)) == (503, {"ok": False}), text
    if one:
        assert one.start("health").end(30, expect=1) == 1


def well(api, one):
    eventually(lambda: api.raw("GET", "/health")[0] == 200, "/health sees that all is well again")
    assert one.start("health").end(30) == 0


def main():
    with scratch() as folder, Loopback(logs=folder) as lab:
        teacher, service, api = driven(lab, folder, 8 << 20)
        path, lines = audited(teacher, 2)
        unwelcome(api)
        slow(api)
        listeners(api, 200)
        deaf(api)
        service.kill()
        with open(path, "rb+") as file:
            file.seek(-20, os.SEEK_END)
            file.truncate()
        service, api = started(teacher)
        assert teacher.start("audit", "check").end(30) == 0
        assert any(json.loads(line)["what"] == "torn" for line in open(path) if line.endswith("}\n"))
        service.kill()
        lab.down()
        unhealthy(lab, folder)


if __name__ == "__main__":
    script(main)
