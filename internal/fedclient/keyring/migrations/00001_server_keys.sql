-- +goose Up

-- The latest key object of each server, for notary answers.
CREATE TABLE fedclient_servers (
    server_name    TEXT PRIMARY KEY NOT NULL,
    valid_until_ts BIGINT NOT NULL,
    fetched_ts     BIGINT NOT NULL,
    json           BYTEA NOT NULL
) /*sqlite: WITHOUT ROWID */;

-- All keys ever seen of each server, within the bound of the key ring.
CREATE TABLE fedclient_keys (
    server_name    TEXT NOT NULL,
    key_id         TEXT NOT NULL,
    public_key     BYTEA NOT NULL,
    valid_until_ts BIGINT NOT NULL,
    expired_ts     BIGINT NOT NULL,
    PRIMARY KEY (server_name, key_id)
) /*sqlite: WITHOUT ROWID */;
