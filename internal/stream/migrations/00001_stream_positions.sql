-- +goose Up
CREATE TABLE stream_positions (
    name TEXT NOT NULL PRIMARY KEY,
    pos  BIGINT NOT NULL
) /*postgres: WITH (fillfactor = 10) */;
