-- +goose Up

-- Whose push rules or ignored users changed after a position: other nodes forget what they made of them.
CREATE INDEX account_data_rules ON account_data (pos) WHERE room_id = '' AND type IN ('m.push_rules', 'm.ignored_user_list');
