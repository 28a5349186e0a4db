-- Whoever has shown a token: a subject, in one of its roles.
CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    client_type INTEGER NOT NULL,
    created_at TEXT NOT NULL,
    UNIQUE (subject, client_type)
);

-- One request each: who asks, who provides, and until when (Unix milliseconds).
CREATE TABLE ice_sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL UNIQUE,
    initiator_user_id INTEGER NOT NULL REFERENCES users (id),
    target_user_id INTEGER REFERENCES users (id),
    initiator_client_type INTEGER NOT NULL DEFAULT 2,
    target_client_type INTEGER NOT NULL DEFAULT 1,
    status TEXT NOT NULL DEFAULT 'pending',
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    signals INTEGER NOT NULL DEFAULT 0,
    device_id TEXT NOT NULL DEFAULT ''
);
CREATE INDEX ice_sessions_of ON ice_sessions (initiator_user_id, expires_at);
CREATE INDEX ice_sessions_until ON ice_sessions (status, expires_at);

-- What was said in a session: candidates, and the offer and answer, too (signal_type).
CREATE TABLE ice_candidates (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL REFERENCES ice_sessions (session_id),
    user_id INTEGER NOT NULL REFERENCES users (id),
    signal_type TEXT NOT NULL DEFAULT 'candidate',
    candidate TEXT NOT NULL,
    sdp_mline_index INTEGER NOT NULL DEFAULT 0,
    sdp_mid TEXT NOT NULL DEFAULT '',
    created_at TEXT NOT NULL
);
CREATE INDEX ice_candidates_of ON ice_candidates (session_id, id);

-- What was asked for, and what became of it as far as is known here.
CREATE TABLE file_transfers (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    session_id TEXT NOT NULL REFERENCES ice_sessions (session_id),
    file_name TEXT NOT NULL,
    file_size INTEGER NOT NULL,
    file_type TEXT,
    request_type TEXT NOT NULL,
    parameters TEXT,
    status TEXT NOT NULL DEFAULT 'pending',
    created_at TEXT NOT NULL,
    completed_at TEXT
);
CREATE INDEX file_transfers_of ON file_transfers (session_id);
