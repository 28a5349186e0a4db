-- How much the relayed links of a user have carried, by the day (UTC).
CREATE TABLE relay_usage (
    user_id INTEGER NOT NULL REFERENCES users (id),
    day TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    PRIMARY KEY (user_id, day)
);

-- Servers that share the database. Whoever has not been seen for a while is gone.
CREATE TABLE instances (
    instance_id TEXT PRIMARY KEY,
    public_url TEXT NOT NULL,
    seen_at INTEGER NOT NULL
);

-- Devices whose sockets are open, and where.
CREATE TABLE device_sockets (
    device_id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL
);
CREATE INDEX device_sockets_of ON device_sockets (instance_id);

-- What a device says to one whose socket is at another server; taken there at once.
CREATE TABLE device_mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    instance_id TEXT NOT NULL,
    to_device TEXT NOT NULL,
    from_device TEXT NOT NULL,
    signal TEXT NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE INDEX device_mails_of ON device_mails (instance_id, id);

-- At which server the ends of a relayed link meet.
CREATE TABLE relay_places (
    relay_id TEXT PRIMARY KEY,
    instance_id TEXT NOT NULL
);
CREATE INDEX relay_places_of ON relay_places (instance_id);
