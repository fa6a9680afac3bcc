-- weft: oldest 3
-- +goose Up

-- One-time keys that were handed out: the upload of one may be repeated, and must not bring it back. device is a hash of the
-- user and device ID, key one of the key and its name, claimed the hour (since 1970) when it was.
CREATE TABLE key_claimed (
    device  BIGINT  NOT NULL,
    key     BIGINT  NOT NULL,
    claimed INTEGER NOT NULL,
    PRIMARY KEY (device, key)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX key_claimed_claimed ON key_claimed (claimed);
