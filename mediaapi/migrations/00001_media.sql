-- +goose Up

-- Media of this server and cached media of others. hash is NULL between
-- creation and upload of asynchronously uploaded media.
CREATE TABLE media (
    origin       TEXT   NOT NULL,
    media_id     TEXT   NOT NULL,
    hash         BYTEA,
    size         BIGINT NOT NULL,
    content_type TEXT   NOT NULL,
    file_name    TEXT   NOT NULL,
    uploader     TEXT   NOT NULL, -- empty: remote
    created_ts   BIGINT NOT NULL,
    expires_ts   BIGINT NOT NULL, -- of an upload that has not come yet; 0: none
    used_ts      BIGINT NOT NULL, -- of remote media: when somebody looked at it, to a day
    PRIMARY KEY (origin, media_id)
);
CREATE INDEX media_pending ON media (expires_ts) WHERE expires_ts > 0;
CREATE INDEX media_unused ON media (used_ts) WHERE uploader = '';
CREATE INDEX media_hash ON media (hash);

-- Where the database keeps the bytes: which are there, by their SHA-256. blob
-- is drawn for each time that bytes are stored, so that chunks are written once
-- and belong to one row.
CREATE TABLE media_blobs (
    size    BIGINT NOT NULL,
    hash    BYTEA  NOT NULL,
    variant TEXT   NOT NULL, -- of a thumbnail; empty: the bytes themselves
    blob    BYTEA  NOT NULL,
    PRIMARY KEY (hash, variant)
);

-- The bytes, in pieces that fit into memory.
CREATE TABLE media_chunks (
    blob BYTEA   NOT NULL,
    n    INTEGER NOT NULL, -- from 0
    data BYTEA   NOT NULL,
    PRIMARY KEY (blob, n)
);

-- Bytes that may never get a row of media: those that take several transactions
-- to store, until the last one, and files, by their hash, until they have it.
CREATE TABLE media_uploads (
    blob     BYTEA  NOT NULL PRIMARY KEY,
    moved_ts BIGINT NOT NULL -- when chunks were last added, or the file
);
CREATE INDEX media_uploads_moved ON media_uploads (moved_ts);
