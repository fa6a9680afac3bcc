-- +goose Up

-- What strings stand for which NIDs. Event types and state keys are BYTEA because
-- they may hold NUL, which TEXT may not.
CREATE TABLE event_types (
    type_nid BIGINT PRIMARY KEY,
    type     BYTEA NOT NULL UNIQUE
);

CREATE TABLE state_keys (
    state_key_nid BIGINT PRIMARY KEY,
    state_key     BYTEA NOT NULL UNIQUE
);

-- The next free number of each kind of NID.
CREATE TABLE nid_blocks (
    name TEXT NOT NULL PRIMARY KEY,
    next BIGINT NOT NULL
) /*sqlite: WITHOUT ROWID */ /*postgres: WITH (fillfactor = 10) */;

-- revision is the fence: a writer changes the row only at the revision it has
-- read. joined and invited count room_members.
CREATE TABLE rooms (
    room_nid      BIGINT PRIMARY KEY,
    revision      BIGINT NOT NULL,
    depth         BIGINT NOT NULL,
    stub          BIGINT NOT NULL,
    joined        BIGINT NOT NULL,
    invited       BIGINT NOT NULL,
    unordered     BIGINT NOT NULL,
    room_id       TEXT NOT NULL UNIQUE,
    version       TEXT NOT NULL,
    current_state BYTEA NOT NULL,
    extremities   BYTEA NOT NULL
) /*postgres: WITH (fillfactor = 50) */;

-- stream_pos is NULL for outliers and negative for backfilled events;
-- state_before is NULL where the state is not known. Wide columns first: no
-- padding in Postgres. The first 21 bytes of an event ID are 160 bits of hash, enough
-- to tell all from each other.
CREATE TABLE events (
    event_nid     BIGINT PRIMARY KEY,
    depth         BIGINT NOT NULL,
    stream_pos    BIGINT,
    redacted_by   BIGINT NOT NULL,
    room_nid      INTEGER NOT NULL,
    type_nid      INTEGER NOT NULL,
    state_key_nid INTEGER NOT NULL,
    flags         SMALLINT NOT NULL,
    event_id      BYTEA NOT NULL,
    state_before  BYTEA,
    auth_nids     BYTEA NOT NULL,
    json          BYTEA NOT NULL
);
CREATE UNIQUE INDEX events_id ON events (substr(event_id, 1, 21));
CREATE UNIQUE INDEX events_stream ON events (stream_pos);
CREATE INDEX events_room_stream ON events (room_nid, stream_pos);
CREATE INDEX events_room_depth ON events (room_nid, depth, stream_pos);

-- Redactions whose target is not here yet.
CREATE TABLE pending_redactions (
    target        BYTEA NOT NULL,
    redaction_nid BIGINT NOT NULL,
    PRIMARY KEY (target, redaction_nid)
) /*sqlite: WITHOUT ROWID */;

-- epoch is the sweep during which the node was last written.
CREATE TABLE state_nodes (
    epoch INTEGER NOT NULL,
    hash  BYTEA NOT NULL PRIMARY KEY,
    node  BYTEA NOT NULL
) /*sqlite: WITHOUT ROWID */;

-- One row: the sweep that is under way or was the last.
CREATE TABLE state_sweeps (
    one     BIGINT PRIMARY KEY,
    epoch   BIGINT NOT NULL,
    started BIGINT NOT NULL
);

-- The current state's members. local: the user is this server's.
CREATE TABLE room_members (
    event_nid  BIGINT NOT NULL,
    stream_pos BIGINT NOT NULL,
    room_nid   INTEGER NOT NULL,
    user_nid   INTEGER NOT NULL,
    membership SMALLINT NOT NULL,
    local      SMALLINT NOT NULL,
    forgotten  SMALLINT NOT NULL,
    PRIMARY KEY (room_nid, user_nid)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX room_members_user ON room_members (user_nid, membership);
CREATE INDEX room_members_order ON room_members (room_nid, membership, stream_pos);
-- All that a list of local members needs: SQLite takes no other index than the primary key, which holds all members of
-- the room, unless it need not look at the table.
CREATE INDEX room_members_local ON room_members (room_nid, user_nid, membership, event_nid, stream_pos, local, forgotten) WHERE local = 1;

-- How many joined members each server has in a room; no row for none.
CREATE TABLE room_servers (
    room_nid BIGINT NOT NULL,
    server   TEXT NOT NULL,
    joined   BIGINT NOT NULL,
    PRIMARY KEY (room_nid, server)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX room_servers_server ON room_servers (server);

-- The history of local users' memberships.
CREATE TABLE membership_changes (
    stream_pos      BIGINT NOT NULL,
    event_nid       BIGINT NOT NULL,
    user_nid        INTEGER NOT NULL,
    room_nid        INTEGER NOT NULL,
    membership      SMALLINT NOT NULL,
    prev_membership SMALLINT NOT NULL,
    PRIMARY KEY (user_nid, stream_pos, room_nid)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX membership_changes_pos ON membership_changes (stream_pos);

-- Stripped state that came with an invite or a knock.
CREATE TABLE invite_state (
    room_nid BIGINT NOT NULL,
    user_nid BIGINT NOT NULL,
    state    BYTEA NOT NULL,
    PRIMARY KEY (room_nid, user_nid)
) /*sqlite: WITHOUT ROWID */;

-- Events that are named as parents (missing) by an event that is here.
CREATE TABLE backward_extremities (
    room_nid  BIGINT NOT NULL,
    event_nid BIGINT NOT NULL,
    missing   BYTEA NOT NULL,
    PRIMARY KEY (room_nid, missing, event_nid)
) /*sqlite: WITHOUT ROWID */;

CREATE TABLE room_aliases (
    alias    TEXT NOT NULL PRIMARY KEY,
    room_nid BIGINT NOT NULL,
    creator  TEXT NOT NULL,
    created  BIGINT NOT NULL
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX room_aliases_room ON room_aliases (room_nid);

-- appservice and network are empty for the server's own list.
CREATE TABLE published_rooms (
    room_nid   BIGINT NOT NULL,
    appservice TEXT NOT NULL,
    network    TEXT NOT NULL,
    PRIMARY KEY (appservice, network, room_nid)
) /*sqlite: WITHOUT ROWID */;

-- Clients' transactions and the events that they made: txn_key is a hash of user, device,
-- scope and txn_id (a client's own bytes), sender one of user and device. day is when it was.
CREATE TABLE client_txns (
    event_nid BIGINT PRIMARY KEY,
    txn_key   BIGINT NOT NULL,
    sender    INTEGER NOT NULL,
    day       SMALLINT NOT NULL,
    txn_id    BYTEA NOT NULL
);
CREATE UNIQUE INDEX client_txns_key ON client_txns (txn_key);

-- Transactions of other servers that were answered, with the answer.
CREATE TABLE inbound_txns (
    origin   TEXT NOT NULL,
    txn_id   BYTEA NOT NULL,
    received BIGINT NOT NULL,
    response BYTEA NOT NULL,
    PRIMARY KEY (origin, txn_id)
) /*sqlite: WITHOUT ROWID */;
CREATE INDEX inbound_txns_received ON inbound_txns (received);

-- Events of such transactions that are not processed yet: a row for each room.
CREATE TABLE inbound_events (
    seq      BIGINT PRIMARY KEY,
    received BIGINT NOT NULL,
    room_nid INTEGER NOT NULL,
    events   INTEGER NOT NULL, -- how many
    origin   TEXT NOT NULL,
    data     BYTEA NOT NULL
);
CREATE INDEX inbound_events_room ON inbound_events (room_nid, seq);

INSERT INTO nid_blocks (name, next) VALUES ('event', 1), ('room', 1), ('type', 256), ('state_key', 2), ('inbound', 1), ('backfill', 1);
INSERT INTO state_sweeps (one, epoch, started) VALUES (1, 1, 0);
INSERT INTO state_keys (state_key_nid, state_key) VALUES (1, CAST('' AS BYTEA));
INSERT INTO event_types (type_nid, type) VALUES
    (1, CAST('m.room.create' AS BYTEA)),
    (2, CAST('m.room.power_levels' AS BYTEA)),
    (3, CAST('m.room.join_rules' AS BYTEA)),
    (4, CAST('m.room.member' AS BYTEA)),
    (5, CAST('m.room.history_visibility' AS BYTEA)),
    (6, CAST('m.room.name' AS BYTEA)),
    (7, CAST('m.room.topic' AS BYTEA)),
    (8, CAST('m.room.avatar' AS BYTEA)),
    (9, CAST('m.room.canonical_alias' AS BYTEA)),
    (10, CAST('m.room.guest_access' AS BYTEA)),
    (11, CAST('m.room.encryption' AS BYTEA)),
    (12, CAST('m.room.tombstone' AS BYTEA)),
    (13, CAST('m.room.server_acl' AS BYTEA)),
    (14, CAST('m.room.third_party_invite' AS BYTEA)),
    (15, CAST('m.room.pinned_events' AS BYTEA)),
    (16, CAST('m.space.child' AS BYTEA)),
    (17, CAST('m.space.parent' AS BYTEA)),
    (18, CAST('m.room.aliases' AS BYTEA)),
    (19, CAST('m.room.message' AS BYTEA)),
    (20, CAST('m.room.encrypted' AS BYTEA)),
    (21, CAST('m.room.redaction' AS BYTEA)),
    (22, CAST('m.reaction' AS BYTEA)),
    (23, CAST('m.sticker' AS BYTEA)),
    (24, CAST('m.room.policy' AS BYTEA));
