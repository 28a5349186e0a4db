"""Signaling over TCP and one `fileshare` channel with aiortc (docs/PROTOCOL.md §3, §5, §6)."""
import asyncio
import json
import os

import aioice.ice
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.sdp import candidate_from_sdp
from cryptography.hazmat.primitives import hashes

import wire
from wire import Refused, b64, need, unb64

OBJECT_LIMIT = 256 * 1024
ANSWER_WAIT, BACKOFF = 10, (1, 2, 4)


def use_loopback():
    """aioice leaves 127.0.0.1 out; with this it offers nothing else."""
    aioice.ice.get_host_addresses = lambda use_ipv4, use_ipv6: ["127.0.0.1"]


class Lines:
    """JSON objects on a TCP connection: one a line when writing, any spacing when reading."""

    def __init__(self, reader, writer):
        self.reader, self.writer, self.text = reader, writer, ""

    async def send(self, kind, peer_id, data):
        self.writer.write(json.dumps({"kind": kind, "peer_id": peer_id, "data": data}).encode() + b"\n")
        await self.writer.drain()

    async def receive(self):
        """The next object, or nothing at the end of the connection."""
        raw = b""
        while True:
            self.text = self.text.lstrip()
            if self.text:
                need(self.text[0] == "{", "bytes between objects")
                try:
                    found, end = json.JSONDecoder().raw_decode(self.text)
                    self.text = self.text[end:]
                    return found
                except json.JSONDecodeError:
                    need(len(self.text) <= OBJECT_LIMIT, "an object over 256 KiB")
            piece = await self.reader.read(65536)
            if not piece:
                return None
            raw += piece
            try:
                self.text, raw = self.text + raw.decode(), b""
            except UnicodeDecodeError as cut:  # a character cut in two by the read
                need(cut.end == len(raw), "not UTF-8")

    def close(self):
        self.writer.close()


class Link:
    """An open channel. Messages come out of `receive`: dicts for text, bytes for frames."""

    def __init__(self, connection, role):
        self.connection, self.role = connection, role
        self.channel = None
        self.inbox = asyncio.Queue()
        self.opened = asyncio.get_running_loop().create_future()
        self.peer_id = self.peer_key = None

    def attach(self, channel):
        need(channel.label == "fileshare", f"a channel called {channel.label!r}")
        self.channel = channel
        channel.on("message", self.inbox.put_nowait)
        channel.on("close", lambda: self.inbox.put_nowait(None))
        if channel.readyState == "open":
            self._open()
        else:
            channel.on("open", self._open)

    def _open(self):
        if not self.opened.done():
            self.opened.set_result(None)

    def lost(self, why):
        if not self.opened.done():
            self.opened.set_exception(Refused(why))
            self.opened.exception()  # seen: nobody may be waiting any more
        self.inbox.put_nowait(None)

    async def receive(self):
        message = await self.inbox.get()
        if message is None:
            raise ConnectionError("the connection ended")
        need(len(message) <= 65536, "a message over 64 KiB")
        if isinstance(message, bytes):
            return message
        found = json.loads(message)
        need(isinstance(found, dict) and isinstance(found.get("type"), str), "no type")
        return found

    def tell(self, type, **keys):
        self.channel.send(json.dumps({"type": type} | keys))

    async def send_frame(self, data):
        """Sends when fewer than 256 KiB wait in the channel."""
        self.channel.bufferedAmountLowThreshold = 128 * 1024
        if self.channel.bufferedAmount > 256 * 1024:
            room = asyncio.get_running_loop().create_future()
            self.channel.once("bufferedamountlow", lambda: room.done() or room.set_result(None))
            await room
        self.channel.send(data)

    def certificates(self):
        """SHA-256 of our own certificate and of the one the DTLS handshake brought."""
        transport = self.connection.sctp.transport
        own = next(f.value for f in transport.getLocalParameters().fingerprints if f.algorithm == "sha-256")
        theirs = transport._ssl.get_peer_certificate(as_cryptography=True)
        return bytes.fromhex(own.replace(":", "")), theirs.fingerprint(hashes.SHA256())

    async def handshake(self, key, name):
        """§6: HELLO, then PROOF; ten seconds for both."""
        nonce = os.urandom(32)
        self.tell("HELLO", v=1, id=key.id, key=b64(key.public), nonce=b64(nonce), name=name, device="desktop")
        async with asyncio.timeout(10):
            hello = await self.receive()
            need(isinstance(hello, dict) and hello["type"] == "HELLO" and hello.get("v") == 1, "no HELLO")
            theirs = unb64(hello["key"], 32)
            need(hello["id"] == self.peer_id == wire.device_id(theirs), "the id of the HELLO is not the one signaled with")
            own_certificate, their_certificate = self.certificates()
            their_nonce = unb64(hello["nonce"], 32)
            self.tell("PROOF", sig=b64(key.sign(wire.statement(
                "handout/channel/1", self.role, key.id, self.peer_id, key.public, theirs,
                own_certificate, their_certificate, nonce, their_nonce))))
            proof = await self.receive()
            need(isinstance(proof, dict) and proof["type"] == "PROOF", "no PROOF")
            their_role = "answerer" if self.role == "offerer" else "offerer"
            wire.verify(theirs, unb64(proof["sig"], 64), wire.statement(
                "handout/channel/1", their_role, self.peer_id, key.id, theirs, key.public,
                their_certificate, own_certificate, their_nonce, nonce), "the channel")

    async def close(self):
        await self.connection.close()


class Endpoint:
    """Our side of signaling: an id, perhaps a key, and whom we accept."""

    def __init__(self, id, key, authorized, allow_plain, report):
        self.id, self.key, self.authorized = id, key, authorized
        self.allow_plain, self.report = allow_plain, report
        self.nonces = set()

    def _connection(self, role):
        connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        link = Link(connection, role)

        @connection.on("connectionstatechange")
        def changed():
            if connection.connectionState in ("failed", "closed"):
                link.lost(f"the connection is {connection.connectionState}")
        return link

    def _trust(self, peer_id, proof):
        """Whether the other side proved itself; raises when it had to and did not."""
        if self.key is None:
            return False  # a plain client neither proves nor checks
        if proof is None:
            need(self.allow_plain, f"{peer_id} brought no proof and plain peers are not allowed")
            return False
        need(not self.authorized or peer_id in self.authorized, f"{peer_id} is not authorized")
        return True

    async def _ready(self, link, peer_id, proven, lines):
        link.peer_id = peer_id
        candidates = asyncio.create_task(self._candidates(link, lines))
        try:
            async with asyncio.timeout(30):
                await link.opened
            self.report("open", peer=peer_id, verified=proven)
            if proven:
                await link.handshake(self.key, "plain client")
                self.report("verified", peer=peer_id)
        finally:
            candidates.cancel()
        return link

    async def _candidates(self, link, lines):
        """Takes the `ice` messages that come while the channel opens."""
        while (message := await lines.receive()) is not None:
            if message.get("kind") == "error":
                link.lost(f"refused: {message.get('data')}")
            if message.get("kind") != "ice":
                continue
            text = str(message.get("data"))
            text = json.loads(text).get("candidate", "") if text.startswith("{") else text
            if text.startswith("candidate:"):
                candidate = candidate_from_sdp(text.removeprefix("candidate:"))
                candidate.sdpMLineIndex = 0
                await link.connection.addIceCandidate(candidate)

    async def offer(self, host, port, peer_id):
        """Dials a device and opens the channel. `peer_id` may be unknown to a plain client."""
        for pause in (*BACKOFF, None):
            try:
                return await self._offer_once(host, port, peer_id)
            except (TimeoutError, OSError) as error:
                if pause is None:
                    raise
                self.report("retry", why=repr(error), seconds=pause)
                await asyncio.sleep(pause)

    async def _offer_once(self, host, port, peer_id):
        lines = Lines(*await asyncio.open_connection(host, port))
        link = self._connection("offerer")
        try:
            link.attach(link.connection.createDataChannel("fileshare"))
            await link.connection.setLocalDescription(await link.connection.createOffer())
            sdp, session, offer_hash = link.connection.localDescription.sdp, None, b""
            if self.key:
                sdp, session, offer_hash = wire.prove(sdp, "offer", self.key, peer_id)
            await lines.send("offer", self.id, sdp)
            self.report("offered", to=f"{host}:{port}")
            async with asyncio.timeout(ANSWER_WAIT):
                answer = await lines.receive()
                while answer is not None and answer.get("kind") == "ice":
                    answer = await lines.receive()
            if answer is None:
                raise ConnectionError("the connection ended without an answer")
            need(answer.get("kind") != "error", f"refused: {answer.get('data')}")
            need(answer.get("kind") == "answer", f"expected an answer, got {answer.get('kind')!r}")
            need(peer_id in (None, answer["peer_id"]), f"{answer['peer_id']} answered instead of {peer_id}")
            proof = self.key and wire.read_proof(
                answer["data"], "answer", answer["peer_id"], self.id, self.nonces, offer_hash, session)
            proven = self._trust(answer["peer_id"], proof)
            await link.connection.setRemoteDescription(RTCSessionDescription(answer["data"], "answer"))
            return await self._ready(link, answer["peer_id"], proven, lines)
        except BaseException:
            await link.close()
            raise
        finally:
            lines.close()

    async def accept(self, reader, writer):
        """Answers the offer that a connection brings. Gives the open link, or nothing."""
        lines = Lines(reader, writer)
        link = self._connection("answerer")
        try:
            message = await lines.receive()
            while message is not None and message.get("kind") == "ice":
                message = await lines.receive()
            if message is None:
                return None
            peer_id = message["peer_id"]
            need(message.get("kind") == "offer", f"expected an offer, got {message.get('kind')!r}")
            proof = self.key and wire.read_proof(message["data"], "offer", peer_id, self.id, self.nonces)
            self.report("offer", peer=peer_id, signed="a=handout-proof:" in message["data"])
            proven = self._trust(peer_id, proof)
            link.connection.on("datachannel", link.attach)
            await link.connection.setRemoteDescription(RTCSessionDescription(message["data"], "offer"))
            await link.connection.setLocalDescription(await link.connection.createAnswer())
            sdp = link.connection.localDescription.sdp
            if proven:
                sdp, _, _ = wire.prove(sdp, "answer", self.key, peer_id, proof[1], proof[2])
            await lines.send("answer", self.id, sdp)
            return await self._ready(link, peer_id, proven, lines)
        except Refused as error:
            self.report("refused", by="us", why=str(error))
            await lines.send("error", self.id, str(error))
            await link.close()
            return None
        finally:
            lines.close()
