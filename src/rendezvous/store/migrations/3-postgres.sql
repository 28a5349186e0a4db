-- Which socket of a device a row is of, so that an older one's end does not take it away.
ALTER TABLE device_sockets ADD COLUMN number BIGINT NOT NULL DEFAULT 0;

-- Bytes of all that was said in a session.
ALTER TABLE ice_sessions ADD COLUMN bytes BIGINT NOT NULL DEFAULT 0;

-- Which client of the user who provides has claimed a session; empty where it did not say.
ALTER TABLE ice_sessions ADD COLUMN target_client TEXT NOT NULL DEFAULT '';
