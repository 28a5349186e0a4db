"""The two ends of a transfer (docs/PROTOCOL.md §7 to §11)."""
import asyncio
import json
import os
import struct

import blake3
import xxhash

import wire
from wire import Refused, b64, need, unb64

PAYLOAD, WINDOW = 32 * 1024, 256 * 1024
ROUNDS = 3  # how often the missing chunks are sent again
END_OF_LINK = 5  # seconds that a receiver leaves the other side to close


def free_name(folder, name):
    """A path in the folder that nothing has yet."""
    stem, dot, ending = name.partition(".")
    path, n = os.path.join(folder, name), 1
    while os.path.lexists(path):
        path, n = os.path.join(folder, f"{stem} ({n}){dot}{ending}"), n + 1
    return path


class PlainReceiver:
    """§11: takes the chunks of a one-file bundle in order and checks only XXH3."""

    def __init__(self, link, folder, report, die_after=None):
        self.link, self.folder, self.report, self.die_after = link, folder, report, die_after
        self.reported = 0

    async def run(self):
        message = await self._control("START_TRANSFER")
        need(message.get("kind", "file") == "file", "a plain client takes one-file bundles")
        handle, name, size = message["handle"], message["name"], message["size"]
        need("/" not in name and name not in ("", ".", "..") and "\0" not in name, "name")
        self.report("start", name=name, size=size, files=message.get("files"))
        self.link.tell("START_TRANSFER_ACKNOWLEDGED", handle=handle, status="accepted")
        path, taken, hasher = free_name(self.folder, name), 0, None
        with open(path + ".part", "wb") as file:
            while True:
                message = await self.link.receive()
                if isinstance(message, dict):
                    if message["type"] == "END_OF_CHUNKS":
                        break
                    if message["type"] in ("CANCEL", "PAUSE"):
                        raise Refused(f"{message['type']}: {message.get('reason')}")
                    continue
                kind, _, _, body = wire.read_frame(message)
                if kind != wire.CHUNK:
                    continue
                _, offset, length, xxh3 = struct.unpack_from(">IIIQ", body)
                payload = body[20:]
                hasher = xxhash.xxh3_64() if offset == 0 else hasher
                hasher.update(payload)
                need(offset + len(payload) < length or hasher.intdigest() == xxh3, "a chunk is corrupt")
                file.write(payload)
                taken += len(payload)
                self._progress(taken, size, taken)
        need(taken == size, f"{taken} of {size} bytes came")
        os.rename(path + ".part", path)
        self.link.tell("TRANSFER_COMPLETE", handle=handle)
        self.report("complete", path=path, bytes=taken)
        await until_closed(self.link)

    def _progress(self, done, size, taken):
        if done - self.reported >= 16 << 20:
            self.reported = done
            self.report("progress", bytes=done, size=size)
        if self.die_after is not None and taken >= self.die_after:
            os._exit(9)

    async def _control(self, type):
        while True:
            message = await self.link.receive()
            if isinstance(message, dict) and message["type"] == type:
                return message


class SignedReceiver(PlainReceiver):
    """§10: checks everything against the origin's signatures, and resumes."""

    async def run(self):
        start = await self._control("START_TRANSFER")
        bundle_id, origin = bytes.fromhex(start["bundle"]), unb64(start["key"], 32)
        need(start["origin"] == wire.device_id(origin), "the origin's id is not its key's")
        handle = start["handle"]
        self.work = os.path.join(self.folder, ".part-" + start["bundle"])
        os.makedirs(self.work, exist_ok=True)
        have = self._saved()
        self.report("start", name=start["name"], size=start["size"], files=start["files"],
                    chunks=start["chunks"], have=len(have))
        self.link.tell("START_TRANSFER_ACKNOWLEDGED", handle=handle, status="accepted", acks=True,
                       **({"have": wire.bitmap(have, start["chunks"])} if have else {}))
        head, bundle, pages = b"", None, {}
        taken, chunk = 0, b""
        while True:
            message = await self.link.receive()
            if isinstance(message, dict):
                if message["type"] == "END_OF_CHUNKS":
                    need(bundle is not None, "END_OF_CHUNKS before the head")
                    missing = set(range(len(bundle.chunks))) - have
                    if missing or len(pages) < bundle.pages:
                        have -= {i for page in range(bundle.pages) if page not in pages for i in bundle.page_chunks(page)}
                        self.link.tell("NEED", handle=handle, have=wire.bitmap(have, start["chunks"]))
                        continue
                    root = bundle.root([pages[n] for n in range(bundle.pages)])
                    need(message["root"] == root.hex(), "the root is not that of the pages")
                    wire.verify(origin, unb64(message["root_sig"], 64), bundle.root_statement(root), "the root")
                    path = self._finish(bundle)
                    self.link.tell("TRANSFER_COMPLETE", handle=handle, root=message["root"])
                    self.report("complete", path=path, bytes=taken, size=start["size"], root=root.hex())
                    return await until_closed(self.link)
                if message["type"] in ("CANCEL", "PAUSE"):
                    raise Refused(f"{message['type']}: {message.get('reason')}")
                continue
            kind, flags, its_handle, body = wire.read_frame(message)
            need(its_handle == handle, "a frame of an unknown handle")
            if kind == wire.HEAD:
                need(struct.unpack_from(">I", body)[0] == len(head), "a HEAD frame out of order")
                head += body[4:]
                if len(head) == start["head_size"]:
                    bundle = wire.Bundle(head)
                    need(bundle.id == bundle_id, "the head does not hash to the bundle")
                    need(len(bundle.chunks) == start["chunks"], "the head has another number of chunks")
            elif kind == wire.HASHES:
                page, data = struct.unpack_from(">I", body)[0], body[68:]
                need(page < bundle.pages and len(data) == wire.HASH_BYTES * len(bundle.page_chunks(page)), "a page's size")
                wire.verify(origin, body[4:68], bundle.page_statement(page, data), f"page {page}")
                pages[page] = data
            elif kind == wire.CHUNK:
                index, offset, length, xxh3 = struct.unpack_from(">IIIQ", body)
                payload = body[20:]
                need(index < len(bundle.chunks) and length == bundle.chunks[index][2], "a chunk's number or length")
                need(index // wire.PAGE_CHUNKS in pages, "a chunk before its page")
                chunk = payload if offset == 0 else chunk + payload
                need(offset + len(payload) == len(chunk) <= length, "a chunk's frames out of order")
                taken += len(payload)
                if len(chunk) == length:
                    at = index % wire.PAGE_CHUNKS * wire.HASH_BYTES
                    page = pages[index // wire.PAGE_CHUNKS]
                    need(wire.chunk_hash(chunk) == page[at:at + wire.HASH_BYTES], f"chunk {index} is not what was signed")
                    need(page[at + 32:at + 40] == struct.pack(">Q", xxh3), "xxh3 differs from the page's")
                    self._write(bundle, index, chunk)
                    have.add(index)
                if flags & wire.ACK_NOW:
                    self.link.tell("ACK", handle=handle, bytes=taken)
                self._progress(min(start["size"], len(have) * bundle.chunk_size), start["size"], taken)

    def _saved(self):
        """The chunks that an earlier run wrote: one number a line, the last perhaps cut short."""
        try:
            with open(os.path.join(self.work, "have")) as file:
                return {int(line) for line in file if line.endswith("\n")}
        except FileNotFoundError:
            return set()

    def _write(self, bundle, index, data):
        number, offset, _ = bundle.chunks[index]
        with open(os.open(os.path.join(self.work, str(number)), os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            file.seek(offset)
            file.write(data)
        with open(os.path.join(self.work, "have"), "a") as file:
            file.write(f"{index}\n")

    def _finish(self, bundle):
        target = free_name(self.folder, bundle.name)
        if bundle.kind == "folder":
            os.mkdir(target)
            for path in bundle.dirs:
                os.makedirs(os.path.join(target, path), exist_ok=True)
        for number, file in enumerate(bundle.files):
            final = target if bundle.kind == "file" else os.path.join(target, file["path"])
            os.makedirs(os.path.dirname(final), exist_ok=True)
            part = os.path.join(self.work, str(number))
            if file["size"] == 0:
                open(part, "wb").close()
            if file.get("exec"):
                os.chmod(part, 0o755)
            os.rename(part, final)
        if bundle.chunks:
            os.unlink(os.path.join(self.work, "have"))
        os.rmdir(self.work)
        return target


async def until_closed(link):
    """The other side closes once it has our last message; a while later we do."""
    try:
        async with asyncio.timeout(END_OF_LINK):
            while True:
                await link.receive()
    except (TimeoutError, ConnectionError):
        pass


class Sender:
    """The origin of a bundle."""

    def __init__(self, link, path, key, report, chunk_size=262144, lie=None):
        head, self.real = wire.head_of(path, chunk_size)
        self.bundle, self.key, self.link, self.report = wire.Bundle(head), key, link, report
        self.acked, self.sent, self.acks, self.handle = 0, 0, False, 1
        self.lie = lie  # the number of a chunk to corrupt, to see it refused
        self.id = blake3.blake3(head + key.public + link.peer_id.encode()).digest()[:16].hex()

    def _data(self, index):
        number, offset, length = self.bundle.chunks[index]
        with open(self.real[number], "rb") as file:
            file.seek(offset)
            return file.read(length)

    async def run(self):
        bundle = self.bundle
        self.link.tell("START_TRANSFER", handle=self.handle, id=self.id, bundle=bundle.id.hex(),
                       origin=self.key.id, key=b64(self.key.public), name=bundle.name, kind=bundle.kind,
                       size=sum(f["size"] for f in bundle.files), files=len(bundle.files),
                       chunk_size=bundle.chunk_size, chunks=len(bundle.chunks),
                       mime="application/octet-stream", head_size=len(bundle.head))
        answer = await self._answer("START_TRANSFER_ACKNOWLEDGED", "START_TRANSFER_ACKNOLEDGED")
        status = answer.get("status", "accepted")
        if status == "complete":
            return self.report("complete", bytes=0)
        need(status == "accepted", f"{status}: {answer.get('code')} {answer.get('reason')}")
        self.acks = answer.get("acks") is True
        have = wire.unbitmap(answer.get("have"), len(bundle.chunks))
        self.report("start", name=bundle.name, chunks=len(bundle.chunks), have=len(have))
        for at in range(0, len(bundle.head), PAYLOAD):
            await self.link.send_frame(wire.frame(wire.HEAD, self.handle, struct.pack(">I", at) + bundle.head[at:at + PAYLOAD]))
        # A page's hashes need all its chunks, so everything is read twice; this is a test client.
        self.pages = [b"".join(wire.chunk_hash(self._data(i)) for i in bundle.page_chunks(n)) for n in range(bundle.pages)]
        self.page_sent = set()
        for _ in range(ROUNDS):
            await self._chunks(have)
            for page in range(bundle.pages):
                await self._page(page)
            root = bundle.root(self.pages)
            self.link.tell("END_OF_CHUNKS", handle=self.handle, root=root.hex(),
                           root_sig=b64(self.key.sign(bundle.root_statement(root))))
            answer = await self._answer("TRANSFER_COMPLETE", "NEED")
            if answer["type"] == "TRANSFER_COMPLETE":
                need(answer.get("root", root.hex()) == root.hex(), "completed another root")
                return self.report("complete", bytes=self.sent)
            have = wire.unbitmap(answer.get("have"), len(bundle.chunks))
            self.page_sent.clear()
            self.report("need", missing=len(bundle.chunks) - len(have))
        raise Refused(f"the receiver still lacks chunks after {ROUNDS} rounds")

    async def _page(self, page):
        if page not in self.page_sent:
            self.page_sent.add(page)
            signature = self.key.sign(self.bundle.page_statement(page, self.pages[page]))
            await self.link.send_frame(wire.frame(
                wire.HASHES, self.handle, struct.pack(">I", page) + signature + self.pages[page]))

    async def _chunks(self, have):
        marked = self.sent
        for index in range(len(self.bundle.chunks)):
            if index in have:
                continue
            await self._page(index // wire.PAGE_CHUNKS)
            data = self._data(index)
            xxh3 = xxhash.xxh3_64_intdigest(data)
            if index == self.lie:
                data = bytes([data[0] ^ 1]) + data[1:]
            for offset in range(0, len(data), PAYLOAD):
                payload = data[offset:offset + PAYLOAD]
                asks = self.sent + len(payload) - marked >= WINDOW // 4
                marked = self.sent + len(payload) if asks else marked
                header = struct.pack(">IIIQ", index, offset, len(data), xxh3)
                await self.link.send_frame(wire.frame(
                    wire.CHUNK, self.handle, header + payload, wire.ACK_NOW if asks else 0))
                self.sent += len(payload)
                while self.acks and self.sent - self.acked > WINDOW:
                    await self._answer("ACK")

    async def _answer(self, *types):
        """The next message of one of these types; ACKs are counted on the way."""
        while True:
            message = await self.link.receive()
            need(isinstance(message, dict), "a frame from a receiver")
            if message["type"] == "ACK":
                need(self.acked <= message["bytes"] <= self.sent, "an ACK for bytes that were not sent")
                self.acked = message["bytes"]
            if message["type"] in ("CANCEL", "PAUSE"):
                raise Refused(f"{message['type']}: {message.get('code')} {message.get('reason')}")
            if message["type"] in types:
                return message
