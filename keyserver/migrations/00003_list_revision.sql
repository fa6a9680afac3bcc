-- +goose Up

-- How often the list was touched: by an update that arrived, or by a fetch that was stored. A fetch that began at
-- another revision is not stored, because it may be older than what came meanwhile.
ALTER TABLE key_remote_lists ADD COLUMN revision BIGINT NOT NULL DEFAULT 0;
