-- +goose Up
-- content is NULL where the piece was deleted: the row stays, so that syncs learn of it.
CREATE TABLE account_data (
    localpart TEXT NOT NULL,
    room_id TEXT NOT NULL,
    type TEXT NOT NULL,
    content TEXT,
    pos BIGINT NOT NULL,
    PRIMARY KEY (localpart, room_id, type)
);
CREATE INDEX account_data_pos ON account_data (localpart, pos);

CREATE TABLE profiles (
    localpart TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (localpart, field)
);

CREATE TABLE pushers (
    localpart TEXT NOT NULL,
    app_id TEXT NOT NULL,
    pushkey TEXT NOT NULL,
    device_id TEXT NOT NULL,
    pusher TEXT NOT NULL,
    created_ts BIGINT NOT NULL,
    PRIMARY KEY (localpart, app_id, pushkey)
);
CREATE INDEX pushers_key ON pushers (app_id, pushkey);

-- Profile changes whose member events were not all sent yet.
CREATE TABLE profile_spread (
    localpart TEXT PRIMARY KEY,
    changed_ts BIGINT NOT NULL
);

CREATE TABLE reports (
    id TEXT PRIMARY KEY,
    reporter TEXT NOT NULL,
    room_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_ts BIGINT NOT NULL
);

-- What the user directory searches of local users: ID and display name in lower case.
CREATE TABLE user_search (
    localpart TEXT PRIMARY KEY,
    words TEXT NOT NULL
);

-- Where a page of a space's hierarchy ended, for the next one.
CREATE TABLE space_walks (
    token_hash BYTEA PRIMARY KEY,
    localpart TEXT NOT NULL,
    walk BYTEA NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX space_walks_user ON space_walks (localpart, expires_ts);
CREATE INDEX space_walks_expiry ON space_walks (expires_ts);
