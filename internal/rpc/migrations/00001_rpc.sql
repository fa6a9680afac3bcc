-- +goose Up
-- What is too large for a message between two processes, until the other one has read it.
CREATE TABLE rpc_spilled (
    id         TEXT   NOT NULL,
    part       BIGINT NOT NULL,
    created_ts BIGINT NOT NULL,
    data       BYTEA  NOT NULL,
    PRIMARY KEY (id, part)
) /*sqlite: WITHOUT ROWID */;
