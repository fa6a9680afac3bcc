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
