-- +goose Up

-- The position of the event stream when the list was fetched: it is trusted only
-- as long as a room has been shared with the user since then, because nobody
-- tells us of changes while none is.
ALTER TABLE key_remote_lists ADD COLUMN events_pos BIGINT NOT NULL DEFAULT 0;
