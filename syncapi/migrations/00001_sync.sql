-- +goose Up

-- Filters are named by a hash of their JSON, so the same one is stored once.
CREATE TABLE sync_filters (
    user_id   TEXT NOT NULL,
    filter_id TEXT NOT NULL,
    filter    TEXT NOT NULL,
    PRIMARY KEY (user_id, filter_id)
) /*sqlite: WITHOUT ROWID */;

-- The last receipt of each kind. private: m.read.private. thread is an event ID, 'main', or
-- empty for receipts without a thread. event_pos is the stream position of the event.
CREATE TABLE receipts (
    pos       BIGINT NOT NULL,
    room_nid  BIGINT NOT NULL,
    private   BIGINT NOT NULL,
    ts        BIGINT NOT NULL,
    event_pos BIGINT NOT NULL,
    user_id   TEXT NOT NULL,
    thread    TEXT NOT NULL,
    event_id  TEXT NOT NULL,
    PRIMARY KEY (room_nid, user_id, private, thread)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX receipts_pos ON receipts (pos, room_nid);
CREATE INDEX receipts_user ON receipts (user_id);

-- Which event relates to which. The target may not be here. stream_pos and depth are the
-- relating event's.
CREATE TABLE relations (
    event_nid  BIGINT PRIMARY KEY,
    depth      BIGINT NOT NULL,
    stream_pos BIGINT NOT NULL,
    room_nid   INTEGER NOT NULL,
    target     TEXT NOT NULL,
    rel_type   TEXT NOT NULL,
    type       TEXT NOT NULL,
    sender     TEXT NOT NULL
);
CREATE INDEX relations_target ON relations (target, rel_type, depth, stream_pos);

-- Threads by their latest event; reply_pos is its stream position.
CREATE TABLE threads (
    room_nid    BIGINT NOT NULL,
    reply_depth BIGINT NOT NULL,
    reply_pos   BIGINT NOT NULL,
    root        TEXT NOT NULL,
    PRIMARY KEY (room_nid, root)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX threads_order ON threads (room_nid, reply_depth, reply_pos);

-- The threads that are counted by, numbered from 1 in each room: a number takes less in every row of unread than the root's ID.
CREATE TABLE thread_numbers (
    room_nid INTEGER NOT NULL,
    thread   INTEGER NOT NULL,
    root     BYTEA NOT NULL,
    PRIMARY KEY (room_nid, root)
) /*sqlite: WITHOUT ROWID */;
CREATE UNIQUE INDEX thread_numbers_thread ON thread_numbers (room_nid, thread);

-- How many events push rules notify a local user of that are not read, by thread (0: the main one): those at
-- the positions read_pos < position ≤ pos of the event stream. No row: all is read. So it is where notify is 0: the main thread's row stays
-- until upkeep comes, since the next event mostly comes first, and to write a row where it is costs less than to take it out and put it back.
CREATE TABLE unread (
    read_pos  BIGINT NOT NULL,
    pos       BIGINT NOT NULL,
    user_nid  INTEGER NOT NULL,
    room_nid  INTEGER NOT NULL,
    thread    INTEGER NOT NULL,
    notify    INTEGER NOT NULL,
    highlight INTEGER NOT NULL,
    PRIMARY KEY (user_nid, room_nid, thread)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 70) */;

-- The events that mention a local user, or are to be noticed for another reason. pos is the event's stream position.
CREATE TABLE highlights (
    pos       BIGINT NOT NULL,
    ts        BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    user_nid  INTEGER NOT NULL,
    PRIMARY KEY (user_nid, pos)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX highlights_pos ON highlights (pos);

-- How far each follower has read its log, in each share of the rooms.
CREATE TABLE sync_followers (
    name  TEXT NOT NULL,
    share INTEGER NOT NULL,
    pos   BIGINT NOT NULL,
    PRIMARY KEY (name, share)
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 50) */;
