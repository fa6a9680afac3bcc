-- +goose Up

-- Devices: of local users all that are logged in (keys NULL until they upload
-- some), of remote users those that their server told us of.
CREATE TABLE key_devices (
    user_id      TEXT NOT NULL,
    device_id    TEXT NOT NULL,
    display_name TEXT NOT NULL DEFAULT '',
    keys         BYTEA,
    PRIMARY KEY (user_id, device_id)
);

CREATE TABLE key_one_time (
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    algorithm TEXT   NOT NULL,
    key_id    TEXT   NOT NULL,
    added     BIGINT NOT NULL, -- order of upload within the device
    key       BYTEA  NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm, key_id)
);

CREATE TABLE key_fallback (
    user_id   TEXT    NOT NULL,
    device_id TEXT    NOT NULL,
    algorithm TEXT    NOT NULL,
    key_id    TEXT    NOT NULL,
    key       BYTEA   NOT NULL,
    used      INTEGER NOT NULL,
    PRIMARY KEY (user_id, device_id, algorithm)
);

-- Cross-signing keys; usage is master, self_signing or user_signing.
CREATE TABLE key_cross_signing (
    user_id TEXT  NOT NULL,
    usage   TEXT  NOT NULL,
    key_id  TEXT  NOT NULL, -- the public key
    key     BYTEA NOT NULL,
    PRIMARY KEY (user_id, usage)
);

-- Signatures made by local users on keys: target_key is a device ID or the
-- public key of a master key.
CREATE TABLE key_signatures (
    target_user TEXT NOT NULL,
    target_key  TEXT NOT NULL,
    signer      TEXT NOT NULL,
    signer_key  TEXT NOT NULL, -- "ed25519:…"
    signature   TEXT NOT NULL,
    PRIMARY KEY (target_user, target_key, signer, signer_key)
);

-- The last change of each user's device list; pos is of the stream
-- device_lists. announced is the position of the last change that was told to
-- other servers with a stream_id: the next one names it as its prev_id.
-- announced_prev is what that one named, announced_device what it was about.
CREATE TABLE key_list_changes (
    user_id          TEXT   PRIMARY KEY,
    pos              BIGINT NOT NULL,
    announced        BIGINT NOT NULL DEFAULT 0,
    announced_prev   BIGINT NOT NULL DEFAULT 0,
    announced_device TEXT   NOT NULL DEFAULT ''
);
CREATE INDEX key_list_changes_pos ON key_list_changes (pos);

-- Remote users whose device list we follow.
CREATE TABLE key_remote_lists (
    user_id   TEXT    PRIMARY KEY,
    stream_id BIGINT  NOT NULL,
    stale     INTEGER NOT NULL
);

CREATE TABLE to_device (
    pos       BIGINT PRIMARY KEY,
    user_id   TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    message   BYTEA  NOT NULL
);
CREATE INDEX to_device_target ON to_device (user_id, device_id, pos);

-- Transactions that were carried out, so that a repetition does nothing: of
-- local devices (sender, device, txn_id) and of other servers (server, '',
-- message_id).
CREATE TABLE to_device_seen (
    sender    TEXT   NOT NULL,
    device_id TEXT   NOT NULL,
    txn_id    TEXT   NOT NULL,
    seen_ts   BIGINT NOT NULL,
    PRIMARY KEY (sender, device_id, txn_id)
);
CREATE INDEX to_device_seen_ts ON to_device_seen (seen_ts);

CREATE TABLE backup_versions (
    user_id   TEXT    NOT NULL,
    version   BIGINT  NOT NULL,
    algorithm TEXT    NOT NULL,
    auth_data BYTEA   NOT NULL,
    etag      BIGINT  NOT NULL,
    deleted   INTEGER NOT NULL,
    PRIMARY KEY (user_id, version)
);

CREATE TABLE backup_keys (
    user_id    TEXT    NOT NULL,
    version    BIGINT  NOT NULL,
    room_id    TEXT    NOT NULL,
    session_id TEXT    NOT NULL,
    verified   INTEGER NOT NULL,
    first_index BIGINT NOT NULL,
    forwarded  BIGINT  NOT NULL,
    data       BYTEA   NOT NULL,
    PRIMARY KEY (user_id, version, room_id, session_id)
);
