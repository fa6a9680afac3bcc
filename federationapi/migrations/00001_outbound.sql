-- +goose Up

-- How far the event stream was handed to destinations that keep up, for each shard of
-- them: they have all events at or below pos. Only the process whose number is in owner
-- moves it.
CREATE TABLE fed_cursor (
    shard BIGINT PRIMARY KEY,
    pos   BIGINT NOT NULL,
    owner BIGINT NOT NULL
);

-- Destinations that do not keep up: they have all events at or below pos, and
-- are tried again at retry_ts. They have failed so many times in a row, the first
-- time at failing_ts; 0: they did not fail the last time.
CREATE TABLE fed_destinations (
    server   TEXT   PRIMARY KEY,
    pos      BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    retry_ts BIGINT NOT NULL,
    failing_ts BIGINT NOT NULL
);

-- EDUs that must arrive. No number is given twice: a row is removed by its number, and perhaps by two who both delivered it.
CREATE TABLE fed_edus (
    seq    BIGSERIAL PRIMARY KEY /*sqlite: AUTOINCREMENT */,
    server TEXT  NOT NULL,
    edu    BYTEA NOT NULL
);
CREATE INDEX fed_edus_server ON fed_edus (server, seq);
