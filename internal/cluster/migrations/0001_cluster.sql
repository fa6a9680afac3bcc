-- +goose Up
-- One row for each process of the cluster; each is rewritten every second by its process.
CREATE TABLE cluster_nodes (
    beat       BIGINT NOT NULL,
    load       BIGINT NOT NULL,
    started    BIGINT NOT NULL,
    leaving    BIGINT NOT NULL,
    id         TEXT   NOT NULL PRIMARY KEY,
    address    TEXT   NOT NULL,
    http       TEXT   NOT NULL,
    components TEXT   NOT NULL,
    version    TEXT   NOT NULL,
    schemas    TEXT   NOT NULL
) /*postgres: WITH (fillfactor = 10) */ /*sqlite: WITHOUT ROWID */;

-- What all nodes share.
CREATE TABLE cluster_settings (
    name  TEXT  NOT NULL PRIMARY KEY,
    value BYTEA NOT NULL
) /*sqlite: WITHOUT ROWID */;
