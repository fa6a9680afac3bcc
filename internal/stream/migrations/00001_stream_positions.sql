-- +goose Up
CREATE TABLE stream_positions (
    name TEXT NOT NULL PRIMARY KEY,
    pos  BIGINT NOT NULL
) /*postgres: WITH (fillfactor = 10) */;

-- Where each stream was at some times.
CREATE TABLE stream_times (
    name TEXT NOT NULL,
    ts   BIGINT NOT NULL,
    pos  BIGINT NOT NULL,
    PRIMARY KEY (name, ts)
) /*sqlite: WITHOUT ROWID */;
