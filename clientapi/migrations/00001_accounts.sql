-- +goose Up
CREATE TABLE accounts (
    localpart TEXT PRIMARY KEY,
    password_hash TEXT NOT NULL,
    appservice TEXT NOT NULL,
    admin BIGINT NOT NULL,
    guest BIGINT NOT NULL,
    deactivated BIGINT NOT NULL,
    erased BIGINT NOT NULL,
    locked BIGINT NOT NULL,
    suspended BIGINT NOT NULL,
    created_ts BIGINT NOT NULL
);

CREATE TABLE devices (
    localpart TEXT NOT NULL,
    device_id TEXT NOT NULL,
    display_name TEXT NOT NULL,
    created_ts BIGINT NOT NULL,
    last_seen_ts BIGINT NOT NULL,
    last_seen_ip TEXT NOT NULL,
    last_seen_agent TEXT NOT NULL,
    PRIMARY KEY (localpart, device_id)
);

-- A row is an access token and the refresh token that was given with it.
-- replaces names the row that a refresh took it from, until one of its tokens
-- is used: then that row goes.
CREATE TABLE access_tokens (
    id BIGINT PRIMARY KEY,
    token_hash BYTEA NOT NULL UNIQUE,
    refresh_hash BYTEA UNIQUE,
    localpart TEXT NOT NULL,
    device_id TEXT NOT NULL,
    created_ts BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL,
    replaces BIGINT NOT NULL
);
CREATE INDEX access_tokens_device ON access_tokens (localpart, device_id);
CREATE INDEX access_tokens_replaces ON access_tokens (replaces);

-- Secrets that work once or for a short time: login tokens, OpenID tokens and
-- the nonces of the shared-secret registration.
CREATE TABLE short_tokens (
    kind TEXT NOT NULL,
    token_hash BYTEA NOT NULL,
    localpart TEXT NOT NULL,
    expires_ts BIGINT NOT NULL,
    PRIMARY KEY (kind, token_hash)
);
CREATE INDEX short_tokens_expiry ON short_tokens (expires_ts);

CREATE TABLE registration_tokens (
    token TEXT PRIMARY KEY,
    uses_allowed BIGINT NOT NULL,
    uses BIGINT NOT NULL,
    expires_ts BIGINT NOT NULL
);

CREATE TABLE uia_sessions (
    id TEXT PRIMARY KEY,
    localpart TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    body_hash BYTEA,
    completed TEXT NOT NULL,
    registration_token TEXT NOT NULL,
    expires_ts BIGINT NOT NULL
);
CREATE INDEX uia_sessions_expiry ON uia_sessions (expires_ts);

