"""docs/PROTOCOL.md in Python, written from that page alone: ids, statements, proofs, frames, bundles.

Section numbers in comments are that page's."""
import base64
import hashlib
import json
import os
import re
import struct
import time

import blake3
import xxhash
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

HEAD, HASHES, CHUNK = 1, 2, 3
ACK_NOW = 1
PAGE_CHUNKS = 64
HASH_BYTES = 40  # BLAKE3 and XXH3-64 of one chunk


class Refused(Exception):
    """The other side did something that section "Must" forbids, or refused us."""


def need(condition, what):
    if not condition:
        raise Refused(what)


def b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text, length=None):
    need(isinstance(text, str) and re.fullmatch(r"[A-Za-z0-9_-]*", text), "not base64url")
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(length in (None, len(data)), f"expected {length} bytes, got {len(data)}")
    return data


def statement(purpose, *fields):
    out = b""
    for field in (purpose, *fields):
        field = field.encode() if isinstance(field, str) else field
        out += struct.pack(">I", len(field)) + field
    return out


def device_id(public):  # §1
    digest = hashlib.sha256(b"handout device 1" + public).digest()[:20]
    return base64.b32encode(digest).decode().lower().rstrip("=")


def verify(public, signature, message, what):
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise Refused(f"the signature of {what} is wrong") from None


class Key:
    """A device's key, kept as 64 hex digits in a file that is made when it is not there."""

    def __init__(self, path):
        if not os.path.exists(path):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(os.urandom(32).hex())
        with open(path) as file:
            self.private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(file.read()))
        self.public = self.private.public_key().public_bytes_raw()
        self.id = device_id(self.public)

    def sign(self, message):
        return self.private.sign(message)


# ---- §4: the proof in the SDP ----

def attribute(sdp, name):
    found = re.search(rf"^a={name}:(\S+)\s*$", sdp, re.M)
    need(found, f"the SDP has no a={name}")
    return found[1]


def fingerprint(sdp):
    values = set(re.findall(r"^a=fingerprint:(.+?)\s*$", sdp, re.M))
    need(len(values) == 1, f"{len(values)} different fingerprints in the SDP")
    found = re.fullmatch(r"(?i:sha-256) ((?:[0-9A-Fa-f]{2}:){31}[0-9A-Fa-f]{2})", values.pop())
    need(found, "the fingerprint is not sha-256")
    return bytes.fromhex(found[1].replace(":", ""))


def proof_statement(sdp, kind, sender, fields, offer_hash):
    return statement(
        "handout/signal/1", kind, sender, fields["to"], unb64(fields["key"], 32), fingerprint(sdp),
        attribute(sdp, "setup"), attribute(sdp, "ice-ufrag"),
        hashlib.sha256(attribute(sdp, "ice-pwd").encode()).digest(), unb64(fields["nonce"], 16),
        struct.pack(">Q", int(fields["iat"])), struct.pack(">Q", int(fields["exp"])),
        unb64(fields["session"], 16), offer_hash)


def prove(sdp, kind, key, to, session=None, offer_hash=b""):
    """The SDP with our proof line, the session, and the hash of what was signed."""
    # Only the sha-256 line may stay: "all fingerprint lines of the SDP must be this one".
    sdp = re.sub(r"^a=fingerprint:(?!sha-256 ).*\r?\n", "", sdp, flags=re.M)
    now = int(time.time())
    session = session or os.urandom(16)
    fields = {"key": b64(key.public), "to": to, "nonce": b64(os.urandom(16)), "iat": str(now),
              "exp": str(now + 120), "session": b64(session)}
    signed = proof_statement(sdp, kind, key.id, fields, offer_hash)
    fields["sig"] = b64(key.sign(signed))
    line = "a=handout-proof:1 " + " ".join(f"{k}={v}" for k, v in fields.items()) + "\r\n"
    at = sdp.index("m=") if sdp.startswith("m=") else sdp.index("\nm=") + 1
    return sdp[:at] + line + sdp[at:], session, hashlib.sha256(signed).digest()


def read_proof(sdp, kind, sender, me, seen, offer_hash=b"", session=None, skew=300):
    """Checks a proof line. Gives (public key, session, hash), or nothing when there is no line."""
    head = sdp[:sdp.find("\nm=") + 1]
    found = re.findall(r"^a=handout-proof:1 (.+?)\s*$", head, re.M)
    if not found:
        return None
    need(len(found) == 1, "more than one proof")
    fields = dict(part.split("=", 1) for part in found[0].split(" ") if "=" in part)
    missing = {"key", "to", "nonce", "iat", "exp", "session", "sig"} - set(fields)
    need(not missing, f"the proof lacks {missing}")
    public = unb64(fields["key"], 32)
    need(device_id(public) == sender, "the key does not hash to peer_id")
    need(fields["to"] == me, "the proof is for another device")
    issued, expires, now = int(fields["iat"]), int(fields["exp"]), time.time()
    need(0 <= expires - issued <= 300 and issued - skew <= now <= expires + skew, "the proof is not valid now")
    signed = proof_statement(sdp, kind, sender, fields, offer_hash)
    verify(public, unb64(fields["sig"], 64), signed, f"the {kind}")
    need(fields["nonce"] not in seen, "a replay")
    seen.add(fields["nonce"])
    need(session in (None, unb64(fields["session"])), "the answer is for another session")
    return public, unb64(fields["session"], 16), hashlib.sha256(signed).digest()


# ---- §7: bundles ----

class Bundle:
    """The layout that a head describes: which bytes of which file each chunk is."""

    def __init__(self, head):
        self.head = head
        self.id = blake3.blake3(head).digest()
        body = json.loads(head)
        need(body.get("v") == 1, f"head version {body.get('v')!r}")
        self.name, self.kind, self.chunk_size = body["name"], body["kind"], body["chunk_size"]
        self.files, self.dirs = body["files"], body.get("dirs", [])
        need(self.chunk_size in [1 << n for n in range(16, 23)], "chunk_size")
        for path in [f["path"] for f in self.files] + self.dirs + [self.name]:
            need(all(c not in ("", ".", "..") and "\0" not in c for c in path.split("/")), f"path {path!r}")
        need("/" not in self.name and self.kind in ("file", "folder"), "name or kind")
        need(self.kind == "folder" or len(self.files) == 1, "a file bundle has one file")
        self.chunks = []  # (file number, offset, length)
        for number, file in enumerate(self.files):
            for offset in range(0, file["size"], self.chunk_size):
                self.chunks.append((number, offset, min(self.chunk_size, file["size"] - offset)))
        self.pages = -(-len(self.chunks) // PAGE_CHUNKS)

    def page_chunks(self, page):
        return range(page * PAGE_CHUNKS, min((page + 1) * PAGE_CHUNKS, len(self.chunks)))

    def page_statement(self, page, data):
        return statement("handout/page/1", self.id, struct.pack(">I", page), blake3.blake3(data).digest())

    def root(self, pages):
        return blake3.blake3(b"handout root 1" + self.id + b"".join(blake3.blake3(p).digest() for p in pages)).digest()

    def root_statement(self, root):
        return statement("handout/root/1", self.id, root)


def head_of(path, chunk_size):
    """The head of a bundle of one file or folder, and the real path of each of its files."""
    name = os.path.basename(os.path.normpath(path))
    files, real, dirs = [], [], []
    if os.path.isfile(path):
        files, real = [{"path": name, "size": os.path.getsize(path)}], [path]
    else:
        for folder, subs, names in os.walk(path):
            subs.sort()
            shown = os.path.relpath(folder, path)
            if not subs and not names and shown != ".":
                dirs.append(shown)
            for leaf in sorted(names):
                full = os.path.join(folder, leaf)
                entry = {"path": os.path.relpath(full, path), "size": os.path.getsize(full)}
                files.append(entry | ({"exec": True} if os.access(full, os.X_OK) and os.stat(full).st_mode & 0o100 else {}))
                real.append(full)
    body = {"v": 1, "name": name, "kind": "file" if os.path.isfile(path) else "folder",
            "chunk_size": chunk_size, "files": files}
    return json.dumps(body | ({"dirs": dirs} if dirs else {})).encode(), real


def chunk_hash(data):
    return blake3.blake3(data).digest() + struct.pack(">Q", xxhash.xxh3_64_intdigest(data))


# ---- §8 and §9: bitmaps and frames ----

def bitmap(have, chunks):
    out = bytearray(-(-chunks // 8))
    for index in have:
        out[index // 8] |= 0x80 >> index % 8
    return b64(bytes(out))


def unbitmap(text, chunks):
    data = unb64(text or "")
    return {i for i in range(min(chunks, len(data) * 8)) if data[i // 8] & 0x80 >> i % 8}


def frame(kind, handle, body, flags=0):
    return struct.pack(">BBHI", kind, flags, 0, handle) + body


def read_frame(data):
    need(len(data) >= 8, "a frame shorter than its header")
    kind, flags, zero, handle = struct.unpack_from(">BBHI", data)
    need(zero == 0, "bytes 2 and 3 of a frame are not zero")
    return kind, flags, handle, data[8:]
