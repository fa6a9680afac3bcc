package keyserver

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"weft/internal/sqldb"
	"weft/internal/stream"
	"weft/internal/upkeep"
	"weft/matrix/id"
)

const (
	// seenFor is how long the IDs of to-device transactions are kept.
	seenFor = 7 * 24 * time.Hour
	// messagesFor is how long a to-device message waits for its device, and maxWaiting how many do:
	// a device that nobody uses any more, and that was never logged out, would collect them for
	// ever. One that comes back later finds the keys of that time in the key backup.
	//
	// spec?: §11.3 (Send-to-Device messaging) knows no end to waiting; a disk has one.
	messagesFor = 90 * 24 * time.Hour
	maxWaiting  = 10_000
	// listsFor is how long the last change of a remote user's device list is remembered after
	// no room is shared any more, for clients that ask what changed since long ago.
	listsFor = 90 * 24 * time.Hour
)

const (
	deleteSeenSQL = `DELETE FROM to_device_seen WHERE (sender, device_id, txn_id) IN
		(SELECT sender, device_id, txn_id FROM to_device_seen WHERE seen_ts < $1 ORDER BY seen_ts LIMIT $2)`
	deleteOldMessagesSQL = `DELETE FROM to_device WHERE pos IN (SELECT pos FROM to_device WHERE pos <= $1 ORDER BY pos LIMIT $2)`
	crowdedSQL           = `SELECT user_id, device_id FROM to_device GROUP BY user_id, device_id HAVING COUNT(*) > $1`
	newestTooMuchSQL     = `SELECT pos FROM to_device WHERE user_id = $1 AND device_id = $2 ORDER BY pos DESC LIMIT 1 OFFSET $3`
	deleteOldestSQL      = `DELETE FROM to_device WHERE pos IN
		(SELECT pos FROM to_device WHERE user_id = $1 AND device_id = $2 AND pos <= $3 ORDER BY pos LIMIT $4)`
	deleteBackupKeysSQL = `DELETE FROM backup_keys WHERE (user_id, version, room_id, session_id) IN
		(SELECT k.user_id, k.version, k.room_id, k.session_id FROM backup_versions v
			JOIN backup_keys k ON k.user_id = v.user_id AND k.version = v.version WHERE v.deleted = 1 LIMIT $1)`
	followedSQL         = `SELECT user_id FROM key_remote_lists WHERE user_id > $1 ORDER BY user_id LIMIT $2`
	changedBeforeSQL    = `SELECT user_id FROM key_list_changes WHERE pos <= $1 AND user_id > $2 ORDER BY user_id LIMIT $3`
	deleteListChangeSQL = `DELETE FROM key_list_changes WHERE user_id = $1 AND pos <= $2`
)

// upkeep lists what goes by itself.
func (s *Server) upkeep() []upkeep.Task {
	const hourly, daily = time.Hour, 24 * time.Hour
	return []upkeep.Task{
		{Kind: "to_device_seen", Every: hourly, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.DB, deleteSeenSQL, s.Now().Add(-seenFor).UnixMilli())
		}},
		{Kind: "to_device", Every: daily, Run: s.deleteOldMessages},
		{Kind: "to_device_crowded", Every: daily, Run: s.deleteCrowded},
		{Kind: "backup_keys", Every: hourly, Run: func(ctx context.Context) (int64, error) {
			return upkeep.Delete(ctx, s.DB, deleteBackupKeysSQL)
		}},
		{Kind: "key_claimed", Every: daily, Run: s.deleteClaimed},
		{Kind: "device_lists", Every: daily, Run: s.deleteStrangers},
	}
}

func (s *Server) deleteOldMessages(ctx context.Context) (int64, error) {
	pos, err := stream.Before(ctx, s.DB, stream.ToDevice, s.Now().Add(-messagesFor))
	if err != nil {
		return 0, err
	}
	return upkeep.Delete(ctx, s.DB, deleteOldMessagesSQL, pos)
}

// deleteCrowded drops the oldest messages of devices for which too many wait: those up to a position,
// not so many, because a sweep on another node, or the device itself, may drop some of them at the same time.
func (s *Server) deleteCrowded(ctx context.Context) (removed int64, err error) {
	var list []deviceID
	err = s.rows(ctx, crowdedSQL, []any{maxWaiting}, func(scan func(...any) error) error {
		var d deviceID
		err := scan(&d.user, &d.device)
		list = append(list, d)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, d := range list {
		var upTo int64
		err := s.DB.QueryRow(ctx, newestTooMuchSQL, string(d.user), string(d.device), maxWaiting).Scan(&upTo)
		if errors.Is(err, sql.ErrNoRows) {
			continue // no longer crowded
		}
		if err != nil {
			return removed, fmt.Errorf("keyserver: upkeep: %w", err)
		}
		n, err := upkeep.Delete(ctx, s.DB, deleteOldestSQL, string(d.user), string(d.device), upTo)
		removed += n
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// deleteStrangers drops what is known of remote users with whom no room is shared any more:
// nobody tells of their changes, so it cannot be used again. Signatures that local users made on
// their keys stay.
func (s *Server) deleteStrangers(ctx context.Context) (removed int64, err error) {
	removed, err = s.eachStranger(ctx, followedSQL, nil, func(tx *sqldb.Tx, user id.User) error {
		for _, q := range []string{deleteRemoteListSQL, deleteDevicesSQL, deleteCrossAllSQL} {
			if _, err := tx.Exec(ctx, q, string(user)); err != nil {
				return fmt.Errorf("keyserver: dropping the device list of %s: %w", user, err)
			}
		}
		return nil
	})
	if err != nil {
		return removed, err
	}
	pos, err := stream.Before(ctx, s.DB, stream.DeviceLists, s.Now().Add(-listsFor))
	if err != nil {
		return removed, err
	}
	n, err := s.eachStranger(ctx, changedBeforeSQL, []any{pos}, func(tx *sqldb.Tx, user id.User) error {
		_, err := tx.Exec(ctx, deleteListChangeSQL, string(user), pos)
		return err
	})
	return removed + n, err
}

// eachStranger calls drop, in transactions of a page each, for those of a list of users who are
// remote and share no room with a local user.
func (s *Server) eachStranger(ctx context.Context, list string, args []any, drop func(tx *sqldb.Tx, user id.User) error) (int64, error) {
	const page = 200
	after := ""
	return upkeep.Each(ctx, func() (int64, bool, error) {
		var users []id.User
		err := s.rows(ctx, list, append(args[:len(args):len(args)], after, page), func(scan func(...any) error) error {
			err := scan(&after)
			users = append(users, id.User(after))
			return err
		})
		if err != nil {
			return 0, false, err
		}
		var strangers []id.User
		for _, u := range users {
			if s.local(u) {
				continue
			}
			_, shares, err := s.Rooms.SharedSince(ctx, u)
			if err != nil {
				return 0, false, err
			}
			if !shares {
				strangers = append(strangers, u)
			}
		}
		if len(strangers) == 0 {
			return 0, len(users) == page, nil
		}
		// Alone, not with those who move device lists: it locks rows that they want.
		err = s.DB.Update(ctx, func(tx *sqldb.Tx) error {
			for _, u := range strangers {
				if err := drop(tx, u); err != nil {
					return err
				}
			}
			return nil
		})
		return int64(len(strangers)), len(users) == page, err
	})
}

// rows calls fn for every row of a query.
func (s *Server) rows(ctx context.Context, q string, args []any, fn func(scan func(...any) error) error) error {
	rows, err := s.DB.Query(ctx, q, args...)
	if err != nil {
		return fmt.Errorf("keyserver: upkeep: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows.Scan); err != nil {
			return fmt.Errorf("keyserver: upkeep: %w", err)
		}
	}
	return rows.Err()
}
